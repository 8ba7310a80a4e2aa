//! Windows programs on this machine: Wine with a configuration of its own, ended when no longer needed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::{self, Finished};
use crate::{root, tools};

/// No program that is run to its end takes longer, even where a dozen others run.
const LIMIT: Duration = Duration::from_secs(180);

/// A Wine prefix. Dropping it ends the programs in it.
#[derive(Debug)]
pub struct Wine {
    prefix: PathBuf,
    search: String,
    /// A program that waits for as long as this lives: without one, each start would boot Windows anew.
    resident: Option<Child>,
}

impl Wine {
    /// Opens a prefix in the cache, made on first use. Each `purpose` has its own, so that tasks do not disturb each
    /// other.
    ///
    /// # Errors
    /// If Wine is not there or does not start.
    pub fn open(purpose: &str) -> Result<Self> {
        tools::need(tools::WINDOWS)?;
        let prefix = root::cache().join("wine").join(purpose);
        fs::create_dir_all(&prefix).with_context(|| format!("cannot make {}", prefix.display()))?;
        let mut wine = Self { prefix, search: runtime_folders()?, resident: None };
        if !wine.prefix.join("system.reg").is_file() {
            let mut first = wine.command(Path::new("/"), "wineboot");
            first.arg("--init");
            command::finish(&mut first)?;
            wine.server("--wait")?;
        }
        // Whoever comes first to a prefix starts its server and its services, and these keep what the first one writes to
        // open for as long as they live. So everything is started here, with nothing of ours to write to, and has started
        // before the first program is run for its output.
        let silent = |mut command: Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let mut resident = silent(wine.command(Path::new("/"), "cmd.exe"));
        wine.resident = Some(resident.stdin(Stdio::piped()).spawn().context("cannot start Wine")?);
        let mut booted = wine.command(Path::new("/"), "cmd.exe");
        booted.args(["/c", "exit"]);
        silent(booted).status().context("cannot start Wine")?;
        Ok(wine)
    }

    /// A Windows program, to be run in a folder.
    pub fn command(&self, folder: &Path, program: &str) -> Command {
        let mut command = command::at(folder, tools::WINE);
        command
            .arg(program)
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all")
            .env("WINEDLLOVERRIDES", "mscoree,mshtml,winemenubuilder.exe=")
            .env("WINESERVER", tools::WINE_SERVER)
            .env("WINEPATH", &self.search)
            .env("NO_COLOR", "1")
            .env_remove("DISPLAY")
            .stdin(Stdio::null());
        command
    }

    /// Runs a program to its end; line ends in its output become plain.
    ///
    /// # Errors
    /// If it cannot be started, or does not end.
    pub fn run<S: AsRef<std::ffi::OsStr>>(
        &self,
        folder: &Path,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Finished> {
        let mut done = command::finish_within(self.command(folder, program).args(arguments), LIMIT)?;
        done.stdout = done.stdout.replace("\r\n", "\n");
        done.stderr = done.stderr.replace("\r\n", "\n");
        Ok(done)
    }

    /// Starts a program that waits for input.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn waiting(&self, folder: &Path, program: &str, arguments: &[&str]) -> Result<Waiting> {
        let mut command = self.command(folder, program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let output = child.stdout.take().context("the program has no output")?;
        let input = child.stdin.take().context("the program has no input")?;
        Ok(Waiting { child, input: Some(input), output: BufReader::new(output) })
    }

    fn server(&self, request: &str) -> Result<()> {
        let mut server = Command::new(tools::WINE_SERVER);
        server.arg(request).env("WINEPREFIX", &self.prefix).env("WINEDEBUG", "-all");
        command::finish(&mut server).map(drop)
    }
}

/// A program that waits for input. Dropping it ends it.
#[derive(Debug)]
pub struct Waiting {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Waiting {
    /// The next line that it prints, without its end.
    ///
    /// # Errors
    /// If it has ended.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Gives it one byte and then the end of its input; its exit code, and what it prints from now on.
    ///
    /// # Errors
    /// If it is gone.
    pub fn go_on(mut self) -> Result<(i32, String)> {
        if let Some(mut input) = self.input.take() {
            input.write_all(b"\n")?;
        }
        let mut rest = String::new();
        self.output.read_to_string(&mut rest)?;
        Ok((self.child.wait()?.code().unwrap_or(-1), rest.replace("\r\n", "\n")))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // After `go_on` it is gone, and this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Wine {
    fn drop(&mut self) {
        // Ends what still runs in this prefix, and nothing else. There is nobody to tell if it fails.
        let _ = self.server("--kill");
        if let Some(resident) = &mut self.resident {
            let _ = resident.kill();
            let _ = resident.wait();
        }
    }
}

/// How a Windows program names a file of this machine.
pub fn path(path: &Path) -> String {
    format!("Z:{}", path.display().to_string().replace('/', "\\"))
}

/// Where the DLLs of mingw-w64's run-times are, as a search path of Windows.
fn runtime_folders() -> Result<String> {
    let mut folders = Vec::new();
    for name in ["libstdc++-6.dll", "libwinpthread-1.dll"] {
        let said = command::quiet(Command::new(tools::MINGW_GXX).arg(format!("-print-file-name={name}")))?;
        let found = Path::new(said.trim()).canonicalize().with_context(|| format!("the compiler knows no {name}"))?;
        folders.push(path(found.parent().unwrap_or(Path::new("/"))));
    }
    Ok(folders.join(";"))
}
