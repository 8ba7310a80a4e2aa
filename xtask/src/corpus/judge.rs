//! What `hotgraft` says of one image of one fix, and whether that agrees with the source.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::same;
use super::step::Built;
use crate::command;
use crate::hotgraft::{self, Hotgraft};

/// The result for one image.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The package.
    pub package: String,
    /// The optimisation level.
    pub level: String,
    /// The first CVE id.
    pub cve: String,
    /// The image's file name.
    pub image: String,
    /// The verdict, or `error`.
    pub verdict: String,
    /// Conditions and refusals, `key (subject)`.
    pub reasons: Vec<String>,
    /// Keys of the rules that refuse it, each once.
    pub refusals: Vec<String>,
    /// Functions replaced.
    pub replaced: Vec<String>,
    /// Functions added.
    pub added: usize,
    /// Functions that the source names as changed.
    pub truth: Vec<String>,
    /// Of these, the ones without a body in the image: they live on in their callers.
    pub inlined: Vec<String>,
    /// Functions whose code differs, as `hotgraft diff` has it.
    pub differ: usize,
    /// Bytes of the patch, and of the code in it that replaces other code.
    pub sizes: (u64, u64),
    /// What remains different; none if there is no patch.
    pub residual: Option<u64>,
    /// Seconds for `hotgraft build`.
    pub seconds: f64,
    /// Replaced although the code is the same through the correspondence.
    pub needless: Vec<String>,
    /// Changed in source and code, and yet not replaced.
    pub missed: Vec<String>,
    /// What is wrong with this result.
    pub fault: Option<String>,
    /// The patch, if one was made.
    pub patch: Option<PathBuf>,
}

impl Row {
    /// One line of the table.
    pub fn line(&self) -> String {
        let (package, level) = (&self.package, &self.level);
        let mut line = format!("{package:<10} {level} {:<15} {:<14} {:<11}", self.cve, self.image, self.verdict);
        let residual = self.residual.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let _ = write!(line, " residual {residual} {:>6.1} s  replaced {}", self.seconds, list(&self.replaced));
        if self.added > 0 {
            let _ = write!(line, " +{} added", self.added);
        }
        let _ = write!(line, "  source {}", list(&self.truth));
        for (what, names) in [("inlined", &self.inlined), ("NEEDLESS", &self.needless), ("MISSED", &self.missed)] {
            if !names.is_empty() {
                let _ = write!(line, "  {what} {}", list(names));
            }
        }
        if !self.reasons.is_empty() {
            let _ = write!(line, "  because {}", list(&self.reasons));
        }
        if let Some(fault) = &self.fault {
            let _ = write!(line, "  FAULT {fault}");
        }
        line
    }

    /// Does anything of this result have to be looked at?
    pub fn is_good(&self) -> bool {
        self.fault.is_none() && self.needless.is_empty() && self.missed.is_empty() && self.residual.unwrap_or(0) == 0
    }
}

/// At most four names, and how many more there are.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 4;
    match names.len() {
        0 => "-".to_owned(),
        count if count <= SHOWN => names.join(","),
        count => format!("{},… ({count})", names[..SHOWN].join(",")),
    }
}

/// Judges one image; the patch goes to `out`.
pub fn image(hotgraft: &Hotgraft, built: &Built, image: &str, out: &Path) -> Row {
    let mut row = Row {
        package: built.step.package.clone(),
        level: built.level.clone(),
        cve: built.step.cve.first().cloned().unwrap_or_default(),
        image: image.to_owned(),
        verdict: "error".to_owned(),
        truth: built.step.source_functions.changed.clone(),
        ..Row::default()
    };
    if let Err(error) = fill(&mut row, hotgraft, built, out) {
        let text = format!("{error:#}");
        row.fault = Some(text.lines().take(3).collect::<Vec<_>>().join(" / "));
    }
    row
}

fn fill(row: &mut Row, hotgraft: &Hotgraft, built: &Built, out: &Path) -> Result<()> {
    let old = built.folder.join("old").join(&row.image);
    let new = built.folder.join("new").join(&row.image);
    let level = built.level.trim_start_matches('-');
    let patch = out.join(format!("{}-{level}-{}.hotpatch.dll", built.step.step, row.image));
    let from = Instant::now();
    let (mut exit, mut report) = build(hotgraft, &old, &new, &patch, &[])?;
    row.seconds = from.elapsed().as_secs_f64();
    report["verdict"].as_str().unwrap_or("error").clone_into(&mut row.verdict);
    row.reasons = reasons(&report);
    let conditions = keys(&report, "condition");
    if !conditions.is_empty() && keys(&report, "refuse").is_empty() {
        ensure!(exit == 3 && !patch.is_file(), "a condition that nobody accepted does not refuse");
        (exit, report) = build(hotgraft, &old, &new, &patch, &conditions)?;
        report["verdict"].as_str().unwrap_or("error").clone_into(&mut row.verdict);
        row.reasons = reasons(&report);
    }
    let wanted = match row.verdict.as_str() {
        "patch" | "conditional" => 0,
        "nothing" => 4,
        _ => 3,
    };
    ensure!(exit == wanted, "exit code {exit} with the verdict {}", row.verdict);
    ensure!(row.verdict != "refuse" || !row.reasons.is_empty(), "refused without a reason");
    ensure!(patch.is_file() == (exit == 0), "a patch is there or missing against exit code {exit}");
    row.refusals = keys(&report, "refuse");
    if row.verdict == "nothing" && conditions.is_empty() {
        same::check(&old, &new).context("nothing to patch is said, and yet the images are not the same")?;
    }
    if exit != 0 {
        return Ok(());
    }
    row.patch = Some(patch);
    ensure!(report["residual"]["checked"] == true, "the residual was not checked");
    row.residual = report["residual"]["remaining"].as_u64();
    row.replaced = hotgraft::strings(&report["patch"]["replaced"], "name").map(str::to_owned).collect();
    row.added = report["patch"]["added"].as_array().map_or(0, Vec::len);
    compare_with_source(row, hotgraft, &old, &new, &report)
}

fn build(hotgraft: &Hotgraft, old: &Path, new: &Path, patch: &Path, accept: &[String]) -> Result<(i32, Value)> {
    let mut command = hotgraft.command();
    command.arg("build").arg(old).arg(new).arg("-o").arg(patch).args(["--format", "json"]);
    for key in accept {
        command.args(["--accept", key]);
    }
    let done = command::finish(&mut command)?;
    let report = hotgraft::document(&done.stdout, "hotgraft.build/1")
        .with_context(|| format!("exit code {}: {}", done.code, done.stderr.trim()))?;
    Ok((done.code, report))
}

fn keys(report: &Value, outcome: &str) -> Vec<String> {
    let rules = report["rules"].as_array().into_iter().flatten().filter(|rule| rule["outcome"] == outcome);
    let mut keys: Vec<String> = rules.filter_map(|rule| rule["key"].as_str().map(str::to_owned)).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn reasons(report: &Value) -> Vec<String> {
    let rules = report["rules"].as_array().into_iter().flatten();
    rules
        .filter(|rule| rule["outcome"] == "refuse" || rule["outcome"] == "condition")
        .map(|rule| {
            let field = |name: &str| rule[name].as_str().unwrap_or("?").to_owned();
            format!("{} ({})", field("key"), field("subject"))
        })
        .collect()
}

/// A function of both builds as `hotgraft diff` has it.
struct Pair<'a> {
    old_rva: u64,
    sizes: (u64, u64),
    status: &'a str,
}

fn compare_with_source(row: &mut Row, hotgraft: &Hotgraft, old: &Path, new: &Path, report: &Value) -> Result<()> {
    let mut command = hotgraft.command();
    command.arg("diff").arg(old).arg(new).args(["--format", "json"]);
    let done = command::finish(&mut command)?;
    ensure!(done.code == 1, "a patch, and yet `hotgraft diff` exits with {}", done.code);
    let diff = hotgraft::document(&done.stdout, "hotgraft.diff/1")?;
    let code =
        report["patch"]["replaced"].as_array().into_iter().flatten().filter_map(|one| one["size"].as_u64()).sum();
    row.sizes = (report["patch"]["size"].as_u64().unwrap_or(0), code);
    let functions = diff["functions"].as_array().into_iter().flatten();
    row.differ = functions.filter(|function| function["status"] == "changed").count();
    let mut by_name: BTreeMap<&str, Vec<Pair<'_>>> = BTreeMap::new();
    let mut by_rva = BTreeMap::new();
    for function in diff["functions"].as_array().context("no functions in the diff")? {
        let status = function["status"].as_str().unwrap_or_default();
        let number = |side: &str, field: &str| function[side][field].as_u64();
        let (Some(old_rva), Some(old_size), Some(new_size)) =
            (number("old", "rva"), number("old", "size"), number("new", "size"))
        else {
            continue;
        };
        by_rva.insert(old_rva, status);
        if let Some(name) = function["name"].as_str() {
            by_name.entry(name).or_default().push(Pair { old_rva, sizes: (old_size, new_size), status });
        }
    }
    let replaced: Vec<(u64, &str)> = report["patch"]["replaced"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| Some((one["base_rva"].as_u64()?, one["name"].as_str().unwrap_or("?"))))
        .collect();
    for (rva, name) in &replaced {
        if by_rva.get(rva).is_none_or(|status| *status == "identical") {
            row.needless.push((*name).to_owned());
        }
    }
    for name in &row.truth {
        let Some(pairs) = by_name.get(name.as_str()) else {
            row.inlined.push(name.clone());
            continue;
        };
        // Another size is another code, whatever the diff makes of it.
        let differs = |pair: &&Pair<'_>| pair.status == "changed" || pair.sizes.0 != pair.sizes.1;
        if pairs.iter().filter(differs).any(|pair| replaced.iter().all(|(rva, _)| *rva != pair.old_rva)) {
            row.missed.push(name.clone());
        }
    }
    Ok(())
}
