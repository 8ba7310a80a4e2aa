//! Where results, progress and errors go, and what the exit code says.

use crate::args::{Color, Global};
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::{IsTerminal, Seek, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// The exit codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or as expected.
    Done,
    /// 1: done, and the answer is no.
    No,
    /// 2: could not do it; nothing was written.
    Failed,
    /// 3: refused by verdict or policy.
    Refused,
    /// 4: nothing to patch.
    Nothing,
    /// A program's own exit code (`run`).
    Code(u32),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        match exit {
            Exit::Done => ExitCode::from(0),
            Exit::No => ExitCode::from(1),
            Exit::Failed => ExitCode::from(2),
            Exit::Refused => ExitCode::from(3),
            Exit::Nothing => ExitCode::from(4),
            // ExitCode holds 8 bits; Windows exit codes have 32.
            Exit::Code(code) => {
                let _ = std::io::stdout().flush();
                std::process::exit(code.cast_signed())
            }
        }
    }
}

/// An error that ends with another code than 2, or that carries a next step for the user.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Stop {
    /// Exit code.
    pub exit: Exit,
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Stop {
    /// A failure with a next step.
    pub fn failed(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Stop { exit: Exit::Failed, message: message.into(), hint: Some(hint.into()) }.into()
    }

    /// A refusal with a next step.
    #[cfg_attr(not(windows), expect(dead_code, reason = "only the live commands refuse this way"))]
    pub fn refused(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Stop { exit: Exit::Refused, message: message.into(), hint: Some(hint.into()) }.into()
    }
}

/// Exit code of an error.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    error.downcast_ref::<Stop>().map_or(Exit::Failed, |stop| stop.exit)
}

/// The user's terminal: colours, verbosity, progress.
pub struct Terminal {
    quiet: u8,
    verbose: u8,
}

impl Terminal {
    /// Apply the global options.
    pub fn new(global: &Global) -> Terminal {
        match global.color {
            Color::Auto => {}
            Color::Always => anstream::ColorChoice::Always.write_global(),
            Color::Never => anstream::ColorChoice::Never.write_global(),
        }
        Terminal { quiet: global.quiet, verbose: global.verbose }
    }

    /// One line of talk on stderr.
    pub fn note(&self, text: impl AsRef<str>) {
        if self.quiet == 0 {
            let _ = writeln!(anstream::stderr(), "{}", text.as_ref());
        }
    }

    /// One line for those who asked for more.
    pub fn detail(&self, text: impl AsRef<str>) {
        if self.verbose > 0 {
            let _ = writeln!(anstream::stderr(), "{}", text.as_ref());
        }
    }

    /// Something that the user must see unless errors only are wanted.
    #[cfg_attr(not(windows), expect(dead_code, reason = "only the live commands warn"))]
    pub fn warning(&self, text: impl AsRef<str>) {
        if self.quiet < 2 {
            let style = anstyle::AnsiColor::Yellow.on_default().bold();
            let _ = writeln!(anstream::stderr(), "{style}warning:{style:#} {}", text.as_ref());
        }
    }

    /// An error with its causes and a next step.
    pub fn error(&self, error: &anyhow::Error) {
        let style = anstyle::AnsiColor::Red.on_default().bold();
        let mut out = anstream::stderr();
        let _ = writeln!(out, "{style}error:{style:#} {error}");
        for cause in error.chain().skip(1) {
            let _ = writeln!(out, "  caused by: {cause}");
        }
        if let Some(hint) = error.downcast_ref::<Stop>().and_then(|stop| stop.hint.as_ref()) {
            let style = anstyle::AnsiColor::Cyan.on_default();
            let _ = writeln!(out, "  {style}hint:{style:#} {hint}");
        }
    }

    /// A spinner on terminals, nothing elsewhere.
    pub fn progress(&self, text: &'static str) -> Progress {
        if self.quiet > 0 || !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let bar = indicatif::ProgressBar::new_spinner();
        bar.set_message(text);
        bar.enable_steady_tick(Duration::from_millis(120));
        Progress(Some(bar))
    }
}

/// Ends the spinner when dropped.
pub struct Progress(Option<indicatif::ProgressBar>);

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Read an input file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).context("cannot read stdin")?;
        return Ok(bytes);
    }
    std::fs::read(path).with_context(|| format!("{}: cannot read", path.display()))
}

/// Write a result: `-` is stdout; a file appears whole or not at all.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    if path == Path::new("-") {
        let mut out = std::io::stdout().lock();
        return match out.write_all(bytes).and_then(|()| out.flush()) {
            // The reader has seen enough (`hotgraft ... | head`).
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("cannot write to stdout"),
        };
    }
    write_file(path, |file| file.write_all(bytes).with_context(|| format!("{}: cannot write", path.display())))
}

/// Write a file through `write`; it appears whole or not at all. A link stays, and what it leads to is replaced;
/// what is no regular file (a device, a pipe) is written to: renamed over, `/dev/null` would be gone for everyone.
pub fn write_file(path: &Path, write: impl FnOnce(&mut std::fs::File) -> Result<()>) -> Result<()> {
    let about = || format!("{}: cannot write", path.display());
    let place = match std::fs::metadata(path) {
        Ok(place) if place.is_file() => std::fs::canonicalize(path).with_context(about)?,
        Ok(place) if !place.is_dir() => return write_stream(path, write),
        _ => path.to_owned(),
    };
    let folder = place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".hotgraft-").tempfile_in(folder).with_context(about)?;
    write(file.as_file_mut())?;
    let finish = || -> std::io::Result<()> {
        // What takes the place of something must not be lost with it when the power fails.
        if place.exists() {
            file.as_file().sync_all()?;
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        }
        file.persist(&place).map_err(|e| e.error)?;
        Ok(())
    };
    finish().with_context(about)
}

/// Let `write` fill a file without a name, then copy it to the device or pipe at `path`.
fn write_stream(path: &Path, write: impl FnOnce(&mut std::fs::File) -> Result<()>) -> Result<()> {
    let about = || format!("{}: cannot write", path.display());
    let mut file = tempfile::tempfile().with_context(about)?;
    write(&mut file)?;
    let mut copy = || -> std::io::Result<()> {
        file.rewind()?;
        std::io::copy(&mut file, &mut std::fs::File::options().write(true).open(path)?)?;
        Ok(())
    };
    copy().with_context(about)
}

/// Human text on stdout; colours are dropped where they are not wanted.
pub fn print_text(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

/// JSON with a final newline.
pub fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).context("cannot make JSON")?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, symlink};

    #[test]
    fn a_pipe_is_written_to_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read(pipe).unwrap()
        });
        write_bytes(&pipe, b"everything").unwrap();
        assert_eq!(reader.join().unwrap(), b"everything");
        assert!(std::fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    }

    #[test]
    fn a_link_stays_and_its_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "before").unwrap();
        symlink(&file, &link).unwrap();
        write_bytes(&link, b"after").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"after");
    }

    #[test]
    fn a_failed_run_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "before").unwrap();
        let failed = write_file(&file, |half| {
            half.write_all(b"half")?;
            anyhow::bail!("no more")
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"before");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing half-made is left");
        assert!(write_bytes(folder.path(), b"x").is_err(), "a folder is no place for a file");
        assert!(folder.path().is_dir());
    }
}
