//! `hotgraft doctor`: can images, this machine and a process be hotpatched, and what to do where not.

use crate::args::{DoctorArgs, Format};
use crate::build::load;
use crate::output::{self, Exit, Stop, Terminal};
use anyhow::{Context, Result};
use hotgraft_engine::doctor::{Check, Level, worst};
use hotgraft_program::EntryKind;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// `hotgraft.doctor/1`, described by docs/schemas/doctor.json.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    /// The heaviest level of all.
    level: Level,
    machine: Vec<Check>,
    process: Option<ProcessReport>,
    images: Vec<ImageReport>,
}

#[derive(Serialize)]
struct ProcessReport {
    pid: u32,
    level: Level,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct ImageReport {
    path: String,
    level: Level,
    /// How the functions can be redirected; absent where the image is not one whose functions can be read.
    entries: Option<Entries>,
    checks: Vec<Check>,
}

/// Functions by the way in which they can be redirected.
#[derive(Serialize)]
struct Entries {
    functions: usize,
    padded_short_jump: usize,
    near_jump: usize,
    none: usize,
}

/// Run the command.
pub fn run(args: &DoctorArgs, terminal: &Terminal) -> Result<Exit> {
    let progress = terminal.progress("looking");
    let images = args.images.iter().map(|path| image(path, args.pdb.as_deref())).collect::<Result<Vec<_>>>()?;
    let process = args.pid.map(process).transpose()?;
    drop(progress);
    let machine = machine();
    // Of the machine only what concerns processes here counts, and only if one was asked for or nothing else was.
    let about_machine = if args.images.is_empty() || args.pid.is_some() { worst(&machine) } else { Level::Ok };
    let levels = images.iter().map(|i| i.level).chain(process.iter().map(|p| p.level)).chain([about_machine]);
    let level = levels.max().unwrap_or(Level::Ok);
    let report = Report { schema: "hotgraft.doctor/1", level, machine, process, images };
    match args.format {
        Format::Json => output::write_bytes(Path::new("-"), &output::json(&report)?)?,
        Format::Text => output::print_text(&text(&report))?,
    }
    Ok(if level == Level::Blocks { Exit::No } else { Exit::Done })
}

fn image(path: &Path, pdb: Option<&Path>) -> Result<ImageReport> {
    let mut checks =
        hotgraft_engine::doctor::image(&output::read(path)?).with_context(|| path.display().to_string())?;
    let mut entries = None;
    if worst(&checks) < Level::Blocks {
        let program = load(path, pdb)?;
        let count = |kind| program.functions.iter().filter(|f| f.entry_kind == kind).count();
        let found = Entries {
            functions: program.functions.len(),
            padded_short_jump: count(EntryKind::PaddedShortJump),
            near_jump: count(EntryKind::NearJump),
            none: count(EntryKind::None),
        };
        let able = found.functions - found.none;
        let text = format!(
            "{able} of {} functions can be redirected: {} through the filler in front, {} over their first five bytes",
            found.functions, found.padded_short_jump, found.near_jump
        );
        checks.push(if found.functions == 0 || able == 0 {
            Check::new("image.entries", Level::Blocks, text)
                .advise("link with /FUNCTIONPADMIN:6 (lld-link /functionpadmin:6, gcc -fpatchable-function-entry=6,6)")
        } else if found.none == 0 {
            Check::new("image.entries", Level::Ok, text)
        } else {
            Check::new("image.entries", Level::Limits, text)
                .advise("link with /FUNCTIONPADMIN:6; fixes in the other functions need a restart")
        });
        if !program.has_pdb {
            let text = "its PDB is not at hand: patches are made from images with their PDBs";
            checks.push(
                Check::new("image.pdb_found", Level::Note, text).advise("put the PDB beside the image or give --pdb"),
            );
        }
        entries = Some(found);
    }
    Ok(ImageReport { path: path.display().to_string(), level: worst(&checks), entries, checks })
}

#[cfg(windows)]
fn machine() -> Vec<Check> {
    hotgraft_engine::windows::doctor::machine()
}

#[cfg(not(windows))]
fn machine() -> Vec<Check> {
    let text = "not known: this is not Windows";
    vec![
        Check::new("machine.windows", Level::Unknown, text)
            .advise("run hotgraft.exe doctor on the machine that runs the processes"),
    ]
}

#[cfg(windows)]
fn process(pid: u32) -> Result<ProcessReport> {
    let checks = hotgraft_engine::windows::doctor::process(pid)
        .map_err(|e| Stop::failed(format!("process {pid}: {e}"), "`hotgraft status --all` lists processes"))?;
    Ok(ProcessReport { pid, level: worst(&checks), checks })
}

#[cfg(not(windows))]
fn process(pid: u32) -> Result<ProcessReport> {
    Err(Stop::failed(
        format!("process {pid}: only the Windows build looks at processes"),
        "run hotgraft.exe doctor on the machine that runs the process; with Wine: wine64 hotgraft.exe ...",
    ))
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Note => "note",
        Level::Unknown => "unknown",
        Level::Limits => "limits",
        Level::Blocks => "blocks",
    }
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    let mut part = |head: String, checks: &[Check]| {
        let _ = writeln!(out, "{head}");
        for check in checks {
            let _ = writeln!(out, "  {:<8} {:<22} {}", word(check.level), check.key, check.text);
            if let Some(advice) = check.advice {
                let _ = writeln!(out, "  {:<8} {:<22} -> {advice}", "", "");
            }
        }
    };
    for image in &report.images {
        part(format!("{}: {}", image.path, verdict(image.level)), &image.checks);
    }
    if let Some(process) = &report.process {
        part(format!("process {}: {}", process.pid, verdict(process.level)), &process.checks);
    }
    part("this machine".into(), &report.machine);
    out
}

fn verdict(level: Level) -> &'static str {
    match level {
        Level::Ok | Level::Note => "can be hotpatched",
        Level::Unknown => "can be hotpatched as far as is known",
        Level::Limits => "can be hotpatched, within limits",
        Level::Blocks => "cannot be hotpatched",
    }
}
