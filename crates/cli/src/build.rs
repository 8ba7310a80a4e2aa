//! `hotgraft build`: verdict, plan, hotpatch image, residual check.

use crate::args::{BuildArgs, BuildFormat, ReachArg, Stage};
use crate::make::{Made, Pair, make};
use crate::output::{self, Exit, Stop, Terminal};
use anyhow::{Context, Result};
use hotgraft_diff::comparison::function_label;
use hotgraft_hotpatch::{Hooks, hex};
use hotgraft_packager::{Decision, Finding, Options, Outcome, Reach, Verdict, plan, verdict};
use hotgraft_program::{PdbChoice, Program};
use hotgraft_signer::{Artifact, Provenance};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

/// `hotgraft.build/1`, described by docs/schemas/build.json.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    verdict: Decision,
    rules: &'a [Finding],
    /// Conditions of this verdict that were accepted, and by whom.
    accepted: AcceptedReport<'a>,
    patch: Option<PatchReport>,
    residual: ResidualReport,
    seconds: f64,
}

#[derive(Serialize)]
struct AcceptedReport<'a> {
    keys: BTreeSet<&'a str>,
    by: Option<&'a str>,
}

#[derive(Serialize)]
struct PatchReport {
    path: String,
    sha256: String,
    size: usize,
    sequence: u32,
    base: BaseReport,
    replaced: Vec<FunctionReport>,
    added: Vec<FunctionReport>,
    relocations: usize,
    hooks: Option<Hooks>,
}

#[derive(Serialize)]
struct BaseReport {
    timestamp: u32,
    checksum: u32,
    image_size: u32,
    pdb: Option<String>,
    sha256: String,
}

#[derive(Serialize)]
struct FunctionReport {
    name: String,
    base_rva: Option<u32>,
    patch_rva: u32,
    size: u32,
}

#[derive(Serialize)]
struct ResidualReport {
    checked: bool,
    remaining: usize,
    findings: Vec<hotgraft_residual::Remaining>,
}

/// Load one side.
pub fn load(path: &Path, pdb: Option<&Path>) -> Result<Program> {
    let choice = pdb.map_or(PdbChoice::Auto, |p| PdbChoice::Path(p.to_owned()));
    Ok(Program::load(path, choice)?)
}

/// Load both sides at once.
pub fn load_pair(old: &Path, new: &Path, pdbs: &crate::args::PdbArgs) -> Result<(Program, Program)> {
    let (a, b) = rayon::join(|| load(old, pdbs.old_pdb.as_deref()), || load(new, pdbs.new_pdb.as_deref()));
    Ok((a?, b?))
}

/// Run the command.
pub fn run(args: &BuildArgs, terminal: &Terminal) -> Result<Exit> {
    if let Some(key) = &args.explain {
        let page = hotgraft_packager::rules::explain(key).ok_or_else(|| {
            Stop::failed(format!("no rule has the key {key}"), "keys are printed in the reports of `hotgraft build`")
        })?;
        output::print_text(&rule_page(page))?;
        return Ok(Exit::Done);
    }
    let started = Instant::now();
    let (old_path, new_path) = args.old.as_deref().zip(args.new.as_deref()).context("OLD and NEW are needed")?;
    let progress = terminal.progress("reading images");
    let (old, new) = load_pair(old_path, new_path, &args.pdbs)?;
    drop(progress);
    if args.emit == Some(Stage::Program) {
        output::write_bytes(Path::new("-"), &output::json(&crate::inspect::program_json(&new))?)?;
        return Ok(Exit::Done);
    }
    let progress = terminal.progress("comparing");
    let comparison = hotgraft_diff::compare(&old, &new, &hotgraft_diff::Options::default());
    drop(progress);
    if args.emit == Some(Stage::Comparison) {
        output::write_bytes(Path::new("-"), &output::json(&comparison)?)?;
        return Ok(Exit::Done);
    }
    let options = Options {
        sequence: Some(args.sequence),
        kb: args.kb.clone(),
        cves: args.cve.clone(),
        accept: args.accept.clone(),
        accepted_by: args.accepted_by.clone(),
        hooks: args.hooks.as_deref().map(output::read).transpose()?,
        reach: args.reach.map(|r| match r {
            ReachArg::Near => Reach::Near,
            ReachArg::Any => Reach::Any,
        }),
        allow_without_pdb: args.allow_without_pdb,
    };
    let mut verdict = verdict::judge(&old, &new, &comparison, &options);
    let mut residual = ResidualReport { checked: false, remaining: 0, findings: Vec::new() };
    let mut patch = None;
    if matches!(verdict.decision, Decision::Patch | Decision::Conditional) && !args.dry_run {
        let plan = plan::plan(&old, &new, &comparison, &verdict, &options)?;
        if args.emit == Some(Stage::Plan) {
            output::write_bytes(Path::new("-"), &output::json(&plan)?)?;
            return Ok(Exit::Done);
        }
        let path = args.output.as_deref().context("-o PATCH is needed")?;
        let progress = terminal.progress("making and checking the hotpatch image");
        let pair = Pair { old: &old, new: &new, comparison: &comparison, base: &output::read(old_path)? };
        let made = make(&pair, &plan, &options, &|text| terminal.detail(text))?;
        drop(progress);
        match made {
            Made::Patch(bytes) => {
                residual.checked = true;
                patch = Some(describe(path, &bytes, &old, &plan)?);
                output::write_bytes(path, &bytes)?;
                if let Some(to) = &args.provenance {
                    let images = [(old_path, pair.base), (new_path, &output::read(new_path)?)];
                    output::write_bytes(to, &provenance(args, path, &bytes, images, &verdict)?)?;
                }
            }
            Made::Refused(finding, remaining) => {
                residual =
                    ResidualReport { checked: !remaining.is_empty(), remaining: remaining.len(), findings: remaining };
                verdict.decision = Decision::Refuse;
                verdict.findings.insert(0, finding);
            }
        }
    }
    let report = Report {
        schema: "hotgraft.build/1",
        verdict: shown(&verdict),
        rules: &verdict.findings,
        accepted: accepted(args, &verdict),
        patch,
        residual,
        seconds: started.elapsed().as_secs_f64(),
    };
    finish(args, &report, &verdict, &old)?;
    Ok(match verdict.decision {
        Decision::Refuse => Exit::Refused,
        Decision::Nothing => Exit::Nothing,
        Decision::Patch | Decision::Conditional => Exit::Done,
    })
}

/// Which conditions of the verdict were accepted.
fn accepted<'a>(args: &'a BuildArgs, verdict: &Verdict) -> AcceptedReport<'a> {
    let conditions: BTreeSet<&str> =
        verdict.findings.iter().filter(|f| f.outcome == Outcome::Condition).map(|f| f.key).collect();
    let keys: BTreeSet<&str> = args.accept.iter().map(String::as_str).filter(|key| conditions.contains(key)).collect();
    let by = args.accepted_by.as_deref().filter(|_| !keys.is_empty());
    AcceptedReport { keys, by }
}

/// Where the patch comes from, for `hotgraft sign --provenance` to sign.
fn provenance(
    args: &BuildArgs,
    path: &Path,
    patch: &[u8],
    [old, new]: [(&Path, &[u8]); 2],
    verdict: &Verdict,
) -> Result<Vec<u8>> {
    // Names without folders: where files lay on the machine is nobody's business.
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut options = BTreeMap::from([("sequence".to_owned(), args.sequence.to_string())]);
    let reach = args.reach.map(|reach| format!("{reach:?}").to_lowercase());
    let without_pdb = args.allow_without_pdb.then(|| "true".to_owned());
    let cves = (!args.cve.is_empty()).then(|| args.cve.join(","));
    let by = args.accepted_by.clone();
    for (key, value) in [
        ("kb", args.kb.clone()),
        ("cve", cves),
        ("reach", reach),
        ("allow-without-pdb", without_pdb),
        ("accepted-by", by),
    ] {
        options.extend(value.map(|value| (key.to_owned(), value)));
    }
    let conditions = verdict.findings.iter().filter(|f| f.outcome == Outcome::Condition).map(|f| f.key.to_owned());
    let provenance = Provenance {
        patch: Artifact::of_image(&name(path), patch)?,
        old: Artifact::of_file(&name(old.0), old.1),
        new: Artifact::of_file(&name(new.0), new.1),
        tool: concat!("urn:hotgraft:", env!("CARGO_PKG_VERSION")).to_owned(),
        options,
        verdict: serde_json::to_value(shown(verdict))?.as_str().unwrap_or_default().to_owned(),
        accepted: conditions.collect::<BTreeSet<String>>().into_iter().collect(),
    };
    Ok(provenance.statement())
}

/// The verdict as users know it: what only waits for conditions to be accepted is conditional, although no patch is made.
fn shown(verdict: &Verdict) -> Decision {
    let refused = verdict.findings.iter().any(|f| f.outcome == Outcome::Refuse);
    if verdict.decision == Decision::Refuse && !refused { Decision::Conditional } else { verdict.decision }
}

/// The page of `--explain`.
fn rule_page(rule: &hotgraft_packager::rules::Rule) -> String {
    let outcomes: Vec<String> = rule.outcomes.iter().map(|o| format!("{o:?}").to_lowercase()).collect();
    let head = rule.head.map(|h| format!(" ({})", h.title())).unwrap_or_default();
    let mut out = format!("{}{head}\n  outcome  {}\n  why      {}\n", rule.key, outcomes.join(", "), rule.why);
    if !rule.todo.is_empty() {
        let _ = writeln!(out, "  to do    {}", rule.todo);
    }
    let _ = writeln!(out, "  covers   {} of the taxonomy of changes", rule.rows.join(", "));
    out
}

fn describe(path: &Path, bytes: &[u8], old: &Program, plan: &plan::Plan) -> Result<PatchReport> {
    let hotpatch = hotgraft_hotpatch::read(bytes)?;
    let graft = hotpatch.graft.context("the emitted image has no .hgraft section")?;
    let base = &graft.base;
    // Functions that are replaced without a redirect, because every caller is replaced and calls the copy.
    let without_redirect: Vec<(String, u32)> = plan
        .functions
        .iter()
        .filter(|f| f.method.is_none())
        .filter_map(|f| f.old)
        .map(|id| (function_label(old, id), old.functions[id.index()].rva()))
        .collect();
    let (mut replaced, mut added) = (Vec::new(), Vec::new());
    for f in &graft.functions {
        let base_rva =
            f.base_rva.or_else(|| without_redirect.iter().find(|(name, _)| *name == f.name).map(|(_, rva)| *rva));
        let report = FunctionReport { name: f.name.clone(), base_rva, patch_rva: f.patch_rva, size: f.patch_size };
        if base_rva.is_some() { replaced.push(report) } else { added.push(report) }
    }
    let records: usize =
        hotpatch.info.bases.iter().flat_map(|b| &b.chunks).filter(|c| c.inverse).map(|c| c.records.len()).sum();
    Ok(PatchReport {
        path: path.display().to_string(),
        sha256: hex::text(&hotgraft_hotpatch::sha::both(bytes).0),
        size: bytes.len(),
        sequence: graft.sequence,
        base: BaseReport {
            timestamp: base.timestamp,
            checksum: base.checksum,
            image_size: base.image_size,
            pdb: base
                .pdb
                .map(|(guid, age)| hotgraft_program::PdbIdentity { guid, age, path: String::new() }.to_string()),
            sha256: hex::text(&base.sha256),
        },
        replaced,
        added,
        relocations: records + graft.near.len(),
        hooks: graft.hooks,
    })
}

fn finish(args: &BuildArgs, report: &Report<'_>, verdict: &Verdict, old: &Program) -> Result<()> {
    if let Some(path) = &args.report {
        output::write_bytes(path, &output::json(report)?)?;
    }
    // With the patch itself on stdout there is no room for a report.
    if args.output.as_deref() == Some(Path::new("-")) && report.patch.is_some() {
        return Ok(());
    }
    match args.format {
        BuildFormat::Json => output::write_bytes(Path::new("-"), &output::json(report)?),
        BuildFormat::Sarif => {
            let image = crate::sarif::image(old);
            let findings = crate::sarif::findings(&image, verdict, &args.accept);
            output::write_bytes(Path::new("-"), &crate::sarif::document(findings)?)
        }
        BuildFormat::Text => output::print_text(&text(report, verdict, old)),
    }
}

fn text(report: &Report<'_>, verdict: &Verdict, old: &Program) -> String {
    use anstyle::AnsiColor::{Cyan, Green, Red, Yellow};
    let mut out = String::new();
    let (word, colour) = match report.verdict {
        Decision::Patch => ("patch", Green),
        Decision::Conditional if verdict.decision == Decision::Refuse => ("conditions are not accepted", Yellow),
        Decision::Conditional => ("patch, on conditions", Yellow),
        Decision::Refuse => ("refused", Red),
        Decision::Nothing => ("nothing to patch", Cyan),
    };
    let style = colour.on_default().bold();
    let _ = writeln!(out, "verdict: {style}{word}{style:#}  ({})", old.image.path);
    for finding in &verdict.findings {
        let (mark, colour) = match finding.outcome {
            Outcome::Patch => ("patch    ", Green),
            Outcome::Condition => ("condition", Yellow),
            Outcome::Refuse => ("refuse   ", Red),
            Outcome::Harmless => ("harmless ", Cyan),
        };
        let style = colour.on_default();
        let _ = writeln!(out, "  {style}{mark}{style:#} {:<32} {}", finding.key, finding.subject);
        if finding.outcome != Outcome::Harmless {
            let place = finding.source.as_deref().map(|s| format!("  [{s}]")).unwrap_or_default();
            let _ = writeln!(out, "            {}{place}", finding.text);
        }
    }
    let conditions: Vec<&str> =
        verdict.findings.iter().filter(|f| f.outcome == Outcome::Condition).map(|f| f.key).collect();
    // Where a rule refuses, no condition helps.
    if verdict.decision == Decision::Refuse && shown(verdict) != Decision::Refuse && !conditions.is_empty() {
        let mut keys = conditions;
        keys.dedup();
        let _ = writeln!(
            out,
            "  conditions are accepted by name: {}",
            keys.iter().map(|k| format!("--accept {k}")).collect::<Vec<_>>().join(" ")
        );
    }
    if let Some(patch) = &report.patch {
        let _ = writeln!(
            out,
            "patch: {}, {} bytes, sequence {}, sha256 {}",
            patch.path, patch.size, patch.sequence, patch.sha256
        );
        for function in &patch.replaced {
            let _ = writeln!(
                out,
                "  replaces {} (base {:#x}, patch {:#x}, {} bytes)",
                function.name,
                function.base_rva.unwrap_or(0),
                function.patch_rva,
                function.size
            );
        }
        for function in &patch.added {
            let _ = writeln!(
                out,
                "  adds     {} (patch {:#x}, {} bytes)",
                function.name, function.patch_rva, function.size
            );
        }
    }
    if let Some(hooks) = report.patch.as_ref().and_then(|patch| patch.hooks.as_ref()) {
        for hook in &hooks.entries {
            let _ = writeln!(out, "  hook     {} (patch {:#x})", hook.point.symbol(), hook.patch_rva);
        }
    }
    if let Some(by) = report.accepted.by {
        let keys: Vec<&str> = report.accepted.keys.iter().copied().collect();
        let _ = writeln!(out, "accepted by {by}: {}", keys.join(", "));
    }
    if report.residual.checked {
        let _ = writeln!(out, "residual: {} differences remain ({:.2} s)", report.residual.remaining, report.seconds);
    }
    for remaining in report.residual.findings.iter().take(20) {
        let _ = writeln!(
            out,
            "  {} {} at new RVA {:#x}: {}",
            remaining.key, remaining.subject, remaining.new_rva, remaining.text
        );
    }
    out
}
