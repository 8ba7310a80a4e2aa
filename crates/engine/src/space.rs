//! The one thing the engine knows of its target.

/// Page protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Protection {
    NoAccess,
    Read,
    ReadWrite,
    ReadExecute,
    /// What the system reported, where it is none of the above (raw PAGE_* value); can be restored, is never requested.
    Other(u32),
}

/// Registers of a stopped thread that the engine needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadState {
    /// System thread id.
    pub id: u32,
    /// Instruction pointer (VA).
    pub ip: u64,
    /// Stack pointer (VA).
    pub sp: u64,
    /// Return addresses found by unwinding, innermost first; a scan of the stack where unwinding failed.
    pub return_addresses: Vec<u64>,
}

/// An operation on the target failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} at {address:#x} ({size} bytes) failed: {message}")]
pub struct SpaceError {
    /// What was tried.
    pub operation: &'static str,
    /// Where (VA).
    pub address: u64,
    /// How much, bytes.
    pub size: u64,
    /// What the system said.
    pub message: String,
}

/// A run of committed pages with one protection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte (VA).
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Start of the allocation that the pages belong to (VA).
    pub allocation: u64,
    /// Protection.
    pub protection: Protection,
    /// Memory of the process alone: neither an image nor a mapped file.
    pub private: bool,
}

/// One write of a [`AddressSpace::commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeWrite {
    /// First byte (VA).
    pub address: u64,
    /// What is written.
    pub bytes: Vec<u8>,
}

/// A process, or something that behaves like one. Addresses are virtual addresses.
pub trait AddressSpace {
    /// Read exactly `out.len()` bytes.
    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), SpaceError>;
    /// Write; the pages must be writable.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), SpaceError>;
    /// Change protection of whole pages and return what each page had: (address, size, protection) runs.
    fn protect(
        &mut self,
        address: u64,
        size: u64,
        protection: Protection,
    ) -> Result<Vec<(u64, u64, Protection)>, SpaceError>;
    /// Reserve and commit `size` bytes, read-write, wholly within `reach` (inclusive bounds of the first and last byte).
    fn map(&mut self, size: u64, reach: (u64, u64)) -> Result<u64, SpaceError>;
    /// Release what `map` returned.
    fn unmap(&mut self, address: u64, size: u64) -> Result<(), SpaceError>;
    /// Loaded images: (base address, file name without folder), sorted by address.
    fn images(&self) -> Result<Vec<(u64, String)>, SpaceError>;
    /// Committed memory, sorted by address.
    fn regions(&self) -> Result<Vec<Region>, SpaceError>;
    /// Address of an exported function, loading the DLL if it is not there yet. `#N` names the export with ordinal N.
    fn import(&mut self, dll: &str, name: &str) -> Result<u64, SpaceError>;
    /// Called before `suspend`, while the threads run: whatever takes time and can be done before.
    fn prepare(&mut self) -> Result<(), SpaceError> {
        Ok(())
    }
    /// Stop every other thread and say where they are. Nested calls count.
    fn suspend(&mut self) -> Result<Vec<ThreadState>, SpaceError>;
    /// Let them go.
    fn resume(&mut self) -> Result<(), SpaceError>;
    /// Make an unwind table known (`table` holds `count` RUNTIME_FUNCTIONs relative to `base`).
    fn register_unwind(&mut self, base: u64, table: u64, count: u32) -> Result<(), SpaceError>;
    /// Take it back.
    fn unregister_unwind(&mut self, table: u64) -> Result<(), SpaceError>;
    /// Mark addresses as valid control-flow-guard call targets, where the target has the guard.
    fn register_call_targets(&mut self, base: u64, size: u64, offsets: &[u32]) -> Result<(), SpaceError>;
    /// Call a function of the target, `int (void)`, on a thread of our own in it, while the others run; what it returns.
    /// Fails where no code can be run, and if it does not return in time.
    fn call(&mut self, address: u64) -> Result<i32, SpaceError> {
        Err(SpaceError { operation: "call", address, size: 0, message: "no code can be run here".into() })
    }
    /// Make changed code visible to all processors.
    fn flush(&mut self, address: u64, size: u64) -> Result<(), SpaceError>;
    /// Write all of `writes`, in order, or none of them. Called while the threads are suspended; protections are
    /// afterwards what they were, and no page is ever writable and executable at once. A target whose caller can be
    /// killed must see to it that even then all or none is written.
    fn commit(&mut self, writes: &[CodeWrite]) -> Result<(), SpaceError> {
        commit_in_steps(self, writes)
    }
}

/// Bytes of a page.
pub const PAGE: u64 = 0x1000;

/// [`AddressSpace::commit`] by single operations, undone on failure.
fn commit_in_steps<S: AddressSpace + ?Sized>(space: &mut S, writes: &[CodeWrite]) -> Result<(), SpaceError> {
    let mut before = Vec::with_capacity(writes.len());
    for write in writes {
        let mut bytes = vec![0; write.bytes.len()];
        space.read(write.address, &mut bytes)?;
        before.push(CodeWrite { address: write.address, bytes });
    }
    let mut opened: Vec<(u64, u64, Protection)> = Vec::new();
    let mut written = 0;
    let result = (|| {
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
    let mut outcome = result;
    if outcome.is_err() {
        undo_writes(space, &before[..written]);
    }
    for index in 0..opened.len() {
        let (address, size, protection) = opened[index];
        if let Err(error) = space.protect(address, size, protection) {
            if outcome.is_ok() {
                // The pages restored so far are closed again: open them for the way back.
                for &(address, size, _) in &opened[..index] {
                    let _ = space.protect(address, size, Protection::ReadWrite);
                }
                undo_writes(space, &before);
                for &(address, size, protection) in &opened {
                    let _ = space.protect(address, size, protection);
                }
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
                for (address, size) in pages(writes) {
                    let _ = space.protect(address, size, Protection::ReadWrite);
                }
                undo_writes(space, &before);
                for &(address, size, protection) in &opened {
                    let _ = space.protect(address, size, protection);
                }
                outcome = Err(error);
                break;
            }
        }
    }
    outcome
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
