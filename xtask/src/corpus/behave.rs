//! Does the patched old program do what the new one does?

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::inputs::{self, Case};
use super::step::Built;
use crate::wine::{self, Wine};

/// The programs to run for a fix: those it changed, and with `all` one that uses a changed DLL.
pub fn programs(fix: &Built, all: bool) -> Vec<String> {
    let mut programs: Vec<String> = fix.step.images.iter().filter(|image| image.ends_with(".exe")).cloned().collect();
    if all && programs.is_empty() {
        programs.extend(
            inputs::users_of(&fix.step.images)
                .iter()
                .filter(|name| fix.folder.join("old").join(name).is_file())
                .map(|name| (*name).to_owned()),
        );
    }
    programs.retain(|program| inputs::knows(program));
    programs
}

/// What one run left behind.
#[derive(PartialEq, Eq)]
pub struct Seen {
    pub code: i32,
    pub stdout: String,
    files: BTreeMap<String, Vec<u8>>,
}

/// Runs the program with each input, old with the patches and new without; returns a summary.
///
/// # Errors
/// At the first input where they differ.
pub fn compare(
    wine: &Wine,
    hotgraft: &Path,
    fix: &Built,
    program: &str,
    patches: &[PathBuf],
    count: u32,
) -> Result<String> {
    let (mut succeeded, mut failed, mut told) = (0, 0, 0);
    for index in 0..count {
        let case = inputs::case(program, index);
        let old = once(wine, fix, "old", program, &case, Some((hotgraft, patches)))?;
        let new = once(wine, fix, "new", program, &case, None)?;
        let what = format!("input {index} ({} {})", case.name, case.arguments.join(" "));
        ensure!(old.code == new.code, "{what}: exit code {} instead of {}", old.code, new.code);
        ensure!(old.stdout == new.stdout, "{what}: other output: {:?} instead of {:?}", old.stdout, new.stdout);
        ensure!(old.files == new.files, "{what}: other files");
        if new.code == 0 {
            succeeded += 1;
        } else {
            failed += 1;
        }
        // Is the fix of consequence at all for these inputs?
        told += usize::from(once(wine, fix, "old", program, &case, None)? != new);
    }
    Ok(format!("{count} inputs alike ({succeeded} succeed, {failed} fail; {told} tell the old build from the new)"))
}

fn once(
    wine: &Wine,
    fix: &Built,
    side: &str,
    program: &str,
    case: &Case,
    patched: Option<(&Path, &[PathBuf])>,
) -> Result<Seen> {
    let desk = Desk::lay_out(fix, side, program, case)?;
    let at = desk.path();
    let done = match patched {
        None => wine.run(at, program, &case.arguments)?,
        Some((hotgraft, patches)) => {
            let mut arguments = vec!["run".to_owned(), "--quiet".to_owned(), "--allow-unsigned".to_owned()];
            for patch in patches {
                arguments.extend(["--patch".to_owned(), wine::path(patch)]);
            }
            arguments.extend(["--".to_owned(), program.to_owned()]);
            arguments.extend(case.arguments.iter().cloned());
            wine.run(at, &wine::path(hotgraft), arguments)?
        }
    };
    desk.seen(done.code, done.stdout)
}

/// A folder with a program, its DLLs and its input.
pub struct Desk {
    folder: tempfile::TempDir,
    /// What is no result.
    laid_out: Vec<String>,
}

impl Desk {
    /// The program beside its DLLs, to be run by a relative name: some programs print the name that they were started by.
    ///
    /// # Errors
    /// If a file cannot be copied.
    pub fn lay_out(fix: &Built, side: &str, program: &str, case: &Case) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for (name, bytes) in &case.files {
            fs::write(folder.path().join(name), bytes)?;
        }
        let mut laid_out = vec![program.to_owned()];
        for entry in fs::read_dir(fix.folder.join(side))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".dll") {
                laid_out.push(name);
            }
        }
        for name in &laid_out {
            fs::copy(fix.folder.join(side).join(name), folder.path().join(name))
                .with_context(|| format!("cannot copy {name}"))?;
        }
        Ok(Self { folder, laid_out })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What a run that has ended left behind.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn seen(self, code: i32, stdout: String) -> Result<Seen> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(self.path())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !self.laid_out.contains(&name) {
                files.insert(name, fs::read(entry.path()).context("cannot read an output file")?);
            }
        }
        Ok(Seen { code, stdout, files })
    }
}
