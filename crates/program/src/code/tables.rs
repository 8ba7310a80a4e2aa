//! Tables of addresses in constant data: how many entries they have and where those lead.

use super::descent::Descent;
use super::flow::{Findings, by_address, own_boundaries};
use super::trial::Trial;
use super::values::{IndexTable, TableRead};
use super::{Context, RawJumpTable, RawOffsetTable};
use crate::function::Problem;
use crate::image::Image;
use crate::reference::Form;

/// More entries than any switch has.
const MAX_ENTRIES: u64 = 1 << 20;

/// RVA that one table entry leads to; `None` if it lies outside of the image.
pub(super) fn entry_target(image: &Image, site: u32, form: Form, anchor: u32) -> Option<u32> {
    let rva = match form {
        Form::Relative => i64::from(anchor) + i64::from(image.u32(site)? as i32),
        Form::ImageRelative => i64::from(image.u32(site)?),
        Form::Absolute => i64::try_from(image.u64(site)?.checked_sub(image.image_base)?).ok()?,
        _ => return None,
    };
    u32::try_from(rva).ok().filter(|r| *r <= image.size_of_image)
}

/// What a jump through a table turned out to be.
pub(super) enum Resolution {
    /// A jump table of the function, with its distinct targets in order and the index table in front of it.
    Table { table: RawJumpTable, targets: Vec<u32>, index: Option<RawOffsetTable> },
    /// A table of pointers to other functions.
    Foreign,
    /// Neither can be shown.
    Unbounded(String),
}

/// Finds the extent of the table that `read` reads and `jump` uses. `anchor` is what is added to an entry.
pub(super) fn resolve(
    image: &Image,
    descent: &Descent<'_>,
    context: &Context<'_>,
    jump: u32,
    read: TableRead,
    anchor: Option<u32>,
) -> Resolution {
    let (form, anchor) = match anchor {
        None => (Form::Absolute, 0),
        Some(0) => (Form::ImageRelative, 0),
        Some(anchor) => (Form::Relative, anchor),
    };
    let width = u32::from(read.width);
    let Some(section) = image.section_at(read.table) else {
        return Resolution::Unbounded(format!("the table at {:#x} does not lie in a section", read.table));
    };
    if section.is_writable() {
        if form == Form::Absolute {
            // Pointers that may change while the program runs lead to functions, or the jump is no tail call.
            return Resolution::Foreign;
        }
        return Resolution::Unbounded(format!("the table at {:#x} can be written to", read.table));
    }
    let section_end = section.rva.saturating_add(section.size);
    let room = u64::from((section_end - read.table) / width);
    let site = |i: u64| u32::try_from(u64::from(read.table) + i * u64::from(width)).ok();
    let target = |i: u64| {
        let site = site(i).filter(|_| i < room)?;
        let rva = entry_target(image, site, form, anchor)?;
        if form == Form::Absolute && image.base_relocations.binary_search(&site).is_err() {
            return None;
        }
        Some(rva)
    };
    let inside = |i: u64| target(i).filter(|t| descent.may_start(*t));
    let first = read.range.0.min(read.range.1);

    if form == Form::Absolute && inside(first).is_none() {
        return match target(first) {
            Some(t) if !descent.contains(t) => Resolution::Foreign,
            _ => Resolution::Unbounded(format!("the table at {:#x} holds no addresses", read.table)),
        };
    }

    let high = read.range.1;
    let mut proven = high < MAX_ENTRIES && high < room;
    let mut targets = Vec::new();
    let mut end = first;
    if proven {
        for i in first..=high {
            match target(i) {
                // A case that cannot occur may be a label behind the last instruction.
                Some(t) if descent.may_start(t) => targets.push(t),
                Some(t) if !read.natural && descent.is_end(t) => {}
                _ => {
                    proven = false;
                    break;
                }
            }
            end = i + 1;
        }
        if !proven && !read.natural {
            return Resolution::Unbounded(format!(
                "entry {end} of the table at {:#x} is proven to exist but leads to no instruction of the function",
                read.table
            ));
        }
    }
    if !proven {
        targets.clear();
        end = first;
        let own = own_boundaries(descent);
        let mut trial = Trial::new(image, descent);
        let limit = room.min(MAX_ENTRIES).min(high.saturating_add(1));
        while end < limit {
            let starts_other = site(end)
                .is_some_and(|s| end > first && (own.contains(&s) || context.boundaries.binary_search(&s).is_ok()));
            match inside(end) {
                Some(t) if !starts_other && trial.accepts(t) => targets.push(t),
                _ => break,
            }
            end += 1;
        }
    }
    // Entries below the lowest index that the dataflow sees belong to the table too, unless they are none.
    let mut start = first;
    while start > 0 && inside(start - 1).is_some() {
        start -= 1;
    }
    if start != 0 {
        start = first;
    }
    if targets.is_empty() {
        return Resolution::Unbounded(format!("no entry of the table at {:#x} leads into the function", read.table));
    }
    targets.extend((start..first).filter_map(inside));
    targets.sort_unstable();
    targets.dedup();
    let (Some(table), Ok(entries)) = (site(start), u32::try_from(end - start)) else {
        return Resolution::Unbounded(format!("the table at {:#x} is too long", read.table));
    };
    let table = RawJumpTable { table, jump, entries, width: read.width, form, anchor, bound_proven: proven };
    let index = read.via.map(|IndexTable { table, width, range, natural, load }| {
        let known = range.1 < MAX_ENTRIES;
        RawOffsetTable {
            table,
            load,
            entries: if known { range.1 as u32 + 1 } else { 0 },
            width,
            form: None,
            anchor: 0,
            bound_proven: known && !natural,
        }
    });
    Resolution::Table { table, targets, index }
}

/// Tables of differences to data: sums of an anchor and an element that serve no jump.
pub(super) fn offset_tables(image: &Image, sums: &[(u32, TableRead, u32)], context: &Context<'_>, out: &mut Findings) {
    let jumps = by_address(&out.jump_tables);
    for (at, read, anchor) in sums {
        let start = u64::from(read.table) + read.range.0 * u64::from(read.width);
        let is_jump = jumps.range(..=read.table).next_back().is_some_and(|(_, end)| read.table < *end)
            || u32::try_from(start).is_ok_and(|s| jumps.contains_key(&s));
        // Compilers anchor such a table at its own start. A sum of another address and an element is arithmetic of the
        // program: the element is a number that does not depend on where things are.
        let anchored = *anchor == 0 || *anchor == read.table || u64::from(*anchor) == start;
        if is_jump || !anchored {
            continue;
        }
        let form = if *anchor == 0 { Form::ImageRelative } else { Form::Relative };
        let width = u32::from(read.width);
        let first = if u64::from(*anchor) == start { read.range.0 } else { 0 };
        let base = read.table.saturating_add((first as u32).saturating_mul(width));
        let room = image.section_at(base).map_or(0, |s| (s.rva.saturating_add(s.size) - base) / width);
        let known = read.range.1 < MAX_ENTRIES && read.range.1 - first < u64::from(room);
        let limit = if known { (read.range.1 - first) as u32 + 1 } else { room.min(MAX_ENTRIES as u32) };
        let mut entries = 0;
        while entries < limit {
            let site = base + entries * width;
            let ends = !known && entries > 0 && context.boundaries.binary_search(&site).is_ok();
            let target = entry_target(image, site, form, *anchor);
            if ends || target.is_none_or(|t| image.section_at(t).is_none()) {
                break;
            }
            entries += 1;
        }
        let proven = known && entries == limit && !read.natural;
        if !proven {
            let text = format!("the table of relative addresses at {base:#x} (read at {at:#x}) has no proven end");
            out.problems.push(Problem { rva: *at, key: "data.relative_table.unbounded", text });
        }
        out.offset_tables.push(RawOffsetTable {
            table: base,
            load: read.load,
            entries,
            width: read.width,
            form: Some(form),
            anchor: *anchor,
            bound_proven: proven,
        });
    }
    out.offset_tables.sort_by_key(|t| (t.table, t.load, t.entries));
    out.offset_tables.dedup();
}
