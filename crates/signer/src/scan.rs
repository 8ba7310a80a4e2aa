//! One pass over a file: digests, page hashes, the header checksum and a copy together, a buffer at a time.

use crate::digest::{DigestAlgorithm, Hasher};
use crate::page_hashes::PageHasher;
use crate::pe::{CHECKSUM_SIZE, Layout, SECURITY_SIZE, Source};
use std::io::{self, Write};
use std::sync::{Arc, mpsc};

/// Bytes read at a time. Even, so that the 16-bit sums of chunks add up; small enough for the second-level cache.
const CHUNK: usize = 256 << 10;
/// Buffers in flight between the reader and the hashers; with [`CHUNK`] all the memory that a pass takes.
const BUFFERS: usize = 8;
/// Files smaller than this are read and hashed in turn: threads would cost more than they save.
const WORTH_THREADS: u64 = 4 << 20;

/// What a pass computes.
#[derive(Clone)]
pub(crate) struct Scan {
    /// A digest per algorithm asked for, in that order.
    pub(crate) digests: Vec<(DigestAlgorithm, Vec<u8>)>,
    /// Page hash table, if asked for.
    pub(crate) pages: Option<Vec<u8>>,
    /// SHA-256 of every byte up to the end of what is hashed, padding left out, still open for the table; if asked for.
    pub(crate) whole: Option<Hasher>,
    /// Sum over the bytes that were read (see [`checksum`]).
    pub(crate) sum: u64,
}

impl Scan {
    /// The digest of an algorithm that was asked for.
    pub(crate) fn digest(&self, algorithm: DigestAlgorithm) -> &[u8] {
        self.digests.iter().find(|(a, _)| *a == algorithm).map_or(&[], |(_, d)| d)
    }
}

/// What a pass shall compute, besides the sum.
#[derive(Default)]
pub(crate) struct Orders<'a> {
    /// Zero bytes behind the file that are hashed as well.
    pub(crate) padding: usize,
    /// Authenticode digests.
    pub(crate) algorithms: &'a [DigestAlgorithm],
    /// Page hashes.
    pub(crate) pages: Option<PageHasher>,
    /// SHA-256 of the bytes as they are.
    pub(crate) whole: bool,
    /// Takes the bytes as they are, padding included.
    pub(crate) copy: Option<&'a mut (dyn Write + Send)>,
}

/// Fields that are left out of digests: offset and size, bytes, in order.
type Holes = [(u64, u64); 2];

/// One thing that is done with every chunk; what takes long has a thread of its own.
enum Task<'a> {
    Digest(DigestAlgorithm, Hasher),
    Pages(Box<PageHasher>),
    Whole(Hasher),
    Copy(&'a mut (dyn Write + Send), io::Result<()>),
}

impl Task<'_> {
    fn take(&mut self, chunk: &[u8], at: u64, holes: &Holes) {
        match self {
            Task::Digest(_, hasher) => without(chunk, at, holes).into_iter().for_each(|piece| hasher.update(piece)),
            Task::Pages(pages) => pages.update(chunk, at, holes),
            Task::Whole(hasher) => hasher.update(chunk),
            Task::Copy(out, result) => {
                if result.is_ok() {
                    *result = out.write_all(chunk);
                }
            }
        }
    }
}

/// Reads the bytes that are hashed, `padding` zero bytes behind them included, once.
///
/// # Errors
/// When reading or copying fails.
pub(crate) fn scan(source: &(impl Source + ?Sized), layout: &Layout, orders: Orders<'_>) -> io::Result<Scan> {
    let holes = holes(layout);
    let padding = orders.padding;
    let mut tasks: Vec<Task<'_>> = orders.algorithms.iter().map(|a| Task::Digest(*a, Hasher::new(*a))).collect();
    tasks.extend(orders.pages.map(|pages| Task::Pages(Box::new(pages))));
    tasks.extend(orders.whole.then(|| Task::Whole(Hasher::new(DigestAlgorithm::Sha256))));
    tasks.extend(orders.copy.map(|out| Task::Copy(out, Ok(()))));
    let end = layout.hashed_end();
    let threads = end >= WORTH_THREADS && std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
    let sum = if threads && !tasks.is_empty() {
        let sum;
        (tasks, sum) = read_beside(source, end, &holes, tasks)?;
        sum
    } else {
        let mut at = 0;
        read_in_turn(source, layout, |chunk| {
            tasks.iter_mut().for_each(|task| task.take(chunk, at, &holes));
            at += chunk.len() as u64;
            Ok(())
        })?
    };
    let mut scan = Scan { digests: Vec::new(), pages: None, whole: None, sum };
    let zeros = vec![0; padding];
    for task in tasks {
        match task {
            Task::Digest(algorithm, mut hasher) => {
                hasher.update(&zeros);
                scan.digests.push((algorithm, hasher.finish()));
            }
            Task::Pages(pages) => scan.pages = Some(pages.finish()),
            Task::Whole(hasher) => scan.whole = Some(hasher),
            Task::Copy(out, result) => result.and_then(|()| out.write_all(&zeros))?,
        }
    }
    Ok(scan)
}

fn holes(layout: &Layout) -> Holes {
    [(layout.checksum_at, CHECKSUM_SIZE), (layout.security_at, SECURITY_SIZE)]
}

/// Reads a chunk; gives its share of the sum.
fn read_chunk(source: &(impl Source + ?Sized), at: u64, chunk: &mut [u8], holes: &Holes) -> io::Result<u64> {
    source.read_at(at, chunk)?;
    let end = at + chunk.len() as u64;
    if holes.iter().all(|(hole, size)| hole + size <= at || *hole >= end) {
        return Ok(sum_of(chunk));
    }
    // The checksum is of the file with the checksum field zero; the security directory is put in by the caller.
    let mut copy = chunk.to_vec();
    for (hole, size) in holes {
        for byte in (*hole).max(at)..(hole + size).min(end) {
            copy[(byte - at) as usize] = 0;
        }
    }
    Ok(sum_of(&copy))
}

/// Size of the chunk that begins at `at`, bytes.
fn chunk_size(at: u64, end: u64) -> usize {
    usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK))
}

/// Reads the bytes that are hashed, and gives them to `sink`; returns their sum.
///
/// # Errors
/// When reading fails, or the sink does.
pub(crate) fn read_in_turn(
    source: &(impl Source + ?Sized),
    layout: &Layout,
    mut sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let (end, holes) = (layout.hashed_end(), holes(layout));
    let mut buffer = vec![0; chunk_size(0, end)];
    let (mut at, mut sum) = (0, 0);
    while at < end {
        let chunk = &mut buffer[..chunk_size(at, end)];
        sum += read_chunk(source, at, chunk, &holes)?;
        sink(chunk)?;
        at += chunk.len() as u64;
    }
    Ok(sum)
}

/// As [`read_in_turn`], each task in a thread beside the one that reads. A buffer goes to all tasks and comes back from
/// each; the last one to give it back makes it free. Order and content are the same, so results are.
fn read_beside<'a>(
    source: &(impl Source + ?Sized),
    end: u64,
    holes: &Holes,
    tasks: Vec<Task<'a>>,
) -> io::Result<(Vec<Task<'a>>, u64)> {
    std::thread::scope(|scope| {
        let (give_back, given_back) = mpsc::channel::<Arc<Vec<u8>>>();
        let mut workers = Vec::with_capacity(tasks.len());
        for mut task in tasks {
            let (send, receive) = mpsc::channel::<(Arc<Vec<u8>>, u64)>();
            let give_back = give_back.clone();
            let thread = scope.spawn(move || {
                for (chunk, at) in receive {
                    task.take(&chunk, at, holes);
                    // The reader may have stopped at an error: then nobody waits for buffers.
                    let _ = give_back.send(chunk);
                }
                task
            });
            workers.push((send, thread));
        }
        drop(give_back);
        let mut free: Vec<Vec<u8>> = (0..BUFFERS).map(|_| Vec::new()).collect();
        let mut read = || -> io::Result<u64> {
            let (mut at, mut sum) = (0, 0);
            while at < end {
                let mut buffer = loop {
                    if let Some(buffer) = free.pop() {
                        break buffer;
                    }
                    let chunk = given_back.recv().map_err(|_| io::Error::other("a thread has stopped"))?;
                    free.extend(Arc::try_unwrap(chunk).ok());
                };
                buffer.resize(chunk_size(at, end), 0);
                sum += read_chunk(source, at, &mut buffer, holes)?;
                let (chunk, length) = (Arc::new(buffer), chunk_size(at, end) as u64);
                for (send, _) in &workers {
                    send.send((chunk.clone(), at)).map_err(|_| io::Error::other("a thread has stopped"))?;
                }
                // This handle must not be the last one, or the buffer would be lost.
                drop(chunk);
                at += length;
            }
            Ok(sum)
        };
        let result = read();
        let mut tasks = Vec::with_capacity(workers.len());
        for (send, thread) in workers {
            drop(send);
            tasks.push(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        Ok((tasks, result?))
    })
}

/// The pieces of a chunk that lie outside of the holes; the holes are in order.
pub(crate) fn without<'a>(chunk: &'a [u8], at: u64, holes: &Holes) -> [&'a [u8]; 3] {
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
