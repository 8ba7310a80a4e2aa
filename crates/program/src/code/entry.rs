//! How control can be taken at a function's entry.

use super::{CodeFacts, Flow, decode_at, filler_length};
use crate::function::{CodeRange, EntryKind};
use crate::image::Image;

/// Bytes before the entry that the long jump and its alignment need.
const PADDING: u32 = 6;
/// Bytes of a near jump.
const NEAR_JUMP: u32 = 5;

/// How the function whose entry range is `entry` can be redirected.
///
/// `facts` are the facts of all its ranges; `covered` tells whether a byte belongs to any function or object, or anything
/// refers to it (the bytes of the entry range itself are not asked for). Never more than the bytes prove: when in doubt,
/// [`EntryKind::None`].
pub fn entry_kind(image: &Image, entry: CodeRange, facts: &[CodeFacts], covered: &dyn Fn(u32) -> bool) -> EntryKind {
    let Some(bytes) = image.bytes(entry.rva, entry.size as usize) else {
        return EntryKind::None;
    };
    let Some(first) = decode_at(bytes, entry.rva) else {
        return EntryKind::None;
    };
    let into = |from: u32, to: u32| leads_into(image, facts, entry.rva + from, entry.rva + to);
    let padded = entry.rva >= PADDING
        && (entry.rva - PADDING..entry.rva).all(|rva| !covered(rva))
        && image.section_at(entry.rva).is_some_and(|s| s.rva <= entry.rva - PADDING)
        && image.bytes(entry.rva - PADDING, PADDING as usize).is_some_and(|b| is_filler(image, entry.rva, b));
    if padded && first.length >= 2 && !into(0, 2) {
        return EntryKind::PaddedShortJump;
    }

    // Whole instructions up to the fifth byte, or to the end of the function with filler of its own behind.
    let mut length = 0u32;
    while length < NEAR_JUMP && length < entry.size {
        let Some(decoded) = decode_at(&bytes[length as usize..], entry.rva + length) else {
            return EntryKind::None;
        };
        length += u32::from(decoded.length);
        // Control may come back behind a call: a thread can stand there and return into the jump.
        if length < NEAR_JUMP && matches!(decoded.flow, Flow::Call(_) | Flow::IndirectCall) {
            return EntryKind::None;
        }
    }
    let trailing = entry.size < NEAR_JUMP && {
        let (start, end) = (entry.end(), entry.rva + NEAR_JUMP);
        image.section_at(entry.rva).is_some_and(|s| s.contains(end - 1))
            && (start..end).all(|rva| !covered(rva))
            && image.bytes(start, (end - start) as usize).is_some_and(|b| filler_length(b) == b.len())
    };
    if (entry.size >= NEAR_JUMP || trailing) && !into(0, NEAR_JUMP) { EntryKind::NearJump } else { EntryKind::None }
}

/// True if the bytes before `entry` are filler as they stand. A multi-byte no-op may start before them.
fn is_filler(image: &Image, entry: u32, bytes: &[u8]) -> bool {
    if filler_length(bytes) == bytes.len() {
        return true;
    }
    // Longest no-op in use is 15 bytes: look for a start from which filler runs up to the entry.
    (PADDING + 1..=PADDING + 15).any(|back| {
        entry.checked_sub(back).and_then(|start| image.bytes(start, back as usize)).is_some_and(|b| {
            b[0] != 0 && super::x64::filler_length(b) > (back - PADDING) as usize && filler_length(b) == b.len()
        })
    })
}

/// True if anything in the function leads to `[from, to)`, or to where it would start again from the entry.
fn leads_into(image: &Image, facts: &[CodeFacts], from: u32, to: u32) -> bool {
    let hit = |rva: u32| (from..to).contains(&rva);
    facts.iter().any(|f| {
        f.jump_tables.iter().any(|t| t.references(image).any(|r| hit(r.rva)))
            // The entry's own address may be taken; an address inside of the bytes to be overwritten may not.
            || f.references.iter().any(|r| hit(r.rva) && r.rva != from)
            || f.branches.iter().chain(&f.tail_jumps).any(|rva| hit(*rva))
    })
}
