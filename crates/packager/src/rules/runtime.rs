//! Rules about threads that are inside of a function when it is replaced.

use crate::closure::Closure;
use crate::context::{Context, finding};
use crate::verdict::{Finding, Outcome};
use hotgraft_diff::comparison::Status;
use hotgraft_program::code::{Cfg, Context as CodeContext, analyse_function};
use hotgraft_program::{Architecture, Function, Program};
use petgraph::visit::EdgeRef;

/// A frame that grows by fewer bytes than this is not worth a word.
const GROWTH: u32 = 128;

/// Replaced functions that a thread may never leave: it stays in the old code for as long.
pub fn loops(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let mut out = Vec::new();
    for &new in closure.functions.keys() {
        let (pair, about) = ctx.function_pair(new);
        let Some(old) = ctx.counterpart(new) else { continue };
        let Some(place) = endless(ctx.old, &ctx.old.functions[old.index()]) else { continue };
        let about = (pair.status != Status::Identical).then_some(about);
        let subject = ctx.function_subject(pair.old, pair.new);
        let line = ctx.old.source_line(place).map(|l| format!("{}:{}", l.file, l.line));
        let text = format!("The loop at {place:#x} of the old image has no way out.");
        let source = line.or_else(|| ctx.function_source(pair.old, pair.new));
        out.push(finding("runtime.loop.endless", Outcome::Condition, about, subject, &text, source));
    }
    out
}

/// Where a loop starts that control cannot leave but by ending the thread: none of its blocks has an edge or exit out of
/// it, or the function is marked as never returning and has a loop at all.
fn endless(program: &Program, f: &Function) -> Option<u32> {
    if program.image.architecture != Architecture::X64 {
        return None;
    }
    let facts = analyse_function(&program.image, &f.ranges, &CodeContext::default());
    let cfg = Cfg::build(&program.image, &facts);
    if let Some(&first) = cfg.endless_loops().first() {
        return Some(first);
    }
    if !f.no_return {
        return None;
    }
    let back = cfg.graph.edge_references().filter(|e| cfg.graph[e.target()].rva <= cfg.graph[e.source()].rva);
    back.map(|e| cfg.graph[e.target()].rva).min()
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
