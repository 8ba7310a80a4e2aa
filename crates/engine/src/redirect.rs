//! Redirects: which bytes lead from a base entry to its replacement, and where a jump that was found leads.

use std::collections::BTreeMap;

use hotgraft_hotpatch::EntryMethod;

use crate::record::Entry;
use crate::space::CodeWrite;

/// One entry to redirect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Redirect<'a> {
    pub entry: &'a Entry,
    /// Address of the base image (VA).
    pub base: u64,
    /// Address of the patch image (VA).
    pub patch: u64,
}

pub(crate) fn of_entry(entry: &Entry, base: u64, patch: u64) -> Redirect<'_> {
    Redirect { entry, base, patch }
}

/// Bytes that a redirect changes: (before the entry, from the entry on).
pub(crate) fn extent(method: EntryMethod) -> (u64, u64) {
    match method {
        EntryMethod::PaddedShortJump => (5, 2),
        EntryMethod::NearJump => (0, 5),
    }
}

/// `jmp rel32` at `at`.
fn near_jump(at: u64, target: u64) -> [u8; 5] {
    // Reach is checked when the patch is placed.
    let distance = target.wrapping_sub(at + 5) as u32;
    let [a, b, c, d] = distance.to_le_bytes();
    [0xe9, a, b, c, d]
}

impl Redirect<'_> {
    /// The entry (VA).
    pub fn entry_address(&self) -> u64 {
        self.base + self.entry.base_rva as u64
    }

    /// The replacement (VA).
    pub fn target(&self) -> u64 {
        self.patch + self.entry.patch_rva as u64
    }

    /// First compared byte (VA).
    pub fn site(&self) -> u64 {
        self.base + self.entry.site as u64
    }

    /// What the redirect writes, the entry itself last.
    pub fn writes(&self) -> Vec<CodeWrite> {
        let entry = self.entry_address();
        match self.entry.method {
            EntryMethod::PaddedShortJump => vec![
                CodeWrite { address: entry - 5, bytes: near_jump(entry - 5, self.target()).to_vec() },
                CodeWrite { address: entry, bytes: vec![0xeb, 0xf9] },
            ],
            EntryMethod::NearJump => {
                vec![CodeWrite { address: entry, bytes: near_jump(entry, self.target()).to_vec() }]
            }
        }
    }

    /// Put the original bytes of the site.
    pub fn put_original(&self, bytes: &mut BTreeMap<u64, u8>) {
        for (index, &byte) in self.entry.expected.iter().enumerate() {
            bytes.insert(self.site() + index as u64, byte);
        }
    }

    /// Put the bytes of the redirect.
    pub fn put_redirect(&self, bytes: &mut BTreeMap<u64, u8>) {
        for write in self.writes() {
            for (index, byte) in write.bytes.into_iter().enumerate() {
                bytes.insert(write.address + index as u64, byte);
            }
        }
    }
}

/// Where the code in `bytes`, found at `address`, jumps to; follows the jump into the padding if `bytes` holds it.
/// `before` is what lies in front of `address`.
pub(crate) fn jump_target(address: u64, bytes: &[u8], before: &[u8]) -> Option<u64> {
    let relative = |at: u64, size: u64, distance: i64| at.wrapping_add(size).wrapping_add(distance as u64);
    match *bytes {
        [0xe9, a, b, c, d, ..] => Some(relative(address, 5, i32::from_le_bytes([a, b, c, d]) as i64)),
        [0xeb, distance, ..] => {
            let target = relative(address, 2, distance as i8 as i64);
            let back = address.checked_sub(target)? as usize;
            match before.len().checked_sub(back).map(|start| &before[start..]) {
                Some(&[0xe9, a, b, c, d, ..]) if back > 0 => {
                    Some(relative(target, 5, i32::from_le_bytes([a, b, c, d]) as i64))
                }
                _ => Some(target),
            }
        }
        _ => None,
    }
}
