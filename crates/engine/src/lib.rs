//! Apply, roll back and query hotpatches. The same code works on a buffer, in an emulator and on a live process,
//! through the [`AddressSpace`] trait.

pub mod space;

pub use space::{AddressSpace, Protection, SpaceError, ThreadState};
