//! What many pairs share: loading, judging, and which images a fix is in.

use crate::make::{Judged, judge_and_make};
use crate::output;
use anyhow::{Context, Result, ensure};
use hotgraft_packager::{Decision, Options, Outcome};
use hotgraft_release::catalog::Fixes;
use std::collections::BTreeSet;
use std::path::Path;

/// File name without folder.
pub fn name_of(path: &Path) -> Result<String> {
    let name = path.file_name().with_context(|| format!("{}: expected a file", path.display()))?;
    Ok(name.to_string_lossy().into_owned())
}

/// File name of the patch for an image.
pub fn patch_name(image: &str) -> String {
    let stem = image.rsplit_once('.').map_or(image, |(stem, _)| stem);
    format!("{stem}_hotpatch.dll")
}

/// `ID` is in all `images`, `ID=IMAGE,IMAGE` in those.
pub fn fixes(cves: &[String], images: &BTreeSet<String>) -> Fixes {
    let mut fixes = Fixes::new();
    for text in cves {
        let (id, named) = match text.split_once('=') {
            Some((id, names)) => (id, names.split(',').map(str::to_owned).collect()),
            None => (text.as_str(), images.clone()),
        };
        fixes.entry(id.to_owned()).or_default().extend(named);
    }
    fixes
}

/// Judges one pair and makes its patch.
pub fn judge(old: &Path, new: &Path, options: &Options) -> Result<Judged> {
    let (old_name, new_name) = (name_of(old)?, name_of(new)?);
    ensure!(old_name == new_name, "{} and {}: expected two builds of one image", old.display(), new.display());
    let base = output::read(old)?;
    let pdbs = crate::args::PdbArgs::default();
    let (old, new) = crate::build::load_pair(old, new, &pdbs)?;
    judge_and_make(&old, &new, &base, options)
}

/// Why a pair gets no patch, as `KEY: SUBJECT`; empty if it gets one or needs none.
pub fn reasons(name: &str, judged: &Judged) -> Vec<String> {
    if judged.patch.is_some() || judged.verdict.decision == Decision::Nothing {
        return Vec::new();
    }
    let against = |outcome: Outcome| matches!(outcome, Outcome::Refuse | Outcome::Condition);
    let against = judged.verdict.findings.iter().filter(|finding| against(finding.outcome));
    against.map(|finding| format!("{name}: {}: {}", finding.key, finding.subject)).collect()
}
