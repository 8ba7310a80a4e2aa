//! `hotgraft diff --format html`: one self-contained page.
//!
//! What a changed function looks like (listing and graphs) is data in the page, which the browser reads and draws when
//! somebody opens the function: so a page of ten thousand functions opens as fast as one of ten.

mod layout;

use anyhow::{Context, Result};
use askama::Template;
use hotgraft_diff::report::{self, Entry, Place, Side, Summary};
use hotgraft_diff::{Comparison, FunctionPair, Status, align, graph};
use hotgraft_program::Program;
use hotgraft_program::code::EdgeKind;
use rayon::prelude::*;
use serde::Serialize;

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
    /// A [`View`] as JSON on each line. One element holds them all: a browser takes many times as long to read a page
    /// that has ten thousand of them.
    views: String,
    letter: f64,
    line: f64,
    padding: f64,
    widest: usize,
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
    /// Position in the page's views; none for what is only on one side.
    view: Option<usize>,
}

/// What the page's script draws of one changed function.
#[derive(Serialize)]
struct View {
    /// Kind, old text, new text.
    lines: Vec<(align::LineKind, String, String)>,
    /// Old and new.
    graphs: [Picture; 2],
}

type Points = Vec<(i32, i32)>;

/// A graph as drawn, in pixels.
#[derive(Serialize)]
struct Picture {
    size: (i32, i32),
    /// Left, top, first row of the listing, last row, what became of it, the other side's block.
    blocks: Vec<(i32, i32, usize, usize, graph::Fate, Option<usize>)>,
    /// From, to, why, and the points of the line.
    edges: Vec<(usize, usize, &'static str, Points)>,
}

/// Pixels of a letter and of a line in a block, and what is around them. The page's script has the same.
const LETTER: f64 = 6.1;
const LINE: f64 = 13.0;
const PADDING: f64 = 6.0;
/// Letters of a line that a block shows; the listing has all.
const WIDEST: usize = 64;

/// The page of a comparison.
pub fn page(old: &Program, new: &Program, comparison: &Comparison) -> Result<String> {
    let document = report::json(old, new, comparison, 0.0);
    let all: Vec<[String; 7]> = document.functions.iter().map(cells).collect();
    let rows = embedded(&all)?;
    let differing: Vec<(&Entry, &FunctionPair)> =
        document.functions.iter().zip(&comparison.functions).filter(|(_, p)| p.status != Status::Identical).collect();
    let mut drawn = differing.par_iter().map(|(_, pair)| view(old, new, pair)).collect::<Result<Vec<_>>>()?;
    let mut views = Vec::new();
    let changed = differing.iter().zip(&mut drawn).map(|((entry, _), drawn)| {
        let view = drawn.take().map(|drawn| {
            views.push(drawn);
            views.len() - 1
        });
        Row { view, ..row(entry) }
    });
    let changed = changed.collect();
    let views = views.join("\n");
    let objects = document.objects.iter().filter(|o| o.status != Status::Identical).map(row).collect();
    let image = document.image.iter().map(|c| Line { key: c.key.to_string(), text: c.text.clone() }).collect();
    let page = Page {
        old: document.old,
        new: document.new,
        summary: document.summary,
        image,
        objects,
        changed,
        rows,
        views,
        letter: LETTER,
        line: LINE,
        padding: PADDING,
        widest: WIDEST,
    };
    page.render().context("cannot make the page")
}

/// JSON that can stand in a script element.
fn embedded(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(value).context("cannot make JSON")?.replace('<', "\\u003c"))
}

fn view(old: &Program, new: &Program, pair: &FunctionPair) -> Result<Option<String>> {
    let (Some(a), Some(b)) = (pair.old, pair.new) else { return Ok(None) };
    let mut lines = align::listing(old, a, new, b);
    graph::mark(&mut lines, &pair.changes);
    let [before, after] = graph::pair(old, a, new, b, &lines);
    let graphs = [picture(&before, &lines, |l| &l.old), picture(&after, &lines, |l| &l.new)];
    let lines = lines.iter().map(|l| (l.kind, instruction(&l.old), instruction(&l.new))).collect();
    embedded(&View { lines, graphs }).map(Some)
}

fn picture(graph: &graph::Graph, lines: &[align::Line], side: fn(&align::Line) -> &Option<(u32, String)>) -> Picture {
    let size = |block: &graph::Block| {
        let texts = lines[block.first..=block.last].iter().filter_map(|l| side(l).as_ref());
        let letters = texts.map(|(_, text)| text.chars().count().min(WIDEST)).max().unwrap_or(0);
        (letters as f64 * LETTER + 2.0 * PADDING, block.instructions as f64 * LINE + 2.0 * PADDING)
    };
    let sizes: Vec<(f64, f64)> = graph.blocks.iter().map(size).collect();
    let ends: Vec<(usize, usize)> = graph.edges.iter().map(|e| (e.from, e.to)).collect();
    let drawing = layout::draw(&sizes, &ends);
    let blocks = graph.blocks.iter().zip(&drawing.nodes);
    let edges = graph.edges.iter().zip(drawing.edges).map(|(edge, route)| {
        let kind = match edge.kind {
            _ if route.back => "back",
            EdgeKind::Next => "next",
            EdgeKind::Branch => "branch",
            EdgeKind::Table => "table",
        };
        (edge.from, edge.to, kind, route.points)
    });
    Picture {
        size: drawing.size,
        blocks: blocks.map(|(b, (x, y))| (*x, *y, b.first, b.last, b.fate, b.peer)).collect(),
        edges: edges.collect(),
    }
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
        view: None,
    }
}
