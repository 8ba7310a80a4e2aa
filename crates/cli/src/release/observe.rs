//! `hotgraft release observe`: what this machine has on its disk and in its memory.

use super::args::ObserveArgs;
use crate::output::{self, Exit, Stop};
use anyhow::{Context, Result, ensure};
use hotgraft_release::machine::{File, Machine, SCHEMA};
use hotgraft_release::{Time, observe};
use hotgraft_signer::UnixTime;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Run the command.
pub fn observe(args: &ObserveArgs) -> Result<Exit> {
    let mut attributes = system::attributes();
    for stated in &args.attributes {
        let (name, value) = match stated.split_once('=') {
            None | Some((_, "true")) => (stated.split('=').next().unwrap_or(stated), true),
            Some((name, "false")) => (name, false),
            Some(_) => return Err(Stop::failed(format!("--attribute {stated}"), "give NAME, NAME=true or NAME=false")),
        };
        attributes.insert(name.to_owned(), value);
    }
    let machine = match &args.machine {
        Some(id) => id.clone(),
        None => system::name().context("this machine has no name; give --machine ID")?,
    };
    let disk = disk(&args.files)?;
    let mut staged = BTreeSet::new();
    for path in &args.staged {
        staged.insert(observe::file("", &output::read(path)?).sha256);
    }
    let status = disk
        .iter()
        .map(|file| Ok(json!({ "image": file.name, "document": system::status(&file.name)? })))
        .collect::<Result<Vec<Value>>>()?;
    let document = output::json(&json!({
        "schema": SCHEMA,
        "machine": machine,
        "time": Time(UnixTime::now()),
        "os": system::os(),
        "attributes": attributes,
        "disk": disk,
        "staged": staged,
        "status": status,
    }))?;
    // What plan and export would not take is not written.
    Machine::read("what was observed", &document)?;
    output::write_bytes(&args.output, &document)?;
    Ok(Exit::Done)
}

/// The named files, and the images of the named folders, by name.
fn disk(paths: &[PathBuf]) -> Result<Vec<File>> {
    let mut files = BTreeMap::new();
    for path in paths {
        let found = if path.is_dir() { images_below(path)? } else { vec![path.clone()] };
        for path in found {
            let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
            let file = observe::file(&name, &output::read(&path)?);
            if let Some(other) = files.insert(name.to_lowercase(), file.clone()) {
                ensure!(other == file, "{}: there is another {name}, with other content", path.display());
            }
        }
    }
    ensure!(!files.is_empty(), "the folders hold no image (exe, dll)");
    Ok(files.into_values().collect())
}

fn images_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_image = |path: &Path| {
        path.extension().is_some_and(|end| end.eq_ignore_ascii_case("exe") || end.eq_ignore_ascii_case("dll"))
    };
    let (mut images, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry.with_context(|| folder.display().to_string())?;
            // Links and junctions could lead round in circles, and out of the product.
            let kind = entry.file_type().with_context(|| entry.path().display().to_string())?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && is_image(&entry.path()) {
                images.push(entry.path());
            }
        }
    }
    images.sort();
    Ok(images)
}

#[cfg(windows)]
mod system {
    use hotgraft_engine::windows::doctor;
    use hotgraft_release::machine::OperatingSystem;
    use std::collections::BTreeMap;

    pub fn name() -> Option<String> {
        std::env::var("COMPUTERNAME").ok()
    }

    pub fn attributes() -> BTreeMap<String, bool> {
        let facts = doctor::facts();
        let known = [("vbs", facts.vbs), ("hvci", facts.hvci)];
        known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    pub fn os() -> Option<OperatingSystem> {
        let facts = doctor::facts();
        let (major, minor, build) = facts.version?;
        let name = if facts.wine { "Wine" } else { "Windows" };
        Some(OperatingSystem { name: name.to_owned(), version: format!("{major}.{minor}.{build}") })
    }

    pub use crate::live::status_of_image as status;
}

#[cfg(not(windows))]
mod system {
    use super::{Result, Stop, Value};
    use hotgraft_release::machine::OperatingSystem;
    use std::collections::BTreeMap;

    pub fn name() -> Option<String> {
        None
    }

    pub fn attributes() -> BTreeMap<String, bool> {
        BTreeMap::new()
    }

    pub fn os() -> Option<OperatingSystem> {
        None
    }

    pub fn status(_: &str) -> Result<Value> {
        Err(Stop::failed(
            "`hotgraft release observe` reads the memory of Windows processes, and this is not the Windows build",
            "use hotgraft.exe on the machine that runs them; with Wine: wine64 hotgraft.exe ...",
        ))
    }
}
