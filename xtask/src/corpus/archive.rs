//! The Debian archive's source packages.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

const LIST: &str = "/etc/apt/sources.list.d/debian.sources";
const OURS: &str = "/etc/apt/sources.list.d/source-packages.sources";

/// Makes `apt-get source` work: the entries for source packages follow the machine's own for binary ones.
///
/// # Errors
/// If the machine has no such entries, or they cannot be written.
pub fn enable_source_packages() -> Result<()> {
    if Path::new(OURS).is_file() {
        return Ok(());
    }
    let text = fs::read_to_string(LIST).with_context(|| format!("cannot read {LIST}"))?;
    if text.lines().any(|line| line.starts_with("Types:") && line.contains("deb-src")) {
        return Ok(());
    }
    let lines: Vec<&str> =
        text.lines().map(|line| if line.starts_with("Types:") { "Types: deb-src" } else { line }).collect();
    fs::write(OURS, lines.join("\n") + "\n").with_context(|| format!("cannot write {OURS}"))?;
    command::quiet(Command::new("apt-get").args(["update", "-qq"])).map(drop)
}
