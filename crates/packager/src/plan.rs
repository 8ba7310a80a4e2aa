//! What goes into the patch and how each reference is resolved.
//!
//! A [`Plan`] decides everything that needs judgement, so that writing the image needs none: which functions and objects
//! of the new image are taken over, which of them must keep their spacing, and for every field that holds an address,
//! where it leads in the patched process.

use hotgraft_hotpatch::{BaseIdentity, EntryMethod};
use hotgraft_program::{FunctionId, ImportId, ObjectId, Target};
use serde::Serialize;

/// A function of the new image that goes into the patch.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedFunction {
    /// In the new image.
    pub new: FunctionId,
    /// The base function it replaces; `None` for an added one.
    pub old: Option<FunctionId>,
    /// Redirect. `None` for an added function, and for a replaced one whose old entry stays as it is because every
    /// caller is replaced too and calls the copy in the patch directly.
    pub method: Option<EntryMethod>,
    /// Demand that no stack holds the old function.
    pub quiesce: bool,
}

/// An object of the new image that goes into the patch as a private copy.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PlannedObject {
    /// In the new image. Writable objects are new variables and belong in the patch's own writable section.
    pub new: ObjectId,
}

/// Where a reference of the patch leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// To something that the patch contains: an entity of the *new* image, which is one of the planned functions (or a
    /// fragment of one) or objects. The addend may be one past the end, or outside of the object where it belongs to
    /// a [group](Plan::groups).
    Patch(Target),
    /// To something in the base: an entity of the *old* image. [`Program::rva_of`](hotgraft_program::Program::rva_of)
    /// of the old program gives the RVA. The addend may be one past the end.
    Base(Target),
    /// To the slot of an import of the new image that the base has not: one of [`Plan::imports`].
    NewImport(ImportId),
    /// To the image base of the patch itself, as the anchor of image-relative tables in the patch.
    PatchImageBase,
}

/// One field that holds an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedReference {
    /// RVA of the field in the new image; it is the `site` of exactly one reference of the new program, either in
    /// [`Program::references`](hotgraft_program::Program::references) or in the unwind information of a planned function.
    pub site: u32,
    /// Where it leads.
    pub destination: Destination,
}

/// The whole plan, all lists sorted by new RVA.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Base identity.
    pub base: BaseIdentity,
    /// Functions.
    pub functions: Vec<PlannedFunction>,
    /// Private copies and new variables, jump tables and handler data of the planned functions included.
    pub objects: Vec<PlannedObject>,
    /// Planned objects that must keep the distances they have in the new image, because an address of the patch can
    /// mean the end of one or the start of the next. Members are sorted; no object is in two groups.
    pub groups: Vec<Vec<ObjectId>>,
    /// Imports that the base has not; the patch imports them itself.
    pub imports: Vec<ImportId>,
    /// Every reference of the planned functions, of their unwind information, and of the planned objects, sorted by site.
    pub references: Vec<PlannedReference>,
    /// Accepted conditions, sorted.
    pub accepted: Vec<String>,
    /// `None` if the patch can be rolled back, else why not.
    pub irrevertible: Option<String>,
}

impl Plan {
    /// Where the reference whose field is at `site` (RVA in the new image) leads.
    pub fn destination(&self, site: u32) -> Option<Destination> {
        let i = self.references.binary_search_by_key(&site, |r| r.site).ok()?;
        Some(self.references[i].destination)
    }

    /// The planned function made from `new`.
    pub fn function(&self, new: FunctionId) -> Option<&PlannedFunction> {
        self.functions.iter().find(|f| f.new == new)
    }
}
