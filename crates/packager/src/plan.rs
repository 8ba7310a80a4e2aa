//! What goes into the patch and how each reference is resolved.
//!
//! A [`Plan`] decides everything that needs judgement, so that writing the image needs none: which functions and objects
//! of the new image are taken over, which of them must keep their spacing, and for every field that holds an address,
//! where it leads in the patched process.

use crate::closure::Closure;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::rules::types::quiet;
use crate::uses::is_address_taken;
use crate::verdict::{Decision, Options, Outcome, Verdict};
use hotgraft_diff::comparison::{Comparison, Status, function_label};
use hotgraft_hotpatch::{BaseIdentity, EntryMethod};
use hotgraft_program::{Architecture, EntryKind, FunctionId, ImportId, ObjectId, Program, Target};
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
    /// Variables of the new image whose initial value differs: a hook sets them in running processes, and somebody accepted
    /// that.
    pub repaired: Vec<ObjectId>,
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

/// Makes the plan of an accepted verdict.
///
/// # Errors
/// If the verdict is not one that a patch follows from, or the image has no file name that can be read.
pub fn plan(old: &Program, new: &Program, cmp: &Comparison, verdict: &Verdict, options: &Options) -> Result<Plan> {
    if !matches!(verdict.decision, Decision::Patch | Decision::Conditional) {
        return Err(Error::Internal(format!("no plan follows from the verdict {:?}", verdict.decision)));
    }
    let ctx = Context::new(old, new, cmp, options);
    let closure = Closure::of(&ctx);
    if let Some(block) = closure.blocks.first() {
        return Err(Error::Internal(format!(
            "the verdict allows what the plan cannot do: {} {}",
            block.key, block.text
        )));
    }
    let quiet = quiet(&ctx, &closure);
    let mut functions = Vec::with_capacity(closure.functions.len());
    for &id in closure.functions.keys() {
        // A part of a function that comes along unchanged replaces nothing: frames of the old version go on to use the
        // old one.
        let same = ctx.function_pair(id).0.status == Status::Identical;
        let along = same && ctx.is_funclet(id);
        let replaced = ctx.counterpart(id).filter(|_| !along);
        let method = match replaced {
            Some(old_id) if !closure.direct_only.contains(&id) => {
                Some(match old.functions[old_id.index()].entry_kind {
                    EntryKind::PaddedShortJump => EntryMethod::PaddedShortJump,
                    EntryKind::NearJump => EntryMethod::NearJump,
                    EntryKind::None => {
                        return Err(Error::Internal(format!("{} has no redirect", function_label(new, id))));
                    }
                })
            }
            _ => None,
        };
        functions.push(PlannedFunction { new: id, old: replaced, method, quiesce: quiet.contains(&id) });
    }
    // Function and object tables are sorted by RVA, and so are the closure's sets.
    let objects = closure.objects.keys().map(|&new| PlannedObject { new }).collect();
    let groups = closure.groups.iter().map(|g| g.iter().copied().collect()).collect();
    let mut accepted: Vec<String> =
        verdict.findings.iter().filter(|f| f.outcome == Outcome::Condition).map(|f| f.key.to_owned()).collect();
    accepted.sort();
    accepted.dedup();
    Ok(Plan {
        base: identity(old),
        functions,
        objects,
        groups,
        imports: closure.imports.iter().copied().collect(),
        irrevertible: irrevertible(&ctx, &closure),
        references: closure.references,
        repaired: if accepted.iter().any(|key| key == REPAIRED) { initialisers(new, cmp) } else { Vec::new() },
        accepted,
    })
}

/// The condition under which a hook takes care of variables with another initial value.
pub const REPAIRED: &str = "data.initialiser.changed";

/// Variables of both images whose initial value differs.
pub fn initialisers(new: &Program, cmp: &Comparison) -> Vec<ObjectId> {
    let changed = cmp.objects.iter().filter(|pair| pair.status == Status::Changed && pair.old.is_some());
    changed.filter_map(|pair| pair.new).filter(|id| new.objects[id.index()].writable).collect()
}

fn identity(old: &Program) -> BaseIdentity {
    let image = &old.image;
    let file_name = image.path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
    BaseIdentity {
        file_name,
        machine: match image.architecture {
            Architecture::Arm64 => 0xAA64,
            Architecture::X86 => 0x14C,
            _ => 0x8664,
        },
        timestamp: image.timestamp,
        checksum: image.checksum,
        image_size: image.size_of_image,
        pdb: image.pdb.as_ref().map(|p| (p.guid, p.age)),
        sha256: image.sha256,
    }
}

/// A patch whose own functions get known by address outside of it cannot be taken back.
fn irrevertible(ctx: &Context, closure: &Closure) -> Option<String> {
    closure.functions.keys().find_map(|&id| {
        let added = ctx.counterpart(id).is_none();
        let taken = ctx.new_uses.of_function(id).iter().any(|u| is_address_taken(ctx.new, id, u));
        (added && taken)
            .then(|| format!("the address of the added function {} is handed out", function_label(ctx.new, id)))
    })
}
