//! Blocks and edges of functions, as both formats need them.

use crate::proto::EdgeType;
use hotgraft_program::code::{Cfg, Context, EdgeKind, Flow, analyse_function, decode_at};
use hotgraft_program::{FunctionId, Program};
use petgraph::algo::dominators;
use petgraph::visit::EdgeRef;
use rayon::prelude::*;

/// The flow graph of one function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    /// First byte, first byte behind, sorted.
    pub(crate) blocks: Vec<(u32, u32)>,
    /// From block, to block, type, and whether it closes a loop.
    pub(crate) edges: Vec<(usize, usize, EdgeType, bool)>,
    /// Start of each instruction, sorted.
    pub(crate) instructions: Vec<u32>,
}

impl Graph {
    fn of(program: &Program, id: FunctionId) -> Self {
        let function = &program.functions[id.index()];
        let facts = analyse_function(&program.image, &function.ranges, &Context::default());
        let cfg = Cfg::build(&program.image, &facts);
        let blocks: Vec<(u32, u32)> = cfg.graph.node_weights().map(|b| (b.rva, b.end)).collect();
        let tree = cfg.block_at(function.rva()).map(|root| dominators::simple_fast(&cfg.graph, root));
        let conditional = |last: u32| {
            let bytes = program.image.mapped.get(last as usize..).unwrap_or_default();
            decode_at(bytes, last).is_some_and(|i| matches!(i.flow, Flow::ConditionalBranch(_)))
        };
        let mut edges: Vec<_> = cfg
            .graph
            .edge_references()
            .map(|e| {
                let kind = match e.weight() {
                    EdgeKind::Table => EdgeType::Switch,
                    kind if !conditional(cfg.graph[e.source()].last) => {
                        debug_assert!(*kind != EdgeKind::Table);
                        EdgeType::Unconditional
                    }
                    EdgeKind::Branch => EdgeType::ConditionTrue,
                    EdgeKind::Next => EdgeType::ConditionFalse,
                };
                let back = tree
                    .as_ref()
                    .and_then(|t| t.dominators(e.source()))
                    .is_some_and(|mut d| d.any(|n| n == e.target()));
                (e.source().index(), e.target().index(), kind, back)
            })
            .collect();
        edges.sort_unstable();
        edges.dedup();
        let mut instructions: Vec<u32> = facts.into_iter().flat_map(|f| f.instructions).collect();
        instructions.sort_unstable();
        Graph { blocks, edges, instructions }
    }
}

/// The graphs of all functions, in their order.
pub(crate) fn graphs(program: &Program) -> Vec<Graph> {
    (0..program.functions.len()).into_par_iter().map(|i| Graph::of(program, FunctionId::from(i))).collect()
}
