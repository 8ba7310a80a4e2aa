//! Functions of a source tree as universal-ctags sees them: the truth that does not come from binaries.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;

/// A function's text by file and name, its white space made one.
pub type Texts = BTreeMap<(String, String), String>;

/// The functions in these files.
///
/// # Errors
/// If ctags cannot be run.
pub fn functions(root: &Path, files: &[String]) -> Result<Texts> {
    let ends = [".c", ".cc", ".cpp", ".cxx", ".h"];
    let files: Vec<&String> =
        files.iter().filter(|file| ends.iter().any(|end| file.ends_with(end)) && root.join(file).is_file()).collect();
    let mut found = Texts::new();
    if files.is_empty() {
        return Ok(found);
    }
    let mut ctags = command::at(root, "ctags");
    ctags.args([
        "--output-format=json",
        "--fields=+ne",
        "--kinds-C=f",
        "--kinds-C++=f",
        "--languages=C,C++",
        "-f",
        "-",
    ]);
    for line in command::quiet(ctags.args(&files))?.lines() {
        let tag: Value = serde_json::from_str(line).context("ctags printed no JSON")?;
        let (Some(path), Some(name)) = (tag["path"].as_str(), tag["name"].as_str()) else { continue };
        let (Some(first), Some(last)) = (tag["line"].as_u64(), tag["end"].as_u64()) else { continue };
        let bytes = fs::read(root.join(path))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (skip, end) = (usize::try_from(first)?.saturating_sub(1), usize::try_from(last)?);
        let body: Vec<&str> = text.lines().take(end).skip(skip).flat_map(str::split_whitespace).collect();
        found.insert((path.to_owned(), name.to_owned()), body.join(" "));
    }
    Ok(found)
}
