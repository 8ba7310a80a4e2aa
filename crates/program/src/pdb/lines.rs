//! Line numbers (C13).

use super::cursor::{Cursor, Damage};
use super::source::Strings;
use rustc_hash::FxHashMap;

const STREAM: &str = "lines";
const FILE_CHECKSUMS: u32 = 0xf4;
const LINES: u32 = 0xf2;
/// Line numbers that mark code which the debugger shall not show.
const HIDDEN: [u32; 2] = [0xfe_efee, 0xf0_0f00];

/// Line numbers of the whole image.
#[derive(Debug, Default)]
pub struct LineTable {
    /// (RVA, file, line), sorted by RVA; line 0 ends a run.
    pub lines: Vec<(u32, u32, u32)>,
    /// File names, sorted.
    pub files: Vec<String>,
}

/// Line numbers of one compiland.
#[derive(Debug, Default)]
pub struct ModuleLines {
    /// As in [`LineTable`], unsorted.
    pub lines: Vec<(u32, u32, u32)>,
    /// File names.
    pub files: Vec<String>,
}

/// Reads the C13 substream of a compiland.
pub fn module(data: &[u8], place: &dyn Fn(u16, u32) -> Option<u32>, strings: &Strings) -> Result<ModuleLines, Damage> {
    let mut sections = Vec::new();
    let mut c = Cursor(data);
    while c.0.len() >= 8 {
        let at = data.len() - c.0.len();
        let section = c.u32().zip(c.u32()).and_then(|(kind, len)| Some((kind, c.take(len as usize)?)));
        let Some(section) = section else {
            return Err(Damage::new(STREAM, at, "a subsection inside the stream"));
        };
        sections.push((at, section));
        c.align(data);
    }
    let checksums = sections.iter().find(|s| s.1.0 == FILE_CHECKSUMS).map_or(&[][..], |s| s.1.1);
    let mut out = ModuleLines::default();
    let mut known: FxHashMap<u32, u32> = FxHashMap::default();
    for &(at, (kind, body)) in &sections {
        if kind != LINES {
            continue;
        }
        let mut file = |id: u32| {
            *known.entry(id).or_insert_with(|| {
                // A file is named by the offset of its checksum entry, which begins with the offset of its name.
                let entry = checksums.get(id as usize..).map(Cursor);
                let name = entry.and_then(|mut e| strings.get(e.u32()?)).unwrap_or_default();
                out.files.push(name);
                out.files.len() as u32 - 1
            })
        };
        block_list(body, place, &mut file, &mut out.lines)
            .ok_or_else(|| Damage::new(STREAM, at, "whole blocks of lines"))?;
    }
    Ok(out)
}

fn block_list(
    body: &[u8],
    place: &dyn Fn(u16, u32) -> Option<u32>,
    file: &mut dyn FnMut(u32) -> u32,
    out: &mut Vec<(u32, u32, u32)>,
) -> Option<()> {
    let mut c = Cursor(body);
    let (offset, section, _flags, size) = (c.u32()?, c.u16()?, c.u16()?, c.u32()?);
    let start = place(section, offset);
    while !c.0.is_empty() {
        let (id, count, len) = (c.u32()?, c.u32()?, c.u32()?);
        // The length counts the block's header too; columns, if any, follow the lines.
        let mut lines = Cursor(c.take((len as usize).checked_sub(12)?)?);
        let file = file(id);
        for _ in 0..count {
            let (delta, bits) = (lines.u32()?, lines.u32()?);
            let line = bits & 0xff_ffff;
            let line = if HIDDEN.contains(&line) { 0 } else { line };
            if let Some(rva) = start.and_then(|s| s.checked_add(delta)) {
                out.push((rva, file, line));
            }
        }
    }
    if let Some(end) = start.and_then(|s| s.checked_add(size)) {
        out.push((end, 0, 0));
    }
    Some(())
}

/// Joins the compilands' lines. Where a run ends at the start of another, the start wins.
pub fn merge(modules: Vec<ModuleLines>) -> LineTable {
    let mut names: Vec<&str> = modules.iter().flat_map(|m| &m.files).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let mut lines = Vec::with_capacity(modules.iter().map(|m| m.lines.len()).sum());
    for m in &modules {
        let global: Vec<u32> =
            m.files.iter().map(|f| names.binary_search(&f.as_str()).map_or(0, |i| i as u32)).collect();
        lines.extend(m.lines.iter().map(|&(rva, file, line)| {
            let file = if line == 0 { 0 } else { global.get(file as usize).copied().unwrap_or(0) };
            (rva, file, line)
        }));
    }
    // Ends of runs go first among equals, so that the last entry at an address is the one that counts.
    lines.sort_by_key(|&(rva, _, line)| (rva, line != 0));
    let mut kept: Vec<(u32, u32, u32)> = Vec::with_capacity(lines.len());
    for entry in lines {
        match kept.last_mut() {
            Some(last) if last.0 == entry.0 => *last = entry,
            _ => kept.push(entry),
        }
    }
    LineTable { lines: kept, files: names.into_iter().map(str::to_owned).collect() }
}
