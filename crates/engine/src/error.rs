//! Why a patch was not applied or rolled back.

use std::time::Duration;

use crate::memory::MemoryError;
use crate::patch::PatchError;
use crate::space::SpaceError;

/// Why nothing was changed. Whatever the reason but two, the target's code is byte for byte what it was:
/// [`ApplyError::ChangedAfterwards`], and [`ApplyError::Repair`] where it says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The patch file is not sound.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The policy does not allow it.
    #[error("refused by the trust policy: {0}")]
    Policy(String),
    /// No loaded image is the base of the patch.
    #[error("no loaded image is the base of this patch ({file_name}): {reason}")]
    NoBase {
        /// File name of the base.
        file_name: String,
        /// What was seen.
        reason: String,
    },
    /// The image in memory is another build.
    #[error("{file_name} at {base:#x} is not the base of this patch: {field} is {found}, expected {expected}")]
    WrongBase {
        /// File name of the base.
        file_name: String,
        /// Address (VA).
        base: u64,
        /// Which field.
        field: &'static str,
        /// What the patch is for.
        expected: String,
        /// What memory holds.
        found: String,
    },
    /// A range that the patch relies on is not what the base file says.
    #[error("{name} at {base:#x}+{rva:#x} ({size} bytes) differs in memory from the base image")]
    Modified {
        /// Function or object.
        name: String,
        /// Address of the image (VA).
        base: u64,
        /// RVA.
        rva: u32,
        /// Bytes.
        size: u32,
    },
    /// Somebody else has changed the entry.
    #[error("the entry of {function} at {address:#x} was changed by somebody else: expected {expected}, found {found}{}",
        leads_to.as_ref().map(|to| format!(", which leads to {to}")).unwrap_or_default())]
    ForeignHook {
        /// Function.
        function: String,
        /// First compared byte (VA).
        address: u64,
        /// Expected bytes, hex.
        expected: String,
        /// Found bytes, hex.
        found: String,
        /// Where a jump found there leads.
        leads_to: Option<String>,
    },
    /// This sequence is active.
    #[error("sequence {sequence} is already applied")]
    AlreadyApplied {
        /// Sequence.
        sequence: u32,
    },
    /// A later sequence is active.
    #[error("sequence {offered} is older than the applied sequence {applied}")]
    Stale {
        /// What is active.
        applied: u32,
        /// What was asked for.
        offered: u32,
    },
    /// The patch asks for a predecessor.
    #[error("the patch asks for sequence {needed} or later, but {} is applied", applied.map_or("none".into(), |n| n.to_string()))]
    MissingPredecessor {
        /// MinSequenceNumber.
        needed: u32,
        /// What is active.
        applied: Option<u32>,
    },
    /// An earlier patch is only partly active: what to do with it needs a person.
    #[error("sequence {sequence} is only partly active: {detail}")]
    Partial {
        /// Sequence.
        sequence: u32,
        /// Which entries.
        detail: String,
    },
    /// Nothing is applied that could be rolled back.
    #[error("nothing to roll back: {0}")]
    NotApplied(String),
    /// The patch cannot be rolled back.
    #[error("sequence {sequence} cannot be rolled back: {reason}")]
    Irrevertible {
        /// Sequence.
        sequence: u32,
        /// Why.
        reason: String,
    },
    /// No room within reach of the base.
    #[error("no free memory of {size:#x} bytes within 2 GB of the image at {base:#x}")]
    TooFar {
        /// Address of the image (VA).
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// An import of the patch could not be resolved.
    #[error("import {name} of {dll} cannot be resolved: {source}")]
    Import {
        /// DLL.
        dll: String,
        /// Function.
        name: String,
        /// Why.
        source: SpaceError,
    },
    /// A thread stood where bytes change until the time was up.
    #[error("thread {thread} is in {function} (at {address:#x}); gave up after {attempts} attempts in {} ms", waited.as_millis())]
    ThreadInTheWay {
        /// Thread id.
        thread: u32,
        /// Function.
        function: String,
        /// Instruction pointer or return address (VA).
        address: u64,
        /// Attempts.
        attempts: u32,
        /// Time spent.
        waited: Duration,
    },
    /// The change was made, and right afterwards somebody else changed the entry. The one error that leaves the patch (or
    /// after a roll back: its absence) in effect.
    #[error(
        "the entry of {function} at {address:#x} was changed by somebody else right after: expected {expected}, found {found}"
    )]
    ChangedAfterwards {
        /// Function.
        function: String,
        /// First compared byte (VA).
        address: u64,
        /// Expected bytes, hex.
        expected: String,
        /// Found bytes, hex.
        found: String,
    },
    /// A hook of the patch says no.
    #[error("{hook} of the patch returned {value}")]
    Veto {
        /// The hook.
        hook: &'static str,
        /// What it returned.
        value: i32,
    },
    /// What the patch should have repaired when it was applied, it did not.
    #[error("{reason}; the patch {}", if *active { "could not be taken back and is active" } else { "was taken back" })]
    Repair {
        /// What the hook said.
        reason: String,
        /// The one case in which the target is changed after an error.
        active: bool,
    },
    /// The base image could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// An operation on the target failed.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// A step was made to fail by a test.
    #[error("stopped before {0}")]
    Stopped(&'static str),
}

impl ApplyError {
    /// True if the policy or a hook of the patch forbids it (exit code 3), else it could not be done (exit code 2).
    pub fn is_refusal(&self) -> bool {
        matches!(self, ApplyError::Policy(_) | ApplyError::Veto { .. })
    }
}
