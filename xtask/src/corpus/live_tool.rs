//! Old programs patched while they work: each goes through one input many times over, for which the old and the new build
//! leave the same results, and is patched at a moment that a seed chooses. What it leaves must be the same still.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::behave::{Desk, Seen};
use super::inputs::{self, Case, Random};
use super::step::Built;
use crate::wine::{self, Wine};

/// A run that takes this long can be met under way.
const LONG_ENOUGH: Duration = Duration::from_secs(3);
/// A run that takes this long is none that can be waited for.
const TOO_LONG: Duration = Duration::from_secs(120);
/// The input is named so many times at first, and at most: a command line has 32,767 characters, and its name is short.
const TIMES: (usize, usize) = (50, 12_800);
const NAME: &str = "i";
/// Inputs for one program.
const CASES: usize = 3;

/// The programs that take any number of input files.
pub fn takes_many(program: &str) -> bool {
    matches!(program, "tiffcrop.exe" | "tiffcp.exe" | "tiffinfo.exe" | "xmllint.exe")
}

/// What to run.
pub struct Trial<'a> {
    pub wine: &'a Wine,
    /// The Windows build.
    pub hotgraft: &'a Path,
    pub fix: &'a Built,
    pub program: &'a str,
    pub patches: &'a [PathBuf],
    pub inputs: u32,
}

/// How a run that was to be patched ended.
enum Met {
    Patched,
    /// A thread was in a function that no thread may be in, for as long as was waited.
    InTheWay,
    /// The program had ended before.
    Missed,
}

impl Trial<'_> {
    /// A few inputs; a summary.
    ///
    /// # Errors
    /// At the first run that leaves something else, and if none could be patched or refused.
    pub fn run(&self) -> Result<String> {
        let (mut patched, mut in_the_way, mut missed, mut differ) = (0, 0, 0, 0);
        let mut longest = Duration::ZERO;
        for index in 0..self.inputs {
            let (case, old, takes) = self.long_case(index)?;
            longest = longest.max(takes);
            if !(LONG_ENOUGH..TOO_LONG).contains(&takes) {
                continue;
            }
            let (Some(old), Some(expected)) = (old, self.start("new", &case)?.end()?) else { continue };
            if old != expected {
                differ += 1;
                continue;
            }
            match self.patch_under_way(&case, &expected, takes, index)? {
                Met::Patched => patched += 1,
                Met::InTheWay => in_the_way += 1,
                Met::Missed => missed += 1,
            }
            if patched + in_the_way >= CASES {
                break;
            }
        }
        ensure!(
            patched + in_the_way > 0,
            "no run was met under way: the longest took {} ms; {missed} had ended before, {differ} tell old from new",
            longest.as_millis()
        );
        Ok(format!(
            "patched under way {patched} times, a thread in the way {in_the_way} times, ended before {missed} times"
        ))
    }

    /// The input with this number, named so often that the program works on it for long enough if it can be, what the
    /// old one leaves unless that takes too long, and how long it takes.
    fn long_case(&self, index: u32) -> Result<(Case, Option<Seen>, Duration)> {
        let once = inputs::case(self.program, index);
        let mut times = TIMES.0;
        loop {
            let case = repeated(&once, times);
            let begun = Instant::now();
            let old = self.start("old", &case)?.end()?;
            let takes = begun.elapsed();
            // Many programs stop at the first input that they cannot read.
            let stopped = old.as_ref().is_none_or(|old| old.code != 0) && times > TIMES.0;
            if takes >= LONG_ENOUGH || times == TIMES.1 || stopped {
                return Ok((case, old, takes));
            }
            times = (times * 2).min(TIMES.1);
        }
    }

    fn patch_under_way(&self, case: &Case, expected: &Seen, takes: Duration, index: u32) -> Result<Met> {
        let mut running = self.start("old", case)?;
        let pid = loop {
            if let Some(pid) = self.pid()? {
                break pid;
            }
            if running.child.try_wait()?.is_some() {
                return Ok(Met::Missed);
            }
        };
        let third = u32::try_from(takes.as_micros() / 3).unwrap_or(u32::MAX);
        thread::sleep(Duration::from_micros(Random::new(index).below(third.max(1)).into()));
        let mut met = Met::Patched;
        for patch in self.patches {
            let patch = wine::path(patch);
            let done = self.hotgraft(&["apply", "--pid", &pid, "--patch", &patch, "--allow-unsigned"])?;
            if done.code != 0 {
                met = if running.child.try_wait()?.is_some() {
                    Met::Missed
                } else {
                    ensure!(
                        done.stderr.contains("is in the way") || done.stderr.contains("gave up"),
                        "{}",
                        done.stderr
                    );
                    Met::InTheWay
                };
            }
        }
        let what = format!("input {index} ({} {} ...)", case.name, case.arguments[..2].join(" "));
        ensure!(running.end()?.as_ref() == Some(expected), "{what}: patched under way it leaves something else");
        Ok(met)
    }

    /// The program's process, if it runs.
    fn pid(&self) -> Result<Option<String>> {
        let done = self.hotgraft(&["status", "--image", self.program, "--format", "json"])?;
        let said: serde_json::Value = serde_json::from_str(&done.stdout).context("status")?;
        let processes = said["processes"].as_array().context("status without processes")?;
        let runs = processes.iter().find(|process| process["error"].is_null());
        Ok(runs.map(|process| process["pid"].to_string()))
    }

    fn hotgraft(&self, arguments: &[&str]) -> Result<crate::command::Finished> {
        let folder = tempfile::tempdir()?;
        self.wine.run(folder.path(), &wine::path(self.hotgraft), arguments)
    }

    fn start(&self, side: &str, case: &Case) -> Result<Running> {
        let desk = Desk::lay_out(self.fix, side, self.program, case)?;
        let output = tempfile::tempfile()?;
        let mut command = self.wine.command(desk.path(), self.program);
        command.args(&case.arguments).stdout(output.try_clone()?).stderr(Stdio::null());
        Ok(Running { child: command.spawn().context("cannot start the program")?, output, desk })
    }
}

/// The same case with its input named so many times.
fn repeated(case: &Case, times: usize) -> Case {
    let mut repeated = Case { arguments: Vec::new(), ..case.clone() };
    let Some((input, _)) = repeated.files.first_mut() else { return repeated };
    let input = std::mem::replace(input, NAME.to_owned());
    for argument in &case.arguments {
        if *argument == input {
            repeated.arguments.extend(std::iter::repeat_n(NAME.to_owned(), times));
        } else {
            repeated.arguments.push(argument.clone());
        }
    }
    repeated
}

/// A program at work.
struct Running {
    child: Child,
    output: std::fs::File,
    desk: Desk,
}

impl Running {
    /// Waits for its end; `None` if that takes too long.
    fn end(mut self) -> Result<Option<Seen>> {
        use std::io::{Read, Seek};
        let begun = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait()? {
                break status.code().unwrap_or(-1);
            }
            if begun.elapsed() > TOO_LONG {
                self.child.kill()?;
                self.child.wait()?;
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        };
        let mut stdout = Vec::new();
        self.output.rewind()?;
        self.output.read_to_end(&mut stdout)?;
        self.desk.seen(code, String::from_utf8_lossy(&stdout).into_owned()).map(Some)
    }
}
