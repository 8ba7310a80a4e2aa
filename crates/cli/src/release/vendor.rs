//! The vendor's commands: what goes into a catalog, and how it is published.

use super::args::{AddBaselineArgs, AddHotpatchArgs, InitArgs, PublishArgs, ReleaseFacts, RevokeArgs, RotateArgs};
use super::{keys, pairs};
use crate::args::Format;
use crate::make::Judged;
use crate::output::{self, Exit, Stop, Terminal};
use anyhow::{Context, Result, ensure};
use hotgraft_packager::{Decision, Options};
use hotgraft_release::catalog::{Baseline, Calendar, Catalog, Cause, Fixes, Hotpatch, Revoke};
use hotgraft_release::proof::Effect;
use hotgraft_release::tuf::{Expiry, Role};
use hotgraft_release::workshop::{Published, RoleHolders, Workshop, image_of, patch_of};
use hotgraft_signer::{Artifact, DigestSigner};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// `hotgraft release init`.
pub fn init(args: &InitArgs, terminal: &Terminal) -> Result<Exit> {
    let now = args.now.stated()?;
    let signers = keys::open(&args.signers)?;
    let signers = keys::borrowed(&signers);
    let mut roles = keys::roles(&args.roles)?;
    if roles.is_empty() {
        let certificates: Vec<_> = signers.iter().filter_map(|s| s.certificates().first().cloned()).collect();
        let all = |role| (role, RoleHolders { certificates: certificates.clone(), threshold: 1 });
        roles = Role::ALL.into_iter().map(all).collect();
    }
    let mut expiry = Expiry::default();
    for text in &args.expiry {
        let about = || format!("{text}: expected ROLE=DAYS");
        let (role, days) = text.split_once('=').with_context(about)?;
        let days: u32 = days.parse().with_context(about)?;
        ensure!((1..=36_500).contains(&days), "{text}: expected 1 to 36500 days");
        match role.parse::<Role>().map_err(anyhow::Error::msg)? {
            Role::Root => expiry.root = days,
            Role::Targets => expiry.targets = days,
            Role::Snapshot => expiry.snapshot = days,
            Role::Timestamp => expiry.timestamp = days,
        }
    }
    let mut catalog = Catalog::new(&args.product, &args.publisher);
    catalog.calendar = Calendar { baseline_months: args.baseline_months.iter().copied().collect() };
    catalog.requires = args.requires.iter().cloned().collect();
    Workshop::init(&args.folder, catalog, expiry, &roles, &signers, now)?;
    terminal.note(format!("{}: made; give machines root.json by another way than the catalog", args.folder.display()));
    Ok(Exit::Done)
}

/// `hotgraft.release.added/1`.
#[derive(Serialize)]
struct Added<'a> {
    schema: &'static str,
    /// `baseline` or `hotpatch`; `restart_update` if the fix cannot be a hotpatch and nothing was added.
    kind: &'static str,
    id: &'a str,
    /// Whether a machine has to restart for it.
    restart: bool,
    fixes: &'a Fixes,
    /// What forbids a hotpatch.
    reasons: &'a [String],
    /// Images that do not differ, and so have no patch.
    unchanged: &'a [String],
    /// What each patch does, by image.
    patches: BTreeMap<String, Shown>,
}

#[derive(Serialize)]
struct Shown {
    sha256: String,
    replaced: Vec<String>,
    entries: usize,
    /// Predecessors after which the patch leaves the same process as alone.
    predecessors: usize,
}

fn say(format: Format, added: &Added<'_>) -> Result<()> {
    if format == Format::Json {
        return output::write_bytes(Path::new("-"), &output::json(added)?);
    }
    let mut out = match added.kind {
        "restart_update" => {
            format!("{}: no hotpatch can carry this; it is a restart update, and nothing was added\n", added.id)
        }
        kind => {
            format!("{kind} {}: added; restart {}\n", added.id, if added.restart { "needed" } else { "not needed" })
        }
    };
    for reason in added.reasons {
        out += &format!("  because   {reason}\n");
    }
    for (image, shown) in &added.patches {
        let after = shown.predecessors;
        out +=
            &format!("  {image}: replaces {}; equal alone and after {after} predecessors\n", shown.replaced.join(", "));
    }
    for image in added.unchanged {
        out += &format!("  {image}: nothing to patch\n");
    }
    for cve in added.fixes.keys() {
        out += &format!("  fixes     {cve}\n");
    }
    output::print_text(&out)
}

fn baseline(
    workshop: &Workshop,
    facts: &ReleaseFacts,
    until: hotgraft_release::Time,
    cause: Cause,
    files: &[&Path],
) -> Result<(Baseline, BTreeMap<String, Vec<u8>>)> {
    let mut bytes = BTreeMap::new();
    let mut images = Vec::new();
    for path in files {
        let name = pairs::name_of(path)?;
        let content = output::read(path)?;
        images.push(image_of(&name, &content)?);
        ensure!(bytes.insert(name, content).is_none(), "{}: given twice", path.display());
    }
    images.sort_by(|a, b| a.name.cmp(&b.name));
    let supersedes = workshop.draft.catalog.latest_baseline();
    // What is not said to be elsewhere is where files changed.
    let changed = |image: &&hotgraft_release::catalog::Image| {
        !supersedes.is_some_and(|old| old.images.iter().any(|i| i.name == image.name && i.sha256 == image.sha256))
    };
    let mut names: BTreeSet<String> = images.iter().filter(changed).map(|i| i.name.clone()).collect();
    if names.is_empty() {
        names = images.iter().map(|i| i.name.clone()).collect();
    }
    let baseline = Baseline {
        id: facts.id.clone(),
        build: facts.build.clone(),
        cause,
        kb: facts.kb.clone(),
        fixes: pairs::fixes(&facts.cve, &names),
        supersedes: supersedes.map(|b| b.id.clone()),
        supported_until: until,
        images,
    };
    Ok((baseline, bytes))
}

/// `hotgraft release add-baseline`.
pub fn add_baseline(args: &AddBaselineArgs, _: &Terminal) -> Result<Exit> {
    let date = args.facts.date.stated()?;
    let mut workshop = Workshop::open(&args.folder)?;
    let cause = match (&args.emergency, &args.feature) {
        (Some(text), _) => Cause::Emergency { text: text.clone() },
        (_, Some(text)) => Cause::Feature { text: text.clone() },
        _ => Cause::Planned,
    };
    let files: Vec<&Path> = args.images.iter().map(PathBuf::as_path).collect();
    let (baseline, bytes) = baseline(&workshop, &args.facts, args.supported_until, cause, &files)?;
    workshop.add_baseline(date, baseline.clone(), &bytes)?;
    let patches = BTreeMap::new();
    let (id, fixes) = (args.facts.id.as_str(), &baseline.fixes);
    say(
        args.format,
        &Added {
            schema: "hotgraft.release.added/1",
            kind: "baseline",
            id,
            restart: true,
            fixes,
            reasons: &[],
            unchanged: &[],
            patches,
        },
    )?;
    Ok(Exit::Done)
}

/// `hotgraft release add-hotpatch`.
pub fn add_hotpatch(args: &AddHotpatchArgs, terminal: &Terminal) -> Result<Exit> {
    let date = args.facts.date.stated()?;
    let mut workshop = Workshop::open(&args.folder)?;
    let progress = terminal.progress("judging the pairs");
    let pairs: Vec<(&Path, &Path)> = args.pairs.chunks_exact(2).map(|p| (p[0].as_path(), p[1].as_path())).collect();
    let images: BTreeSet<String> = pairs.iter().map(|(old, _)| pairs::name_of(old)).collect::<Result<_>>()?;
    ensure!(images.len() == pairs.len(), "one image is given twice");
    let fixes = pairs::fixes(&args.facts.cve, &images);
    let judged: Vec<(String, Judged)> = pairs
        .par_iter()
        .map(|(old, new)| {
            let name = pairs::name_of(old)?;
            let cves = fixes.iter().filter(|(_, images)| images.contains(&name)).map(|(cve, _)| cve.clone());
            let options = Options {
                sequence: Some(args.sequence),
                kb: args.facts.kb.clone(),
                cves: cves.collect(),
                accept: args.accept.clone(),
                accepted_by: args.accepted_by.clone(),
                ..Options::default()
            };
            Ok((name, pairs::judge(old, new, &options)?))
        })
        .collect::<Result<_>>()?;
    drop(progress);
    if let Some(path) = &args.sarif {
        let findings =
            judged.iter().flat_map(|(image, judged)| crate::sarif::findings(image, &judged.verdict, &args.accept));
        output::write_bytes(path, &crate::sarif::document(findings)?)?;
    }
    let id = args.facts.id.as_str();
    let mut added = Added {
        schema: "hotgraft.release.added/1",
        kind: "restart_update",
        id,
        restart: true,
        fixes: &fixes,
        reasons: &[],
        unchanged: &[],
        patches: BTreeMap::new(),
    };
    let reasons: Vec<String> = judged.iter().flat_map(|(name, judged)| pairs::reasons(name, judged)).collect();
    if !reasons.is_empty() {
        added.reasons = &reasons;
        let Some(until) = args.else_baseline_until else {
            say(args.format, &added)?;
            terminal.note("hint: --else-baseline-until TIME makes it a baseline");
            return Ok(Exit::Refused);
        };
        let files = restart_files(&workshop, &pairs)?;
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let cause = Cause::NotHotpatchable { rules: reasons.clone() };
        let (baseline, bytes) = baseline(&workshop, &args.facts, until, cause, &files)?;
        workshop.add_baseline(date, baseline, &bytes)?;
        added.kind = "baseline";
        say(args.format, &added)?;
        return Ok(Exit::Done);
    }
    let unchanged: Vec<String> =
        judged.iter().filter(|(_, j)| j.verdict.decision == Decision::Nothing).map(|(name, _)| name.clone()).collect();
    added.unchanged = &unchanged;
    let made: BTreeMap<String, Vec<u8>> = judged.into_iter().filter_map(|(name, j)| Some((name, j.patch?))).collect();
    if made.is_empty() {
        terminal.note("no image differs: there is nothing to patch");
        return Ok(Exit::Nothing);
    }
    if let Some(folder) = &args.stage {
        std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        for (image, bytes) in &made {
            output::write_bytes(&folder.join(pairs::patch_name(image)), bytes)?;
        }
        terminal.note(format!("{}: {} patches to be signed", folder.display(), made.len()));
        return Ok(Exit::Done);
    }
    let made = with_signatures(made, &args.signed, terminal)?;
    let catalog = &workshop.draft.catalog;
    let latest = catalog.latest_baseline().map(|b| b.id.clone()).unwrap_or_default();
    let patches = made.iter().map(|(image, bytes)| patch_of(image, &pairs::patch_name(image), bytes));
    let hotpatch = Hotpatch {
        id: id.to_owned(),
        supersedes: catalog.latest_hotpatch(&latest).map(|h| h.id.clone()),
        baseline: latest,
        sequence: args.sequence,
        equivalent_build: args.facts.build.clone(),
        kb: args.facts.kb.clone(),
        fixes: fixes.clone(),
        patches: patches.collect::<hotgraft_release::Result<_>>()?,
    };
    let mut effects = workshop.add_hotpatch(date, hotpatch.clone(), &made)?;
    for patch in hotpatch.patches {
        let Effect { entries, predecessors, .. } =
            effects.remove(&patch.image).unwrap_or(Effect { entries: 0, predecessors: 0, bytes: 0 });
        let shown = Shown { sha256: patch.sha256, replaced: patch.replaced, entries, predecessors };
        added.patches.insert(patch.image, shown);
    }
    (added.kind, added.restart) = ("hotpatch", false);
    say(args.format, &added)?;
    Ok(Exit::Done)
}

/// The new images of a release that needs a restart, and those of the last baseline that it does not change.
fn restart_files(workshop: &Workshop, pairs: &[(&Path, &Path)]) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = pairs.iter().map(|(_, new)| new.to_path_buf()).collect();
    let names: Vec<String> = files.iter().map(|f| pairs::name_of(f)).collect::<Result<_>>()?;
    if let Some(latest) = workshop.draft.catalog.latest_baseline()
        && let Some(missing) = latest.images.iter().find(|image| !names.contains(&image.name))
    {
        // Served under another name; a baseline is made of the files as they are called.
        return Err(Stop::failed(
            format!("{} of {} is in no pair", missing.name, latest.id),
            "give the image twice as a pair, or use add-baseline with all images",
        ));
    }
    files.sort();
    Ok(files)
}

/// Puts signed files in the place of built ones: nothing but the signature may be new.
fn with_signatures(
    mut made: BTreeMap<String, Vec<u8>>,
    signed: &[PathBuf],
    terminal: &Terminal,
) -> Result<BTreeMap<String, Vec<u8>>> {
    if signed.is_empty() {
        terminal.note("the patches are not signed; --stage writes them to be signed, --signed takes them");
        return Ok(made);
    }
    let digest = |bytes: &[u8]| -> Result<Option<String>> {
        Ok(Artifact::of_image("", bytes)?.digest.get("authenticode-sha256").cloned())
    };
    let mut left: BTreeSet<String> = made.keys().cloned().collect();
    for path in signed {
        let bytes = output::read(path)?;
        let wanted = digest(&bytes).with_context(|| path.display().to_string())?;
        let mut found = None;
        for (image, built) in &made {
            if digest(built)? == wanted {
                found = Some(image.clone());
            }
        }
        let Some(image) = found else {
            return Err(Stop {
                exit: Exit::Refused,
                message: format!("{}: it is none of the patches that the pairs give", path.display()),
                hint: Some("sign what --stage wrote for the same options".to_owned()),
            }
            .into());
        };
        left.remove(&image);
        made.insert(image, bytes);
    }
    ensure!(left.is_empty(), "no signed patch was given for {}", left.into_iter().collect::<Vec<_>>().join(", "));
    Ok(made)
}

/// `hotgraft release revoke`.
pub fn revoke(args: &RevokeArgs, terminal: &Terminal) -> Result<Exit> {
    let mut workshop = Workshop::open(&args.folder)?;
    let revoke = Revoke { hotpatch: args.hotpatch.clone(), reason: args.reason.clone() };
    workshop.revoke(args.date.stated()?, revoke)?;
    terminal.note(format!("{}: revoked; publish to tell machines", args.hotpatch));
    Ok(Exit::Done)
}

fn published(folder: &Path, done: &Published, terminal: &Terminal) {
    let [root, targets, snapshot, timestamp] = done.versions;
    terminal.note(format!(
        "{}: root {root}, targets {targets}, snapshot {snapshot}, timestamp {timestamp}; {} files, {} entries; signed: {}",
        folder.join("public").display(),
        done.targets,
        done.entries,
        done.signed.join(", ")
    ));
}

/// `hotgraft release publish`.
pub fn publish(args: &PublishArgs, terminal: &Terminal) -> Result<Exit> {
    let signers = keys::open(&args.signers)?;
    let mut workshop = Workshop::open(&args.folder)?;
    let done = workshop.publish(&keys::borrowed(&signers), args.now.stated()?)?;
    published(&args.folder, &done, terminal);
    Ok(Exit::Done)
}

/// `hotgraft release rotate`.
pub fn rotate(args: &RotateArgs, terminal: &Terminal) -> Result<Exit> {
    let signers = keys::open(&args.signers)?;
    let signers: Vec<&dyn DigestSigner> = keys::borrowed(&signers);
    let mut workshop = Workshop::open(&args.folder)?;
    let done = workshop.rotate(&keys::roles(&args.roles)?, &signers, args.now.stated()?)?;
    published(&args.folder, &done, terminal);
    Ok(Exit::Done)
}
