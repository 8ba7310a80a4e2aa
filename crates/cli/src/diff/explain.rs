//! `hotgraft diff --explain`: both sides of one function, aligned by block and by instruction, references named.

use crate::output::Stop;
use anyhow::Result;
use hotgraft_diff::align::{self, Line, LineKind};
use hotgraft_diff::graph::{self, Fate, Graph};
use hotgraft_diff::{Comparison, FunctionPair, Match, Status, label};
use hotgraft_program::{FunctionId, Program};
use serde::Serialize;
use std::fmt::Write;

/// The JSON document.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    schema: &'static str,
    functions: Vec<Explained>,
}

impl Document {
    pub(super) fn of(functions: Vec<Explained>) -> Self {
        Document { schema: "hotgraft.explain/1", functions }
    }
}

/// One function.
#[derive(Debug, Serialize)]
pub(super) struct Explained {
    name: String,
    old: Option<Place>,
    new: Option<Place>,
    status: Status,
    #[serde(rename = "match")]
    matched: Option<Match>,
    changes: Vec<Difference>,
    /// Blocks by old, then new place; those that became each other together.
    blocks: Vec<BlockPair>,
    lines: Vec<Row>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Place {
    rva: u32,
    size: u32,
}

#[derive(Debug, Serialize)]
struct Difference {
    key: &'static str,
    old_rva: Option<u32>,
    new_rva: Option<u32>,
    text: String,
}

/// Blocks that became each other, by the place of their first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct BlockPair {
    old_rva: Option<u32>,
    new_rva: Option<u32>,
    fate: &'static str,
}

#[derive(Debug, Serialize)]
struct Row {
    kind: LineKind,
    old: Option<Instruction>,
    new: Option<Instruction>,
}

#[derive(Debug, Serialize)]
struct Instruction {
    rva: u32,
    text: String,
    /// True if a block begins here.
    leads: bool,
}

/// All functions of that name.
pub(super) fn find(old: &Program, new: &Program, comparison: &Comparison, name: &str) -> Result<Vec<Explained>> {
    let named = |program: &Program, id| label::is_called(program, id, name);
    let called = |p: &&FunctionPair| p.old.is_some_and(|f| named(old, f)) || p.new.is_some_and(|f| named(new, f));
    let found: Vec<Explained> =
        comparison.functions.iter().filter(called).map(|pair| explained(old, new, pair)).collect();
    if found.is_empty() {
        return Err(Stop::failed(
            format!("neither image has a function named {name}"),
            "`hotgraft inspect --functions` lists them; functions without a name are called sub_RVA",
        ));
    }
    Ok(found)
}

fn explained(old: &Program, new: &Program, pair: &FunctionPair) -> Explained {
    let names = [pair.old.map(|f| label::function(old, f)), pair.new.map(|f| label::function(new, f))];
    let place = |program: &Program, id: FunctionId| {
        let f = &program.functions[id.index()];
        Place { rva: f.rva(), size: f.size() }
    };
    let (lines, graphs) = match (pair.old, pair.new) {
        (Some(a), Some(b)) => {
            let mut lines = align::listing(old, a, new, b);
            graph::mark(&mut lines, &pair.changes);
            let graphs = graph::pair(old, a, new, b, &lines);
            (lines, graphs)
        }
        (a, b) => {
            (alone(a.map(|a| align::disassembly(old, a)), b.map(|b| align::disassembly(new, b))), Default::default())
        }
    };
    let [x, y] = &graphs;
    let leads = |graph: &Graph, row: usize| graph.blocks.iter().any(|b| b.first == row);
    let blocks = blocks(&lines, x, y);
    let lines = lines
        .into_iter()
        .enumerate()
        .map(|(row, line)| {
            let side = |place: Option<(u32, String)>, graph| {
                place.map(|(rva, text)| Instruction { rva, text, leads: leads(graph, row) })
            };
            Row { kind: line.kind, old: side(line.old, x), new: side(line.new, y) }
        })
        .collect();
    Explained {
        name: names.into_iter().flatten().next().unwrap_or_default(),
        old: pair.old.map(|f| place(old, f)),
        new: pair.new.map(|f| place(new, f)),
        status: pair.status,
        matched: pair.matched,
        changes: pair
            .changes
            .iter()
            .map(|c| Difference { key: c.key, old_rva: c.old_rva, new_rva: c.new_rva, text: c.text.clone() })
            .collect(),
        blocks,
        lines,
    }
}

/// The listing of a function that only one side has.
fn alone(old: Option<Vec<(u32, String)>>, new: Option<Vec<(u32, String)>>) -> Vec<Line> {
    let removed = old.into_iter().flatten().map(|i| Line { kind: LineKind::Removed, old: Some(i), new: None });
    let inserted = new.into_iter().flatten().map(|i| Line { kind: LineKind::Inserted, old: None, new: Some(i) });
    removed.chain(inserted).collect()
}

/// Blocks of both sides; each is named once.
fn blocks(lines: &[Line], x: &Graph, y: &Graph) -> Vec<BlockPair> {
    let old = |n: usize| lines[x.blocks[n].first].old.as_ref().map(|i| i.0);
    let new = |n: usize| lines[y.blocks[n].first].new.as_ref().map(|i| i.0);
    let fate = |fate: Fate| match fate {
        Fate::Same => "same",
        Fate::Changed => "changed",
        Fate::Alone => "alone",
    };
    let mut out: Vec<BlockPair> = Vec::with_capacity(x.blocks.len().max(y.blocks.len()));
    for (n, block) in x.blocks.iter().enumerate() {
        out.push(BlockPair { old_rva: old(n), new_rva: block.peer.and_then(new), fate: fate(block.fate) });
    }
    for (n, block) in y.blocks.iter().enumerate() {
        let named = x.blocks.iter().any(|b| b.peer == Some(n));
        if !named {
            out.push(BlockPair { old_rva: block.peer.and_then(old), new_rva: new(n), fate: fate(block.fate) });
        }
    }
    out.sort();
    out
}

/// The report for people.
pub(super) fn text(found: &[Explained]) -> String {
    let mut out = String::new();
    for function in found {
        let evidence =
            function.matched.map(|m| format!(", matched by {:?} ({:.2})", m.by, m.score)).unwrap_or_default();
        let _ = writeln!(out, "{}: {:?}{evidence}", function.name, function.status);
        for change in &function.changes {
            let _ = writeln!(out, "  {}: {}", change.key, change.text);
        }
        for row in &function.lines {
            let leads = |side: &Option<Instruction>| side.as_ref().filter(|i| i.leads).map(|i| i.rva);
            let (old, new) = (leads(&row.old), leads(&row.new));
            if old.is_some() || new.is_some() {
                out.push_str(&head(&function.blocks, old, new));
            }
            out.push_str(&side_by_side(row));
        }
    }
    out
}

const WIDTH: usize = 58;

/// A line above the first instruction of a block.
fn head(blocks: &[BlockPair], old: Option<u32>, new: Option<u32>) -> String {
    let of = |rva: Option<u32>, side: fn(&BlockPair) -> Option<u32>| {
        blocks.iter().find(|b| rva.is_some() && side(b) == rva).map_or("", |b| b.fate)
    };
    let title = |rva: Option<u32>, fate: &str| rva.map(|r| format!("{r:8x}: block, {fate}")).unwrap_or_default();
    let (left, right) = (title(old, of(old, |b| b.old_rva)), title(new, of(new, |b| b.new_rva)));
    let style = anstyle::Style::new().dimmed();
    format!("{style}{left:<WIDTH$}   {right}{style:#}\n")
}

fn side_by_side(row: &Row) -> String {
    let (mark, style) = match row.kind {
        LineKind::Same => (" ", anstyle::Style::new()),
        LineKind::Changed => ("|", anstyle::AnsiColor::Yellow.on_default()),
        LineKind::Removed => ("<", anstyle::AnsiColor::Red.on_default()),
        LineKind::Inserted => (">", anstyle::AnsiColor::Green.on_default()),
    };
    let side = |side: &Option<Instruction>| {
        let text = side.as_ref().map(|i| format!("{:8x}  {}", i.rva, i.text)).unwrap_or_default();
        if text.chars().count() > WIDTH { text.chars().take(WIDTH - 1).chain(['…']).collect() } else { text }
    };
    format!("{style}{:<WIDTH$} {mark} {}{style:#}\n", side(&row.old), side(&row.new))
}
