//! Do the inputs belong together, and is enough known of them?

use crate::context::{Context, finding};
use crate::verdict::{Finding, Outcome};
use hotgraft_diff::comparison::Status;
use hotgraft_program::Program;
use std::collections::BTreeSet;

/// Of the functions of the smaller image, at least this share must have a counterpart.
pub const MATCHED_SHARE: f64 = 0.5;

/// Of the source files of the image with fewer of them, at least this share must be in the other.
pub const SOURCES_SHARE: f64 = 0.5;

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
    let (x, y) = (source_files(ctx.old), source_files(ctx.new));
    let common = x.intersection(&y).count();
    if !x.is_empty() && !y.is_empty() && (common as f64) < x.len().min(y.len()) as f64 * SOURCES_SHARE {
        return refuse(&format!("Of {} and {} source files only {common} are the same.", x.len(), y.len()));
    }
    None
}

/// Names, without folder, of the source files that functions come from; headers can be anybody's.
fn source_files(program: &Program) -> BTreeSet<String> {
    let header = |name: &str| matches!(name.rsplit_once('.'), Some((_, "h" | "hh" | "hpp" | "hxx" | "inc" | "inl")));
    program
        .functions
        .iter()
        .filter_map(|f| program.source_line(f.rva()))
        .filter_map(|line| line.file.rsplit(['/', '\\']).next().map(str::to_ascii_lowercase))
        .filter(|name| !header(name))
        .collect()
}

/// IMAGE_SUBSYSTEM_NATIVE: drivers, and programs that run before the Windows API is there.
const NATIVE: u16 = 1;

/// IMAGE_FILE_RELOCS_STRIPPED: the linker left out where the image holds addresses.
const RELOCS_STRIPPED: u16 = 1;

/// The data directory of images with managed code.
const CLR_DIRECTORY: usize = 14;

/// Images whose code runs while a patch is applied.
const OWN_PATH: [&str; 4] = ["ntdll", "wow64", "wow64cpu", "win32u"];

/// The base must be an image that can be patched from outside.
pub fn supported(ctx: &Context) -> Option<Finding> {
    let image = &ctx.old.image;
    let name = image.pdb.as_ref().map_or(image.path.as_str(), |p| p.path.as_str());
    let stem = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = stem.rsplit_once('.').map_or(stem, |(stem, _)| stem).to_ascii_lowercase();
    let text = if image.subsystem == NATIVE {
        "It runs in the kernel or without the Windows API."
    } else if OWN_PATH.contains(&stem.as_str()) {
        "Loading the patch and writing the redirects runs its code."
    } else if image.characteristics & RELOCS_STRIPPED != 0 {
        "Its base relocations are stripped, so that it is not known where it holds addresses."
    } else if image.directories.get(CLR_DIRECTORY).is_some_and(|&(rva, _)| rva != 0) {
        "It holds managed code, which is compiled anew while it runs."
    } else {
        return None;
    };
    Some(finding("identity.image.unsupported", Outcome::Refuse, None, image.path.clone(), text, None))
}

/// Incremental links route calls through thunks.
pub fn incremental(ctx: &Context) -> Vec<Finding> {
    [ctx.old, ctx.new]
        .iter()
        .filter(|p| p.image.sections.iter().any(|s| s.name == ".textbss"))
        .map(|p| {
            let text = "It has the section .textbss.";
            finding("image.link.incremental", Outcome::Refuse, None, p.image.path.clone(), text, None)
        })
        .collect()
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
