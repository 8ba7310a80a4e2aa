//! One fix: what `step.json` says.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::ctags::Texts;

/// One fix of one package.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Step {
    /// The package.
    pub package: String,
    /// The ids that the patch names.
    pub cve: Vec<String>,
    /// The patch's file name.
    pub patch: String,
    /// The folder's name, `NN-CVE`.
    pub step: String,
    /// What the source says.
    #[serde(default)]
    pub source_functions: Functions,
    /// The images that differ.
    #[serde(default)]
    pub images: Vec<String>,
    /// `built`, or why not.
    #[serde(default)]
    pub state: String,
}

/// Functions by what the fix did to their text.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Functions {
    /// Other text.
    pub changed: Vec<String>,
    /// New.
    pub added: Vec<String>,
    /// Gone.
    pub removed: Vec<String>,
}

impl Functions {
    /// What happened from one state of the sources to the next.
    pub fn between(before: &Texts, after: &Texts) -> Self {
        let names = |texts: &Texts, keep: &dyn Fn(&(String, String), &String) -> bool| {
            let mut names: Vec<String> =
                texts.iter().filter(|(key, text)| keep(key, text)).map(|((_, name), _)| name.clone()).collect();
            names.sort();
            names.dedup();
            names
        };
        Self {
            changed: names(before, &|key, text| after.get(key).is_some_and(|new| new != text)),
            added: names(after, &|key, _| !before.contains_key(key)),
            removed: names(before, &|key, _| !after.contains_key(key)),
        }
    }
}

/// A fix whose images were built, and where they are.
#[derive(Clone, Debug)]
pub struct Built {
    /// The fix.
    pub step: Step,
    /// The optimisation level that it was built with.
    pub level: String,
    /// The folder with `old` and `new`.
    pub folder: PathBuf,
}

/// All built fixes in `root/PACKAGE/STEP`, in order.
///
/// # Errors
/// If a folder cannot be listed, or a `step.json` is malformed.
pub fn all(root: &Path, level: &str, packages: &[String]) -> Result<Vec<Built>> {
    let mut found = Vec::new();
    for package in folders(root)? {
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !packages.is_empty() && !packages.contains(&name) {
            continue;
        }
        for folder in folders(&package)? {
            let file = folder.join("step.json");
            if !file.is_file() {
                continue;
            }
            let text = fs::read_to_string(&file)?;
            let step = serde_json::from_str(&text).with_context(|| format!("{} is malformed", file.display()))?;
            found.push(Built { step, level: level.to_owned(), folder });
        }
    }
    Ok(found)
}

fn folders(at: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(at).with_context(|| format!("cannot list {}", at.display()))?;
    let mut found: Vec<PathBuf> =
        entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).filter(|path| path.is_dir()).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Functions, Texts};

    #[test]
    fn functions_are_told_apart_by_file_and_text() {
        let texts = |list: &[(&str, &str, &str)]| -> Texts {
            list.iter().map(|(file, name, text)| (((*file).into(), (*name).into()), (*text).into())).collect()
        };
        let before = texts(&[("a.c", "same", "1"), ("a.c", "other", "1"), ("a.c", "gone", "1")]);
        let after = texts(&[("a.c", "same", "1"), ("a.c", "other", "2"), ("b.c", "same", "3")]);
        let functions = Functions::between(&before, &after);
        assert_eq!(functions.changed, ["other"]);
        assert_eq!(functions.added, ["same"]);
        assert_eq!(functions.removed, ["gone"]);
    }
}
