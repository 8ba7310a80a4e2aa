//! May this pair be hotpatched?

use serde::Serialize;

/// What a rule says of one difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The patch carries it.
    Patch,
    /// The patch carries it if the operator accepts the named condition.
    Condition,
    /// It cannot be hotpatched.
    Refuse,
    /// Proven to need nothing.
    Harmless,
}

/// The verdict over all differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Everything is patched or harmless.
    Patch,
    /// As `Patch`, with conditions (all of them accepted if a plan follows).
    Conditional,
    /// At least one refusal or unaccepted condition.
    Refuse,
    /// Nothing functional differs.
    Nothing,
}

/// One rule applied to one difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable dotted key, `family.thing.change`.
    pub key: &'static str,
    /// What the rule says.
    pub outcome: Outcome,
    /// Function, object, type or image part, with RVAs.
    pub subject: String,
    /// Evidence, why in one sentence, what to do in one sentence.
    pub text: String,
    /// `file:line` where known.
    pub source: Option<String>,
}

/// How patch code reaches the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// RIP-relative fields, resolved after placing the patch within 2 GB of the base.
    Near,
    /// Slots in read-only data, so that the patch works anywhere and the image is structurally Windows' own.
    Any,
}

/// Options of a build.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Sequence number, not 0 (default 1).
    pub sequence: Option<u32>,
    /// KB id.
    pub kb: Option<String>,
    /// CVE ids.
    pub cves: Vec<String>,
    /// Keys of accepted conditions.
    pub accept: Vec<String>,
    /// Reach; `None`: any where proven safe for all references, else near.
    pub reach: Option<Reach>,
    /// Allow a patch without PDBs.
    pub allow_without_pdb: bool,
}

/// The verdict: every difference of the comparison is in `findings`, none is dropped.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Over all.
    pub decision: Decision,
    /// Sorted: refusals first, then conditions, patches, harmless; within, by key and subject.
    pub findings: Vec<Finding>,
}
