//! The calling contract of a function as its machine code has it.
//!
//! A compiler that sees all callers of a function may leave out arguments that are constants and results that nobody
//! uses, and the type in the PDB does not tell. An old caller that is still on a stack then calls the new version by a
//! contract that it does not keep. So: which argument registers does the code read before it sets them, and does any
//! caller use the result?
//!
//! Like [`access`](crate::access), this module knows x86-64.

use crate::context::Context;
use crate::escape::returns_nothing;
use crate::uses::{User, Uses, is_address_taken};
use hotgraft_diff::comparison::Status;
use hotgraft_program::code::{Cfg, Context as CodeContext, Exit, analyse_function};
use hotgraft_program::{Architecture, Entity, Form, FunctionId, Linkage, Program};
use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register};
use rustc_hash::FxHashMap;

/// Callees are followed so far: an argument that is only passed on and on is not worth more.
const DEPTH: u32 = 6;

/// Registers as bits: general ones by number, vector ones from bit 16.
type Set = u32;

const ARGUMENTS: Set = 1 << 1 | 1 << 2 | 1 << 8 | 1 << 9 | 0b1111 << 16;
const RESULTS: Set = 1 | 1 << 16;
const VOLATILE: Set = 0b1111 << 8 | 0b111 | 0b11_1111 << 16;

fn bit(register: Register) -> Set {
    let full = register.full_register();
    if full.is_gpr64() {
        1 << (full as u32 - Register::RAX as u32)
    } else if full.is_zmm() && full as u32 - (Register::ZMM0 as u32) < 16 {
        1 << (16 + full as u32 - Register::ZMM0 as u32)
    } else {
        0
    }
}

/// What differs in the contract of two versions of a private function, if anything does.
pub fn drift(ctx: &Context, old: FunctionId, new: FunctionId) -> Option<String> {
    if !is_private(ctx.old, &ctx.old_uses, old) || !is_private(ctx.new, &ctx.new_uses, new) {
        return None;
    }
    // The compiler changes all callers or none. A caller that is the same in both images calls both in the same way.
    let same = ctx.new_uses.of_function(new).iter().any(|u| match u.user {
        User::Function(caller) => caller != new && ctx.function_pair(caller).0.status == Status::Identical,
        _ => false,
    });
    if same {
        return None;
    }
    let before = Reader::new(ctx.old).arguments(old, 0);
    let after = Reader::new(ctx.new).arguments(new, 0);
    let more = after & !before;
    if more != 0 {
        return Some(format!("It reads {}, which old callers need not set.", names(more)));
    }
    if is_result_used(ctx.old, &ctx.old_uses, old) && !is_result_used(ctx.new, &ctx.new_uses, new) {
        return Some(String::from("Old callers use its result and no new one does, so it may have none any more."));
    }
    None
}

fn names(set: Set) -> String {
    let registers =
        [(1, "rcx"), (2, "rdx"), (8, "r8"), (9, "r9"), (16, "xmm0"), (17, "xmm1"), (18, "xmm2"), (19, "xmm3")];
    registers.iter().filter(|(n, _)| set & 1 << n != 0).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

/// True if a compiler could know all callers: others keep to the platform's convention.
fn is_private(program: &Program, uses: &Uses, id: FunctionId) -> bool {
    let f = &program.functions[id.index()];
    let lto = f.module.and_then(|m| program.modules.get(m.index())).is_some_and(|m| m.lto);
    program.image.architecture == Architecture::X64
        && (f.linkage == Linkage::Local || lto)
        && !Context::is_reachable_from_outside(program, id)
        && uses.handler_of(id).next().is_none()
        && !uses.of_function(id).iter().any(|u| is_address_taken(program, id, u))
}

/// True if some direct call of the function is followed by a use of its result.
fn is_result_used(program: &Program, uses: &Uses, id: FunctionId) -> bool {
    let mut reader = Reader::new(program);
    uses.of_function(id).iter().any(|used| {
        let User::Function(caller) = used.user else { return true };
        let site = program.references[used.reference as usize].site;
        caller != id && reader.is_result_live(caller, site)
    })
}

struct Reader<'a> {
    program: &'a Program,
    info: InstructionInfoFactory,
    known: FxHashMap<FunctionId, Set>,
}

/// One instruction, as far as registers go.
struct Step {
    rva: u32,
    end: u32,
    reads: Set,
    writes: Set,
}

impl<'a> Reader<'a> {
    fn new(program: &'a Program) -> Self {
        Self { program, info: InstructionInfoFactory::new(), known: FxHashMap::default() }
    }

    /// Argument registers that the function reads before it sets them.
    fn arguments(&mut self, id: FunctionId, depth: u32) -> Set {
        if let Some(&set) = self.known.get(&id) {
            return set;
        }
        // A function that calls itself passes on what it was given: that adds nothing.
        self.known.insert(id, 0);
        let set = if depth < DEPTH { self.live_at_entry(id, depth) & ARGUMENTS } else { 0 };
        self.known.insert(id, set);
        set
    }

    fn live_at_entry(&mut self, id: FunctionId, depth: u32) -> Set {
        let (cfg, blocks) = self.blocks(id, depth, 0);
        let entry = cfg.block_at(self.program.functions[id.index()].rva());
        let Some(entry) = entry else { return ARGUMENTS };
        let live = solve(&cfg, &blocks);
        live[entry.index()]
    }

    /// True if a result register is read behind the call at `site` before it is set.
    fn is_result_live(&mut self, caller: FunctionId, site: u32) -> bool {
        let returns = if returns_nothing(&self.program.functions[caller.index()]) { 0 } else { RESULTS };
        let (cfg, blocks) = self.blocks(caller, DEPTH, returns);
        let live = solve(&cfg, &blocks);
        for (i, (steps, out)) in blocks.iter().enumerate() {
            let Some(at) = steps.iter().position(|s| (s.rva..s.end).contains(&site)) else { continue };
            let after = successors(&cfg, i).fold(*out, |set, n| set | live[n]);
            let set = steps[at + 1..].iter().rev().fold(after, |set, s| set & !s.writes | s.reads);
            // A tail call hands the result on.
            let handed_on = at + 1 == steps.len() && cfg.graph[petgraph::graph::NodeIndex::new(i)].exit != Exit::None;
            return set & RESULTS != 0 || handed_on && returns != 0;
        }
        true
    }

    /// The blocks of a function as steps, each with what is live where control leaves the function behind it.
    fn blocks(&mut self, id: FunctionId, depth: u32, returns: Set) -> (Cfg, Vec<(Vec<Step>, Set)>) {
        let f = &self.program.functions[id.index()];
        let facts = analyse_function(&self.program.image, &f.ranges, &CodeContext::default());
        let cfg = Cfg::build(&self.program.image, &facts);
        let mut blocks = Vec::with_capacity(cfg.graph.node_count());
        for node in cfg.graph.node_indices() {
            let block = cfg.graph[node].clone();
            let out = match block.exit {
                Exit::Return => returns,
                Exit::TailJump(target) => match self.program.function_entry(target) {
                    Some(callee) if depth < DEPTH => self.arguments(callee, depth + 1),
                    _ => 0,
                },
                _ => 0,
            };
            blocks.push((self.steps(block.rva, block.end, depth), out));
        }
        (cfg, blocks)
    }

    fn steps(&mut self, start: u32, end: u32, depth: u32) -> Vec<Step> {
        let program = self.program;
        let bytes = program.image.bytes(start, end.saturating_sub(start) as usize).unwrap_or_default();
        let mut out = Vec::new();
        for instruction in Decoder::with_ip(64, bytes, u64::from(start), DecoderOptions::NONE) {
            let (mut reads, mut writes) = (0, 0);
            for used in self.info.info(&instruction).used_registers() {
                let set = bit(used.register());
                match used.access() {
                    OpAccess::Read | OpAccess::CondRead | OpAccess::ReadCondWrite => reads |= set,
                    OpAccess::ReadWrite => {
                        reads |= set;
                        writes |= whole(used.register());
                    }
                    OpAccess::Write => writes |= whole(used.register()),
                    _ => {}
                }
            }
            let rva = instruction.ip() as u32;
            let next = instruction.next_ip() as u32;
            if instruction.is_call_near() || instruction.is_call_near_indirect() {
                let callee = program.references_in(rva, next).iter().find(|r| r.form == Form::Branch).and_then(|r| {
                    match (r.target.entity, r.target.addend) {
                        (Entity::Function(id), 0) => Some(id),
                        _ => None,
                    }
                });
                reads |= callee.map_or(0, |id| if depth < DEPTH { self.arguments(id, depth + 1) } else { 0 });
                writes |= VOLATILE;
            }
            out.push(Step { rva, end: next, reads, writes });
        }
        out
    }
}

/// The register as a set if writing it leaves nothing of its old value.
fn whole(register: Register) -> Set {
    if register.is_gpr8() || register.is_gpr16() { 0 } else { bit(register) }
}

fn successors(cfg: &Cfg, i: usize) -> impl Iterator<Item = usize> + '_ {
    cfg.graph.neighbors(petgraph::graph::NodeIndex::new(i)).map(|n| n.index())
}

/// Registers live at the start of each block.
fn solve(cfg: &Cfg, blocks: &[(Vec<Step>, Set)]) -> Vec<Set> {
    let mut live = vec![0; blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for i in (0..blocks.len()).rev() {
            let (steps, out) = &blocks[i];
            let after = successors(cfg, i).fold(*out, |set, n| set | live[n]);
            let before = steps.iter().rev().fold(after, |set, s| set & !s.writes | s.reads);
            if before != live[i] {
                live[i] = before;
                changed = true;
            }
        }
    }
    live
}
