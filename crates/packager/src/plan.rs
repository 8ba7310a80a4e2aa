//! What goes into the patch and how each reference is resolved.

use hotgraft_hotpatch::{BaseIdentity, EntryMethod};
use hotgraft_program::{FunctionId, ObjectId};
use serde::Serialize;

/// A function of the new image that goes into the patch.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedFunction {
    /// In the new image.
    pub new: FunctionId,
    /// The base function it replaces; `None` for an added one.
    pub old: Option<FunctionId>,
    /// Redirect (replaced functions only).
    pub method: Option<EntryMethod>,
    /// Demand that no stack holds the old function.
    pub quiesce: bool,
}

/// An object of the new image that goes into the patch as a private copy.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PlannedObject {
    /// In the new image.
    pub new: ObjectId,
}

/// The whole plan, all lists sorted by new RVA.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Base identity.
    pub base: BaseIdentity,
    /// Functions.
    pub functions: Vec<PlannedFunction>,
    /// Private copies.
    pub objects: Vec<PlannedObject>,
}
