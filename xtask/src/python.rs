//! A Python interpreter with independent readers of signed files (LIEF, signify), made once in the cache.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, root, say, tools};

/// The releases that the tests were written against.
const PACKAGES: [&str; 2] = ["lief==1.0.0", "signify==0.9.3"];

/// The interpreter; made if it is not there yet.
///
/// # Errors
/// If it cannot be made, or the packages cannot be had.
pub fn with_readers() -> Result<PathBuf> {
    let at = root::cache().join("tools/python");
    let python = at.join("bin/python");
    let imports =
        |python: &PathBuf| command::quiet(Command::new(python).args(["-c", "import lief, signify"])).map(drop);
    if python.is_file() && imports(&python).is_ok() {
        return Ok(python);
    }
    say::note(&format!("{} are put into {}, once", PACKAGES.join(" and "), at.display()));
    // Debian splits what makes an environment from the interpreter.
    if command::quiet(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_err() {
        tools::install(&["python3-venv"])?;
    }
    command::quiet(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&at))?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    command::quiet(&mut install).context("the packages cannot be installed")?;
    imports(&python)?;
    Ok(python)
}
