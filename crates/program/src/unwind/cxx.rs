//! Exception data of Microsoft C++: the FuncInfo graph of `__CxxFrameHandler3` and the compressed one of
//! `__CxxFrameHandler4`.

use super::CodeTargetKind;
use super::cursor::{Cursor, Damage, Read};
use crate::code::RawReference;
use crate::image::Image;

/// What was read.
#[derive(Default)]
pub(super) struct Graph {
    /// Extents (RVA, bytes).
    pub(super) objects: Vec<(u32, u32)>,
    /// Addresses in them.
    pub(super) references: Vec<RawReference>,
    /// Places in code.
    pub(super) targets: Vec<(u32, CodeTargetKind)>,
    /// Places in code as offsets from the start of the function.
    pub(super) offsets: Vec<u32>,
}

/// Reads FuncInfo of `__CxxFrameHandler3` at `rva`.
pub(super) fn read3(image: &Image, rva: u32) -> Read<Graph> {
    let mut g = Graph::default();
    let mut c = Cursor::new(image, rva)?;
    let magic = c.u32()? & 0x1FFF_FFFF;
    if !(0x1993_0520..=0x1993_0522).contains(&magic) {
        return Err(Damage { rva, expected: "the magic number 0x19930520 to 0x19930522" });
    }
    let states = c.u32()?;
    let unwind_map = c.image_relative(&mut g.references)?;
    let tries = c.u32()?;
    let try_map = c.image_relative(&mut g.references)?;
    let ips = c.u32()?;
    let ip_map = c.image_relative(&mut g.references)?;
    c.u32()?; // dispUnwindHelp: a frame offset
    if magic >= 0x1993_0521 {
        let site = c.rva;
        let specification = c.image_relative(&mut g.references)?;
        if specification != 0 {
            return Err(Damage { rva: site, expected: "no dynamic exception specification" });
        }
    }
    if magic >= 0x1993_0522 {
        c.u32()?; // EHFlags
    }
    g.objects.push((rva, c.rva - rva));

    if states != 0 {
        let mut c = Cursor::new(image, unwind_map)?;
        c.expect(states, 8)?;
        for _ in 0..states {
            c.u32()?; // toState
            let action = c.code(&mut g.references)?;
            if action != 0 {
                g.targets.push((action, CodeTargetKind::Cleanup));
            }
        }
        g.objects.push((unwind_map, c.rva - unwind_map));
    }
    if tries != 0 {
        let mut c = Cursor::new(image, try_map)?;
        c.expect(tries, 20)?;
        for _ in 0..tries {
            c.take(12)?; // tryLow, tryHigh, catchHigh
            let catches = c.u32()?;
            let handlers = c.image_relative(&mut g.references)?;
            if catches == 0 {
                continue;
            }
            let mut h = Cursor::new(image, handlers)?;
            h.expect(catches, 20)?;
            for _ in 0..catches {
                h.u32()?; // adjectives
                h.image_relative(&mut g.references)?; // type descriptor
                h.u32()?; // dispCatchObj
                let handler = h.code(&mut g.references)?;
                h.u32()?; // dispFrame
                g.targets.push((handler, CodeTargetKind::Catch));
            }
            g.objects.push((handlers, h.rva - handlers));
            bound(&g, image, handlers)?;
        }
        g.objects.push((try_map, c.rva - try_map));
    }
    if ips != 0 {
        let mut c = Cursor::new(image, ip_map)?;
        c.expect(ips, 8)?;
        for _ in 0..ips {
            c.code(&mut g.references)?;
            c.u32()?; // state
        }
        g.objects.push((ip_map, c.rva - ip_map));
    }
    Ok(g)
}

/// Stops a graph whose maps name each other's bytes again and again.
fn bound(g: &Graph, image: &Image, rva: u32) -> Read<()> {
    if g.references.len() > image.mapped.len() {
        return Err(Damage { rva, expected: "handler arrays that do not overlap" });
    }
    Ok(())
}
