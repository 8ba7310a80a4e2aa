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

/// A process, or something that behaves like one. Addresses are virtual addresses.
pub trait AddressSpace {
    /// Read exactly `out.len()` bytes.
    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), SpaceError>;
    /// Write; the pages must be writable.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), SpaceError>;
    /// Change protection of whole pages and return what each page had: (address, size, protection) runs.
    fn protect(&mut self, address: u64, size: u64, protection: Protection) -> Result<Vec<(u64, u64, Protection)>, SpaceError>;
    /// Reserve and commit `size` bytes, read-write, wholly within `reach` (inclusive bounds of the first and last byte).
    fn map(&mut self, size: u64, reach: (u64, u64)) -> Result<u64, SpaceError>;
    /// Release what `map` returned.
    fn unmap(&mut self, address: u64, size: u64) -> Result<(), SpaceError>;
    /// Loaded images: (base address, file name without folder), sorted by address.
    fn images(&self) -> Result<Vec<(u64, String)>, SpaceError>;
    /// Address of an exported function, loading the DLL if it is not there yet.
    fn import(&mut self, dll: &str, name: &str) -> Result<u64, SpaceError>;
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
    /// Make changed code visible to all processors.
    fn flush(&mut self, address: u64, size: u64) -> Result<(), SpaceError>;
}
