//! `hotgraft diff --format html`: one self-contained page.

use anyhow::{Context, Result};
use askama::Template;
use hotgraft_diff::report::{self, Entry, Place, Side, Summary};
use hotgraft_diff::{Comparison, Status, align};
use hotgraft_program::Program;

#[derive(Template)]
#[template(path = "diff.html")]
struct Page {
    old: Side,
    new: Side,
    summary: Summary,
    image: Vec<Line>,
    objects: Vec<Row>,
    changed: Vec<Row>,
    /// All functions as a JSON array for the page's script.
    rows: String,
}

struct Line {
    key: String,
    text: String,
}

struct Row {
    status: &'static str,
    name: String,
    old: String,
    new: String,
    source: String,
    matched: String,
    changes: Vec<Line>,
    lines: Vec<Aligned>,
}

struct Aligned {
    kind: String,
    old: String,
    new: String,
}

/// The page of a comparison.
pub fn page(old: &Program, new: &Program, comparison: &Comparison) -> Result<String> {
    let document = report::json(old, new, comparison, 0.0);
    let all: Vec<[String; 7]> = document.functions.iter().map(cells).collect();
    let rows = serde_json::to_string(&all).context("cannot make JSON")?.replace('<', "\\u003c");
    let mut changed = Vec::new();
    for (entry, pair) in document.functions.iter().zip(&comparison.functions) {
        if pair.status == Status::Identical {
            continue;
        }
        let mut row = row(entry);
        if let (Some(a), Some(b)) = (pair.old, pair.new) {
            row.lines = align::listing(old, a, new, b)
                .iter()
                .map(|l| Aligned { kind: format!("{:?}", l.kind), old: instruction(&l.old), new: instruction(&l.new) })
                .collect();
        }
        changed.push(row);
    }
    let objects = document.objects.iter().filter(|o| o.status != Status::Identical).map(row).collect();
    let image = document.image.iter().map(|c| Line { key: c.key.to_string(), text: c.text.clone() }).collect();
    let page = Page { old: document.old, new: document.new, summary: document.summary, image, objects, changed, rows };
    page.render().context("cannot make the page")
}

fn instruction(side: &Option<(u32, String)>) -> String {
    side.as_ref().map(|(rva, text)| format!("{rva:8x}  {text}")).unwrap_or_default()
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Identical => "identical",
        Status::Changed => "changed",
        Status::Added => "added",
        Status::Removed => "removed",
    }
}

fn place(place: &Option<Place>) -> (String, String) {
    place.as_ref().map(|p| (format!("{:#x}", p.rva), p.size.to_string())).unwrap_or_default()
}

fn label(entry: &Entry) -> String {
    let rva = entry.old.as_ref().or(entry.new.as_ref()).map_or(0, |p| p.rva);
    entry.name.clone().unwrap_or_else(|| format!("sub_{rva:x}"))
}

fn matched(entry: &Entry) -> String {
    entry.matched.map(|m| format!("{:?} {:.2}", m.by, m.score)).unwrap_or_default()
}

fn cells(entry: &Entry) -> [String; 7] {
    let ((a, b), (c, d)) = (place(&entry.old), place(&entry.new));
    [word(entry.status).to_owned(), label(entry), a, b, c, d, matched(entry)]
}

fn row(entry: &Entry) -> Row {
    Row {
        status: word(entry.status),
        name: label(entry),
        old: place(&entry.old).0,
        new: place(&entry.new).0,
        source: entry.source.as_ref().map(|s| format!("{}:{}", s.file, s.line)).unwrap_or_default(),
        matched: matched(entry),
        changes: entry.changes.iter().map(|c| Line { key: c.key.to_string(), text: c.text.clone() }).collect(),
        lines: Vec::new(),
    }
}
