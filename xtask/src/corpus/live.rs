//! Old DLLs patched while a program drives them: at a moment that a seed chooses, in the middle of its work. From then on
//! what comes of every input must be what the new DLL makes of it, and after the roll back what the old one makes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;
use std::{io::BufRead, io::BufReader, thread};

use anyhow::{Context, Result, bail, ensure};

use super::inputs::{self, Random};
use super::step::Built;
use crate::wine::{self, Wine};
use crate::{command, root, tools};

/// A round under Wine takes milliseconds; none takes longer than this, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rounds that are looked at before a patch, and after a change.
const ROUNDS: usize = 3;
/// Rounds that can be done and not yet looked at, with room to spare.
const MOST_PENDING: usize = 10_000;

/// The DLLs that the host can drive, each with the program whose inputs it is given.
const DRIVEN: [(&str, &str); 2] = [("libxml2.dll", "xmllint.exe"), ("libtiff.dll", "tiffinfo.exe")];

/// The driven images among those that a fix changed: (DLL, program whose inputs it takes).
pub fn driven(images: &[String]) -> Vec<(&'static str, &'static str)> {
    DRIVEN.into_iter().filter(|(dll, _)| images.iter().any(|image| image == dll)).collect()
}

/// Compiles the host.
///
/// # Errors
/// If it does not compile.
pub fn host(folder: &Path) -> Result<PathBuf> {
    let host = folder.join("library_host.exe");
    let mut compile = Command::new(tools::MINGW_GCC);
    compile.args(["-O1", "-Wall", "-Werror", "-s", "-o"]).arg(&host);
    command::quiet(compile.arg(root::repository().join("testdata/wine/library_host.c")))?;
    Ok(host)
}

/// What to run.
pub struct Trial<'a> {
    pub wine: &'a Wine,
    /// The Windows build.
    pub hotgraft: &'a Path,
    /// The host.
    pub host: &'a Path,
    pub fix: &'a Built,
    pub dll: &'a str,
    /// The program whose inputs are taken.
    pub program: &'a str,
    pub patch: &'a Path,
    pub inputs: u32,
}

impl Trial<'_> {
    /// Patches and rolls back under way; a summary.
    ///
    /// # Errors
    /// At the first round whose results are neither those of the old nor of the new build, or not the right ones.
    pub fn run(&self) -> Result<String> {
        let (old, new) = (self.alone("old")?, self.alone("new")?);
        let told = old.iter().zip(&new).filter(|(old, new)| old != new).count();
        let running = self.start("old")?;
        // The moment: so many rounds, and then some time into the next one.
        let mut random = Random::new(
            self.fix.step.step.bytes().fold(7, |seed: u32, byte| seed.wrapping_mul(31).wrapping_add(u32::from(byte))),
        );
        let rounds = ROUNDS + random.below(20) as usize;
        for round in 0..rounds {
            running.must_be(&[&old], &format!("round {round} before the patch"))?;
        }
        thread::sleep(Duration::from_micros(u64::from(random.below(20_000))));
        let pid = running.pid.clone();
        let patch = wine::path(self.patch);
        self.tell(&["apply", "--pid", &pid, "--patch", &patch, "--allow-unsigned"])?;
        running.settle(&old, &new, "while it is patched")?;
        for round in 0..ROUNDS {
            running.must_be(&[&new], &format!("round {round} after the patch"))?;
        }
        self.tell(&["rollback", "--pid", &pid])?;
        running.settle(&new, &old, "while it is rolled back")?;
        for round in 0..ROUNDS {
            running.must_be(&[&old], &format!("round {round} after the roll back"))?;
        }
        running.end()?;
        Ok(format!(
            "patched in round {rounds} and rolled back, {} inputs right throughout ({told} tell the old build from the new)",
            old.len()
        ))
    }

    fn tell(&self, arguments: &[&str]) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let done = self.wine.run(folder.path(), &wine::path(self.hotgraft), arguments)?;
        ensure!(done.code == 0, "hotgraft {}: exit code {}\n{}", arguments[0], done.code, done.stderr);
        Ok(())
    }

    /// What a build makes of the inputs by itself. The same in every round, else nothing could be compared.
    fn alone(&self, side: &str) -> Result<Vec<String>> {
        let running = self.start(side)?;
        let first = running.round()?;
        for _ in 0..ROUNDS {
            running.must_be(&[&first], &format!("the {side} build by itself"))?;
        }
        running.end()?;
        Ok(first)
    }

    fn start(&self, side: &str) -> Result<Running> {
        let folder = tempfile::tempdir()?;
        let at = folder.path();
        let mut arguments = vec![self.dll.to_owned()];
        for index in 0..self.inputs {
            let case = inputs::case(self.program, index);
            let Some((_, bytes)) = case.files.first() else { continue };
            let name = format!("{index}.in");
            fs::write(at.join(&name), bytes)?;
            arguments.push(name);
        }
        fs::copy(self.fix.folder.join(side).join(self.dll), at.join(self.dll))?;
        fs::copy(self.host, at.join("library_host.exe"))?;
        let mut command = self.wine.command(at, "library_host.exe");
        command.args(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("cannot start the host")?;
        let output = child.stdout.take().context("the host has no output")?;
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line.trim_end().to_owned()).is_err() {
                    break;
                }
            }
        });
        let mut running = Running { child, lines, pid: String::new(), _folder: folder };
        let ready = running.line()?;
        ready.strip_prefix("ready ").with_context(|| format!("the host said {ready:?}"))?.clone_into(&mut running.pid);
        Ok(running)
    }
}

/// A host at work.
struct Running {
    child: std::process::Child,
    lines: Receiver<String>,
    pid: String,
    _folder: tempfile::TempDir,
}

impl Running {
    fn line(&self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).context("the host stands still or has ended")
    }

    /// The results of the next round.
    fn round(&self) -> Result<Vec<String>> {
        Ok(self.line()?.split(' ').map(str::to_owned).collect())
    }

    /// Each result of the next round is that of one of these builds.
    fn must_be(&self, builds: &[&Vec<String>], when: &str) -> Result<Vec<String>> {
        let round = self.round()?;
        ensure!(builds.iter().all(|build| build.len() == round.len()), "{when}: {} results", round.len());
        for (index, result) in round.iter().enumerate() {
            if !builds.iter().any(|build| build[index] == *result) {
                let all: Vec<&str> = builds.iter().map(|build| build[index].as_str()).collect();
                bail!("{when}: input {index} gives {result} instead of {}", all.join(" or "));
            }
        }
        Ok(round)
    }

    /// Rounds that were under way, or done and not yet looked at, when a change was made. Within one of them the results go
    /// over from `before` to `after`, input by input.
    fn settle(&self, before: &Vec<String>, after: &Vec<String>, when: &str) -> Result<()> {
        let mut changed = false;
        for _ in 0..MOST_PENDING {
            self.check(&self.line()?, before, after, &mut changed, when)?;
            if changed || before == after {
                return Ok(());
            }
        }
        bail!("{when}: still the same after {MOST_PENDING} rounds");
    }

    fn check(&self, line: &str, before: &[String], after: &[String], changed: &mut bool, when: &str) -> Result<()> {
        let round: Vec<&str> = line.split(' ').collect();
        ensure!(round.len() == before.len(), "{when}: {} results", round.len());
        for (index, result) in round.iter().enumerate() {
            let (old, new) = (before[index] == *result, after[index] == *result);
            ensure!(old || new, "{when}: input {index} gives {result}");
            ensure!(new || !*changed, "{when}: input {index} is as before, and one earlier was not");
            *changed |= new && !old;
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let code = self.child.wait()?.code();
        ensure!(code == Some(0), "the host ended with {code:?}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `end` it is gone, and this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
