//! The document `hotgraft.diff/1`.

use crate::comparison::{Change, Comparison, Match, Status};
use crate::label;
use hotgraft_program::Program;
use serde::Serialize;

/// `hotgraft diff --format json`.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    /// `hotgraft.diff/1`.
    pub schema: &'static str,
    /// The old image.
    pub old: Side,
    /// The new image.
    pub new: Side,
    /// Every function of either side exactly once, sorted by old RVA, then new RVA.
    pub functions: Vec<Entry>,
    /// Every object of either side exactly once, sorted likewise.
    pub objects: Vec<Entry>,
    /// Differences of the image as a whole.
    pub image: Vec<ImageEntry>,
    /// Counts of functions.
    pub summary: Summary,
}

/// One of the two images.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// As given by the caller.
    pub path: String,
    /// Lower-case hexadecimal, of the file.
    pub sha256: String,
    /// `x64`, `arm64` or `x86`.
    pub machine: hotgraft_program::Architecture,
    /// Bytes of the file.
    pub size: u64,
    /// Functions found.
    pub functions: usize,
    /// True if a PDB was read.
    pub pdb: bool,
}

/// A function or object, with what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Name, if it has one (the new one, where both have).
    pub name: Option<String>,
    /// In the old image.
    pub old: Option<Place>,
    /// In the new image.
    pub new: Option<Place>,
    /// What became of it.
    pub status: Status,
    /// Why the two belong together.
    #[serde(rename = "match")]
    pub matched: Option<Match>,
    /// Source position of the first difference, else of the entry. Functions only.
    pub source: Option<Source>,
    /// Every difference.
    pub changes: Vec<EntryChange>,
}

/// Where something lies.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Place {
    /// First byte, from the image base.
    pub rva: u32,
    /// Bytes.
    pub size: u32,
}

/// Source position.
#[derive(Clone, Debug, Serialize)]
pub struct Source {
    /// File as in the PDB.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
}

/// Where a change is.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Position {
    /// In the old image.
    pub old_rva: Option<u32>,
    /// In the new image.
    pub new_rva: Option<u32>,
}

/// One difference.
#[derive(Clone, Debug, Serialize)]
pub struct EntryChange {
    /// Stable dotted key.
    pub key: &'static str,
    /// Where.
    pub at: Position,
    /// One sentence.
    pub text: String,
}

/// One difference of the image.
#[derive(Clone, Debug, Serialize)]
pub struct ImageEntry {
    /// Stable dotted key.
    pub key: &'static str,
    /// What it is about.
    pub subject: String,
    /// One sentence.
    pub text: String,
}

/// Counts of functions.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Summary {
    /// Equal through the correspondence.
    pub identical: usize,
    /// Matched and different.
    pub changed: usize,
    /// Only in the new image.
    pub added: usize,
    /// Only in the old image.
    pub removed: usize,
    /// Wall-clock seconds of the whole comparison, reading included.
    pub seconds: f64,
}

/// Source position of a change, or of the function's entry.
pub(super) fn source(old: &Program, new: &Program, c: &Comparison, pair: usize) -> Option<Source> {
    let pair = &c.functions[pair];
    let line = |p: &Program, rva: u32| p.source_line(rva).map(|s| Source { file: s.file, line: s.line });
    let first = pair.changes.first();
    first
        .and_then(|change| change.new_rva)
        .and_then(|rva| line(new, rva))
        .or_else(|| first.and_then(|change| change.old_rva).and_then(|rva| line(old, rva)))
        .or_else(|| pair.new.and_then(|id| line(new, new.functions[id.index()].rva())))
        .or_else(|| pair.old.and_then(|id| line(old, old.functions[id.index()].rva())))
}

/// The counts.
pub(super) fn summary(c: &Comparison, seconds: f64) -> Summary {
    let count = |status| c.functions.iter().filter(|p| p.status == status).count();
    Summary {
        identical: count(Status::Identical),
        changed: count(Status::Changed),
        added: count(Status::Added),
        removed: count(Status::Removed),
        seconds,
    }
}

/// The comparison as a document that serialises to `hotgraft.diff/1`.
pub fn json(old: &Program, new: &Program, c: &Comparison, seconds: f64) -> Document {
    let side = |p: &Program| Side {
        path: p.image.path.clone(),
        sha256: p.image.sha256.iter().map(|b| format!("{b:02x}")).collect(),
        machine: p.image.architecture,
        size: p.image.file_size,
        functions: p.functions.len(),
        pdb: p.has_pdb,
    };
    let changes = |all: &[Change]| -> Vec<EntryChange> {
        all.iter()
            .map(|c| EntryChange {
                key: c.key,
                at: Position { old_rva: c.old_rva, new_rva: c.new_rva },
                text: c.text.clone(),
            })
            .collect()
    };
    let functions = c
        .functions
        .iter()
        .enumerate()
        .map(|(n, pair)| {
            let (f, g) = (pair.old.map(|id| &old.functions[id.index()]), pair.new.map(|id| &new.functions[id.index()]));
            Entry {
                name: g.and_then(|g| g.name.clone()).or_else(|| f.and_then(|f| f.name.clone())),
                old: f.map(|f| Place { rva: f.rva(), size: f.size() }),
                new: g.map(|g| Place { rva: g.rva(), size: g.size() }),
                status: pair.status,
                matched: pair.matched,
                source: source(old, new, c, n),
                changes: changes(&pair.changes),
            }
        })
        .collect();
    let objects = c
        .objects
        .iter()
        .map(|pair| {
            let (o, p) = (pair.old.map(|id| &old.objects[id.index()]), pair.new.map(|id| &new.objects[id.index()]));
            let name = pair.new.map(|id| label::object(new, id)).or_else(|| pair.old.map(|id| label::object(old, id)));
            Entry {
                name,
                old: o.map(|o| Place { rva: o.rva, size: o.size }),
                new: p.map(|p| Place { rva: p.rva, size: p.size }),
                status: pair.status,
                matched: pair.matched,
                source: None,
                changes: changes(&pair.changes),
            }
        })
        .collect();
    let image = c
        .image
        .iter()
        .map(|i| ImageEntry { key: i.key, subject: i.subject.clone(), text: format!("{}: {}", i.subject, i.text) })
        .collect();
    Document {
        schema: "hotgraft.diff/1",
        old: side(old),
        new: side(new),
        functions,
        objects,
        image,
        summary: summary(c, seconds),
    }
}
