//! `cargo xtask ci` and `cargo xtask setup`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::report::Report;
use crate::{command, hotgraft, python, root, say, test, tools};

/// The release of cargo-deny that is known to read our `deny.toml`.
const CARGO_DENY: &str = "0.20.2";

/// Installs or names whatever the tasks need: Debian packages and the Rust target.
///
/// # Errors
/// If something is missing and cannot be installed.
pub fn setup() -> Result<()> {
    let all: Vec<tools::Tool> =
        [tools::FIXTURES, tools::WINDOWS, tools::READERS, tools::CORPUS].into_iter().flatten().copied().collect();
    tools::need(&all)?;
    if command::exists("rustup") {
        command::quiet(hotgraft::rustup().args(["target", "add", hotgraft::WINDOWS]))?;
    }
    python::with_readers()?;
    python::validators()?;
    python::emulator()?;
    say::done("everything that the tasks need is there");
    Ok(())
}

/// All of `cargo xtask test`, then dependencies and documentation.
///
/// # Errors
/// If a check fails.
pub fn run() -> Result<()> {
    let mut report = Report::default();
    test::checks(&mut report, &[])?;
    say::step("dependencies and documentation");
    report.check("cargo deny", deny);
    report.check("documentation builds without a warning", || {
        let mut doc = hotgraft::cargo();
        doc.args(["doc", "--quiet", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
        command::quiet(&mut doc).map(drop)
    });
    report.close()
}

/// Checks licences, sources and duplicates; the tool is built once into the cache.
///
/// # Errors
/// If the tool cannot be built, or finds something.
pub fn deny() -> Result<()> {
    let path = cargo_deny()?;
    let mut deny = Command::new(path);
    deny.current_dir(root::repository());
    // Advisories need a database from elsewhere and change without us: they are not part of a build's result.
    deny.args(["--locked", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"]);
    command::quiet(&mut deny).map(drop)
}

fn cargo_deny() -> Result<PathBuf> {
    if command::exists("cargo-deny") {
        return Ok("cargo-deny".into());
    }
    let at = root::cache().join("tools").join(format!("cargo-deny-{CARGO_DENY}"));
    let path = at.join("bin/cargo-deny");
    if !path.is_file() {
        say::note(&format!("cargo-deny {CARGO_DENY} is built once, into {}", at.display()));
        let mut install = hotgraft::cargo();
        install.args([
            "install",
            "--quiet",
            "--locked",
            "cargo-deny",
            "--no-default-features",
            "--version",
            CARGO_DENY,
        ]);
        install.arg("--root").arg(&at);
        // The release profile of that crate asks for link-time optimisation, which costs minutes and buys nothing here.
        install.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
        command::quiet(&mut install).context("cargo-deny does not build")?;
    }
    Ok(path)
}
