//! The control-flow graphs of two functions that correspond, with what became of each block.
//!
//! Blocks refer to the rows of the [listing](crate::align::listing), so the text of an instruction is there once.

use crate::align::{Line, LineKind};
use crate::comparison::Change;
use hotgraft_program::code::{Cfg, Context, EdgeKind, analyse_function};
use hotgraft_program::{FunctionId, Program};
use serde::Serialize;
use std::collections::BTreeMap;

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// All its instructions are the same, addresses apart.
    Same,
    /// Some of them differ.
    Changed,
    /// The other side has none of them.
    Alone,
}

/// A block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// First row of the listing.
    pub first: usize,
    /// Last row. Rows between that have nothing on this side are not part of the block.
    pub last: usize,
    /// Instructions.
    pub instructions: usize,
    /// What became of it.
    pub fate: Fate,
    /// The block of the other side that has most of its instructions.
    pub peer: Option<usize>,
}

/// Where control goes, by positions in `blocks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// From the end of this block.
    pub from: usize,
    /// To the start of this one.
    pub to: usize,
    /// Why.
    pub kind: EdgeKind,
}

/// The graph of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// Sorted by RVA, but the entry is the first.
    pub blocks: Vec<Block>,
    /// Sorted by `from`, then `to`.
    pub edges: Vec<Edge>,
}

/// Marks the rows whose addresses lead elsewhere, which an alignment alone calls the same.
pub fn mark(lines: &mut [Line], changes: &[Change]) {
    // Other differences are placed at the entry, whose instruction may well be the same.
    let leads = |c: &&Change| matches!(c.key, "function.reference.changed" | "function.string.changed");
    let rvas = |side: fn(&Change) -> Option<u32>| changes.iter().filter(leads).filter_map(side).collect::<Vec<u32>>();
    let sides = [rvas(|c| c.old_rva), rvas(|c| c.new_rva)];
    for line in lines.iter_mut().filter(|l| l.kind == LineKind::Same) {
        let named =
            |place: &Option<(u32, String)>, side: &[u32]| place.as_ref().is_some_and(|(rva, _)| side.contains(rva));
        if named(&line.old, &sides[0]) && named(&line.new, &sides[1]) {
            line.kind = LineKind::Changed;
        }
    }
}

/// The graphs of the old function `a` and the new function `b`, whose listing is `lines`.
pub fn pair(old: &Program, a: FunctionId, new: &Program, b: FunctionId, lines: &[Line]) -> [Graph; 2] {
    let (mut x, of_x) = side(old, a, lines, |l| &l.old);
    let (mut y, of_y) = side(new, b, lines, |l| &l.new);
    let mut common: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (i, j) in of_x.iter().zip(&of_y) {
        if let (Some(i), Some(j)) = (i, j) {
            *common.entry((*i, *j)).or_default() += 1;
        }
    }
    let mut best = [vec![0; x.blocks.len()], vec![0; y.blocks.len()]];
    for ((i, j), count) in common {
        if count > best[0][i] {
            (best[0][i], x.blocks[i].peer) = (count, Some(j));
        }
        if count > best[1][j] {
            (best[1][j], y.blocks[j].peer) = (count, Some(i));
        }
    }
    [x, y]
}

/// One side, and for each row the block it is in.
fn side(
    program: &Program,
    id: FunctionId,
    lines: &[Line],
    place: fn(&Line) -> &Option<(u32, String)>,
) -> (Graph, Vec<Option<usize>>) {
    let function = &program.functions[id.index()];
    let facts = analyse_function(&program.image, &function.ranges, &Context::default());
    let cfg = Cfg::build(&program.image, &facts);
    let nodes: Vec<_> = cfg.graph.node_indices().collect();
    // Rows of each node; a node without rows has no instruction that is shown, and is left out.
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (row, line) in lines.iter().enumerate() {
        let Some((rva, _)) = place(line) else { continue };
        let next = nodes.partition_point(|n| cfg.graph[*n].rva <= *rva);
        if let Some(n) = next.checked_sub(1).filter(|n| *rva < cfg.graph[nodes[*n]].end) {
            rows[n].push(row);
        }
    }
    let mut order: Vec<usize> = (0..nodes.len()).filter(|n| !rows[*n].is_empty()).collect();
    order.sort_by_key(|n| (cfg.graph[nodes[*n]].rva != function.rva(), *n));
    let mut position = vec![None; nodes.len()];
    let mut of_row = vec![None; lines.len()];
    let mut graph = Graph::default();
    for n in order {
        let block = graph.blocks.len();
        position[n] = Some(block);
        for row in &rows[n] {
            of_row[*row] = Some(block);
        }
        let count = |wanted: fn(LineKind) -> bool| rows[n].iter().filter(|r| wanted(lines[**r].kind)).count();
        let alone = count(|k| matches!(k, LineKind::Removed | LineKind::Inserted));
        let fate = match count(|k| k == LineKind::Same) {
            same if same == rows[n].len() => Fate::Same,
            _ if alone == rows[n].len() => Fate::Alone,
            _ => Fate::Changed,
        };
        let (first, last) = (rows[n][0], rows[n][rows[n].len() - 1]);
        graph.blocks.push(Block { first, last, instructions: rows[n].len(), fate, peer: None });
    }
    for edge in cfg.graph.edge_indices() {
        let Some((from, to)) = cfg.graph.edge_endpoints(edge) else { continue };
        if let (Some(from), Some(to)) = (position[from.index()], position[to.index()]) {
            graph.edges.push(Edge { from, to, kind: cfg.graph[edge] });
        }
    }
    graph.edges.sort_by_key(|e| (e.from, e.to, e.kind));
    graph.edges.dedup();
    (graph, of_row)
}
