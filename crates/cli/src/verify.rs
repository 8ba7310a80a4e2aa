//! `hotgraft verify`: structure, signature, base identity, and what the patch leaves different.

use crate::args::{Format, TrustArgs, VerifyArgs};
use crate::output::{self, Exit, Terminal};
use anyhow::{Context, Result};
use hotgraft_hotpatch::hex;
use hotgraft_hotpatch::{Graft, Hotpatch, Violation};
use hotgraft_signer::{TrustPolicy, UnixTime, VerifyReport, examine};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// `hotgraft.verify/1`, described by docs/schemas/verify.json.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    path: String,
    sha256: String,
    /// Everything that was checked is in order.
    ok: bool,
    checks: Vec<Check>,
    violations: Vec<Violation>,
    signature: VerifyReport,
    residual: Option<ResidualReport>,
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    /// `ok`, `fault`, or `not_checked`.
    state: State,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Fault,
    NotChecked,
}

#[derive(Serialize)]
struct ResidualReport {
    checked: bool,
    remaining: usize,
    findings: Vec<hotgraft_residual::Remaining>,
}

/// The policy that the options name; `None` without any.
pub fn policy(args: &TrustArgs) -> Result<Option<TrustPolicy>> {
    let policy = args.policy.as_deref().map(TrustPolicy::load).transpose()?;
    let Some(path) = &args.trust else { return Ok(policy) };
    let roots = TrustPolicy::from_pem_roots(&output::read(path)?).with_context(|| path.display().to_string())?;
    Ok(Some(match policy {
        Some(mut policy) => {
            policy.roots.extend(roots.roots);
            policy
        }
        None => roots,
    }))
}

/// Run the command.
pub fn run(args: &VerifyArgs, terminal: &Terminal) -> Result<Exit> {
    let bytes = output::read(&args.patch)?;
    let mut checks = Vec::new();
    let mut check = |name, fault: Option<String>, good: String| {
        let state = if fault.is_some() { State::Fault } else { State::Ok };
        checks.push(Check { name, state, text: fault.unwrap_or(good) });
    };

    // Anything that is not even an image is malformed input (exit 2), not a patch with a fault.
    let hotpatch = match hotgraft_hotpatch::read(&bytes) {
        Ok(hotpatch) => Some(hotpatch),
        Err(hotgraft_hotpatch::Error::NotAHotpatch) if args.base.is_none() => None,
        Err(error) => return Err(anyhow::Error::new(error).context(args.patch.display().to_string())),
    };
    let violations = if hotpatch.is_some() { hotgraft_hotpatch::check::check(&bytes) } else { Vec::new() };
    if let Some(hotpatch) = &hotpatch {
        check("structure", violations.first().map(|v| format!("{}: {}", v.rule, v.text)), kind_of(hotpatch).to_owned());
    }

    let trust = policy(&args.trust)?;
    let signature = examine(&bytes[..], trust.as_ref().unwrap_or(&TrustPolicy::default()), UnixTime::now());
    if let (None, Some(fault)) = (&hotpatch, &signature.fault)
        && fault.reason() == "malformed"
    {
        return Err(anyhow::anyhow!("{}: {fault}", args.patch.display()));
    }
    match (&trust, &signature.fault) {
        (_, None) => {
            let who = signature.signer().and_then(|s| s.signer.as_ref()).map_or("", |s| s.subject.as_str());
            check("signature", None, format!("signed by {who}"));
        }
        // Without roots nobody can be trusted, but what there is must be whole.
        (None, Some(fault)) if fault.reason() == "unsigned" && hotpatch.is_none() => {
            check(
                "signature",
                Some("neither a hotpatch nor signed: there is nothing to verify".to_owned()),
                String::new(),
            );
        }
        (None, Some(fault)) if matches!(fault.reason(), "untrusted" | "unsigned") => {
            let text = match fault.reason() {
                "unsigned" => fault.to_string(),
                _ => "signed; give --trust to check by whom".to_owned(),
            };
            checks.push(Check { name: "signature", state: State::NotChecked, text });
        }
        (_, Some(fault)) => check("signature", Some(fault.to_string()), String::new()),
    }
    if let (Some(trust), Some(graft)) = (&trust, hotpatch.as_ref().and_then(|h| h.graft.as_ref()))
        && let Err(fault) = trust.check_sequence(graft.sequence)
    {
        checks.push(Check { name: "policy", state: State::Fault, text: fault.to_string() });
    }

    let mut residual = None;
    if let (Some(base), Some(hotpatch)) = (&args.base, &hotpatch) {
        let graft = hotpatch
            .graft
            .as_ref()
            .context("the patch has no .hgraft section; its base cannot be told from the tables alone")?;
        let base_bytes = output::read(base)?;
        let fault = base_fault(graft, &base_bytes, base)?;
        let matches = fault.is_none();
        let state = if matches { State::Ok } else { State::Fault };
        checks.push(Check {
            name: "base",
            state,
            text: fault.unwrap_or_else(|| format!("made for {}", base.display())),
        });
        if let (Some(new), true) = (&args.new, matches) {
            let progress = terminal.progress("checking what remains");
            let (old_program, new_program) = crate::build::load_pair(base, new, &args.pdbs)?;
            let comparison = hotgraft_diff::compare(&old_program, &new_program, &hotgraft_diff::Options::default());
            let found = hotgraft_residual::check(&old_program, &new_program, &comparison, &base_bytes, &bytes)?;
            drop(progress);
            let good = format!("{} code ranges and {} objects compared, nothing remains", found.ranges, found.objects);
            let fault = found.remaining.first().map(|r| format!("{} {}: {}", found.remaining.len(), r.subject, r.text));
            let state = if fault.is_some() { State::Fault } else { State::Ok };
            checks.push(Check { name: "residual", state, text: fault.unwrap_or(good) });
            residual =
                Some(ResidualReport { checked: true, remaining: found.remaining.len(), findings: found.remaining });
        }
    }
    let ok = checks.iter().all(|c| c.state != State::Fault);
    let report = Report {
        schema: "hotgraft.verify/1",
        path: args.patch.display().to_string(),
        sha256: hex::text(&hotgraft_hotpatch::sha::both(&bytes).0),
        ok,
        checks,
        violations,
        signature,
        residual,
    };
    match args.format {
        Format::Json => output::write_bytes(Path::new("-"), &output::json(&report)?)?,
        Format::Text => output::print_text(&text(&report))?,
    }
    Ok(if ok { Exit::Done } else { Exit::No })
}

fn kind_of(hotpatch: &Hotpatch) -> &'static str {
    match &hotpatch.graft {
        Some(graft) if !graft.near.is_empty() => "every rule of the format is kept; near references, for our engine",
        _ => "every rule of the format is kept; structurally a Windows hotpatch",
    }
}

/// What in `base` is not as the patch wants it.
fn base_fault(graft: &Graft, base: &[u8], path: &Path) -> Result<Option<String>> {
    let program = hotgraft_program::Program::from_bytes(&path.display().to_string(), base, None)?;
    let image = &program.image;
    let want = &graft.base;
    let checks = [
        ("SHA-256", image.sha256 != want.sha256),
        ("TimeDateStamp", image.timestamp != want.timestamp),
        ("CheckSum", image.checksum != want.checksum),
        ("SizeOfImage", image.size_of_image != want.image_size),
        ("PDB GUID and age", image.pdb.as_ref().map(|p| (p.guid, p.age)) != want.pdb),
    ];
    let wrong: Vec<&str> = checks.iter().filter(|(_, wrong)| *wrong).map(|(name, _)| *name).collect();
    Ok((!wrong.is_empty())
        .then(|| format!("the patch is for another build of {}: {} differ", want.file_name, wrong.join(", "))))
}

fn text(report: &Report) -> String {
    use anstyle::AnsiColor::{Green, Red, Yellow};
    let mut out = String::new();
    let _ = writeln!(out, "{}", report.path);
    for check in &report.checks {
        let (word, colour) = match check.state {
            State::Ok => ("ok         ", Green),
            State::Fault => ("fault      ", Red),
            State::NotChecked => ("not checked", Yellow),
        };
        let style = colour.on_default();
        let _ = writeln!(out, "  {style}{word}{style:#} {:<10} {}", check.name, check.text);
    }
    for violation in report.violations.iter().skip(1) {
        let _ = writeln!(out, "              {} ({:?}): {}", violation.rule, violation.demanded_by, violation.text);
    }
    out.push_str(&signatures_text(&report.signature));
    if let Some(residual) = &report.residual {
        for r in residual.findings.iter().skip(1).take(20) {
            let _ = writeln!(out, "              {} {} at new RVA {:#x}: {}", r.key, r.subject, r.new_rva, r.text);
        }
    }
    out
}

fn signatures_text(report: &VerifyReport) -> String {
    let mut out = String::new();
    for signature in &report.signatures {
        let nested = if signature.nested { "nested " } else { "" };
        let (who, serial, print) = match &signature.signer {
            Some(id) => (id.subject.as_str(), id.serial.as_str(), id.sha256.as_str()),
            None => ("signer unknown", "?", "?"),
        };
        let (algorithm, digest) = (&signature.signature_algorithm, &signature.digest_algorithm);
        let _ = writeln!(out, "  {nested}signature: {who} ({algorithm}, {digest}), serial {serial}, sha256 {print}");
        for issuer in signature.chain.iter().skip(1) {
            let _ = writeln!(out, "    under {}", issuer.subject);
        }
        if let Some(stamp) = &signature.timestamp {
            let _ = writeln!(out, "    timestamp {} by {}", stamp.time, stamp.signer.subject);
        }
        if let Some(fault) = &signature.fault {
            let _ = writeln!(out, "    {}: {fault}", fault.reason());
        }
    }
    for what in &report.not_checked {
        let _ = writeln!(out, "  not checked: {what}");
    }
    out
}

/// The signatures of any PE file, for `inspect --signature`.
pub fn signature(path: &Path, bytes: &[u8]) -> Result<(Value, String)> {
    let report = examine(bytes, &TrustPolicy::default(), UnixTime::now());
    if let Some(fault) = report.fault.as_ref().filter(|f| f.reason() == "malformed") {
        return Err(anyhow::anyhow!("{}: {fault}", path.display()));
    }
    let mut text = format!("{}\n", path.display());
    if report.signatures.is_empty() {
        text.push_str("  no signature\n");
    }
    text.push_str(&signatures_text(&report));
    Ok((
        json!({"schema": "hotgraft.inspect.signature/1", "path": path.display().to_string(), "signature": report}),
        text,
    ))
}
