//! Hotpatches of Windows itself, as NtManageHotPatch tells of them. Only its queries are used; the structures are those that
//! the headers of System Informer (phnt, `ntmmapi.h`) document. What the system wrote is read here, bounds checked, so that
//! this part needs no Windows.

use serde::Serialize;

use crate::pe::{u16_at, u32_at, u64_at};

/// Most patches that are believed.
const MOST: u32 = 4096;

/// A hotpatch that Windows applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SystemPatch {
    /// Path of the patch image.
    pub path: String,
    /// TimeDateStamp of the base image.
    pub timestamp: u32,
    /// CheckSum of the base image.
    pub checksum: u32,
    /// Sequence number, where the system tells it.
    pub sequence: Option<u32>,
}

/// Whether Windows can hotpatch itself on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemHotpatching {
    /// This system has no such thing.
    NotAvailable,
    /// It has, and it is off.
    Off,
    /// It is on.
    On,
    /// The system does not tell.
    Unknown,
}

/// What the system says of hotpatches of its own on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SystemState {
    /// Whether it has any.
    pub hotpatching: SystemHotpatching,
    /// Why it is not known, or its patches are not.
    pub detail: Option<String>,
    /// The patches that are registered; absent where the system does not tell.
    pub patches: Option<Vec<SystemPatch>>,
}

/// Where the fields of an answer lie: number of patches, pointers to their paths, their bases and their sequence numbers.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    count: usize,
    paths: usize,
    bases: usize,
    sequences: Option<usize>,
    /// Bytes of the structure.
    pub size: usize,
}

/// MANAGE_HOT_PATCH_QUERY_PATCHES: version, SID of the user, then these.
pub const REGISTERED: Layout = Layout { count: 72, paths: 80, bases: 88, sequences: None, size: 96 };
/// MANAGE_HOT_PATCH_QUERY_ACTIVE_PATCHES: version, process handle, then these.
pub const ACTIVE: Layout = Layout { count: 16, paths: 24, bases: 32, sequences: Some(40), size: 48 };
/// Where the handle lies in the latter.
pub const PROCESS: usize = 8;

/// The patches in an answer that begins at `address` and holds all that it points to; `None` if it does not.
pub fn patches(answer: &[u8], address: u64, layout: Layout) -> Option<Vec<SystemPatch>> {
    let inside = |pointer: u64| usize::try_from(pointer.checked_sub(address)?).ok().filter(|&at| at < answer.len());
    let count = u32_at(answer, layout.count)?;
    if count == 0 {
        return Some(Vec::new());
    }
    if count > MOST {
        return None;
    }
    let paths = inside(u64_at(answer, layout.paths)?)?;
    let bases = inside(u64_at(answer, layout.bases)?)?;
    let sequences = layout.sequences.map(|at| inside(u64_at(answer, at)?));
    let one = |index: usize| {
        // UNICODE_STRING: bytes, room, pointer.
        let path = paths.checked_add(index * 16)?;
        let size = u16_at(answer, path)? as usize;
        let text = inside(u64_at(answer, path + 8)?)?;
        let units: Vec<u16> =
            answer.get(text..text + size)?.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
        let base = bases.checked_add(index * 8)?;
        let sequence = match sequences {
            Some(at) => Some(u32_at(answer, at?.checked_add(index * 4)?)?),
            None => None,
        };
        Some(SystemPatch {
            path: String::from_utf16_lossy(&units),
            checksum: u32_at(answer, base)?,
            timestamp: u32_at(answer, base + 4)?,
            sequence,
        })
    };
    (0..count as usize).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: u64 = 0x7000_0000;

    /// An answer with these patches: (path, checksum, timestamp, sequence).
    fn answer(layout: Layout, all: &[(&str, u32, u32, u32)]) -> Vec<u8> {
        let paths = layout.size;
        let bases = paths + all.len() * 16;
        let sequences = bases + all.len() * 8;
        let mut bytes = vec![0; sequences + all.len() * 4];
        bytes[layout.count..layout.count + 4].copy_from_slice(&(all.len() as u32).to_le_bytes());
        let mut point = |at: usize, to: usize| bytes[at..at + 8].copy_from_slice(&(AT + to as u64).to_le_bytes());
        point(layout.paths, paths);
        point(layout.bases, bases);
        layout.sequences.into_iter().for_each(|at| point(at, sequences));
        for (index, (path, checksum, timestamp, sequence)) in all.iter().enumerate() {
            let text: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let string = paths + index * 16;
            let end = AT + bytes.len() as u64;
            bytes[string..string + 2].copy_from_slice(&(text.len() as u16).to_le_bytes());
            bytes[string + 8..string + 16].copy_from_slice(&end.to_le_bytes());
            let base = bases + index * 8;
            bytes[base..base + 4].copy_from_slice(&checksum.to_le_bytes());
            bytes[base + 4..base + 8].copy_from_slice(&timestamp.to_le_bytes());
            let at = sequences + index * 4;
            bytes[at..at + 4].copy_from_slice(&sequence.to_le_bytes());
            bytes.extend_from_slice(&text);
        }
        bytes
    }

    #[test]
    fn answers_are_read() {
        let all = [(r"\SystemRoot\a_hotpatch.dll", 7, 8, 3), (r"\SystemRoot\ü.dll", 9, 10, 4)];
        let read = patches(&answer(ACTIVE, &all), AT, ACTIVE).unwrap();
        assert_eq!(read.len(), 2);
        let second = SystemPatch { path: r"\SystemRoot\ü.dll".into(), checksum: 9, timestamp: 10, sequence: Some(4) };
        assert_eq!(read[1], second);
        let read = patches(&answer(REGISTERED, &all), AT, REGISTERED).unwrap();
        assert_eq!(read[1], SystemPatch { sequence: None, ..second });
        assert_eq!(patches(&answer(ACTIVE, &[]), AT, ACTIVE), Some(Vec::new()));
    }

    #[test]
    fn what_points_elsewhere_is_not_believed() {
        let good = answer(ACTIVE, &[("a", 1, 2, 3)]);
        for field in [ACTIVE.paths, ACTIVE.bases, 40, ACTIVE.size + 8] {
            let mut bad = good.clone();
            bad[field..field + 8].copy_from_slice(&(AT - 8).to_le_bytes());
            assert_eq!(patches(&bad, AT, ACTIVE), None, "{field}");
        }
        assert_eq!(patches(&good[..good.len() - 1], AT, ACTIVE), None);
        assert_eq!(patches(&[], AT, ACTIVE), None);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..256), count in 0u32..8, pointers in any::<[u8; 3]>()) {
            let mut bytes = bytes;
            if bytes.len() >= ACTIVE.size {
                bytes[16..20].copy_from_slice(&count.to_le_bytes());
                for (at, to) in [24, 32, 40].into_iter().zip(pointers) {
                    bytes[at..at + 8].copy_from_slice(&(AT + u64::from(to)).to_le_bytes());
                }
            }
            let _ = patches(&bytes, AT, ACTIVE);
            let _ = patches(&bytes, AT, REGISTERED);
        }
    }
}
