//! The control-flow graph of one function, built on demand.

use super::{CodeFacts, Flow, decode_at};
use crate::image::Image;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// How control leaves the function at the end of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It does not: the edges tell where it goes.
    None,
    /// `ret`.
    Return,
    /// A direct jump to another function.
    TailJump(u32),
    /// An indirect jump that leaves the function.
    IndirectTailJump,
    /// A faulting instruction or breakpoint, or a call that is followed by nothing.
    Stop,
    /// An indirect jump that is not understood: it may go anywhere.
    Unknown,
}

/// A run of instructions that is entered only at its first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// First byte.
    pub rva: u32,
    /// First byte behind the last instruction.
    pub end: u32,
    /// RVA of the last instruction.
    pub last: u32,
    /// How control leaves the function here. A conditional tail jump has an edge as well.
    pub exit: Exit,
}

/// Why control goes from one block to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeKind {
    /// To the next instruction.
    Next,
    /// By a branch.
    Branch,
    /// Through a jump table.
    Table,
}

/// Blocks in order of RVA and the edges between them.
#[derive(Clone, Debug)]
pub struct Cfg {
    /// The graph; node `i` is the `i`-th block.
    pub graph: DiGraph<Block, EdgeKind>,
    by_start: FxHashMap<u32, NodeIndex>,
}

impl Cfg {
    /// Builds the graph from the facts of all ranges of a function.
    pub fn build(image: &Image, facts: &[CodeFacts]) -> Self {
        struct Line {
            rva: u32,
            end: u32,
            flow: Flow,
        }
        let mut lines: Vec<Line> = facts
            .iter()
            .flat_map(|f| &f.instructions)
            .filter_map(|rva| {
                let bytes = image.bytes(*rva, 15).or_else(|| image.mapped.get(*rva as usize..))?;
                let decoded = decode_at(bytes, *rva)?;
                Some(Line { rva: *rva, end: rva + u32::from(decoded.length), flow: decoded.flow })
            })
            .collect();
        lines.sort_by_key(|l| l.rva);
        let mut tables: FxHashMap<u32, BTreeSet<u32>> = FxHashMap::default();
        for table in facts.iter().flat_map(|f| &f.jump_tables) {
            tables.entry(table.jump).or_default().extend(table.references(image).map(|r| r.rva));
        }
        let leaves: BTreeSet<u32> = facts.iter().flat_map(|f| &f.indirect_tail_jumps).copied().collect();

        let mut leaders: BTreeSet<u32> = tables.values().flatten().copied().collect();
        for (i, line) in lines.iter().enumerate() {
            if i == 0 || lines[i - 1].end != line.rva {
                leaders.insert(line.rva);
            }
            if let Flow::Branch(t) | Flow::ConditionalBranch(t) = line.flow {
                leaders.insert(t);
            }
            if !matches!(line.flow, Flow::Next | Flow::Call(_) | Flow::IndirectCall) {
                leaders.insert(line.end);
            }
        }
        let mut graph = DiGraph::new();
        let mut by_start = FxHashMap::default();
        let mut ends: Vec<Flow> = Vec::new();
        let mut i = 0;
        while i < lines.len() {
            let start = i;
            while i + 1 < lines.len() && !leaders.contains(&lines[i + 1].rva) {
                i += 1;
            }
            let last = &lines[i];
            let block = Block { rva: lines[start].rva, end: last.end, last: last.rva, exit: Exit::None };
            by_start.insert(block.rva, graph.add_node(block));
            ends.push(last.flow);
            i += 1;
        }
        for (i, flow) in ends.iter().enumerate() {
            let node = NodeIndex::new(i);
            let (end, last) = (graph[node].end, graph[node].last);
            let mut exit = Exit::None;
            if flow.falls_through() {
                match by_start.get(&end) {
                    Some(next) => {
                        graph.add_edge(node, *next, EdgeKind::Next);
                    }
                    None => exit = Exit::Stop,
                }
            }
            match flow {
                Flow::Branch(target) | Flow::ConditionalBranch(target) => match by_start.get(target) {
                    Some(to) => {
                        graph.add_edge(node, *to, EdgeKind::Branch);
                    }
                    None => exit = Exit::TailJump(*target),
                },
                Flow::IndirectJump => match tables.get(&last) {
                    Some(targets) => {
                        for to in targets.iter().filter_map(|t| by_start.get(t)) {
                            graph.add_edge(node, *to, EdgeKind::Table);
                        }
                    }
                    None if leaves.contains(&last) => exit = Exit::IndirectTailJump,
                    None => exit = Exit::Unknown,
                },
                Flow::Return => exit = Exit::Return,
                Flow::Trap | Flow::Breakpoint => exit = Exit::Stop,
                _ => {}
            }
            graph[node].exit = exit;
        }
        Self { graph, by_start }
    }

    /// The block that starts at `rva`.
    pub fn block_at(&self, rva: u32) -> Option<NodeIndex> {
        self.by_start.get(&rva).copied()
    }

    /// RVA of the first block of each loop that control cannot leave other than by an exception or by ending the thread
    /// in a callee, sorted.
    pub fn endless_loops(&self) -> Vec<u32> {
        let mut out = Vec::new();
        for component in tarjan_scc(&self.graph) {
            let members: BTreeSet<NodeIndex> = component.iter().copied().collect();
            let mut inner = 0;
            let mut leaves = false;
            for node in &component {
                leaves |= self.graph[*node].exit != Exit::None;
                for edge in self.graph.edges(*node) {
                    if members.contains(&edge.target()) {
                        inner += 1;
                    } else {
                        leaves = true;
                    }
                }
            }
            if inner > 0 && !leaves {
                out.extend(component.iter().map(|n| self.graph[*n].rva).min());
            }
        }
        out.sort_unstable();
        out
    }

    /// True if a branch or jump-table entry leads into `[from, to)`.
    pub fn leads_into(&self, from: u32, to: u32) -> bool {
        self.graph
            .edge_references()
            .any(|e| *e.weight() != EdgeKind::Next && (from..to).contains(&self.graph[e.target()].rva))
    }
}
