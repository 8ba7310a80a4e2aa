//! Changing code while nobody runs it: stop all threads, check, write, let them go. What is checked and written is made
//! ready before, so that an address space can do all of it in one go.

use std::time::{Duration, Instant};

use crate::apply::Phase;
use crate::memory::read_bytes;
use crate::space::{AddressSpace, CodeWrite, PAGE, Protection, SpaceError, ThreadState};

/// A range of code that no thread may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// First address (VA).
    pub start: u64,
    /// One past the last address (VA).
    pub end: u64,
    /// Addresses in it at which an instruction pointer does no harm.
    pub harmless_ips: [u64; 2],
    /// Values on a stack that do none. Pointers to functions are often among them, so entries should be.
    pub harmless_returns: [u64; 2],
}

/// What is to be done at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exchange<'a> {
    /// Where no thread may be.
    pub forbidden: &'a [Forbidden],
    /// What memory must hold.
    pub expected: &'a [CodeWrite],
    /// What is written then.
    pub writes: &'a [CodeWrite],
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchanged {
    /// Written.
    Done {
        /// From before the first thread was stopped until after the last one was let go.
        pause: Duration,
    },
    /// Nothing was written: a thread is in a forbidden range.
    InTheWay {
        /// Thread id.
        thread: u32,
        /// Its instruction pointer, or a return address on its stack (VA).
        address: u64,
        /// Index of the range.
        range: usize,
    },
    /// Nothing was written: memory holds other bytes.
    Changed {
        /// Index of the expected bytes.
        index: usize,
    },
    /// Nothing was written: `ask` said no.
    Stopped(Phase),
}

/// The first thread that is in a forbidden range.
pub fn in_the_way(threads: &[ThreadState], forbidden: &[Forbidden]) -> Option<Exchanged> {
    for thread in threads {
        for (range, of) in forbidden.iter().enumerate() {
            let inside = |address: u64| address >= of.start && address < of.end;
            let found = |address| Some(Exchanged::InTheWay { thread: thread.id, address, range });
            if inside(thread.ip) && !of.harmless_ips.contains(&thread.ip) {
                return found(thread.ip);
            }
            let returns = |address: &&u64| inside(**address) && !of.harmless_returns.contains(*address);
            if let Some(&address) = thread.return_addresses.iter().find(returns) {
                return found(address);
            }
        }
    }
    None
}

/// An exchange by single operations, for address spaces whose threads do not mind how long it takes. `suspend` stops all
/// threads and says where they are.
pub(crate) fn in_steps<S: AddressSpace>(
    space: &mut S,
    exchange: &Exchange<'_>,
    ask: &dyn Fn(Phase) -> bool,
    suspend: fn(&mut S) -> Result<Vec<ThreadState>, SpaceError>,
    resume: fn(&mut S),
) -> Result<Exchanged, SpaceError> {
    let started = Instant::now();
    let threads = suspend(space)?;
    let outcome = while_suspended(space, exchange, ask, &threads);
    resume(space);
    Ok(outcome?.unwrap_or(Exchanged::Done { pause: started.elapsed() }))
}

/// `None`: written.
fn while_suspended<S: AddressSpace>(
    space: &mut S,
    exchange: &Exchange<'_>,
    ask: &dyn Fn(Phase) -> bool,
    threads: &[ThreadState],
) -> Result<Option<Exchanged>, SpaceError> {
    if !ask(Phase::CheckThreads) {
        return Ok(Some(Exchanged::Stopped(Phase::CheckThreads)));
    }
    if let Some(found) = in_the_way(threads, exchange.forbidden) {
        return Ok(Some(found));
    }
    if !ask(Phase::CheckSites) {
        return Ok(Some(Exchanged::Stopped(Phase::CheckSites)));
    }
    for (index, expected) in exchange.expected.iter().enumerate() {
        if read_bytes(space, expected.address, expected.bytes.len())? != expected.bytes {
            return Ok(Some(Exchanged::Changed { index }));
        }
    }
    if !ask(Phase::Commit) {
        return Ok(Some(Exchanged::Stopped(Phase::Commit)));
    }
    commit_in_steps(space, exchange.writes)?;
    Ok(None)
}

/// Write all of `writes`, in order, or none of them: what was done is undone on failure. Protections are afterwards what
/// they were, and no page is ever writable and executable at once.
fn commit_in_steps<S: AddressSpace + ?Sized>(space: &mut S, writes: &[CodeWrite]) -> Result<(), SpaceError> {
    let mut before = Vec::with_capacity(writes.len());
    for write in writes {
        let mut bytes = vec![0; write.bytes.len()];
        space.read(write.address, &mut bytes)?;
        before.push(CodeWrite { address: write.address, bytes });
    }
    let mut opened: Vec<(u64, u64, Protection)> = Vec::new();
    let mut written = 0;
    let mut outcome = (|| {
        for (address, size) in pages(writes) {
            opened.extend(space.protect(address, size, Protection::ReadWrite)?);
        }
        for write in writes {
            // Counted before it is tried: a failed write may have written a part.
            written += 1;
            space.write(write.address, &write.bytes)?;
        }
        Ok(())
    })();
    if outcome.is_err() {
        undo_writes(space, &before[..written]);
    }
    for index in 0..opened.len() {
        let (address, size, protection) = opened[index];
        if let Err(error) = space.protect(address, size, protection) {
            if outcome.is_ok() {
                take_back(space, &opened, index, &before);
                outcome = Err(error);
                break;
            }
            // Once more: there is nothing better to do on the way out of a failure.
            let _ = space.protect(address, size, protection);
        }
    }
    if outcome.is_ok() {
        for write in writes {
            if let Err(error) = space.flush(write.address, write.bytes.len() as u64) {
                take_back(space, &opened, opened.len(), &before);
                outcome = Err(error);
                break;
            }
        }
    }
    outcome
}

/// The way back. The first `closed` of the opened pages have their own protection again, and are opened once more for it.
fn take_back<S: AddressSpace + ?Sized>(
    space: &mut S,
    opened: &[(u64, u64, Protection)],
    closed: usize,
    before: &[CodeWrite],
) {
    for &(address, size, _) in &opened[..closed] {
        let _ = space.protect(address, size, Protection::ReadWrite);
    }
    undo_writes(space, before);
    for &(address, size, protection) in opened {
        let _ = space.protect(address, size, protection);
    }
}

fn undo_writes<S: AddressSpace + ?Sized>(space: &mut S, before: &[CodeWrite]) {
    for write in before.iter().rev() {
        let _ = space.write(write.address, &write.bytes);
    }
}

/// The pages that `writes` touch, each once, as runs of (address, size), sorted.
pub(crate) fn pages(writes: &[CodeWrite]) -> Vec<(u64, u64)> {
    let mut all: Vec<u64> = writes
        .iter()
        .filter(|write| !write.bytes.is_empty())
        .flat_map(|write| {
            let first = write.address & !(PAGE - 1);
            let last = (write.address + write.bytes.len() as u64 - 1) & !(PAGE - 1);
            (first..=last).step_by(PAGE as usize)
        })
        .collect();
    all.sort_unstable();
    all.dedup();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for page in all {
        match runs.last_mut() {
            Some((start, size)) if *start + *size == page => *size += PAGE,
            _ => runs.push((page, PAGE)),
        }
    }
    runs
}
