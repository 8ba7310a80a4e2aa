//! The language-specific data area of the Itanium C++ ABI, as `__gxx_personality_seh0` and its relatives read it.
//!
//! Call sites and landing pads are offsets from the start of the function (or from an explicit start), so they are not
//! addresses; the entries of the type table are.

use super::cursor::{Cursor, Damage, Read};
use crate::code::RawReference;
use crate::image::Image;
use crate::reference::Form;
use std::collections::BTreeSet;

const OMIT: u8 = 0xFF;

/// What was read.
pub(super) struct Lsda {
    /// First byte behind the data.
    pub(super) end: u32,
    /// Offsets of landing pads from the start of the function.
    pub(super) landing_pads: BTreeSet<u32>,
    /// Type table entries.
    pub(super) references: Vec<RawReference>,
}

/// Bytes of a fixed-width pointer format; `None` for the LEB128 formats.
fn width(encoding: u8) -> Option<u32> {
    match encoding & 0x0F {
        0x00 | 0x04 | 0x0C => Some(8),
        0x02 | 0x0A => Some(2),
        0x03 | 0x0B => Some(4),
        _ => None,
    }
}

/// A number without application of a base.
fn plain(cursor: &mut Cursor<'_>, encoding: u8) -> Read<u64> {
    let rva = cursor.rva;
    match (encoding & 0xF0, encoding & 0x0F, width(encoding)) {
        (0, 0x01, _) => cursor.uleb(),
        (0, 0x02..=0x04, Some(w)) | (0, 0x00, Some(w)) => cursor.unsigned(w),
        _ => Err(Damage { rva, expected: "an unsigned call-site encoding" }),
    }
}

/// Reads the data area at `rva`.
pub(super) fn read(image: &Image, rva: u32) -> Read<Lsda> {
    let mut c = Cursor::new(image, rva)?;
    let mut references = Vec::new();
    let start_encoding = c.u8()?;
    if start_encoding != OMIT {
        return Err(Damage { rva, expected: "landing pads relative to the function (0xff)" });
    }
    let type_encoding = c.u8()?;
    let type_base = if type_encoding == OMIT {
        None
    } else {
        let site = c.rva;
        let offset = c.uleb()?;
        let base = u64::from(c.rva) + offset;
        if offset > u64::from(c.remaining()) {
            return Err(Damage { rva: site, expected: "a type table inside of the section" });
        }
        Some(base as u32)
    };
    let call_encoding = c.u8()?;
    let length_site = c.rva;
    let length = c.uleb()?;
    if length > u64::from(c.remaining()) {
        return Err(Damage { rva: length_site, expected: "a call-site table inside of the section" });
    }
    let calls_end = c.rva + length as u32;
    let mut landing_pads = BTreeSet::new();
    let mut actions = BTreeSet::new();
    while c.rva < calls_end {
        let site = c.rva;
        let (_start, _length) = (plain(&mut c, call_encoding)?, plain(&mut c, call_encoding)?);
        let pad = plain(&mut c, call_encoding)?;
        let action = c.uleb()?;
        if pad != 0 {
            let pad = u32::try_from(pad).ok().filter(|p| (*p as usize) < image.mapped.len());
            landing_pads.insert(pad.ok_or(Damage { rva: site, expected: "a landing pad inside of the image" })?);
        }
        if action != 0 {
            let at = action - 1;
            if at >= u64::from(c.remaining()) {
                return Err(Damage { rva: site, expected: "an action record inside of the section" });
            }
            actions.insert(calls_end + at as u32);
        }
    }
    if c.rva != calls_end {
        return Err(Damage { rva: length_site, expected: "whole call-site records" });
    }

    let mut end = calls_end;
    let mut types = 0u32;
    let mut specifications = BTreeSet::new();
    let mut seen = BTreeSet::new();
    while let Some(at) = actions.pop_first() {
        if !seen.insert(at) {
            continue;
        }
        let mut c = Cursor::new(image, at)?;
        let filter = c.sleb()?;
        let next_site = c.rva;
        let next = c.sleb()?;
        end = end.max(c.rva);
        if filter > 0 {
            types = types.max(u32::try_from(filter).map_err(|_| Damage { rva: at, expected: "a type index" })?);
        } else if filter < 0 {
            specifications.insert(filter.unsigned_abs());
        }
        if next != 0 {
            let next = i64::from(next_site).checked_add(next).and_then(|n| u32::try_from(n).ok());
            let next = next.filter(|n| (calls_end..calls_end.saturating_add(1 << 20)).contains(n));
            actions.insert(next.ok_or(Damage { rva: next_site, expected: "an action record behind the call sites" })?);
        }
    }

    if let Some(base) = type_base {
        let w = width(type_encoding).ok_or(Damage { rva: rva + 1, expected: "a type table of fixed-width entries" })?;
        let first = u64::from(types) * u64::from(w);
        if first > u64::from(base.saturating_sub(end)) {
            return Err(Damage { rva: base, expected: "room for the type table behind the action table" });
        }
        for i in 1..=types {
            let site = base - i * w;
            let reference = type_entry(image, site, type_encoding, w)?;
            references.extend(reference);
        }
        end = end.max(base);
        let mut steps = 0;
        for offset in specifications {
            // A list of type indices, ended by 0, at `offset - 1` bytes behind the base.
            let at = u64::from(base) + (offset - 1);
            let at = u32::try_from(at).map_err(|_| Damage { rva: base, expected: "an exception specification" })?;
            let mut c = Cursor::new(image, at)?;
            loop {
                let index = c.uleb()?;
                if index == 0 {
                    break;
                }
                steps += 1;
                if steps > image.mapped.len() {
                    return Err(Damage { rva: at, expected: "exception specifications that do not overlap" });
                }
                // The index must be covered by the entries found above, or an entry would go unnoticed.
                if index > u64::from(types) {
                    return Err(Damage { rva: at, expected: "a type index that a handler uses too" });
                }
            }
            end = end.max(c.rva);
        }
    } else if types != 0 || !specifications.is_empty() {
        return Err(Damage { rva, expected: "a type table for the handlers" });
    }
    Ok(Lsda { end, landing_pads, references })
}

/// The address in one type table entry; `None` for a null entry (catch all).
fn type_entry(image: &Image, site: u32, encoding: u8, width: u32) -> Read<Option<RawReference>> {
    let mut c = Cursor::new(image, site)?;
    let value = c.unsigned(width)?;
    if value == 0 {
        return Ok(None);
    }
    let inside = |rva: u64| u32::try_from(rva).ok().filter(|r| (*r as usize) < image.mapped.len());
    let outside = Damage { rva: site, expected: "a type address inside of the image" };
    match (encoding & 0x7F, width) {
        // pcrel sdata4
        (0x1B, 4) => {
            let value = i64::from(value as u32 as i32);
            let rva = u64::try_from(i64::from(site) + value).ok().and_then(inside).ok_or(outside)?;
            Ok(Some(RawReference { site, width: 4, form: Form::Relative, origin: site, rva }))
        }
        // absptr: the base relocation proves it
        (0x00, 8) => {
            let rva = value.checked_sub(image.image_base).and_then(inside).ok_or(outside)?;
            if image.base_relocations.binary_search(&site).is_err() {
                return Err(Damage { rva: site, expected: "a base relocation for the type address" });
            }
            Ok(Some(RawReference { site, width: 8, form: Form::Absolute, origin: 0, rva }))
        }
        _ => Err(Damage { rva: site, expected: "a type table encoding of 0x9b, 0x1b or 0x00" }),
    }
}
