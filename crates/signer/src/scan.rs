//! One pass over a file: digests, page hashes and the header checksum together, a buffer at a time.

use crate::digest::{DigestAlgorithm, Hasher};
use crate::page_hashes::PageHasher;
use crate::pe::{CHECKSUM_SIZE, Layout, SECURITY_SIZE, Source};
use std::io;

/// Bytes read at a time. Even, so that the 16-bit sums of chunks add up; small enough for the second-level cache.
const CHUNK: usize = 256 << 10;

/// What a pass computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scan {
    /// A digest per algorithm asked for, in that order.
    pub(crate) digests: Vec<(DigestAlgorithm, Vec<u8>)>,
    /// Page hash table, if asked for.
    pub(crate) pages: Option<Vec<u8>>,
    /// Sum over the bytes that were read (see [`checksum`]).
    pub(crate) sum: u64,
}

impl Scan {
    /// The digest of an algorithm that was asked for.
    pub(crate) fn digest(&self, algorithm: DigestAlgorithm) -> &[u8] {
        self.digests.iter().find(|(a, _)| *a == algorithm).map_or(&[], |(_, d)| d)
    }
}

/// Reads the bytes that are hashed, `padding` zero bytes behind them included.
///
/// # Errors
/// When reading fails.
pub(crate) fn scan(
    source: &(impl Source + ?Sized),
    layout: &Layout,
    padding: usize,
    algorithms: &[DigestAlgorithm],
    mut pages: Option<PageHasher>,
    mut sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<Scan> {
    let mut hashers: Vec<(DigestAlgorithm, Hasher)> = algorithms.iter().map(|a| (*a, Hasher::new(*a))).collect();
    let holes = [(layout.checksum_at, CHECKSUM_SIZE), (layout.security_at, SECURITY_SIZE)];
    let end = layout.hashed_end();
    let mut buffer = vec![0; CHUNK.min(usize::try_from(end).unwrap_or(CHUNK))];
    let mut sum = 0;
    let mut at = 0;
    while at < end {
        let length = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let chunk = &mut buffer[..length];
        source.read_at(at, chunk)?;
        sink(chunk)?;
        // The checksum is of the file with the checksum field zero; the security directory is put in by the caller.
        for (hole, size) in holes {
            for byte in hole.max(at)..(hole + size).min(at + length as u64) {
                chunk[(byte - at) as usize] = 0;
            }
        }
        sum += sum_of(chunk);
        for piece in without(chunk, at, &holes) {
            for (_, hasher) in &mut hashers {
                hasher.update(piece);
            }
        }
        if let Some(pages) = &mut pages {
            pages.update(chunk, at, &holes);
        }
        at += length as u64;
    }
    let zeros = vec![0; padding];
    for (_, hasher) in &mut hashers {
        hasher.update(&zeros);
    }
    sink(&zeros)?;
    Ok(Scan {
        digests: hashers.into_iter().map(|(a, h)| (a, h.finish())).collect(),
        pages: pages.map(PageHasher::finish),
        sum,
    })
}

/// The pieces of a chunk that lie outside of the holes; the holes are in order.
pub(crate) fn without<'a>(chunk: &'a [u8], at: u64, holes: &[(u64, u64); 2]) -> [&'a [u8]; 3] {
    let cut = |offset: u64| usize::try_from(offset.saturating_sub(at)).map_or(chunk.len(), |o| o.min(chunk.len()));
    let [(first, first_size), (second, second_size)] = *holes;
    [&chunk[..cut(first)], &chunk[cut(first + first_size)..cut(second)], &chunk[cut(second + second_size)..]]
}

/// Sum of 16-bit little-endian words, a last odd byte as a word of its own. Sums of pieces of even length add up.
pub(crate) fn sum_of(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    // 2^16 is 1 modulo 2^16 - 1, and so is 2^32: larger words give the same folded sum, four times as fast.
    let mut sum = 0u64;
    for word in words.by_ref() {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        sum += (word & 0xffff_ffff) + (word >> 32);
    }
    for word in words.remainder().chunks(2) {
        sum += u64::from(word[0]) + (u64::from(word.get(1).copied().unwrap_or(0)) << 8);
    }
    // 2^31 words of 32 bits fit; fold so that sums of many chunks do too.
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// The checksum of the optional header, from the sum over the file (checksum field zero) and the file's size in bytes.
pub(crate) fn checksum(mut sum: u64, size: u64) -> u32 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (sum as u32).wrapping_add(size as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum as it is usually written down.
    fn plain(bytes: &[u8]) -> u32 {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(word[0]) + (u32::from(word.get(1).copied().unwrap_or(0)) << 8);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum + bytes.len() as u32
    }

    proptest::proptest! {
        #[test]
        fn fast_sum_is_the_plain_sum(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), cut in 0usize..150) {
            assert_eq!(checksum(sum_of(&bytes), bytes.len() as u64), plain(&bytes));
            let cut = (2 * cut).min(bytes.len() & !1);
            let parts = sum_of(&bytes[..cut]) + sum_of(&bytes[cut..]);
            assert_eq!(checksum(parts, bytes.len() as u64), plain(&bytes));
        }

        #[test]
        fn pieces_are_all_but_the_holes(at in 0u64..40, length in 0usize..60) {
            let holes = [(20, 4), (30, 8)];
            let chunk: Vec<u8> = (0..length).map(|i| (at as usize + i) as u8).collect();
            let kept: Vec<u8> = without(&chunk, at, &holes).concat();
            let wanted: Vec<u8> = chunk.iter().copied().filter(|b| !(20..24).contains(b) && !(30..38).contains(b)).collect();
            assert_eq!(kept, wanted);
        }
    }
}
