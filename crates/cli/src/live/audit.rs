//! The audit record: one JSON line before and one after every attempt to change a process, and the event log of the
//! system where there is one. Described by docs/schemas/audit.json.
#![cfg_attr(not(windows), allow(dead_code, reason = "attempts are made by the Windows build alone"))]

use crate::output::{Stop, Terminal};
use anyhow::{Context, Result};
use hotgraft_engine::{Applied, ApplyError, PatchFile, RolledBack};
use hotgraft_hotpatch::hex;
use hotgraft_signer::UnixTime;
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Environment variable that names the file where no option does.
const VARIABLE: &str = "HOTGRAFT_AUDIT";

/// What is attempted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// `apply`, `rollback`, `run` or `watch`.
    pub action: &'static str,
    /// Process id; absent where the process is not started yet.
    pub pid: Option<u32>,
    /// File name of the process' program.
    pub process: Option<String>,
    /// The image that is patched.
    pub image: Option<String>,
    /// SHA-256 of the file of that image, as the patch names it.
    pub base_sha256: Option<String>,
    /// Path of the patch.
    pub patch: Option<String>,
    /// SHA-256 of the patch: the very bytes that are judged and mapped.
    pub patch_sha256: Option<String>,
    /// Its sequence.
    pub sequence: Option<u32>,
    /// Whether unsigned patches were let pass.
    pub allow_unsigned: bool,
}

impl Attempt {
    /// With what a patch says of itself.
    pub fn with(mut self, path: &Path, patch: &PatchFile) -> Attempt {
        let graft = patch.graft();
        self.image = Some(graft.base.file_name.clone());
        self.base_sha256 = Some(hex::text(&graft.base.sha256));
        self.patch = Some(path.display().to_string());
        self.patch_sha256 = Some(hex::text(&patch.sha256()));
        self.sequence = Some(graft.sequence);
        self
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// About to be tried. A line without a later one of the same id: hotgraft was ended meanwhile.
    Attempted,
    /// Done.
    Done,
    /// Decided against; nothing was changed.
    Refused,
    /// Not possible; nothing was changed.
    Failed,
    /// There was nothing to do: the image was never loaded.
    NotNeeded,
}

/// What is known afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Details {
    /// Why it was not done.
    pub reason: Option<String>,
    /// Who signed the patch.
    pub signer: Option<String>,
    /// The sequence that was active before.
    pub before: Option<u32>,
    /// The sequence that is active afterwards.
    pub active: Option<u32>,
    /// Redirected or restored entries.
    pub entries: Option<usize>,
    /// Attempts to find a safe moment.
    pub attempts: Option<u32>,
    /// For how long the threads stood still, microseconds.
    pub pause_microseconds: Option<u64>,
}

impl From<&Applied> for Details {
    fn from(applied: &Applied) -> Details {
        Details {
            reason: None,
            signer: applied.signer.clone(),
            before: applied.superseded,
            active: Some(applied.sequence),
            entries: Some(applied.entries),
            attempts: Some(applied.attempts),
            pause_microseconds: Some(applied.pause.as_micros() as u64),
        }
    }
}

impl From<&RolledBack> for Details {
    fn from(done: &RolledBack) -> Details {
        Details {
            reason: None,
            signer: None,
            before: Some(done.sequence),
            active: done.active,
            entries: Some(done.entries),
            attempts: Some(done.attempts),
            pause_microseconds: Some(done.pause.as_micros() as u64),
        }
    }
}

/// Who, where and with what.
#[derive(Clone, Debug, Serialize)]
struct Who {
    user: Option<String>,
    host: Option<String>,
    hotgraft: &'static str,
    hotgraft_pid: u32,
}

#[derive(Serialize)]
struct Line<'a> {
    schema: &'static str,
    /// The same in both lines of an attempt.
    id: &'a str,
    time: UnixTime,
    outcome: Outcome,
    #[serde(flatten)]
    who: &'a Who,
    #[serde(flatten)]
    attempt: &'a Attempt,
    #[serde(flatten)]
    details: &'a Details,
}

/// Where attempts are recorded.
pub struct Audit {
    file: RefCell<Option<(PathBuf, File)>>,
    who: Who,
    started: UnixTime,
    count: Cell<u32>,
    /// Whether the lines also go to stdout.
    pub echo: bool,
}

/// An attempt that was recorded as begun.
pub struct Begun(String);

impl Audit {
    /// Open the record: the file of the option or of HOTGRAFT_AUDIT, else the machine's own where that can be written.
    ///
    /// # Errors
    /// A file that was asked for cannot be written: nothing is attempted without a record then.
    pub fn open(wanted: Option<&Path>, terminal: &Terminal) -> Result<Audit> {
        let named = wanted.map(Path::to_owned).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
        let file = match named {
            Some(path) => {
                let file = append(&path).map_err(|error| {
                    Stop::failed(
                        format!("{}: the audit record cannot be written: {error}", path.display()),
                        "nothing was tried; give another file with --audit",
                    )
                })?;
                Some((path, file))
            }
            None => system::default_path().and_then(|path| match append(&path) {
                Ok(file) => Some((path, file)),
                Err(error) => {
                    terminal.detail(format!("{}: no audit record is written here: {error}", path.display()));
                    None
                }
            }),
        };
        let who = Who {
            user: system::user(),
            host: system::host(),
            hotgraft: env!("CARGO_PKG_VERSION"),
            hotgraft_pid: std::process::id(),
        };
        Ok(Audit { file: RefCell::new(file), who, started: UnixTime::now(), count: Cell::new(0), echo: false })
    }

    /// Record that something is about to be tried.
    pub fn begin(&self, attempt: &Attempt) -> Result<Begun> {
        let number = self.count.get() + 1;
        self.count.set(number);
        let id = format!("{}-{}-{number}", self.started.0, self.who.hotgraft_pid);
        self.line(&id, Outcome::Attempted, attempt, &Details::default())?;
        Ok(Begun(id))
    }

    /// Record how it ended.
    pub fn end(&self, begun: &Begun, attempt: &Attempt, outcome: Outcome, details: &Details) -> Result<()> {
        self.line(&begun.0, outcome, attempt, details)
    }

    /// Record that it failed, or was refused.
    pub fn end_with(&self, begun: &Begun, attempt: &Attempt, error: &ApplyError) -> Result<()> {
        let outcome = if is_decision(error) { Outcome::Refused } else { Outcome::Failed };
        let details = Details { reason: Some(error.to_string()), ..Details::default() };
        self.end(begun, attempt, outcome, &details)
    }

    fn line(&self, id: &str, outcome: Outcome, attempt: &Attempt, details: &Details) -> Result<()> {
        let time = UnixTime::now();
        let line = Line { schema: "hotgraft.audit/1", id, time, outcome, who: &self.who, attempt, details };
        let mut text = serde_json::to_string(&line).context("cannot make JSON")?;
        if outcome != Outcome::Attempted {
            system::event(outcome, &text);
            if self.echo {
                crate::output::print_text(&format!("{text}\n"))?;
            }
        }
        text.push('\n');
        if let Some((path, file)) = self.file.borrow_mut().as_mut() {
            // One write a line, at the end of the file wherever others have come to meanwhile.
            let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
            written.with_context(|| format!("{}: the audit record cannot be written", path.display()))?;
        }
        Ok(())
    }
}

/// What the engine decided against, as opposed to what the system did not let it do.
pub fn is_decision(error: &ApplyError) -> bool {
    !matches!(
        error,
        ApplyError::ThreadInTheWay { .. }
            | ApplyError::Space(_)
            | ApplyError::Memory(_)
            | ApplyError::TooFar { .. }
            | ApplyError::Import { .. }
            | ApplyError::Stopped(_)
    )
}

fn append(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(windows)]
mod system {
    use super::Outcome;
    use hotgraft_engine::windows::audit::{EventKind, report};
    pub use hotgraft_engine::windows::audit::{host, user};
    use std::path::PathBuf;

    pub fn default_path() -> Option<PathBuf> {
        std::env::var_os("ProgramData").map(|folder| PathBuf::from(folder).join("hotgraft").join("audit.jsonl"))
    }

    pub fn event(outcome: Outcome, text: &str) {
        report(
            match outcome {
                Outcome::Attempted | Outcome::Done | Outcome::NotNeeded => EventKind::Information,
                Outcome::Refused => EventKind::Warning,
                Outcome::Failed => EventKind::Error,
            },
            text,
        );
    }
}

#[cfg(not(windows))]
mod system {
    use super::Outcome;
    use std::path::PathBuf;

    pub fn default_path() -> Option<PathBuf> {
        None
    }

    pub fn user() -> Option<String> {
        None
    }

    pub fn host() -> Option<String> {
        None
    }

    pub fn event(_: Outcome, _: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal() -> Terminal {
        use clap::Parser;
        Terminal::new(&crate::args::Cli::parse_from(["hotgraft", "doctor"]).global)
    }

    #[test]
    fn every_attempt_leaves_two_lines_of_the_schema() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("new").join("audit.jsonl");
        let attempt = Attempt { action: "apply", pid: Some(7), ..Attempt::default() };
        for _ in 0..2 {
            let audit = Audit::open(Some(&path), &terminal()).expect("writable");
            let begun = audit.begin(&attempt).expect("written");
            audit.end_with(&begun, &attempt, &ApplyError::Stale { applied: 2, offered: 1 }).expect("written");
            let begun = audit.begin(&attempt).expect("written");
            let details =
                Details { active: Some(3), entries: Some(1), pause_microseconds: Some(900), ..Details::default() };
            audit.end(&begun, &attempt, Outcome::Done, &details).expect("written");
        }
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas/audit.json");
        let schema = serde_json::from_slice(&std::fs::read(schema).expect("readable")).expect("JSON");
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let text = std::fs::read_to_string(&path).expect("readable");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
        assert_eq!(lines.len(), 8, "a second opening appends");
        for line in &lines {
            let errors: Vec<String> = validator.iter_errors(line).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{line}: {errors:?}");
        }
        let outcomes: Vec<&str> = lines.iter().filter_map(|line| line["outcome"].as_str()).collect();
        assert_eq!(outcomes[..4], ["attempted", "refused", "attempted", "done"]);
        assert_eq!(lines[0]["id"], lines[1]["id"]);
        assert_ne!(lines[0]["id"], lines[2]["id"]);
    }

    #[test]
    fn without_the_record_that_was_asked_for_nothing_is_tried() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(Audit::open(Some(folder.path()), &terminal()).is_err(), "a folder is no file");
    }
}
