//! The dataflow over one function: blocks, the fixed point, and what it tells at indirect jumps.

use super::descent::{Descent, Step};
use super::image_base::BaseUses;
use super::needs;
use super::tables::{self, Resolution};
use super::transfer::{Effective, Machine, NONVOLATILE, Record, refine};
use super::values::{Index, Origin, RSP, Role, State, Symbol, TableRead, Value};
use super::{Context, Flow, RawJumpTable, RawOffsetTable, RawReference, base, local, x64};
use crate::function::Problem;
use crate::image::Image;
use iced_x86::OpKind;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};

/// Visits of a block for each edge that leads to it, after which bounds that still move are given up.
const WIDEN_AFTER: u32 = 3;
/// Further visits after which the analysis of the function is given up; widening makes this unreachable in practice.
const MAX_VISITS: u32 = 400;

/// What the dataflow found.
#[derive(Default)]
pub(super) struct Findings {
    /// Targets of the indirect jumps that are understood, by jump; each list sorted.
    pub(super) targets: Vec<(u32, Vec<u32>)>,
    pub(super) jump_tables: Vec<RawJumpTable>,
    pub(super) offset_tables: Vec<RawOffsetTable>,
    /// Image-relative displacements.
    pub(super) displacements: Vec<RawReference>,
    /// Indirect jumps that leave the function.
    pub(super) tail_jumps: Vec<u32>,
    pub(super) problems: Vec<Problem>,
}

/// Where control can start.
pub(super) struct Roots<'a> {
    /// The function's entry.
    pub(super) entry: u32,
    /// Landing pads: reached from any call in the function.
    pub(super) pads: &'a [u32],
    /// Code that nothing known reaches: the starts of further ranges, and what stands behind calls that do not return.
    pub(super) weak: &'a [u32],
}

pub(super) struct Blocks {
    /// Index of the first step of each block.
    pub(super) starts: Vec<usize>,
    pub(super) by_rva: FxHashMap<u32, usize>,
    /// Edges that lead to each block, at least.
    edges_in: Vec<u32>,
}

impl Blocks {
    pub(super) fn build(descent: &Descent<'_>, roots: &Roots<'_>) -> Self {
        let steps = &descent.steps;
        let mut leader = vec![false; steps.len()];
        let mut lead = |rva: u32| {
            if let Some(i) = descent.step_at(rva) {
                leader[i] = true;
            }
        };
        lead(roots.entry);
        roots.pads.iter().chain(roots.weak).for_each(|r| lead(*r));
        descent.edges.values().flatten().for_each(|t| lead(*t));
        for step in steps {
            if let Flow::Branch(t) | Flow::ConditionalBranch(t) = step.decoded.flow {
                lead(t);
            }
        }
        for i in 0..steps.len() {
            let after = i > 0 && (!joined(&steps[i - 1], &steps[i]) || ends_block(steps[i - 1].decoded.flow));
            leader[i] |= i == 0 || after;
        }
        let starts: Vec<usize> = (0..steps.len()).filter(|i| leader[*i]).collect();
        let by_rva: FxHashMap<u32, usize> = starts.iter().enumerate().map(|(b, i)| (steps[*i].rva, b)).collect();
        let mut edges_in = vec![1; starts.len()];
        let branches = steps.iter().filter_map(|s| match s.decoded.flow {
            Flow::Branch(t) | Flow::ConditionalBranch(t) => Some(t),
            _ => None,
        });
        for target in branches.chain(descent.edges.values().flatten().copied()) {
            if let Some(block) = by_rva.get(&target) {
                edges_in[*block] += 1;
            }
        }
        Self { starts, by_rva, edges_in }
    }

    pub(super) fn steps<'a>(&self, descent: &'a Descent<'_>, block: usize) -> &'a [Step] {
        let end = self.starts.get(block + 1).copied().unwrap_or(descent.steps.len());
        &descent.steps[self.starts[block]..end]
    }
}

pub(super) fn joined(a: &Step, b: &Step) -> bool {
    a.end() == b.rva
}

pub(super) fn is_call(step: &Step) -> bool {
    matches!(step.decoded.flow, Flow::Call(_) | Flow::IndirectCall)
}

pub(super) fn ends_block(flow: Flow) -> bool {
    !matches!(flow, Flow::Next | Flow::Call(_) | Flow::IndirectCall)
}

/// Runs the dataflow over what `descent` has reached.
pub(super) fn solve(image: &Image, descent: &Descent<'_>, roots: &Roots<'_>, context: &Context<'_>) -> Findings {
    quick(image, descent, roots, context).unwrap_or_else(|| whole(image, descent, roots, context))
}

/// The same where it does not take the dataflow over everything.
pub(super) fn quick(
    image: &Image,
    descent: &Descent<'_>,
    roots: &Roots<'_>,
    context: &Context<'_>,
) -> Option<Findings> {
    let mut out = Findings::default();
    let needs = needs::of(image, descent, roots)?;
    let uses = base_uses(image, descent, roots, &needs)?;
    if !local::explain(image, descent, roots, context, (&needs, &uses.sums), &mut out) {
        return None;
    }
    if !uses.displacements.is_empty() {
        untracked(uses.values.into_iter(), &mut out);
    }
    out.displacements = uses.displacements;
    out.problems.extend(uses.problems);
    let through = descent.steps.iter().filter(|s| s.decoded.flow == Flow::IndirectJump);
    out.tail_jumps.extend(through.filter(|s| x64::rip_target(&s.instruction).is_some()).map(|s| s.rva));
    out.tail_jumps.sort_unstable();
    out.offset_tables.sort_by_key(|t| (t.table, t.load, t.entries));
    out.offset_tables.dedup();
    Some(out)
}

/// What is done with the image base, if anything, and if that is plain.
fn base_uses(image: &Image, descent: &Descent<'_>, roots: &Roots<'_>, needs: &needs::Needs) -> Option<base::Uses> {
    if !needs.base {
        return Some(base::Uses::default());
    }
    let mut sums = needs.sums.clone();
    sums.sort_unstable();
    base::uses(image, descent, roots, &needs.ground(descent, roots).0, &sums)
}

/// A copy of the function in another image can follow either the displacements from the image base or its value.
fn untracked(values: impl Iterator<Item = u32>, out: &mut Findings) {
    out.problems.extend(values.map(|rva| Problem {
        rva,
        key: "code.image_base.untracked",
        text: format!("__ImageBase is the anchor of operands and also a value (instruction at {rva:#x})"),
    }));
}

/// The same by the dataflow over everything, whether it is needed or not.
pub(super) fn whole(image: &Image, descent: &Descent<'_>, roots: &Roots<'_>, context: &Context<'_>) -> Findings {
    let mut out = Findings::default();
    let blocks = Blocks::build(descent, roots);
    let base = descent.steps.iter().any(|s| x64::rip_target(&s.instruction) == Some(0));
    let registers: &[usize] = if base { &NONVOLATILE } else { &[] };
    let mut solver = Solver::new(image, descent, roots, &blocks);
    solver.solve(roots, registers, false);
    let states = std::mem::take(&mut solver.states);
    let gave_up = solver.gave_up;
    let mut machine = solver.machine;
    let mut record = Record::default();
    let mut uses = BaseUses::default();
    for (block, state) in states.into_iter().enumerate() {
        let steps = blocks.steps(descent, block);
        let mut state = state.unwrap_or_else(|| State::unknown(steps[0].rva, registers));
        for (i, step) in steps.iter().enumerate() {
            if step.decoded.flow == Flow::IndirectJump {
                jump(image, descent, roots, context, &machine, &mut state, step, &mut out);
            }
            uses.before(&machine, &state, step, |rva| descent.contains(rva));
            machine.step(&mut state, step, next_step(descent, steps, i), Some(&mut record));
            uses.after(&machine, &state, step);
        }
    }
    if !record.displacements.is_empty() || record.sums.iter().any(|(_, _, anchor)| *anchor == 0) {
        untracked(uses.values(), &mut out);
    }
    if gave_up {
        let text = "the dataflow did not settle".to_string();
        out.problems.push(Problem { rva: roots.entry, key: "code.indirect_jump.unresolved", text });
    }
    out.displacements = record.displacements;
    out.problems.append(&mut record.problems);
    tables::offset_tables(image, &record.sums, context, &mut out);
    out
}

pub(super) fn next_step<'a>(descent: &'a Descent<'_>, steps: &'a [Step], i: usize) -> Option<&'a Step> {
    steps.get(i + 1).or_else(|| descent.step_at(steps[i].end()).map(|n| &descent.steps[n]))
}

struct Solver<'a> {
    descent: &'a Descent<'a>,
    blocks: &'a Blocks,
    machine: Machine<'a>,
    states: Vec<Option<State>>,
    visits: Vec<u32>,
    work: BTreeSet<usize>,
    /// What is known after a call that throws: joined over all calls.
    hub: Option<State>,
    /// Blocks whose state is final.
    frozen: Vec<bool>,
    pads: Vec<usize>,
    gave_up: bool,
}

/// What a coarse state knows at the start of each block; `None` for blocks that nothing known leads to.
pub(super) fn coarse(
    image: &Image,
    descent: &Descent<'_>,
    roots: &Roots<'_>,
    blocks: &Blocks,
) -> Option<Vec<Option<State>>> {
    let mut solver = Solver::new(image, descent, roots, blocks);
    solver.solve(roots, &[], true);
    (!solver.gave_up).then_some(solver.states)
}

impl<'a> Solver<'a> {
    fn new(image: &'a Image, descent: &'a Descent<'a>, roots: &Roots<'_>, blocks: &'a Blocks) -> Self {
        Self {
            descent,
            blocks,
            machine: Machine::new(image),
            states: vec![None; blocks.starts.len()],
            visits: vec![0; blocks.starts.len()],
            work: BTreeSet::new(),
            hub: None,
            frozen: vec![false; blocks.starts.len()],
            pads: roots.pads.iter().filter_map(|p| blocks.by_rva.get(p).copied()).collect(),
            gave_up: false,
        }
    }

    /// Finds the fixed point. `base` are registers that may hold the image base where nothing is known.
    fn solve(&mut self, roots: &Roots<'_>, base: &[usize], coarse: bool) {
        let start = |state: State| if coarse { state.coarse() } else { state };
        if let Some(entry) = self.blocks.by_rva.get(&roots.entry) {
            self.enter(*entry, &start(State::entry()));
        }
        self.run();
        // Landing pads that no call leads to, and code that nothing leads to, start with nothing known. They must not take
        // away what is known of the code they run into, which they never do while the program runs.
        for (block, state) in self.states.iter().enumerate() {
            self.frozen[block] = state.is_some();
        }
        for rva in roots.pads.iter().chain(roots.weak) {
            if let Some(block) = self.blocks.by_rva.get(rva)
                && self.states[*block].is_none()
            {
                self.enter(*block, &start(State::unknown(*rva, base)));
            }
        }
        self.run();
    }

    /// Control comes to a block with this state.
    fn enter(&mut self, block: usize, state: &State) {
        if self.frozen[block] {
            return;
        }
        let rva = self.descent.steps[self.blocks.starts[block]].rva;
        let descent = self.descent;
        let own = move |a: u32| descent.step_at(a).is_some();
        let patience = WIDEN_AFTER * self.blocks.edges_in[block];
        let changed = match &mut self.states[block] {
            Some(known) => known.join(state, rva, self.visits[block] > patience, &own),
            empty => {
                *empty = Some(state.clone());
                true
            }
        };
        if changed {
            self.visits[block] += 1;
            if self.visits[block] > patience + MAX_VISITS {
                self.gave_up = true;
            } else {
                self.work.insert(block);
            }
        }
    }

    /// Visits what is waiting, in the order of addresses and over again. The head of a loop waits until the whole loop had
    /// its turn: an interpreter's dispatch would else be visited anew for each instruction that leads back to it.
    fn run(&mut self) {
        let mut next = 0;
        while let Some(block) = self.work.range(next..).next().or_else(|| self.work.first()).copied() {
            self.work.remove(&block);
            self.visit(block);
            next = block + 1;
        }
    }

    fn visit(&mut self, block: usize) {
        let Some(mut state) = self.states[block].clone() else {
            return;
        };
        let descent = self.descent;
        let steps = self.blocks.steps(descent, block);
        for (i, step) in steps.iter().enumerate() {
            self.machine.step(&mut state, step, next_step(descent, steps, i), None);
            if matches!(step.decoded.flow, Flow::Call(_) | Flow::IndirectCall) && !self.pads.is_empty() {
                self.unwind(&state);
            }
        }
        state.collect();
        let Some(last) = steps.last() else {
            return;
        };
        let to = |rva: u32| self.blocks.by_rva.get(&rva).copied();
        match last.decoded.flow {
            Flow::Branch(target) => {
                if let Some(block) = to(target) {
                    self.enter(block, &state);
                }
            }
            Flow::ConditionalBranch(target) => {
                let (target, next) = (to(target), to(last.end()));
                let condition = last.instruction.condition_code();
                if let Some(block) = target {
                    let mut taken = state.clone();
                    refine(&mut taken, condition, true);
                    self.enter(block, &taken);
                }
                if let Some(block) = next {
                    refine(&mut state, condition, false);
                    self.enter(block, &state);
                }
            }
            Flow::IndirectJump => {
                let targets = descent.edges.get(&last.rva).cloned().unwrap_or_default();
                for block in targets.into_iter().filter_map(to).collect::<Vec<_>>() {
                    self.enter(block, &state);
                }
            }
            flow if flow.falls_through() => {
                if let Some(block) = to(last.end()) {
                    self.enter(block, &state);
                }
            }
            _ => {}
        }
    }

    /// A call may lead to any landing pad: registers that survive calls and the frame are as they are there.
    fn unwind(&mut self, state: &State) {
        const HUB: u32 = u32::MAX;
        let mut state = state.clone();
        for n in 0..state.registers.len() {
            if n != RSP && !NONVOLATILE.contains(&n) {
                let symbol = Symbol { at: HUB, role: Role::Result(n as u8) };
                state.registers[n] = if state.coarse { Value::Opaque } else { Value::Symbol(symbol, 64) };
            }
        }
        state.comparison = None;
        state.collect();
        let own = |_: u32| false;
        let changed = match &mut self.hub {
            Some(hub) => hub.join(&state, HUB, true, &own),
            empty => {
                *empty = Some(state);
                true
            }
        };
        if changed && let Some(hub) = self.hub.clone() {
            for pad in self.pads.clone() {
                self.enter(pad, &hub);
            }
        }
    }
}

/// Decides what an indirect jump does. `state` is the state before it.
#[allow(clippy::too_many_arguments)]
pub(super) fn jump(
    image: &Image,
    descent: &Descent<'_>,
    roots: &Roots<'_>,
    context: &Context<'_>,
    machine: &Machine<'_>,
    state: &mut State,
    step: &Step,
    out: &mut Findings,
) {
    let i = &step.instruction;
    let mut unresolved = |key: &'static str, why: &str| {
        out.problems.push(Problem { rva: step.rva, key, text: format!("indirect jump at {:#x}: {why}", step.rva) });
    };
    let origin = if i.op0_kind() == OpKind::Register {
        let n = i.op0_register().full_register().number();
        let value = state.registers[n & 15];
        match value {
            // The address of a label would be an ordinary jump; another function's is a tail call.
            Value::Address(rva) if descent.contains(rva) && rva != roots.entry => Origin::Computed,
            _ => state.origin(value),
        }
    } else {
        match machine.effective(state, step, &mut None) {
            Effective::Image(_) if x64::rip_target(i).is_some() => {
                out.tail_jumps.push(step.rva);
                return;
            }
            Effective::Element(table, 8, Index { range, natural, via }) => {
                Origin::Entry(TableRead { table, width: 8, signed: true, range, natural, load: step.rva, via })
            }
            Effective::Image(_) | Effective::Pointer(..) | Effective::Frame(..) | Effective::Other(false) => {
                Origin::Plain
            }
            Effective::Other(true) => Origin::Indexed,
            _ => Origin::Computed,
        }
    };
    let read = match origin {
        Origin::Target(read, anchor) => Some((read, Some(anchor))),
        Origin::Entry(read) if read.width == 8 => Some((read, None)),
        _ => None,
    };
    if let Some((read, anchor)) = read {
        match tables::resolve(image, descent, context, step.rva, read, anchor) {
            Resolution::Table { table, targets, index } => {
                out.targets.push((step.rva, targets));
                out.jump_tables.push(table);
                out.offset_tables.extend(index);
                return;
            }
            Resolution::Foreign => {}
            Resolution::Unbounded(why) => {
                unresolved("code.jump_table.unbounded", &why);
                return;
            }
        }
    } else if !matches!(origin, Origin::Plain | Origin::Indexed) {
        unresolved("code.indirect_jump.unresolved", "its target is computed in a way that is not followed");
        return;
    }
    if origin == Origin::Indexed && pointer_into(descent, roots, context) {
        unresolved(
            "code.indirect_jump.unresolved",
            "it goes through an array at an unknown address, and pointers to labels of the function exist",
        );
        return;
    }
    // A tail call: the frame is gone and every register that belongs to the caller is back. Code that nothing known
    // leads to may be a function of its own that no table lists: there it counts from where that code starts.
    let start = match state.registers[RSP] {
        Value::Frame(0, 0) => Some((0, true)),
        Value::Frame(at, 0) if roots.weak.contains(&at) => Some((at, false)),
        _ => None,
    };
    let restored = start.is_some_and(|(at, initial)| {
        NONVOLATILE.iter().all(|n| {
            let role = if initial { Role::Initial(*n as u8) } else { Role::Join(*n as u8) };
            state.registers[*n] == Value::Symbol(Symbol { at, role }, 64)
        })
    });
    if restored {
        out.tail_jumps.push(step.rva);
    } else {
        unresolved(
            "code.indirect_jump.unresolved",
            "it is no tail call: the frame or a saved register is not restored",
        );
    }
}

/// True if a pointer under a base relocation leads to the inside of the function.
pub(super) fn pointer_into(descent: &Descent<'_>, roots: &Roots<'_>, context: &Context<'_>) -> bool {
    descent.steps.iter().any(|s| s.rva != roots.entry && context.pointer_targets.binary_search(&s.rva).is_ok())
}

/// Where each table starts that instructions of the function refer to.
pub(super) fn own_boundaries(descent: &Descent<'_>) -> BTreeSet<u32> {
    descent.steps.iter().filter_map(|s| x64::rip_target(&s.instruction)).collect()
}

/// Tables by address, to tell those that serve a jump.
pub(super) fn by_address(tables: &[RawJumpTable]) -> BTreeMap<u32, u32> {
    tables.iter().map(|t| (t.table, t.end())).collect()
}
