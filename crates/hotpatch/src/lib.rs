//! The hotpatch file format alone: structures, reader and writer. See `docs/hotpatch-format.md` of the repository.
//!
//! Two things hang in a hotpatch image: the tables that winnt.h defines (IMAGE_HOT_PATCH_INFO and what it leads to),
//! reached through the load configuration directory, and our own section `.hgraft` for what those tables have no field for.

pub mod error;
pub mod graft;
pub mod info;

pub use error::{Error, Result};
pub use graft::{BaseIdentity, EntryMethod, Graft, GraftFunction, Guarded, GuardedKind, NearReference};
pub use info::{Base, Chunk, ChunkKind, Hashes, HotPatchInfo, Record};
