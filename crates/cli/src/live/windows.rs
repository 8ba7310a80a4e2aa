//! The live commands of the Windows build.

use super::audit::{Attempt, Audit, Details, Outcome};
use crate::args::{ApplyArgs, Format, RollbackArgs, RunArgs, StatusArgs};
use crate::output::{self, Exit, Stop, Terminal};
use crate::trust::{policy, provenance_beside};
use anyhow::{Context, Result};
use hotgraft_engine::system::{SystemHotpatching, SystemPatch, SystemState};
use hotgraft_engine::windows::{Access, LiveProcess, Process, RunError, RunOptions, processes, system};
use hotgraft_engine::{
    AddressSpace, Applied, ApplyError, ApplyOptions, ImageStatus, PatchFile, RollbackOptions, State, Trust,
    count_threads, find_base, query,
};
use hotgraft_signer::{TrustPolicy, UnixTime};
use serde::Serialize;
use std::cell::Cell;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// `hotgraft.status/1`, described by docs/schemas/status.json.
#[derive(Serialize)]
struct StatusReport {
    schema: &'static str,
    /// What `--expect` found; absent without it.
    as_expected: Option<bool>,
    /// Hotpatches of Windows itself on this machine.
    system: SystemState,
    processes: Vec<ProcessReport>,
}

#[derive(Serialize)]
struct ProcessReport {
    pid: u32,
    name: String,
    /// Why it could not be read.
    error: Option<String>,
    images: Vec<ImageStatus>,
    /// Hotpatches of Windows itself that are active in it; absent where the system does not tell.
    system_patches: Option<Vec<SystemPatch>>,
}

impl StatusReport {
    fn new(as_expected: Option<bool>, processes: Vec<ProcessReport>) -> Self {
        StatusReport { schema: "hotgraft.status/1", as_expected, system: system::state(), processes }
    }
}

impl ProcessReport {
    /// What memory says; `None` if the wanted image is not loaded.
    fn of(process: &Process, image: Option<&str>) -> Result<Option<Self>> {
        let found = read_status(process.pid, image)?;
        Ok(found.map(|(images, system_patches)| ProcessReport {
            pid: process.pid,
            name: process.name.clone(),
            error: None,
            images,
            system_patches,
        }))
    }

    fn unreadable(process: &Process, error: &anyhow::Error) -> Self {
        ProcessReport {
            pid: process.pid,
            name: process.name.clone(),
            error: Some(error.to_string()),
            images: Vec::new(),
            system_patches: None,
        }
    }
}

/// What `status --image NAME --format json` says.
pub fn status_of_image(name: &str) -> Result<serde_json::Value> {
    let all = processes().context("cannot list processes")?;
    let reports = all.iter().filter(|process| is_other(process)).filter_map(|process| {
        ProcessReport::of(process, Some(name)).unwrap_or_else(|error| Some(ProcessReport::unreadable(process, &error)))
    });
    serde_json::to_value(StatusReport::new(None, reports.collect())).context("a status")
}

/// Neither this process nor those of the kernel.
fn is_other(process: &Process) -> bool {
    process.pid != std::process::id() && process.pid > 4
}

pub(super) fn patch_file(path: &Path) -> Result<PatchFile> {
    let patch = PatchFile::parse(&output::read(path)?).with_context(|| path.display().to_string())?;
    Ok(patch.with_provenance(provenance_beside(path)?))
}

pub(super) fn trust<'a>(policy: Option<&'a TrustPolicy>, allow_unsigned: bool, terminal: &Terminal) -> Trust<'a> {
    if allow_unsigned {
        terminal.warning("--allow-unsigned: signatures are not demanded; for trials only");
    }
    Trust { policy, now: UnixTime::now(), allow_unsigned }
}

/// Exit code and next step of an engine's answer. What the engine decided against is a refusal; what the system did not
/// let it do is a failure.
fn stop(error: &ApplyError, about: &str) -> anyhow::Error {
    let changed = matches!(error, ApplyError::Repair { .. } | ApplyError::ChangedAfterwards { .. });
    let state = if changed { "" } else { "; the process is as it was" };
    let message = format!("{about}: {error}{state}");
    match error {
        ApplyError::Policy(_) => Stop::refused(message, "sign the patch, and name its root with --trust"),
        ApplyError::NoBase { .. } | ApplyError::WrongBase { .. } => Stop::refused(
            message,
            "build the patch for the image that is loaded, or restart the program with the base image",
        ),
        ApplyError::Modified { .. } | ApplyError::ForeignHook { .. } => {
            Stop::refused(message, "find out who changed the code in memory; after a restart the patch can be applied")
        }
        ApplyError::AlreadyApplied { .. } | ApplyError::Stale { .. } | ApplyError::MissingPredecessor { .. } => {
            Stop::refused(
                message,
                "`hotgraft status` shows what is applied; build a successor with a higher --sequence",
            )
        }
        ApplyError::Partial { .. } | ApplyError::NotApplied(_) | ApplyError::Irrevertible { .. } => {
            Stop::refused(message, "`hotgraft status` shows the state of every entry")
        }
        ApplyError::Veto { .. } => {
            Stop::refused(message, "a hook of the patch does not allow it in the state that the process is in")
        }
        ApplyError::Repair { .. } => {
            Stop::refused(message, "the hook could not repair the data of the process; restart it with the fixed image")
        }
        ApplyError::ThreadInTheWay { .. } => Stop::failed(message, "try again, or give more time with --timeout"),
        _ => Stop::failed(message, "rights to the process may be missing; run with those of its owner"),
    }
}

fn open(pid: u32, purpose: Access) -> Result<LiveProcess> {
    LiveProcess::open(pid, purpose)
        .map_err(|e| Stop::failed(format!("process {pid}: {e}"), "`hotgraft status --all` lists processes"))
}

/// Run the command.
pub fn apply(args: &ApplyArgs, terminal: &Terminal) -> Result<Exit> {
    let patch = patch_file(&args.patch)?;
    let policy = policy(&args.trust)?;
    let options = ApplyOptions {
        trust: trust(policy.as_ref(), args.allow_unsigned, terminal),
        time_limit: Duration::from_millis(args.timeout),
        ..ApplyOptions::default()
    };
    let about = format!("process {}", args.pid);
    let audit = Audit::open(args.audit.as_deref(), terminal)?;
    let attempt =
        Attempt { allow_unsigned: args.allow_unsigned, ..attempt_on("apply", args.pid) }.with(&args.patch, &patch);
    let begun = audit.begin(&attempt)?;
    let outcome = (|| {
        let mut space = LiveProcess::open(args.pid, Access::Change)?;
        let base = find_base(&space, patch.graft())?;
        hotgraft_engine::apply(&mut space, base, &patch, &options)
    })();
    let applied = match outcome {
        Ok(applied) => applied,
        Err(error) => {
            audit.end_with(&begun, &attempt, &error)?;
            return Err(stop(&error, &about));
        }
    };
    audit.end(&begun, &attempt, Outcome::Done, &Details::from(&applied))?;
    match args.format {
        Format::Json => {
            let value = serde_json::json!({
                "schema": "hotgraft.apply/1",
                "pid": args.pid,
                "sequence": applied.sequence,
                "base_address": applied.base_address,
                "patch_address": applied.patch_address,
                "entries": applied.entries,
                "signer": applied.signer,
                "superseded": applied.superseded,
                "attempts": applied.attempts,
                "pause_microseconds": applied.pause.as_micros() as u64,
            });
            output::write_bytes(Path::new("-"), &output::json(&value)?)?;
        }
        Format::Text => {
            let mut out = format!(
                "{about}: sequence {} applied, {} entries lead to the patch at {:#x}; threads stood still for {:.3} ms ({} attempts)\n",
                applied.sequence,
                applied.entries,
                applied.patch_address,
                applied.pause.as_secs_f64() * 1e3,
                applied.attempts
            );
            if let Some(signer) = &applied.signer {
                let _ = writeln!(out, "  signed by {signer}");
            }
            if let Some(before) = applied.superseded {
                let _ = writeln!(out, "  supersedes sequence {before}");
            }
            output::print_text(&out)?;
        }
    }
    Ok(Exit::Done)
}

/// Run the command.
pub fn rollback(args: &RollbackArgs, terminal: &Terminal) -> Result<Exit> {
    let wanted = args.patch.as_deref().map(patch_file).transpose()?;
    let about = format!("process {}", args.pid);
    let options = RollbackOptions {
        sequence: wanted.as_ref().map(|p| p.graft().sequence),
        time_limit: Duration::from_millis(args.timeout),
        ..RollbackOptions::default()
    };
    let audit = Audit::open(args.audit.as_deref(), terminal)?;
    let attempt = attempt_on("rollback", args.pid);
    let attempt = match (&args.patch, &wanted) {
        (Some(path), Some(patch)) => attempt.with(path, patch),
        _ => attempt,
    };
    // Each image is an attempt of its own; what comes before any image is one as well.
    let begun = audit.begin(&attempt)?;
    let found = (|| {
        let space = LiveProcess::open(args.pid, Access::Change)?;
        let bases = match &wanted {
            Some(patch) => vec![(find_base(&space, patch.graft())?, attempt.clone())],
            None => {
                let images = query(&space, None)?;
                let active = images.iter().filter(|image| is_active(image));
                active.map(|image| (image.address, of_image(&attempt, image))).collect()
            }
        };
        if bases.is_empty() {
            return Err(ApplyError::NotApplied("no patch is active".to_owned()));
        }
        Ok((space, bases))
    })();
    let (mut space, bases) = match found {
        Ok(found) => found,
        Err(error) => {
            audit.end_with(&begun, &attempt, &error)?;
            return Err(stop(&error, &about));
        }
    };
    let mut begun = Some(begun);
    let mut done = Vec::new();
    for (base, attempt) in &bases {
        let begun = match begun.take() {
            Some(begun) => begun,
            None => audit.begin(attempt)?,
        };
        match hotgraft_engine::rollback(&mut space, *base, &options) {
            Ok(rolled_back) => {
                audit.end(&begun, attempt, Outcome::Done, &Details::from(&rolled_back))?;
                done.push(rolled_back);
            }
            Err(error) => {
                audit.end_with(&begun, attempt, &error)?;
                return Err(stop(&error, &about));
            }
        }
    }
    drop(space);
    match args.format {
        Format::Json => {
            let list: Vec<_> = done
                .iter()
                .map(|r| serde_json::json!({"sequence": r.sequence, "active": r.active, "entries": r.entries, "attempts": r.attempts, "repair": r.repair, "pause_microseconds": r.pause.as_micros() as u64}))
                .collect();
            let value = serde_json::json!({"schema": "hotgraft.rollback/1", "pid": args.pid, "rolled_back": list});
            output::write_bytes(Path::new("-"), &output::json(&value)?)?;
        }
        Format::Text => {
            let mut out = String::new();
            for r in &done {
                let now = r.active.map_or("the base image's own code".to_owned(), |s| format!("sequence {s}"));
                let _ = writeln!(
                    out,
                    "{about}: sequence {} rolled back, {} entries; {now} is active; threads stood still for {:.3} ms",
                    r.sequence,
                    r.entries,
                    r.pause.as_secs_f64() * 1e3
                );
                if let Some(repair) = &r.repair {
                    let _ = writeln!(out, "{about}: {repair}");
                }
            }
            output::print_text(&out)?;
        }
    }
    Ok(Exit::Done)
}

fn attempt_on(action: &'static str, pid: u32) -> Attempt {
    let listed = processes().unwrap_or_default();
    let process = listed.into_iter().find(|process| process.pid == pid).map(|process| process.name);
    Attempt { action, pid: Some(pid), process, ..Attempt::default() }
}

/// With what memory says of the patch that is active on an image.
fn of_image(attempt: &Attempt, image: &ImageStatus) -> Attempt {
    let active = image.patches.iter().find(|patch| matches!(patch.state, State::Applied | State::Partial));
    Attempt {
        image: Some(image.name.clone()),
        patch_sha256: active.map(|patch| patch.sha256.clone()),
        sequence: active.map(|patch| patch.sequence),
        ..attempt.clone()
    }
}

fn is_active(image: &ImageStatus) -> bool {
    image.patches.iter().any(|p| matches!(p.state, State::Applied | State::Partial))
}

/// Run the command.
pub fn run(args: &RunArgs, terminal: &Terminal) -> Result<Exit> {
    let patches = args.patch.iter().map(|p| patch_file(p)).collect::<Result<Vec<_>>>()?;
    let policy = policy(&args.trust)?;
    let apply =
        ApplyOptions { trust: trust(policy.as_ref(), args.allow_unsigned, terminal), ..ApplyOptions::default() };
    let (program, rest) = args.program.split_first().context("a program is needed")?;
    let audit = Audit::open(args.audit.as_deref(), terminal)?;
    let process = Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned());
    let mut begun = Vec::new();
    for (path, patch) in args.patch.iter().zip(&patches) {
        let attempt = Attempt {
            action: "run",
            process: process.clone(),
            allow_unsigned: args.allow_unsigned,
            ..Attempt::default()
        };
        let attempt = attempt.with(path, patch);
        begun.push((audit.begin(&attempt)?, attempt, Cell::new(false)));
    }
    let record_failed = Cell::new(None);
    let told = |index: usize, pid: u32, outcome: std::result::Result<&Applied, &ApplyError>| {
        let (begun, attempt, ended) = &begun[index];
        ended.set(true);
        let attempt = Attempt { pid: Some(pid), ..attempt.clone() };
        let written = match outcome {
            Ok(applied) => audit.end(begun, &attempt, Outcome::Done, &Details::from(applied)),
            Err(error) => audit.end_with(begun, &attempt, error),
        };
        if let Err(error) = written {
            record_failed.set(Some(error));
        }
    };
    let options = RunOptions { apply, poll: Duration::from_millis(10), told: &told };
    // A bare name means the file in this folder first, as a shell here would read it.
    let here = std::env::current_dir().context("there is no current folder")?.join(program);
    let mut command = if here.is_file() { Command::new(here) } else { Command::new(program) };
    command.args(rest);
    let report = hotgraft_engine::windows::run(&mut command, &patches, &options);
    let reason = match &report {
        Ok(_) => "the image was never loaded".to_owned(),
        Err(error) => error.to_string(),
    };
    for (begun, attempt, _) in begun.iter().filter(|(.., ended)| !ended.get()) {
        let outcome = if report.is_ok() { Outcome::NotNeeded } else { Outcome::Failed };
        audit.end(begun, attempt, outcome, &Details { reason: Some(reason.clone()), ..Details::default() })?;
    }
    let report = report.map_err(|error| match &error {
        RunError::Apply { index, source } => stop(source, &args.patch[*index].display().to_string()),
        _ => anyhow::Error::new(error),
    })?;
    if let Some(error) = record_failed.take() {
        terminal.error(&error);
    }
    for (path, applied) in args.patch.iter().zip(&report.applied) {
        match applied {
            Some(a) => terminal.detail(format!("{}: sequence {} was applied", path.display(), a.sequence)),
            None => terminal.warning(format!("{}: the image that it is for was never loaded", path.display())),
        }
    }
    Ok(Exit::Code(report.exit_code.cast_unsigned()))
}

/// Run the command.
pub fn status(args: &StatusArgs, terminal: &Terminal) -> Result<Exit> {
    let all = processes().context("cannot list processes")?;
    let wanted: Vec<_> = match args.pid {
        Some(pid) => all.into_iter().filter(|p| p.pid == pid).collect(),
        None => all.into_iter().filter(is_other).collect(),
    };
    if let (Some(pid), true) = (args.pid, wanted.is_empty()) {
        return Err(Stop::failed(format!("there is no process {pid}"), "`hotgraft status --all` lists processes"));
    }
    let image = args.image.as_ref().map(|p| p.file_name().unwrap_or(p.as_os_str()).to_string_lossy().into_owned());
    let mut reports = Vec::new();
    for process in &wanted {
        match ProcessReport::of(process, image.as_deref()) {
            Ok(report) => reports.extend(report),
            Err(error) if args.pid.is_some() => return Err(error),
            // The system's own processes cannot be read by everybody. With --all they are listed as such; with --image
            // too, since who asks whether all instances are patched must know of those that nobody could look at.
            Err(error) if args.all || image.is_some() => {
                reports.push(ProcessReport::unreadable(process, &error));
            }
            Err(_) => {}
        }
    }
    let patched = |report: &&mut ProcessReport| report.images.iter().any(|image| !image.patches.is_empty());
    for report in reports.iter_mut().filter(patched).filter(|_| args.threads) {
        match open(report.pid, Access::Change).and_then(|mut space| Ok(space.threads()?)) {
            Ok(threads) => count_threads(&mut report.images, &threads),
            // What memory says stands all the same.
            Err(error) => {
                terminal.warning(format!("process {}: its threads cannot be looked at: {error:#}", report.pid));
            }
        }
    }
    let as_expected = args.expect.map(|wanted| {
        let of = |images: &[ImageStatus]| {
            let active: Vec<Option<u32>> = images.iter().map(|i| i.active).collect();
            let clean = images.iter().all(|i| !matches!(i.state, Some(State::Partial | State::ForeignHook)));
            clean && if wanted == 0 { active.iter().all(Option::is_none) } else { active.contains(&Some(wanted)) }
        };
        let read: Vec<&ProcessReport> = reports.iter().filter(|r| r.error.is_none()).collect();
        let looked_at = read.iter().filter(|r| args.pid.is_some() || image.is_some() || !r.images.is_empty());
        let mut looked_at = looked_at.peekable();
        (wanted == 0 || looked_at.peek().is_some()) && looked_at.all(|r| of(&r.images))
    });
    let report = StatusReport::new(as_expected, reports);
    match args.format {
        Format::Json => output::write_bytes(Path::new("-"), &output::json(&report)?)?,
        Format::Text => output::print_text(&text(&report, args.pid.is_some()))?,
    }
    Ok(if as_expected == Some(false) { Exit::No } else { Exit::Done })
}

/// What memory says of one process, and what Windows says of hotpatches of its own there.
type Looked = (Vec<ImageStatus>, Option<Vec<SystemPatch>>);

/// `None` if the wanted image is not loaded.
fn read_status(pid: u32, image: Option<&str>) -> Result<Option<Looked>> {
    let space = open(pid, Access::Query)?;
    let read = |at: Option<u64>| query(&space, at).map_err(|e| anyhow::Error::new(e).context(format!("process {pid}")));
    let images = match image {
        None => read(None)?,
        Some(name) => {
            let loaded = space.images().with_context(|| format!("process {pid}"))?;
            let mut found = Vec::new();
            for (address, _) in loaded.iter().filter(|(_, n)| n.eq_ignore_ascii_case(name)) {
                found.extend(read(Some(*address))?);
            }
            if found.is_empty() {
                return Ok(None);
            }
            found
        }
    };
    Ok(Some((images, space.system_patches())))
}

fn ids(threads: &[u32]) -> String {
    match threads {
        [] => "none".to_owned(),
        some => some.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn text(report: &StatusReport, one: bool) -> String {
    let mut out = String::new();
    for process in &report.processes {
        if let Some(error) = &process.error {
            let _ = writeln!(out, "process {} ({}): cannot be read: {error}", process.pid, process.name);
            continue;
        }
        if process.images.is_empty() {
            if one {
                let _ = writeln!(out, "process {} ({}): no hotpatch in memory", process.pid, process.name);
            }
            continue;
        }
        let _ = writeln!(out, "process {} ({})", process.pid, process.name);
        for image in &process.images {
            let active = image.active.map_or("none".to_owned(), |s| s.to_string());
            let pdb = image.identity.pdb.as_deref().unwrap_or("no PDB");
            let _ = writeln!(out, "  {} at {:#x} ({pdb}): active sequence {active}", image.name, image.address);
            for patch in &image.patches {
                let _ = writeln!(out, "    sequence {}: {}", patch.sequence, word(patch.state));
                let facts = [
                    ("detail", patch.detail.clone()),
                    ("KB", patch.kb.clone()),
                    ("fixes", (!patch.cves.is_empty()).then(|| patch.cves.join(", "))),
                    ("accepted", (!patch.accepted.is_empty()).then(|| patch.accepted.join(", "))),
                    ("signer", Some(patch.signer.clone().unwrap_or_else(|| "nobody: unsigned".to_owned()))),
                    ("sha256", Some(patch.sha256.clone())),
                    ("threads", patch.threads.as_deref().map(ids)),
                    (
                        "rollback",
                        Some(
                            patch
                                .irrevertible
                                .clone()
                                .map_or("possible".to_owned(), |why| format!("not possible: {why}")),
                        ),
                    ),
                ];
                for (name, value) in facts {
                    if let Some(value) = value {
                        let _ = writeln!(out, "      {name:<9} {value}");
                    }
                }
                for e in &patch.entries {
                    let state = format!("{:?}", e.state).to_lowercase();
                    let old = match e.old_threads.as_deref() {
                        Some(threads @ [_, ..]) => format!(", still in the old code: threads {}", ids(threads)),
                        _ => String::new(),
                    };
                    let _ =
                        writeln!(out, "      entry     {} at {:#x}: {state}, bytes {}{old}", e.name, e.address, e.seen);
                }
            }
        }
    }
    if out.is_empty() {
        out.push_str("no process that can be read has a hotpatch in memory\n");
    }
    let said = match report.system.hotpatching {
        SystemHotpatching::NotAvailable => "not available here",
        SystemHotpatching::Off => "off",
        SystemHotpatching::On => "on",
        SystemHotpatching::Unknown => "not known",
    };
    let _ = write!(out, "hotpatches of Windows itself: {said}");
    if let Some(detail) = &report.system.detail {
        let _ = write!(out, " ({detail})");
    }
    out.push('\n');
    for patch in report.system.patches.iter().flatten() {
        let _ = writeln!(out, "  {}", system_patch(patch));
    }
    for process in &report.processes {
        for patch in process.system_patches.iter().flatten() {
            let _ = writeln!(out, "  process {} ({}): {}", process.pid, process.name, system_patch(patch));
        }
    }
    out
}

fn system_patch(patch: &SystemPatch) -> String {
    let sequence = patch.sequence.map_or(String::new(), |number| format!(", sequence {number}"));
    format!(
        "{}, for the image of {:#010x} with checksum {:#010x}{sequence}",
        patch.path, patch.timestamp, patch.checksum
    )
}

fn word(state: State) -> &'static str {
    match state {
        State::Staged => "staged",
        State::Applicable => "applicable",
        State::Applied => "applied",
        State::Partial => "partly applied",
        State::ForeignHook => "changed by somebody else",
        State::Reverted => "rolled back",
        State::Superseded => "superseded",
        State::NotApplicable => "not applicable",
    }
}
