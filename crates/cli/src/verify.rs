//! `hotgraft verify`: structure, signature, base identity, and what the patch leaves different.

use crate::args::{Format, VerifyArgs};
use crate::output::{self, Exit, Terminal};
use crate::trust::{policy, provenance_beside};
use anyhow::{Context, Result};
use hotgraft_hotpatch::{Graft, Hotpatch, Violation};
use hotgraft_packager::plan;
use hotgraft_program::Mapped;
use hotgraft_signer::{
    Admission, Candidate, Fault, Place, Provenance, TrustPolicy, UnixTime, VerifyReport, admit, examine,
    examine_and_hash,
};
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
    /// What the statement says, if it counts.
    provenance: Option<Provenance>,
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

/// What to verify: as a view of the file, since few pages of a large image are looked at outside of hashing.
enum Input {
    Mapped(Mapped),
    Memory(Vec<u8>),
}

impl Input {
    fn open(path: &Path) -> Result<Input> {
        if path == Path::new("-") {
            return output::read(path).map(Input::Memory);
        }
        Ok(Input::Mapped(Mapped::open(path)?))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Input::Mapped(map) => map.bytes(),
            Input::Memory(bytes) => bytes,
        }
    }
}

/// The checks of one file, in order.
#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn put(&mut self, name: &'static str, state: State, text: impl Into<String>) {
        self.0.push(Check { name, state, text: text.into() });
    }

    /// A fault, or in order.
    fn judge(&mut self, name: &'static str, fault: Option<String>, good: impl Into<String>) {
        match fault {
            Some(fault) => self.put(name, State::Fault, fault),
            None => self.put(name, State::Ok, good),
        }
    }
}

/// Run the command.
pub fn run(args: &VerifyArgs, terminal: &Terminal) -> Result<Exit> {
    let input = Input::open(&args.patch)?;
    let bytes = input.bytes();
    let mut checks = Checks::default();

    // Anything that is not even an image is malformed input (exit 2), not a patch with a fault.
    let hotpatch = match hotgraft_hotpatch::read(bytes) {
        Ok(hotpatch) => Some(hotpatch),
        Err(hotgraft_hotpatch::Error::NotAHotpatch) if args.base.is_none() => None,
        Err(error) => return Err(anyhow::Error::new(error).context(args.patch.display().to_string())),
    };
    let violations = if hotpatch.is_some() { hotgraft_hotpatch::check::check(bytes) } else { Vec::new() };
    if let Some(hotpatch) = &hotpatch {
        let fault = violations.first().map(|v| format!("{}: {}", v.rule, v.text));
        checks.judge("structure", fault, kind_of(hotpatch));
    }

    let trust = policy(&args.trust)?;
    let envelope = match &args.provenance {
        Some(path) => Some(output::read(path)?),
        None => provenance_beside(&args.patch)?,
    };
    let graft = hotpatch.as_ref().and_then(|h| h.graft.as_ref());
    let (signature, sequence, provenance) = judge(args, bytes, graft, trust.as_ref(), envelope.as_deref())?;
    // What has no headers to hold a signature is no PE file; a damaged signature is an answer.
    if let (None, Some(fault @ Fault::Malformed { place: Place::Headers, .. })) = (&hotpatch, &signature.fault) {
        return Err(anyhow::anyhow!("{}: {fault}", args.patch.display()));
    }
    check_signature(&mut checks, &signature, trust.is_some(), hotpatch.is_some());
    match (&trust, graft) {
        (Some(trust), Some(graft)) => {
            let good = match trust.minimum_sequence {
                Some(minimum) => format!("sequence {} is not below {minimum}", graft.sequence),
                None => format!("sequence {}; the policy demands none", graft.sequence),
            };
            checks.judge("policy", sequence.map(|fault| fault.to_string()), good);
        }
        (None, _) => checks.put("policy", State::NotChecked, "give --trust or --policy"),
        (Some(_), None) => {}
    }

    let base_bytes = args.base.as_deref().map(output::read).transpose()?;
    let new_bytes = args.new.as_deref().filter(|_| provenance.is_some()).map(output::read).transpose()?;
    let statement =
        check_provenance(&mut checks, provenance, trust.is_some(), (base_bytes.as_deref(), new_bytes.as_deref()));
    drop(new_bytes);

    let mut residual = None;
    match (&args.base, &base_bytes, &hotpatch) {
        (Some(base), Some(base_bytes), Some(hotpatch)) => {
            let graft = hotpatch
                .graft
                .as_ref()
                .context("the patch has no .hgraft section; its base cannot be told from the tables alone")?;
            let fault = base_fault(graft, base_bytes, base)?;
            let matches = fault.is_none();
            checks.judge("base", fault, format!("made for {}", base.display()));
            match &args.new {
                Some(new) if matches => {
                    residual = Some(check_residual(args, (base, new), base_bytes, bytes, &mut checks, terminal)?);
                }
                Some(_) => checks.put("residual", State::NotChecked, "the base is another one"),
                None => checks.put("residual", State::NotChecked, "give --new as well"),
            }
        }
        (None, _, Some(_)) => {
            checks.put("base", State::NotChecked, "give --base");
            checks.put("residual", State::NotChecked, "give --base and --new");
        }
        _ => {}
    }
    let checks = checks.0;
    let ok = checks.iter().all(|c| c.state != State::Fault);
    let report = Report {
        schema: "hotgraft.verify/1",
        path: args.patch.display().to_string(),
        sha256: signature.sha256.clone().unwrap_or_default(),
        ok,
        checks,
        violations,
        signature,
        provenance: statement,
        residual,
    };
    match args.format {
        Format::Json => output::write_bytes(Path::new("-"), &output::json(&report)?)?,
        Format::Text => output::print_text(&text(&report))?,
    }
    Ok(if ok { Exit::Done } else { Exit::No })
}

type Judged = (VerifyReport, Option<Fault>, Option<Result<Provenance, Fault>>);

/// Signature, sequence and provenance, as `apply` and `run` have them judged.
fn judge(
    args: &VerifyArgs,
    bytes: &[u8],
    graft: Option<&Graft>,
    trust: Option<&TrustPolicy>,
    envelope: Option<&[u8]>,
) -> Result<Judged> {
    let nobody = TrustPolicy::default();
    let (policy, now) = (trust.unwrap_or(&nobody), args.at.unwrap_or_else(UnixTime::now));
    let stream = graft.is_none() && envelope.is_none() && !policy.provenance_required;
    if stream && args.patch != Path::new("-") {
        // An image of any size is read a buffer at a time; what is mapped would stay in memory.
        let about = || format!("{}: cannot read", args.patch.display());
        let file = std::fs::File::open(&args.patch).with_context(about)?;
        // Only the document names the file by its hash, which costs as much as all the rest.
        let report = match args.format {
            Format::Json => examine_and_hash(&file, policy, now).with_context(about)?,
            Format::Text => examine(&file, policy, now),
        };
        return Ok((report, None, None));
    }
    let candidate = Candidate { pe: bytes, sequence: graft.map(|g| g.sequence), provenance: envelope };
    let Admission { signature, sequence, provenance, .. } = admit(&candidate, policy, now);
    Ok((signature, sequence, provenance))
}

fn check_signature(checks: &mut Checks, signature: &VerifyReport, trust: bool, hotpatch: bool) {
    let Some(fault) = &signature.fault else {
        let who = signature.signer().and_then(|s| s.signer.as_ref()).map_or("", |s| s.subject.as_str());
        return checks.put("signature", State::Ok, format!("signed by {who}"));
    };
    match fault.reason() {
        "unsigned" if !trust && !hotpatch => {
            checks.put("signature", State::Fault, "neither a hotpatch nor signed: there is nothing to verify");
        }
        // Without roots nobody can be trusted, but what there is must be whole.
        "unsigned" if !trust => checks.put("signature", State::NotChecked, fault.to_string()),
        "untrusted" if !trust => {
            checks.put("signature", State::NotChecked, "signed, and whole; give --trust to check by whom");
        }
        _ => checks.put("signature", State::Fault, fault.to_string()),
    }
}

/// The statement, if it counts.
fn check_provenance(
    checks: &mut Checks,
    found: Option<Result<Provenance, Fault>>,
    trust: bool,
    (old, new): (Option<&[u8]>, Option<&[u8]>),
) -> Option<Provenance> {
    match found {
        None => {
            checks.put("provenance", State::NotChecked, "there is no statement");
            None
        }
        Some(_) if !trust => {
            checks.put("provenance", State::NotChecked, "there is a statement; give --trust to check whose");
            None
        }
        Some(Err(fault)) => {
            checks.put("provenance", State::Fault, fault.to_string());
            None
        }
        Some(Ok(statement)) => {
            let fault = statement.check_images(old, new).err().map(|fault| fault.to_string());
            let mut good = format!("verdict {}, made by {}", statement.verdict, statement.tool);
            if !statement.accepted.is_empty() {
                let _ = write!(good, ", accepted: {}", statement.accepted.join(", "));
            }
            for (name, image, given) in [("old", &statement.old, old), ("new", &statement.new, new)] {
                if given.is_none() {
                    let _ = write!(good, "; {name} image {} not given", image.name);
                }
            }
            checks.judge("provenance", fault, good);
            Some(statement)
        }
    }
}

fn check_residual(
    args: &VerifyArgs,
    (base, new): (&Path, &Path),
    base_bytes: &[u8],
    bytes: &[u8],
    checks: &mut Checks,
    terminal: &Terminal,
) -> Result<ResidualReport> {
    let progress = terminal.progress("checking what remains");
    let (old_program, new_program) = crate::build::load_pair(base, new, &args.pdbs)?;
    let comparison = hotgraft_diff::compare(&old_program, &new_program, &hotgraft_diff::Options::default());
    let mut found = hotgraft_residual::check(&old_program, &new_program, &comparison, base_bytes, bytes)?;
    let graft = hotgraft_hotpatch::read(bytes)?.graft;
    if graft.is_some_and(|graft| graft.hooks.is_some() && graft.accepted.iter().any(|key| key == plan::REPAIRED)) {
        let repaired = plan::initialisers(&new_program, &comparison);
        crate::make::leave_to_hooks(&mut found, &new_program, &repaired);
    }
    drop(progress);
    let good = format!("{} code ranges and {} objects compared, nothing remains", found.ranges, found.objects);
    let fault = found.remaining.first().map(|r| format!("{} {}: {}", found.remaining.len(), r.subject, r.text));
    checks.judge("residual", fault, good);
    Ok(ResidualReport { checked: true, remaining: found.remaining.len(), findings: found.remaining })
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
    if report.overlay > 0 {
        let signed = if report.signatures.is_empty() { "" } else { ", which signatures cover" };
        let _ = writeln!(out, "  {} bytes behind the last section{signed}", report.overlay);
    }
    for what in &report.checked {
        let _ = writeln!(out, "  checked: {what}");
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
