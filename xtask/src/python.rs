//! Python interpreters with independent readers of what hotgraft writes, and the validators of npm; made once in the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, root, say, tools};

/// The releases that the tests were written against.
const PACKAGES: [&str; 4] = ["lief==1.0.0", "signify==0.9.3", "python-binexport==0.4.5", "python-bindiff==0.4.2"];

/// Validators of compliance documents: PyPI.
const VALIDATORS: [&str; 10] = [
    "tuf==7.0.1",
    "securesystemslib[crypto]==1.6.0",
    "cyclonedx-python-lib[json-validation]==11.12.0",
    "csaf-vex==0.1.0b5",
    "lib4vex==0.2.3",
    "py-ocsf-models==0.10.0",
    "prometheus-client==0.26.0",
    "vexipy==0.3.0",
    "tree-sitter==0.26.1",
    "tree-sitter-powershell==0.26.4",
];
/// Validators of compliance documents: npm.
const MODULES: [&str; 2] = ["@secvisogram/csaf-validator-lib@2.0.10", "@microsoft/sarif-multitool@5.7.0"];

/// Makes what validates the documents of `hotgraft release`, if it is not there yet: `release-python` and `release-node` in
/// the cache's tools, where the tests look for them.
///
/// # Errors
/// As [`with_readers`].
pub fn validators() -> Result<()> {
    let tools = root::cache().join("tools");
    environment(
        &tools.join("release-python"),
        &VALIDATORS,
        "import tuf, cyclonedx, csaf_vex, lib4vex, py_ocsf_models, prometheus_client, vexipy, tree_sitter_powershell",
    )?;
    let node = tools.join("release-node");
    if !node.join("node_modules/@microsoft/sarif-multitool-linux").is_dir()
        || !node.join("node_modules/@secvisogram").is_dir()
    {
        say::note(&format!("{} are put into {}, once", MODULES.join(" and "), node.display()));
        std::fs::create_dir_all(&node).with_context(|| format!("cannot make {}", node.display()))?;
        let mut install = command::at(&node, "npm");
        install.args(["install", "--silent", "--no-audit", "--no-fund"]).args(MODULES);
        command::quiet(&mut install).context("the modules cannot be installed")?;
    }
    Ok(())
}

/// The interpreter; made if it is not there yet.
///
/// # Errors
/// If it cannot be made, or the packages cannot be had.
pub fn with_readers() -> Result<PathBuf> {
    environment(&root::cache().join("tools/python"), &PACKAGES, "import lief, signify, binexport, bindiff")
}

/// The emulator and the disassembler of the differential execution: test tools only, for the emulator's licence.
const EMULATOR: [&str; 2] = ["unicorn==2.1.4", "capstone==5.0.9"];

/// The interpreter that runs `testdata/emulation`; made if it is not there yet.
///
/// # Errors
/// As [`with_readers`].
pub fn emulator() -> Result<PathBuf> {
    environment(&root::cache().join("tools/emulator"), &EMULATOR, "import unicorn, capstone")
}

fn environment(at: &Path, packages: &[&str], imports: &str) -> Result<PathBuf> {
    let python = at.join("bin/python");
    let works = |python: &PathBuf| command::quiet(Command::new(python).args(["-c", imports])).map(drop);
    if python.is_file() && works(&python).is_ok() {
        return Ok(python);
    }
    say::note(&format!("{} are put into {}, once", packages.join(", "), at.display()));
    // Debian splits what makes an environment from the interpreter.
    if command::quiet(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_err() {
        tools::install(&["python3-venv"])?;
    }
    command::quiet(Command::new("python3").args(["-m", "venv", "--clear"]).arg(at))?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
    command::quiet(&mut install).context("the packages cannot be installed")?;
    works(&python)?;
    Ok(python)
}
