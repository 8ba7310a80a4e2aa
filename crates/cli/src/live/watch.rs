//! `hotgraft watch`: keep processes patched.

use super::audit::{Attempt, Audit, Begun, Details, Outcome};
use super::catalog::{Found, Patches};
use super::windows::trust;
use crate::args::{Format, WatchArgs};
use crate::output::{self, Exit, Stop, Terminal};
use crate::trust::policy;
use anyhow::Result;
use hotgraft_engine::windows::watch::{Observer, Pass, Subject, Watch, interrupted, notice_interrupts, rest};
use hotgraft_engine::{Applied, ApplyError, ApplyOptions, PatchFile};
use std::time::{Duration, Instant};

/// How often the catalog is looked at.
const CATALOG: Duration = Duration::from_secs(1);
/// Without `--poll`: processes are looked at at least as often.
const LONGEST_REST: Duration = Duration::from_millis(100);

struct Reporter<'a> {
    audit: &'a Audit,
    found: &'a [Found],
    allow_unsigned: bool,
    text: bool,
    begun: Option<(Begun, Attempt)>,
}

impl Observer for Reporter<'_> {
    type Stop = anyhow::Error;

    fn before(&mut self, subject: Subject<'_>) -> Result<()> {
        let found = &self.found[subject.patch];
        let attempt = Attempt {
            action: "watch",
            pid: Some(subject.pid),
            process: Some(subject.program.to_owned()),
            allow_unsigned: self.allow_unsigned,
            ..Attempt::default()
        };
        let attempt = attempt.with(&found.path, &found.patch);
        self.begun = Some((self.audit.begin(&attempt)?, attempt));
        Ok(())
    }

    fn after(&mut self, subject: Subject<'_>, outcome: &std::result::Result<Applied, ApplyError>) -> Result<()> {
        let Some((begun, attempt)) = self.begun.take() else {
            return Ok(());
        };
        let about = format!("process {} ({})", subject.pid, subject.program);
        let said = match outcome {
            Ok(applied) => {
                self.audit.end(&begun, &attempt, Outcome::Done, &Details::from(applied))?;
                let pause = applied.pause.as_secs_f64() * 1e3;
                format!("{about}: sequence {} applied; threads stood still for {pause:.3} ms\n", applied.sequence)
            }
            Err(error) => {
                self.audit.end_with(&begun, &attempt, error)?;
                format!("{about}: not patched: {error}\n")
            }
        };
        if self.text { output::print_text(&said) } else { Ok(()) }
    }
}

/// Run the command.
pub fn watch(args: &WatchArgs, terminal: &Terminal) -> Result<Exit> {
    let policy = policy(&args.trust)?;
    let options = ApplyOptions {
        trust: trust(policy.as_ref(), args.allow_unsigned, terminal),
        time_limit: Duration::from_millis(args.timeout),
        ..ApplyOptions::default()
    };
    let mut audit = Audit::open(args.audit.as_deref(), terminal)?;
    audit.echo = args.format == Format::Json;
    notice_interrupts();
    let patches = Patches::new(args);
    let mut signs = patches.signs();
    let (mut found, mut files) = split(patches.read()?);
    terminal.note(format!("{} patches; Ctrl-C ends the watch", found.len()));
    let mut looked = Instant::now();
    let mut watch = Watch::new();
    loop {
        if looked.elapsed() >= CATALOG {
            looked = Instant::now();
            let now = patches.signs();
            if now != signs {
                // A catalog that is being written is bad for a moment: what was good stays in use.
                match patches.read() {
                    Ok(read) => {
                        (found, files) = split(read);
                        terminal.note(format!("the catalog has changed: {} patches", found.len()));
                    }
                    Err(error) => terminal.warning(format!("the catalog has changed and cannot be used: {error:#}")),
                }
                signs = now;
            }
        }
        let mut reporter = Reporter {
            audit: &audit,
            found: &found,
            allow_unsigned: args.allow_unsigned,
            text: args.format == Format::Text,
            begun: None,
        };
        let began = Instant::now();
        let pass: Pass = watch.pass(&files, &args.program, &options, &mut reporter).map_err(|e| {
            Stop::failed(format!("processes cannot be listed: {e}"), "run hotgraft with the rights of an operator")
        })??;
        if args.once {
            terminal.note(format!("{} images are patched, {} are not", pass.patched, pass.unpatched));
            return Ok(if pass.unpatched == 0 { Exit::Done } else { Exit::No });
        }
        let wait = match args.poll {
            Some(poll) => Duration::from_millis(poll),
            None => rest(began.elapsed(), LONGEST_REST),
        };
        if interrupted(wait) {
            terminal.note(format!("ended: {} images are patched and stay so", pass.patched));
            return Ok(Exit::Done);
        }
    }
}

/// The engine wants the files alone.
fn split(found: Vec<Found>) -> (Vec<Found>, Vec<PatchFile>) {
    let files = found.iter().map(|found| found.patch.clone()).collect();
    (found, files)
}
