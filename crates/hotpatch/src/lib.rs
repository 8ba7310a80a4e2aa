//! The hotpatch file format alone: structures, reader and writer. See `docs/hotpatch-format.md` of the repository.
//!
//! Two things hang in a hotpatch image: the tables that winnt.h defines (IMAGE_HOT_PATCH_INFO and what it leads to),
//! reached through the load configuration directory, and our own section `.hgraft` for what those tables have no field for.
//!
//! [`read()`] gives both, [`check::check`] says which rules of the format a file breaks,
//! [`HotPatchInfo::to_bytes`] and [`Graft::to_bytes`] write.

#![forbid(unsafe_code)]

pub mod check;
mod check_graft;
pub mod codec;
pub mod error;
pub mod graft;
pub mod hex;
pub mod info;
pub mod pe;
pub mod raw;
pub mod read;
pub mod rules;
pub mod sha;
pub mod write;

pub use check::Violation;
pub use error::{Error, Result};
pub use graft::{
    BaseIdentity, EntryMethod, Graft, GraftFunction, Guarded, GuardedKind, Hook, HookPoint, Hooks, NearReference,
    guarded_digest,
};
pub use info::{Base, Chunk, ChunkKind, Hashes, HotPatchInfo, Record};
pub use read::{Hotpatch, Structure, read};
pub use rules::{DemandedBy, RULES, Rule};
