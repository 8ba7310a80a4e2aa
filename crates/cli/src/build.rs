//! `hotgraft build`: verdict, plan, hotpatch image, residual check.

use crate::args::{BuildArgs, Format, ReachArg, Stage};
use crate::output::{self, Exit, Stop, Terminal, hex};
use anyhow::{Context, Result, anyhow};
use hotgraft_packager::{Decision, Finding, Options, Outcome, Reach, Verdict, emit, plan, verdict};
use hotgraft_program::{PdbChoice, Program};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

/// `hotgraft.build/1`, described by docs/schemas/build.json.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    verdict: Decision,
    rules: &'a [Finding],
    patch: Option<PatchReport>,
    residual: ResidualReport,
    seconds: f64,
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
        let page = hotgraft_packager::rules::explain(key)
            .ok_or_else(|| Stop::failed(format!("no rule has the key {key}"), "keys are printed in the reports of `hotgraft build`"))?;
        output::print_text(&rule_page(page))?;
        return Ok(Exit::Done);
    }
    let started = Instant::now();
    let (old_path, new_path) = args.old.as_deref().zip(args.new.as_deref()).context("OLD and NEW are needed")?;
    let progress = terminal.progress("reading images");
    let (old, new) = load_pair(old_path, new_path, &args.pdbs)?;
    drop(progress);
    let progress = terminal.progress("comparing");
    let comparison = hotgraft_diff::compare(&old, &new, &hotgraft_diff::Options::default());
    drop(progress);
    let options = Options {
        sequence: Some(args.sequence),
        kb: args.kb.clone(),
        cves: args.cve.clone(),
        accept: args.accept.clone(),
        reach: args.reach.map(|r| match r {
            ReachArg::Near => Reach::Near,
            ReachArg::Any => Reach::Any,
        }),
        allow_without_pdb: args.allow_without_pdb,
    };
    let verdict = verdict::judge(&old, &new, &comparison, &options);
    let mut report = Report {
        schema: "hotgraft.build/1",
        verdict: verdict.decision,
        rules: &verdict.findings,
        patch: None,
        residual: ResidualReport { checked: false, remaining: 0, findings: Vec::new() },
        seconds: 0.0,
    };
    match args.emit {
        Some(Stage::Program) => {
            output::write_bytes(Path::new("-"), &output::json(&crate::inspect::program_json(&new))?)?;
            return Ok(Exit::Done);
        }
        Some(Stage::Comparison) => {
            output::write_bytes(Path::new("-"), &output::json(&comparison)?)?;
            return Ok(Exit::Done);
        }
        Some(Stage::Plan) | None => {}
    }
    let exit = match verdict.decision {
        Decision::Refuse => Exit::Refused,
        Decision::Nothing => Exit::Nothing,
        Decision::Patch | Decision::Conditional => Exit::Done,
    };
    if exit == Exit::Done && !args.dry_run {
        let plan = plan::plan(&old, &new, &comparison, &verdict, &options)?;
        if args.emit == Some(Stage::Plan) {
            output::write_bytes(Path::new("-"), &output::json(&plan)?)?;
            return Ok(Exit::Done);
        }
        let progress = terminal.progress("writing the hotpatch image");
        let bytes = emit::emit(&old, &new, &comparison, &plan, &options)?;
        drop(progress);
        let progress = terminal.progress("checking what remains");
        let base_bytes = output::read(old_path)?;
        let residual = hotgraft_residual::check(&old, &new, &comparison, &base_bytes, &bytes)?;
        drop(progress);
        report.residual =
            ResidualReport { checked: true, remaining: residual.remaining.len(), findings: residual.remaining.clone() };
        if !residual.remaining.is_empty() {
            report.seconds = started.elapsed().as_secs_f64();
            finish(args, &report, &verdict, &old)?;
            let first = &residual.remaining[0];
            return Err(anyhow!("{}: {}", first.subject, first.text).context(format!(
                "the patched image still differs from the new one in {} places; nothing was written",
                residual.remaining.len()
            )));
        }
        let path = args.output.as_deref().context("-o PATCH is needed")?;
        report.patch = Some(describe(path, &bytes)?);
        output::write_bytes(path, &bytes)?;
    }
    report.seconds = started.elapsed().as_secs_f64();
    finish(args, &report, &verdict, &old)?;
    Ok(exit)
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

fn describe(path: &Path, bytes: &[u8]) -> Result<PatchReport> {
    let hotpatch = hotgraft_hotpatch::read(bytes)?;
    let graft = hotpatch.graft.context("the emitted image has no .hgraft section")?;
    let base = &graft.base;
    let function = |f: &hotgraft_hotpatch::GraftFunction| FunctionReport {
        name: f.name.clone(),
        base_rva: f.base_rva,
        patch_rva: f.patch_rva,
        size: f.patch_size,
    };
    let records: usize = hotpatch.info.bases.iter().flat_map(|b| &b.chunks).filter(|c| c.inverse).map(|c| c.records.len()).sum();
    Ok(PatchReport {
        path: path.display().to_string(),
        sha256: hex(&hotgraft_hotpatch::sha::both(bytes).0),
        size: bytes.len(),
        sequence: graft.sequence,
        base: BaseReport {
            timestamp: base.timestamp,
            checksum: base.checksum,
            image_size: base.image_size,
            pdb: base.pdb.map(|(guid, age)| hotgraft_program::PdbIdentity { guid, age, path: String::new() }.to_string()),
            sha256: hex(&base.sha256),
        },
        replaced: graft.functions.iter().filter(|f| f.base_rva.is_some()).map(function).collect(),
        added: graft.functions.iter().filter(|f| f.base_rva.is_none()).map(function).collect(),
        relocations: records + graft.near.len(),
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
        Format::Json => output::write_bytes(Path::new("-"), &output::json(report)?),
        Format::Text => output::print_text(&text(report, verdict, old)),
    }
}

fn text(report: &Report<'_>, verdict: &Verdict, old: &Program) -> String {
    use anstyle::AnsiColor::{Cyan, Green, Red, Yellow};
    let mut out = String::new();
    let (word, colour) = match verdict.decision {
        Decision::Patch => ("patch", Green),
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
    if verdict.decision == Decision::Refuse && !conditions.is_empty() {
        let mut keys = conditions;
        keys.dedup();
        let _ = writeln!(out, "  conditions are accepted by name: {}", keys.iter().map(|k| format!("--accept {k}")).collect::<Vec<_>>().join(" "));
    }
    if let Some(patch) = &report.patch {
        let _ = writeln!(
            out,
            "patch: {}, {} bytes, sequence {}, sha256 {}",
            patch.path,
            patch.size,
            patch.sequence,
            patch.sha256
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
            let _ = writeln!(out, "  adds     {} (patch {:#x}, {} bytes)", function.name, function.patch_rva, function.size);
        }
    }
    if report.residual.checked {
        let _ = writeln!(out, "residual: {} differences remain ({:.2} s)", report.residual.remaining, report.seconds);
    }
    for remaining in report.residual.findings.iter().take(20) {
        let _ = writeln!(out, "  {} {} at new RVA {:#x}: {}", remaining.key, remaining.subject, remaining.new_rva, remaining.text);
    }
    out
}
