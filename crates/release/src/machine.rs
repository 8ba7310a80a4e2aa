//! What a machine says of itself: the files that it has, and what `hotgraft status` read from memory for each image of the
//! product.

use crate::catalog::Identity;
use crate::error::{Error, Result};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Name and version of the document.
pub const SCHEMA: &str = "hotgraft.machine/1";

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// [`SCHEMA`].
    pub schema: String,
    /// Its id: the same for ever.
    pub machine: String,
    /// When it was looked at.
    pub time: Option<Time>,
    /// What it runs.
    #[serde(default)]
    pub os: Option<OperatingSystem>,
    /// What it has or is: names to yes or no.
    #[serde(default)]
    pub attributes: BTreeMap<String, bool>,
    /// Files of the product.
    pub disk: Vec<File>,
    /// SHA-256 of patches that are applied to an image as soon as it is loaded.
    #[serde(default)]
    pub staged: BTreeSet<String>,
    /// For each image that was looked for: what `hotgraft status --image NAME --format json` said.
    pub status: Vec<Looked>,
}

/// An operating system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatingSystem {
    /// `Windows`, or `Wine`.
    pub name: String,
    /// Version, like `10.0.26100`.
    pub version: String,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Name without folder.
    pub name: String,
    /// SHA-256.
    pub sha256: String,
    /// The version that the file states, as scanners read it.
    #[serde(default)]
    pub version: Option<String>,
}

/// What was found of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// Name of the image.
    pub image: String,
    /// The document of `hotgraft status`.
    pub document: Status,
}

/// `hotgraft.status/1`, as far as it is needed here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `hotgraft.status/1`.
    pub schema: String,
    /// Processes.
    pub processes: Vec<Process>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Id.
    pub pid: u32,
    /// Name.
    pub name: String,
    /// Why it could not be read.
    pub error: Option<String>,
    /// Images.
    pub images: Vec<Instance>,
}

/// An image in a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Name.
    pub name: String,
    /// Address (VA).
    pub address: u64,
    /// Which build it is.
    pub identity: Identity,
    /// Sequence that is wholly active.
    pub active: Option<u32>,
    /// Worst state of its patches.
    pub state: Option<String>,
    /// Patches in memory.
    pub patches: Vec<InMemory>,
}

/// A patch in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InMemory {
    /// Sequence.
    pub sequence: u32,
    /// State.
    pub state: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Whether it can be rolled back.
    pub revertible: bool,
}

impl Machine {
    /// Reads a machine's document.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn read(file: &str, bytes: &[u8]) -> Result<Machine> {
        let machine: Machine = serde_json::from_slice(bytes)
            .map_err(|e| Error::malformed(file, format!("a machine's state, {SCHEMA} ({e})")))?;
        if machine.schema != SCHEMA {
            return Err(Error::malformed(file, format!("schema {SCHEMA}, not {}", machine.schema)));
        }
        if machine.machine.is_empty() || machine.machine.len() > 256 || machine.machine.chars().any(char::is_control) {
            return Err(Error::malformed(file, "the id of a machine, of 1 to 256 characters"));
        }
        if let Some(looked) = machine.status.iter().find(|looked| looked.document.schema != "hotgraft.status/1") {
            return Err(Error::malformed(
                file,
                format!("hotgraft.status/1 of {}, not {}", looked.image, looked.document.schema),
            ));
        }
        Ok(machine)
    }

    /// Reads one document to a line; empty lines count for nothing.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the number of the line.
    pub fn read_lines(file: &str, text: &str) -> Result<Vec<Machine>> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines.map(|(index, line)| Machine::read(&format!("{file}, line {}", index + 1), line.as_bytes())).collect()
    }
}
