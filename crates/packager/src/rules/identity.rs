//! Do the inputs belong together, and is enough known of them?

use crate::context::{Context, finding};
use crate::verdict::{Finding, Outcome};
use hotgraft_diff::comparison::Status;

/// Of the functions of the smaller image, at least this share must have a counterpart.
pub const MATCHED_SHARE: f64 = 0.5;

/// The two images must be builds of the same thing.
pub fn same_thing(ctx: &Context) -> Option<Finding> {
    let (a, b) = (&ctx.old.image, &ctx.new.image);
    let subject = format!("{} and {}", a.path, b.path);
    let refuse = |text: &str| Some(finding("identity.image.other", Outcome::Refuse, None, subject.clone(), text, None));
    if a.architecture != b.architecture {
        return refuse(&format!("One is for {:?}, the other for {:?}.", a.architecture, b.architecture));
    }
    if a.is_dll() != b.is_dll() {
        return refuse("One is a DLL, the other is not.");
    }
    let matched = ctx.cmp.functions.iter().filter(|p| !matches!(p.status, Status::Added | Status::Removed)).count();
    let smaller = ctx.old.functions.len().min(ctx.new.functions.len());
    if smaller > 0 && (matched as f64) < smaller as f64 * MATCHED_SHARE {
        return refuse(&format!("Only {matched} of {smaller} functions have a counterpart."));
    }
    None
}

/// Both PDBs are needed unless the caller says otherwise.
pub fn pdb_missing(ctx: &Context) -> Vec<Finding> {
    if ctx.options.allow_without_pdb {
        return Vec::new();
    }
    [ctx.old, ctx.new]
        .iter()
        .filter(|p| !p.has_pdb)
        .map(|p| finding("identity.pdb.missing", Outcome::Refuse, None, p.image.path.clone(), "No PDB was read.", None))
        .collect()
}

/// More changed functions than this share of the matched ones, and it was not the source that changed.
pub const CHANGED_SHARE: f64 = 0.5;

/// Images with fewer functions than this say nothing by their share of changed ones.
pub const CHANGED_LEAST: usize = 32;

/// The two images must be made in the same way.
pub fn same_build(ctx: &Context) -> Option<Finding> {
    let count = |status| ctx.cmp.functions.iter().filter(|p| p.status == status).count();
    let (changed, equal) = (count(Status::Changed), count(Status::Identical));
    let matched = changed + equal;
    if matched < CHANGED_LEAST || (changed as f64) < matched as f64 * CHANGED_SHARE {
        return None;
    }
    let subject = format!("{} and {}", ctx.old.image.path, ctx.new.image.path);
    let text = format!("{changed} of {matched} functions differ.");
    Some(finding("identity.build.changed", Outcome::Refuse, None, subject, &text, None))
}
