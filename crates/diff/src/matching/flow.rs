//! Matches by position in the call graph and by the shape of the flow graph.

use super::bodies::free_functions;
use super::{Matches, Which, similar, unique_pairs};
use crate::code::{Code, Flow};
use crate::comparison::Rung;
use crate::options::Options;
use crate::side::hash_of;
use hotgraft_program::FunctionId;
use petgraph::algo::dominators;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use rayon::prelude::*;
use rustc_hash::FxHashMap;

/// The same matched callers and callees, at least two, unique on both sides.
pub(super) fn call_graph(m: &mut Matches<'_>) -> bool {
    let keys = |which: Which| -> Vec<(_, FunctionId)> {
        let side = m.side(which);
        let known = |ids: &[FunctionId]| -> Vec<u32> {
            let mut all: Vec<_> = match which {
                Which::Old => ids.iter().filter(|id| m.functions.new_of(**id).is_some()).map(|id| id.0).collect(),
                Which::New => ids.iter().filter_map(|id| m.functions.old_of(*id)).map(|id| id.0).collect(),
            };
            all.sort_unstable();
            all
        };
        free_functions(m, which)
            .into_iter()
            .map(|id| ((known(&side.callers[id.index()]), known(&side.callees[id.index()])), id))
            .filter(|((callers, callees), _)| callers.len() + callees.len() >= 2 && !callers.is_empty())
            .collect()
    };
    let mut found = false;
    for (a, b) in unique_pairs(keys(Which::Old).into_iter(), keys(Which::New).into_iter()) {
        let score = similar::similarity(m, a, b);
        if score >= 0.5 && similar::names_allow(m, a, b, score) {
            found |= m.functions.join(a, b, Rung::CallGraph, 0.5 + 0.5 * score);
        }
    }
    found
}

/// The same flow graph, of at least five blocks, unique on both sides.
pub(super) fn flow_graph(m: &mut Matches<'_>, options: &Options) -> bool {
    let keys = |which: Which| -> Vec<(u64, FunctionId)> {
        let side = m.side(which);
        let free = free_functions(m, which);
        free.par_iter().filter_map(|id| Some((signature(side.code(*id))?, *id))).collect()
    };
    let (old, new) = (keys(Which::Old), keys(Which::New));
    let mut found = false;
    for (a, b) in unique_pairs(old.into_iter(), new.into_iter()) {
        let score = similar::similarity(m, a, b);
        if score >= options.similarity_threshold - 0.1 && similar::names_allow(m, a, b, score) {
            found |= m.functions.join(a, b, Rung::FlowGraph, 0.4 + 0.6 * score);
        }
    }
    found
}

/// A number for the flow graph that does not depend on the order of blocks: blocks and edges, loops, and for each block
/// its depth in the dominator tree with its degrees, refined twice along the edges. `None` below five blocks.
pub(super) fn signature(code: &Code) -> Option<u64> {
    let graph = blocks(code);
    if graph.node_count() < 5 {
        return None;
    }
    let root = NodeIndex::new(0);
    let tree = dominators::simple_fast(&graph, root);
    let depth = |n: NodeIndex| tree.strict_dominators(n).map_or(0, Iterator::count);
    let loops = graph
        .edge_references()
        .filter(|e| tree.dominators(e.source()).is_some_and(|mut d| d.any(|n| n == e.target())))
        .count();
    let mut labels: Vec<u64> = graph
        .node_indices()
        .map(|n| {
            let degree = |direction| graph.neighbors_directed(n, direction).count();
            hash_of((depth(n), degree(petgraph::Incoming), degree(petgraph::Outgoing), graph[n]))
        })
        .collect();
    for _ in 0..2 {
        labels = graph
            .node_indices()
            .map(|n| {
                let around = |direction| {
                    let mut all: Vec<_> = graph.neighbors_directed(n, direction).map(|k| labels[k.index()]).collect();
                    all.sort_unstable();
                    all
                };
                hash_of((labels[n.index()], around(petgraph::Incoming), around(petgraph::Outgoing)))
            })
            .collect();
    }
    labels.sort_unstable();
    Some(hash_of((graph.node_count(), graph.edge_count(), loops, labels)))
}

/// Basic blocks; the weight of a block is its number of calls.
fn blocks(code: &Code) -> DiGraph<u32, ()> {
    let steps = &code.steps;
    let at: FxHashMap<u32, usize> = steps.iter().enumerate().map(|(i, s)| (s.rva, i)).collect();
    let mut leader = vec![false; steps.len()];
    if let Some(first) = leader.first_mut() {
        *first = true;
    }
    for (i, s) in steps.iter().enumerate() {
        if let Flow::Conditional(to) | Flow::Jump(to) = s.flow
            && let Some(to) = at.get(&to)
        {
            leader[*to] = true;
        }
        if !matches!(s.flow, Flow::Next | Flow::Call)
            && let Some(next) = leader.get_mut(i + 1)
        {
            *next = true;
        }
    }
    let mut graph = DiGraph::new();
    let mut block = vec![NodeIndex::new(0); steps.len()];
    for (i, s) in steps.iter().enumerate() {
        block[i] = if leader[i] { graph.add_node(0) } else { block[i - 1] };
        graph[block[i]] += u32::from(s.flow == Flow::Call);
    }
    for (i, s) in steps.iter().enumerate() {
        let last = leader.get(i + 1).copied().unwrap_or(true);
        if let Flow::Conditional(to) | Flow::Jump(to) = s.flow
            && let Some(to) = at.get(&to)
        {
            graph.add_edge(block[i], block[*to], ());
        }
        if last && i + 1 < steps.len() && !matches!(s.flow, Flow::Jump(_) | Flow::Leaves) {
            graph.add_edge(block[i], block[i + 1], ());
        }
    }
    graph
}
