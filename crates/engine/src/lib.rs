//! Apply, roll back and query hotpatches. The same code works on a buffer, in an emulator and on a live process,
//! through the [`AddressSpace`] trait.
//!
//! [`apply()`] checks, places and redirects; [`rollback()`] is its reverse; [`query`] and [`assess`] say what memory
//! holds. What is active is always judged by the bytes at the entries; the [record](record::Record) in front of a
//! placed patch only says what these bytes mean.

#![deny(unsafe_code)]

pub mod apply;
pub mod buffer;
pub mod doctor;
pub mod error;
pub mod exchange;
mod hooks;
pub mod identity;
mod lineage;
pub mod memory;
pub mod patch;
pub mod pe;
mod place;
pub mod policy;
pub mod record;
mod redirect;
pub mod rollback;
pub mod space;
pub mod state;
pub mod system;
mod transition;
#[cfg(all(windows, target_arch = "x86_64"))]
pub mod windows;

pub use apply::{Applied, ApplyOptions, Phase, apply};
pub use buffer::BufferSpace;
pub use error::ApplyError;
pub use exchange::{Exchange, Exchanged, Forbidden};
pub use identity::find_base;
pub use patch::{PatchError, PatchFile};
pub use policy::Trust;
pub use rollback::{RollbackOptions, RolledBack, rollback};
pub use space::{AddressSpace, CodeWrite, Protection, Region, SpaceError, ThreadState};
pub use state::{EntryState, EntryStatus, ImageStatus, PatchStatus, State, assess, count_threads, query};
