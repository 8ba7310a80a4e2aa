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

/// A number of 1 to 5 bytes: the count of low one bits tells how many more bytes follow.
fn compressed(c: &mut Cursor<'_>) -> Read<u32> {
    let first = c.u8()?;
    let more = (first & 0x0F).trailing_ones();
    let rest = c.unsigned(more)?;
    if more == 4 {
        return Ok(rest as u32);
    }
    Ok((((rest << 8) | u64::from(first)) >> (more + 1)) as u32)
}

/// A count of elements of at least `width` bytes.
fn count(c: &mut Cursor<'_>, width: u32) -> Read<u32> {
    let n = compressed(c)?;
    c.expect(n, width)?;
    Ok(n)
}

/// Reads the compressed FuncInfo of `__CxxFrameHandler4` at `rva`.
pub(super) fn read4(image: &Image, rva: u32) -> Read<Graph> {
    const IS_CATCH: u8 = 1;
    const IS_SEPARATED: u8 = 1 << 1;
    const HAS_BLOCKS: u8 = 1 << 2;
    const HAS_UNWIND_MAP: u8 = 1 << 3;
    const HAS_TRY_MAP: u8 = 1 << 4;
    const RESERVED: u8 = 1 << 7;

    let mut g = Graph::default();
    let mut c = Cursor::new(image, rva)?;
    let header = c.u8()?;
    if header & RESERVED != 0 {
        return Err(Damage { rva, expected: "no reserved flag" });
    }
    if header & HAS_BLOCKS != 0 {
        compressed(&mut c)?;
    }
    if header & HAS_UNWIND_MAP != 0 {
        let map = c.image_relative(&mut g.references)?;
        unwind_map4(image, map, &mut g)?;
    }
    if header & HAS_TRY_MAP != 0 {
        let map = c.image_relative(&mut g.references)?;
        try_map4(image, map, &mut g)?;
    }
    let site = c.rva;
    let map = c.image_relative(&mut g.references)?;
    if header & IS_SEPARATED != 0 {
        let mut s = Cursor::new(image, map)?;
        for _ in 0..count(&mut s, 8)? {
            s.code(&mut g.references)?;
            let segment = s.image_relative(&mut g.references)?;
            if segment != 0 {
                state_map4(image, segment, &mut g)?;
            }
            bound(&g, image, segment)?;
        }
        g.objects.push((map, s.rva - map));
    } else if map != 0 {
        state_map4(image, map, &mut g)?;
    } else {
        return Err(Damage { rva: site, expected: "a map of instructions to states" });
    }
    if header & IS_CATCH != 0 {
        compressed(&mut c)?; // dispFrame
    }
    g.objects.push((rva, c.rva - rva));
    Ok(g)
}

fn unwind_map4(image: &Image, map: u32, g: &mut Graph) -> Read<()> {
    let mut c = Cursor::new(image, map)?;
    for _ in 0..count(&mut c, 1)? {
        match compressed(&mut c)? & 3 {
            0 => {}
            // The action is a destructor, a function like any other, and the object's frame offset follows.
            1 | 2 => {
                c.code(&mut g.references)?;
                compressed(&mut c)?;
            }
            _ => {
                let action = c.code(&mut g.references)?;
                g.targets.push((action, CodeTargetKind::Cleanup));
            }
        }
    }
    g.objects.push((map, c.rva - map));
    Ok(())
}

fn try_map4(image: &Image, map: u32, g: &mut Graph) -> Read<()> {
    let mut c = Cursor::new(image, map)?;
    for _ in 0..count(&mut c, 7)? {
        for _ in 0..3 {
            compressed(&mut c)?; // tryLow, tryHigh, catchHigh
        }
        let handlers = c.image_relative(&mut g.references)?;
        let mut h = Cursor::new(image, handlers)?;
        for _ in 0..count(&mut h, 5)? {
            handler4(&mut h, g)?;
        }
        g.objects.push((handlers, h.rva - handlers));
        bound(g, image, handlers)?;
    }
    g.objects.push((map, c.rva - map));
    Ok(())
}

fn handler4(h: &mut Cursor<'_>, g: &mut Graph) -> Read<()> {
    let at = h.rva;
    let header = h.u8()?;
    if header >> 6 != 0 {
        return Err(Damage { rva: at, expected: "no unknown flags of a handler" });
    }
    if header & 1 != 0 {
        compressed(h)?; // adjectives
    }
    if header & 2 != 0 {
        h.image_relative(&mut g.references)?; // type descriptor
    }
    if header & 4 != 0 {
        compressed(h)?; // dispCatchObj
    }
    let handler = h.code(&mut g.references)?;
    g.targets.push((handler, CodeTargetKind::Catch));
    let continuations = match (header >> 4) & 3 {
        n @ 0..=2 => n,
        _ => return Err(Damage { rva: at, expected: "at most two continuation addresses" }),
    };
    for _ in 0..continuations {
        if header & 8 != 0 {
            let rva = h.code(&mut g.references)?;
            g.targets.push((rva, CodeTargetKind::LandingPad));
        } else {
            g.offsets.push(compressed(h)?);
        }
    }
    Ok(())
}

/// Instruction offsets from the start of the function and states: no addresses, but the extent counts.
fn state_map4(image: &Image, map: u32, g: &mut Graph) -> Read<()> {
    let mut c = Cursor::new(image, map)?;
    for _ in 0..count(&mut c, 2)? {
        compressed(&mut c)?;
        compressed(&mut c)?;
    }
    g.objects.push((map, c.rva - map));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::tests::image;

    #[test]
    fn numbers_of_every_length() {
        let bytes = [0x00, 0xFE, 0x01, 0x02, 0x03, 0x01, 0x02, 0x07, 0x01, 0x02, 0x03, 0x0F, 1, 2, 3, 4];
        let image = image(&bytes);
        let mut c = Cursor::new(&image, 0x2000).unwrap();
        let expected = [0, 0x7F, 0x0201 >> 2, 0x02_0103 >> 3, 0x0302_0107 >> 4, 0x0403_0201];
        for value in expected {
            assert_eq!(compressed(&mut c), Ok(value));
        }
        assert_eq!(c.rva, 0x2000 + bytes.len() as u32);
    }
}
