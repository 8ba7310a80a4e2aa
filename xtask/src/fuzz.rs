//! `cargo xtask fuzz`: the targets of `fuzz/`, each for a while.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::{command, hotgraft, root, say};

/// Runs each target (or the named ones) for `seconds`, starting from the fixtures.
///
/// # Errors
/// If cargo-fuzz or a nightly toolchain is missing, or a target crashes.
pub fn run(names: &[String], seconds: u32) -> Result<()> {
    ensure!(
        command::exists("cargo-fuzz"),
        "missing: cargo-fuzz. `rustup toolchain install nightly && cargo install --locked cargo-fuzz`"
    );
    let folder = root::repository().join("fuzz/fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|end| end == "rs") && (names.is_empty() || names.contains(&name)) {
            targets.push(name);
        }
    }
    targets.sort();
    ensure!(!targets.is_empty(), "no such fuzz target");
    for target in targets {
        say::step(&format!("{target}, {seconds} s"));
        let mut fuzz = hotgraft::rustup();
        fuzz.args(["run", "nightly", "cargo", "fuzz", "run", &target, "--", "-rss_limit_mb=4096"]);
        fuzz.arg(format!("-max_total_time={seconds}")).current_dir(root::repository());
        command::loud(&mut fuzz)?;
    }
    Ok(())
}
