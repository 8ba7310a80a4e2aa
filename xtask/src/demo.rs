//! `cargo xtask demo`: a service with a fault, patched while it runs and rolled back, every step shown and checked.

mod service;
mod truth;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::command::{self, Finished};
use crate::hotgraft::{self, Hotgraft, Profile};
use crate::wine::{self, Wine};
use crate::{root, say, tools};
use service::{Service, State};

/// What the fault gives away.
const SECRET: &str = "correct-horse";
/// A request that the old build should have refused.
const GREEDY: &str = "read contact 60";
/// One that both builds answer alike.
const HONEST: &str = "read contact 14";

/// How the demo runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Check everything, print nothing.
    pub quiet: bool,
}

/// Runs the demo.
///
/// # Errors
/// At the first step that does not do what it is there to show.
pub fn run(options: Options) -> Result<()> {
    for needed in [tools::WINDOWS, tools::READERS] {
        tools::need(needed)?;
    }
    let stage = Stage { quiet: options.quiet };
    stage.step("hotgraft is built for this machine and for Windows");
    let hotgraft = Hotgraft::build(Profile::Dev)?;
    let windows = hotgraft::build_for_windows(Profile::Dev)?;
    let work = tempfile::tempdir()?;
    let demo = Demo { stage, hotgraft, windows, work: work.path().to_owned() };
    demo.lay_out()?;
    demo.make()?;
    demo.sign()?;
    demo.publish()?;
    demo.live()
}

struct Demo {
    stage: Stage,
    hotgraft: Hotgraft,
    windows: PathBuf,
    work: PathBuf,
}

impl Demo {
    /// Copies the two builds to `old` and `new` in a folder of its own.
    fn lay_out(&self) -> Result<()> {
        for side in ["old", "new"] {
            fs::create_dir_all(self.work.join(side))?;
            for file in ["service.exe", "service.pdb"] {
                fs::copy(root::fixtures().join("service").join(side).join(file), self.work.join(side).join(file))?;
            }
        }
        Ok(())
    }

    fn make(&self) -> Result<()> {
        self.stage.step("What differs between the two builds?");
        let diff = self.tool(&["diff", "old/service.exe", "new/service.exe"], 1)?;
        ensure!(diff.stdout.contains("answer_read"), "the diff does not name the changed function");

        self.stage.step("May it be patched?");
        self.tool(&["build", "old/service.exe", "new/service.exe", "--dry-run", "-o", "service.hotpatch.dll"], 0)?;
        ensure!(!self.work.join("service.hotpatch.dll").exists(), "a dry run wrote the patch");

        self.stage.step("The hotpatch image is built");
        let arguments = ["build", "old/service.exe", "new/service.exe", "-o", "service.hotpatch.dll"];
        self.tool(&[&arguments[..], &["--kb", "KB5000001", "--cve", "CVE-2026-0001"]].concat(), 0)?;

        self.stage.step("What is in it?");
        self.tool(&["inspect", "service.hotpatch.dll", "--tables"], 0)?;
        self.stage.step("What does an independent reader say?");
        let said = self.shell("llvm-readobj-19", &["--file-headers", "--coff-load-config", "service.hotpatch.dll"])?;
        self.stage.excerpt(&said, &["Format:", "Arch:", "SizeOfImage", "HotPatchTableOffset", "IMAGE_FILE_DLL"]);
        Ok(())
    }

    fn sign(&self) -> Result<()> {
        self.stage.step("A key for this trial, and a signature with it");
        self.shell(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-keyout",
                "key.pem",
                "-out",
                "cert.pem",
                "-days",
                "2",
                "-subj",
                "/CN=hotgraft trial",
                "-addext",
                "extendedKeyUsage=codeSigning",
            ],
        )?;
        self.tool(
            &["sign", "service.hotpatch.dll", "--key", "key.pem", "--cert", "cert.pem", "-o", "service.signed.dll"],
            0,
        )?;
        self.stage.step("Verified: structure, signature, base identity, and that nothing of the fix is missing");
        self.tool(
            &[
                "verify",
                "service.signed.dll",
                "--base",
                "old/service.exe",
                "--new",
                "new/service.exe",
                "--trust",
                "cert.pem",
            ],
            0,
        )?;
        let said = self.shell("osslsigncode", &["verify", "-CAfile", "cert.pem", "-in", "service.signed.dll"])?;
        self.stage.excerpt(&said, &["Signature verification", "Message digest", "Succeeded"]);
        Ok(())
    }

    fn live(&self) -> Result<()> {
        let wine = Wine::open("demo")?;
        let old = self.work.join("old");
        self.stage.step("The old service runs under Wine; it answers with bytes that are not in the record");
        let mut service = Service::start(&wine, &old)?;
        self.stage.say(&format!("service.exe runs as Windows process {}, port {}", service.pid, service.port));
        let pid = service.pid.to_string();
        let honest = self.ask(&mut service, HONEST)?;
        ensure!(self.ask(&mut service, GREEDY)?.contains(SECRET), "the old service has no fault to show");
        thread::sleep(Duration::from_millis(300));
        let before = self.state(&mut service)?;
        self.windows_tool(&wine, &["status", "--pid", &pid], 0)?;

        self.stage.step("What are scanners told? The old build is not fixed, and needs no restart to be");
        self.told(&wine, "not_fixed", "hotpatch 2026-02")?;

        self.stage.step("It is patched while it runs");
        let patch = wine::path(&self.work.join("service.signed.dll"));
        let trust = wine::path(&self.work.join("cert.pem"));
        self.windows_tool(&wine, &["apply", "--pid", &pid, "--patch", &patch, "--trust", &trust], 0)?;
        thread::sleep(Duration::from_millis(300));
        let patched = self.state(&mut service)?;
        patched.follows(&before)?;
        self.stage.say("uptime goes on, the worker threads are the same, and so is the log that is open");
        let answer = self.ask(&mut service, GREEDY)?;
        ensure!(
            !answer.contains(SECRET) && answer.starts_with("error: the record has only"),
            "the fault is still there"
        );
        ensure!(self.ask(&mut service, HONEST)? == honest, "an ordinary answer changed");

        self.stage.step("What is active, as read from its memory?");
        self.windows_tool(&wine, &["status", "--pid", &pid, "--expect", "1", "--threads"], 0)?;

        self.stage.step("What are scanners told now? The file is the old one, and the fix is in effect");
        self.told(&wine, "fixed", "none")?;

        self.stage.step("Rolled back: the old code, and the fault, are in effect again");
        self.windows_tool(&wine, &["rollback", "--pid", &pid], 0)?;
        ensure!(self.ask(&mut service, GREEDY)?.contains(SECRET), "the old code is not back");
        self.windows_tool(&wine, &["status", "--pid", &pid, "--expect", "1"], 1)?;
        let after = self.state(&mut service)?;
        after.follows(&patched)?;
        service.stop()?;
        let log = fs::read_to_string(old.join("service.log"))?;
        // Every request is in the one log, before, during and after the patch, and the last that asked it to stop.
        ensure!(
            log.lines().count() == after.log + 1,
            "the log has {} lines instead of {}",
            log.lines().count(),
            after.log + 1
        );
        self.stage.say(&format!("the log holds all {} requests, in order", log.lines().count()));
        Ok(())
    }

    fn ask(&self, service: &mut Service, request: &str) -> Result<String> {
        let answer = service.ask(request)?;
        self.stage.say(&format!("> {request}\n< {answer}"));
        Ok(answer)
    }

    fn state(&self, service: &mut Service) -> Result<State> {
        State::parse(&self.ask(service, "state")?)
    }

    fn tool(&self, arguments: &[&str], exit: i32) -> Result<Finished> {
        self.stage.command("hotgraft", arguments);
        let mut command = self.hotgraft.command();
        command.current_dir(&self.work).args(arguments);
        if !self.stage.quiet && say::coloured() {
            command.args(["--color", "always"]).env_remove("NO_COLOR");
        }
        self.finished("hotgraft", command::finish(&mut command)?, arguments, exit)
    }

    fn windows_tool(&self, wine: &Wine, arguments: &[&str], exit: i32) -> Result<Finished> {
        self.stage.command("hotgraft.exe", arguments);
        let done = wine.run(&self.work, &wine::path(&self.windows), arguments)?;
        self.finished("hotgraft.exe", done, arguments, exit)
    }

    fn finished(&self, name: &str, done: Finished, arguments: &[&str], exit: i32) -> Result<Finished> {
        self.stage.say(done.stdout.trim_end());
        self.stage.say(done.stderr.trim_end());
        if done.code != exit {
            bail!(
                "`{name} {}` exited with {}, not {exit}\n{}{}",
                arguments.join(" "),
                done.code,
                done.stdout,
                done.stderr
            );
        }
        Ok(done)
    }

    fn shell(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.stage.command(program, arguments);
        let mut command: Command = command::at(&self.work, program);
        command::quiet(command.args(arguments))
    }
}

/// Where the steps are shown, or not.
#[derive(Clone, Copy)]
struct Stage {
    quiet: bool,
}

impl Stage {
    fn step(self, text: &str) {
        if !self.quiet {
            say::line("");
            say::step(text);
        }
    }

    fn command(self, program: &str, arguments: &[&str]) {
        if !self.quiet {
            let quoted: Vec<String> = arguments
                .iter()
                .map(|one| if one.contains([' ', '\\']) { format!("'{one}'") } else { (*one).to_owned() })
                .collect();
            say::command(&format!("{program} {}", quoted.join(" ")));
        }
    }

    fn say(self, text: &str) {
        if !self.quiet && !text.is_empty() {
            say::line(text);
        }
    }

    /// The lines of `text` with one of these words.
    fn excerpt(self, text: &str, words: &[&str]) {
        let lines: Vec<_> = text.lines().filter(|line| words.iter().any(|word| line.contains(word))).collect();
        self.say(&lines.join("\n"));
    }
}
