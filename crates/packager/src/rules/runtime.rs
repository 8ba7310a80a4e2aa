//! Rules about threads that are inside of a function when it is replaced.

use crate::closure::Closure;
use crate::context::{Context, finding};
use crate::verdict::{Finding, Outcome};
use hotgraft_diff::comparison::Status;
use hotgraft_program::code::{Cfg, Context as CodeContext, Exit, analyse_function, is_counted};
use hotgraft_program::{Architecture, Entity, Form, Function, FunctionId, ImportName, Program};
use petgraph::Direction;
use petgraph::algo::tarjan_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use std::collections::BTreeMap;

/// A frame that grows by fewer bytes than this is not worth a word.
const GROWTH: u32 = 128;

/// Replaced functions that a thread may never leave: it stays in the old code for as long.
pub fn loops(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let mut endings = Endings { program: ctx.old, ends: BTreeMap::new() };
    let mut out = Vec::new();
    for &new in closure.functions.keys() {
        let (pair, about) = ctx.function_pair(new);
        let Some(old) = ctx.counterpart(new) else { continue };
        let Some(place) = endings.endless(old) else { continue };
        let about = (pair.status != Status::Identical).then_some(about);
        let subject = ctx.function_subject(pair.old, pair.new);
        let line = ctx.old.source_line(place).map(|l| format!("{}:{}", l.file, l.line));
        let text = format!("From the loop at {place:#x} of the old image no way leads back to its caller.");
        let source = line.or_else(|| ctx.function_source(pair.old, pair.new));
        out.push(finding("runtime.loop.endless", Outcome::Condition, about, subject, &text, source));
    }
    out
}

/// Functions that end the thread or process, by the names that the usual runtimes give them.
const ENDS: [&str; 24] = [
    "exit",
    "_exit",
    "_Exit",
    "quick_exit",
    "abort",
    "longjmp",
    "terminate",
    "_ZSt9terminatev",
    "__std_terminate",
    "_CxxThrowException",
    "__cxa_throw",
    "__cxa_rethrow",
    "_Unwind_Resume",
    "_assert",
    "_wassert",
    "_endthread",
    "_endthreadex",
    "_invoke_watson",
    "ExitProcess",
    "ExitThread",
    "FreeLibraryAndExitThread",
    "RtlExitUserProcess",
    "RtlExitUserThread",
    "RaiseFailFastException",
];

/// Callees are followed so far to see whether they come back.
const DEPTH: u32 = 3;

/// A block of code.
struct Node {
    /// First RVA.
    start: u32,
    /// First RVA behind.
    end: u32,
    /// Control returns to the caller from here.
    returns: bool,
}

/// Knows which functions do not come back to their caller.
struct Endings<'a> {
    program: &'a Program,
    ends: BTreeMap<FunctionId, bool>,
}

impl Endings<'_> {
    /// Where a loop starts from which control cannot come to a `ret` or tail call of the function. A loop that counts, or
    /// walks over a table, comes to its end by itself: a list is printed before the program ends, say.
    fn endless(&mut self, id: FunctionId) -> Option<u32> {
        let cfg = self.graph(id, 0)?;
        let back = comes_back(&cfg);
        let mut first: Option<u32> = None;
        for component in tarjan_scc(&cfg) {
            let cyclic = component.len() > 1 || component.iter().any(|&n| cfg.contains_edge(n, n));
            if cyclic && !component.iter().any(|n| back[n.index()]) {
                let blocks: Vec<(u32, u32)> = component.iter().map(|&n| (cfg[n].start, cfg[n].end)).collect();
                if is_counted(&self.program.image, &blocks) {
                    continue;
                }
                let start = component.iter().map(|&n| cfg[n].start).min();
                first = first.into_iter().chain(start).min();
            }
        }
        first
    }

    /// Blocks, without the ways on behind calls that do not come back.
    fn graph(&mut self, id: FunctionId, depth: u32) -> Option<DiGraph<Node, ()>> {
        let program = self.program;
        if program.image.architecture != Architecture::X64 {
            return None;
        }
        let f = &program.functions[id.index()];
        let facts = analyse_function(&program.image, &f.ranges, &CodeContext::default());
        let cfg = Cfg::build(&program.image, &facts);
        let mut out = DiGraph::new();
        let mut cut = Vec::with_capacity(cfg.graph.node_count());
        for block in cfg.graph.node_weights() {
            let ends = self.ends_inside(block.rva, block.end, depth);
            let leaves = !matches!(block.exit, Exit::None | Exit::Stop) && !self.is_tail_to_end(block.exit, depth);
            out.add_node(Node { start: block.rva, end: block.end, returns: leaves && !ends });
            cut.push(ends);
        }
        for edge in cfg.graph.edge_references() {
            if !cut[edge.source().index()] {
                out.add_edge(edge.source(), edge.target(), ());
            }
        }
        Some(out)
    }

    /// True if the block calls something that does not come back.
    fn ends_inside(&mut self, start: u32, end: u32, depth: u32) -> bool {
        let program = self.program;
        let image = &program.image;
        program.references_in(start, end).iter().any(|r| {
            let call = match r.form {
                // E8 rel32, and FF 15 disp32 through a slot.
                Form::Branch => image.bytes(r.site.wrapping_sub(1), 1) == Some(&[0xE8]),
                Form::RipRelative => image.bytes(r.site.wrapping_sub(2), 2) == Some(&[0xFF, 0x15]),
                _ => false,
            };
            call && match r.target.entity {
                Entity::Function(id) if r.target.addend == 0 => self.never_returns(id, depth),
                Entity::Import(id) => is_end(&program.imports[id.index()].name),
                _ => false,
            }
        })
    }

    fn is_tail_to_end(&mut self, exit: Exit, depth: u32) -> bool {
        match exit {
            Exit::TailJump(rva) => self.program.function_entry(rva).is_some_and(|id| self.never_returns(id, depth)),
            _ => false,
        }
    }

    fn never_returns(&mut self, id: FunctionId, depth: u32) -> bool {
        if let Some(&known) = self.ends.get(&id) {
            return known;
        }
        let program = self.program;
        let f = &program.functions[id.index()];
        let named = f.no_return || f.name.iter().chain(&f.decorated).any(|name| ENDS.contains(&name.as_str()));
        let range = f.ranges[0];
        // An import thunk: FF 25 disp32.
        let thunk = program.references_in(range.rva, range.end()).first().is_some_and(|r| match r.target.entity {
            Entity::Import(import) => {
                r.site == range.rva + 2
                    && program.image.bytes(range.rva, 2) == Some(&[0xFF, 0x25])
                    && is_end(&program.imports[import.index()].name)
            }
            _ => false,
        });
        if named || thunk {
            self.ends.insert(id, true);
            return true;
        }
        if depth >= DEPTH {
            return false;
        }
        // Until the answer is known a recursive call counts as coming back.
        self.ends.insert(id, false);
        let answer = self.graph(id, depth + 1).is_some_and(|graph| {
            graph.node_count() > 0 && !comes_back(&graph)[0] && !graph.node_weights().any(|n| n.returns)
        });
        self.ends.insert(id, answer);
        answer
    }
}

fn is_end(name: &ImportName) -> bool {
    matches!(name, ImportName::Name(name) if ENDS.contains(&name.as_str()))
}

/// For each block, whether control can come from there to the caller.
fn comes_back(graph: &DiGraph<Node, ()>) -> Vec<bool> {
    let mut back: Vec<bool> = graph.node_weights().map(|n| n.returns).collect();
    let mut work: Vec<NodeIndex> = graph.node_indices().filter(|n| back[n.index()]).collect();
    while let Some(node) = work.pop() {
        for before in graph.neighbors_directed(node, Direction::Incoming) {
            if !back[before.index()] {
                back[before.index()] = true;
                work.push(before);
            }
        }
    }
    back
}

/// Replaced functions that need more stack than before.
pub fn frames(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let mut out = Vec::new();
    for &new in closure.functions.keys() {
        let pair = ctx.function_pair(new).0;
        let Some(old) = ctx.counterpart(new) else { continue };
        let before = frame_size(ctx.old, &ctx.old.functions[old.index()]);
        let after = frame_size(ctx.new, &ctx.new.functions[new.index()]);
        if after >= before.saturating_add(GROWTH) {
            let subject = ctx.function_subject(pair.old, pair.new);
            let source = ctx.function_source(pair.old, pair.new);
            let text = format!("Its frame had {before} bytes and has {after}.");
            out.push(finding("runtime.frame.grows", Outcome::Harmless, None, subject, &text, source));
        }
    }
    out
}

/// Bytes of stack that the prologue of the entry range takes, from the unwind codes; 0 if there are none.
pub fn frame_size(program: &Program, f: &Function) -> u32 {
    let Some(info) = f.unwind.iter().filter_map(|&u| program.unwind.get(u as usize)).find(|u| u.begin == f.rva())
    else {
        return 0;
    };
    let Some(head) = program.image.bytes(info.info, 4) else { return 0 };
    let count = usize::from(head[2]);
    let Some(codes) = program.image.bytes(info.info.saturating_add(4), 2 * count) else { return 0 };
    let slot = |i: usize| codes.get(2 * i..2 * i + 2).map_or(0, |b| u32::from(u16::from_le_bytes([b[0], b[1]])));
    let mut size = 0u32;
    let mut i = 0;
    while i < count {
        let (operation, extra) = (codes[2 * i + 1] & 15, u32::from(codes[2 * i + 1] >> 4));
        // UNWIND_CODE: push, large and small allocation; the others take no stack.
        let (bytes, slots) = match operation {
            0 => (8, 1),
            1 if extra == 0 => (8 * slot(i + 1), 2),
            1 => (slot(i + 1) | slot(i + 2) << 16, 3),
            2 => (8 * extra + 8, 1),
            4 | 8 => (0, 2),
            5 | 9 => (0, 3),
            10 => (8 * (5 + extra), 1),
            _ => (0, 1),
        };
        size = size.saturating_add(bytes);
        i += slots;
    }
    size
}
