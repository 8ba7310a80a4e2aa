//! `hotgraft release build`: the patches of many pairs, side by side, with a cache that holds what was done when a run was
//! ended, and a folder of patches that appears whole or not at all.

use super::args::BuildArgs;
use super::pairs;
use crate::args::Format;
use crate::output::{self, Exit, Stop, Terminal};
use anyhow::{Context, Result, ensure};
use hotgraft_packager::{Decision, Options};
use hotgraft_release::canonical;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// `hotgraft.manifest/1`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    schema: String,
    sequence: u32,
    kb: Option<String>,
    /// Fixed in every image that changed.
    #[serde(default)]
    cves: Vec<String>,
    /// Conditions that are accepted in every pair.
    #[serde(default)]
    accept: Vec<String>,
    /// Who accepts them.
    accepted_by: Option<String>,
    /// Two folders of a product: every image that both have is a pair.
    old_folder: Option<PathBuf>,
    new_folder: Option<PathBuf>,
    #[serde(default, rename = "pair")]
    pairs: Vec<Pair>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    old: PathBuf,
    new: PathBuf,
    /// Instead of those of the manifest.
    cves: Option<Vec<String>>,
    /// More than those of the manifest.
    #[serde(default)]
    accept: Vec<String>,
}

/// What became of a pair.
#[derive(Clone, Serialize, Deserialize)]
struct Result1 {
    image: String,
    /// `patch`, `nothing` or `refuse`.
    verdict: String,
    /// SHA-256 of the patch.
    sha256: Option<String>,
    reasons: Vec<String>,
}

/// Reads the manifest and lists its pairs by image name.
fn read(path: &Path) -> Result<(Manifest, BTreeMap<String, Pair>)> {
    let about = || path.display().to_string();
    let text = String::from_utf8(output::read(path)?).with_context(about)?;
    let manifest: Manifest = toml::from_str(&text).with_context(about)?;
    ensure!(manifest.schema == "hotgraft.manifest/1", "{}: expected schema hotgraft.manifest/1", path.display());
    ensure!(manifest.sequence > 0, "{}: expected a sequence from 1 on", path.display());
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut pairs = BTreeMap::new();
    let mut add = |pair: Pair| -> Result<()> {
        let image = pairs::name_of(&pair.old)?;
        ensure!(pairs.insert(image.clone(), pair).is_none(), "{}: {image} is there twice", path.display());
        Ok(())
    };
    for pair in &manifest.pairs {
        add(Pair { old: folder.join(&pair.old), new: folder.join(&pair.new), ..pair.clone() })?;
    }
    match (&manifest.old_folder, &manifest.new_folder) {
        (Some(old), Some(new)) => {
            let (old, new) = (folder.join(old), folder.join(new));
            for name in images(&old)?.intersection(&images(&new)?) {
                add(Pair { old: old.join(name), new: new.join(name), cves: None, accept: Vec::new() })?;
            }
        }
        (None, None) => {}
        _ => anyhow::bail!("{}: expected old_folder and new_folder together", path.display()),
    }
    ensure!(!pairs.is_empty(), "{}: expected at least one pair", path.display());
    Ok((manifest, pairs))
}

fn images(folder: &Path) -> Result<BTreeSet<String>> {
    let about = || format!("{}: cannot be listed", folder.display());
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).with_context(about)? {
        let path = entry.with_context(about)?.path();
        let known = ["exe", "dll", "sys", "ocx", "cpl"];
        if path.extension().is_some_and(|end| known.iter().any(|k| end.eq_ignore_ascii_case(k))) {
            found.insert(pairs::name_of(&path)?);
        }
    }
    Ok(found)
}

/// Everything that the result depends on.
#[derive(Serialize)]
struct Key<'a> {
    tool: &'static str,
    /// Version of the record that patches carry.
    record: u32,
    image: &'a str,
    old: String,
    new: String,
    old_pdb: Option<String>,
    new_pdb: Option<String>,
    sequence: u32,
    kb: &'a Option<String>,
    cves: &'a [String],
    accept: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_by: &'a Option<String>,
}

fn pdb_hash(image: &Path) -> Result<Option<String>> {
    // As the images find theirs: beside them.
    let beside = image.with_extension("pdb");
    if beside.exists() { Ok(Some(canonical::sha256(&output::read(&beside)?))) } else { Ok(None) }
}

/// Where what was done is kept: results by key, patches by content.
struct Cache<'a>(&'a Path);

impl Cache<'_> {
    fn result(&self, key: &str) -> PathBuf {
        self.0.join("results").join(format!("{key}.json"))
    }

    fn patch(&self, sha256: &str) -> PathBuf {
        self.0.join("patches").join(sha256)
    }

    /// What is there, if it is whole: a damaged entry counts for nothing.
    fn get(&self, key: &str) -> Option<(Result1, Option<Vec<u8>>)> {
        let result: Result1 = serde_json::from_slice(&std::fs::read(self.result(key)).ok()?).ok()?;
        let Some(sha256) = &result.sha256 else { return (result.verdict != "patch").then_some((result, None)) };
        let bytes = std::fs::read(self.patch(sha256)).ok()?;
        (canonical::sha256(&bytes) == *sha256).then_some((result, Some(bytes)))
    }

    /// The patch first: a result that is there has its patch.
    fn put(&self, key: &str, result: &Result1, patch: Option<&[u8]>) -> Result<()> {
        for folder in ["results", "patches"] {
            let folder = self.0.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
        }
        if let (Some(sha256), Some(bytes)) = (&result.sha256, patch) {
            output::write_bytes(&self.patch(sha256), bytes)?;
        }
        output::write_bytes(&self.result(key), &output::json(result)?)
    }
}

/// Run the command.
pub fn run(args: &BuildArgs, terminal: &Terminal) -> Result<Exit> {
    let (manifest, pairs) = read(&args.manifest)?;
    ensure!(!args.output.exists(), "{}: it is there already", args.output.display());
    let cache = Cache(&args.cache);
    let progress = terminal.progress("building the patches");
    let done: Vec<(Result1, Option<Vec<u8>>, bool)> =
        pairs.par_iter().map(|(image, pair)| one(&manifest, image, pair, &cache)).collect::<Result<_>>()?;
    drop(progress);
    let reused = done.iter().filter(|(.., reused)| *reused).count();
    let refused: Vec<&Result1> = done.iter().map(|(result, ..)| result).filter(|r| r.verdict == "refuse").collect();
    let report = serde_json::json!({
        "schema": "hotgraft.release.build/1",
        "sequence": manifest.sequence,
        "published": refused.is_empty(),
        "reused": reused,
        "images": done.iter().map(|(result, ..)| result).collect::<Vec<_>>(),
    });
    if refused.is_empty() {
        let parent = args.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let about = || format!("{}: cannot be made", args.output.display());
        let aside = tempfile::Builder::new().prefix(".hotgraft-").tempdir_in(parent).with_context(about)?;
        for (result, patch, _) in &done {
            if let Some(bytes) = patch {
                output::write_bytes(&aside.path().join(pairs::patch_name(&result.image)), bytes)?;
            }
        }
        // What was reused is a fact of this run, not of the patches.
        let images: Vec<&Result1> = done.iter().map(|(result, ..)| result).collect();
        let index = serde_json::json!({"schema": "hotgraft.release.patches/1", "sequence": manifest.sequence, "images": images});
        output::write_bytes(&aside.path().join("patches.json"), &output::json(&index)?)?;
        let aside = aside.keep();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o755)).with_context(about)?;
        }
        if let Err(error) = std::fs::rename(&aside, &args.output) {
            let _ = std::fs::remove_dir_all(&aside);
            return Err(error).with_context(about);
        }
    }
    match args.format {
        Format::Json => output::write_bytes(Path::new("-"), &output::json(&report)?)?,
        Format::Text => {
            let mut out = String::new();
            for (result, _, reused) in &done {
                let from = if *reused { " (from the cache)" } else { "" };
                out += &format!("{}: {}{from}\n", result.image, result.verdict);
                for reason in &result.reasons {
                    out += &format!("  because   {reason}\n");
                }
            }
            output::print_text(&out)?;
        }
    }
    if let Some(first) = refused.first() {
        let message = format!(
            "{} of {} images get no patch, the first: {}; nothing was written",
            refused.len(),
            done.len(),
            first.image
        );
        let hint = "deliver these with a baseline, or accept their conditions by name".to_owned();
        return Err(Stop { exit: Exit::Refused, message, hint: Some(hint) }.into());
    }
    let any = done.iter().any(|(_, patch, _)| patch.is_some());
    terminal.note(format!("{}: {} pairs, {reused} from the cache", args.output.display(), done.len()));
    Ok(if any { Exit::Done } else { Exit::Nothing })
}

fn one(manifest: &Manifest, image: &str, pair: &Pair, cache: &Cache<'_>) -> Result<(Result1, Option<Vec<u8>>, bool)> {
    let (old, new) = (canonical::sha256(&output::read(&pair.old)?), canonical::sha256(&output::read(&pair.new)?));
    if old == new {
        // An image that did not change costs a hash.
        let result =
            Result1 { image: image.to_owned(), verdict: "nothing".to_owned(), sha256: None, reasons: Vec::new() };
        return Ok((result, None, false));
    }
    let accept: Vec<String> =
        manifest.accept.iter().chain(&pair.accept).cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let cves = pair.cves.as_ref().unwrap_or(&manifest.cves);
    let key = Key {
        tool: concat!("hotgraft ", env!("CARGO_PKG_VERSION")),
        record: hotgraft_hotpatch::codec::VERSION,
        image,
        old,
        new,
        old_pdb: pdb_hash(&pair.old)?,
        new_pdb: pdb_hash(&pair.new)?,
        sequence: manifest.sequence,
        kb: &manifest.kb,
        cves,
        accept: &accept,
        accepted_by: &manifest.accepted_by,
    };
    let key = canonical::sha256(&canonical::bytes(&key)?);
    if let Some((result, patch)) = cache.get(&key) {
        return Ok((result, patch, true));
    }
    let options = Options {
        sequence: Some(manifest.sequence),
        kb: manifest.kb.clone(),
        cves: cves.clone(),
        accept,
        accepted_by: manifest.accepted_by.clone(),
        ..Options::default()
    };
    let judged = pairs::judge(&pair.old, &pair.new, &options)?;
    let verdict = match (&judged.patch, judged.verdict.decision) {
        (Some(_), _) => "patch",
        (None, Decision::Nothing) => "nothing",
        (None, _) => "refuse",
    };
    let sha256 = judged.patch.as_deref().map(canonical::sha256);
    let reasons = pairs::reasons(image, &judged);
    let result = Result1 { image: image.to_owned(), verdict: verdict.to_owned(), sha256, reasons };
    cache.put(&key, &result, judged.patch.as_deref())?;
    Ok((result, judged.patch, false))
}
