//! The one thing the engine knows of its target.

use crate::apply::Phase;
use crate::exchange::{Exchange, Exchanged, Forbidden};

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

/// Bytes at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeWrite {
    /// First byte (VA).
    pub address: u64,
    /// The bytes.
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
    /// Where the threads are. Each is looked at for itself, while the others may run.
    fn threads(&mut self) -> Result<Vec<ThreadState>, SpaceError>;
    /// Whether this thread is in a forbidden range: where (VA), or `None`. Address spaces that cannot look at one thread
    /// alone say `None`, and [`AddressSpace::exchange`] finds out.
    fn probe(&mut self, thread: u32, forbidden: &[Forbidden]) -> Result<Option<u64>, SpaceError> {
        let _ = (thread, forbidden);
        Ok(None)
    }
    /// Stop all threads, check where they are and what memory holds, write all of the writes in order, or none of them,
    /// and let the threads go, whatever comes of it. Protections are afterwards what they were, and no page is ever
    /// writable and executable at once. A target whose caller can be killed must see to it that even then all or none is
    /// written, and no thread stays suspended. `ask` is asked before each phase, at the latest when nothing is written.
    fn exchange(&mut self, exchange: &Exchange<'_>, ask: &dyn Fn(Phase) -> bool) -> Result<Exchanged, SpaceError>;
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
}

/// Bytes of a page.
pub const PAGE: u64 = 0x1000;
