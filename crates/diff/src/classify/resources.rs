//! Differences of the resource directory.

use crate::comparison::ImageChange;
use hotgraft_program::Image;
use std::collections::BTreeMap;

const DIRECTORY_RESOURCE: usize = 2;

/// Resources read from one image, at most: more than any real image has.
const ENTRIES: usize = 1 << 16;

const RT_MESSAGETABLE: &str = "11";
const RT_VERSION: &str = "16";

/// Resources that were added, removed or changed, by type, name and language.
pub(super) fn changes(old: &Image, new: &Image, out: &mut Vec<ImageChange>) {
    let (before, after) = (leaves(old), leaves(new));
    let mut push = |path: &[String], text: String| {
        let key = match path[0].as_str() {
            RT_VERSION => "image.resource.version",
            RT_MESSAGETABLE => "image.resource.message_table",
            _ => "image.resource.changed",
        };
        out.push(ImageChange { key, subject: path.join("/"), text });
    };
    for (path, bytes) in &before {
        match after.get(path) {
            None => push(path, "removed".to_owned()),
            Some(now) if now != bytes => push(path, format!("{} bytes became {} other ones", bytes.len(), now.len())),
            Some(_) => {}
        }
    }
    for (path, bytes) in after.iter().filter(|(path, _)| !before.contains_key(*path)) {
        push(path, format!("added, {} bytes", bytes.len()));
    }
}

/// All resources by path (type, name, language). Malformed parts are left out.
fn leaves(image: &Image) -> BTreeMap<Vec<String>, &[u8]> {
    let mut all = BTreeMap::new();
    let Some((base, size)) = image.directories.get(DIRECTORY_RESOURCE).copied().filter(|d| d.0 != 0) else {
        return all;
    };
    let Some(bytes) = image.bytes(base, size as usize) else { return all };
    let mut budget = ENTRIES;
    walk(image, bytes, 0, &mut Vec::new(), &mut budget, &mut all);
    all
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn walk<'i>(
    image: &'i Image,
    bytes: &'i [u8],
    at: usize,
    path: &mut Vec<String>,
    budget: &mut usize,
    all: &mut BTreeMap<Vec<String>, &'i [u8]>,
) -> Option<()> {
    const SUBDIRECTORY: u32 = 1 << 31;
    let count = usize::from(u16_at(bytes, at.checked_add(12)?)?) + usize::from(u16_at(bytes, at.checked_add(14)?)?);
    for n in 0..count {
        *budget = budget.checked_sub(1)?;
        let entry = at.checked_add(16 + 8 * n)?;
        let (name, offset) = (u32_at(bytes, entry)?, u32_at(bytes, entry + 4)?);
        path.push(label(bytes, name));
        let target = (offset & !SUBDIRECTORY) as usize;
        if offset & SUBDIRECTORY != 0 {
            if path.len() < 3 {
                walk(image, bytes, target, path, budget, all);
            }
        } else if let (Some(rva), Some(size)) =
            (u32_at(bytes, target), target.checked_add(4).and_then(|t| u32_at(bytes, t)))
            && let Some(data) = image.bytes(rva, size as usize)
        {
            all.insert(path.clone(), data);
        }
        path.pop();
    }
    Some(())
}

/// A numeric id, or the name in the string table.
fn label(bytes: &[u8], name: u32) -> String {
    const NAMED: u32 = 1 << 31;
    if name & NAMED == 0 {
        return name.to_string();
    }
    let at = (name & !NAMED) as usize;
    let length = u16_at(bytes, at).map_or(0, usize::from);
    let units: Vec<u16> = (0..length).map_while(|i| u16_at(bytes, at + 2 + 2 * i)).collect();
    format!("\"{}\"", String::from_utf16_lossy(&units))
}
