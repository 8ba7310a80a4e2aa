//! Which registers may hold an address of the image at the start of each block.
//!
//! A set of bits for each block and a fixed point over the flow graph: far cheaper than the dataflow over values, and
//! enough to tell most reads of arrays of numbers from reads of tables of differences.

use super::descent::{Descent, Step};
use super::flow::{Blocks, Roots, is_call};
use super::needs::{self, bit};
use super::{Flow, x64};
use iced_x86::{Instruction, Mnemonic, OpKind};
use std::collections::BTreeSet;

/// What may hold an address at the start of each block, as bits of registers and of the frame.
pub(super) struct Taint {
    starts: Vec<u32>,
}

impl Taint {
    /// Finds the fixed point. Where control comes in ways that are not followed, whatever holds an address anywhere may
    /// hold one.
    pub(super) fn of(descent: &Descent<'_>, roots: &Roots<'_>, blocks: &Blocks) -> Self {
        let anywhere = needs::holders(&descent.steps);
        let count = blocks.starts.len();
        let mut starts: Vec<Option<u32>> = vec![None; count];
        let mut work = BTreeSet::new();
        let at = |rva: u32| blocks.by_rva.get(&rva).copied();
        if let Some(entry) = at(roots.entry) {
            starts[entry] = Some(0);
            work.insert(entry);
        }
        for root in roots.pads.iter().chain(roots.weak).filter_map(|r| at(*r)) {
            starts[root] = Some(anywhere);
            work.insert(root);
        }
        loop {
            let mut next = 0;
            while let Some(block) = work.range(next..).next().or_else(|| work.first()).copied() {
                work.remove(&block);
                next = block + 1;
                let steps = blocks.steps(descent, block);
                let out = steps.iter().fold(starts[block].unwrap_or(anywhere), after);
                let Some(last) = steps.last() else { continue };
                let mut enter = |to: usize| {
                    let known = starts[to].unwrap_or(0);
                    if starts[to].is_none() || known | out != known {
                        starts[to] = Some(known | out);
                        work.insert(to);
                    }
                };
                match last.decoded.flow {
                    Flow::Branch(target) => at(target).into_iter().for_each(&mut enter),
                    Flow::ConditionalBranch(target) => {
                        at(target).into_iter().chain(at(last.end())).for_each(&mut enter);
                    }
                    Flow::IndirectJump => {
                        let targets = descent.edges.get(&last.rva).into_iter().flatten();
                        targets.filter_map(|t| at(*t)).for_each(&mut enter);
                    }
                    flow if flow.falls_through() => at(last.end()).into_iter().for_each(&mut enter),
                    _ => {}
                }
            }
            // What nothing known leads to.
            let Some(lost) = starts.iter().position(Option::is_none) else { break };
            starts[lost] = Some(anywhere);
            work.insert(lost);
        }
        Taint { starts: starts.into_iter().map(|s| s.unwrap_or(anywhere)).collect() }
    }

    /// At the start of a block.
    pub(super) fn at_start(&self, block: usize) -> u32 {
        self.starts[block]
    }

    /// Before the instruction with this index, and at any point between it and the end of its block.
    pub(super) fn around(&self, descent: &Descent<'_>, blocks: &Blocks, at: usize) -> (u32, u32) {
        let block = blocks.starts.partition_point(|s| *s <= at) - 1;
        let steps = blocks.steps(descent, block);
        let (before, behind) = steps.split_at(at - blocks.starts[block]);
        let here = before.iter().fold(self.starts[block], after);
        let mut held = here;
        let mut any = here;
        for step in behind {
            held = after(held, step);
            any |= held;
        }
        (here, any)
    }
}

/// What may hold an address after an instruction, if `held` may before it.
fn after(held: u32, step: &Step) -> u32 {
    let i = &step.instruction;
    let mut out = held | needs::spread(i, held);
    if is_call(step) {
        out &= !needs::volatile();
    }
    if replaces(i) {
        let written = bit(i.op0_register());
        let again = needs::spread(i, held & !written) & written;
        let own = held & written != 0 && reads_own(i);
        if again == 0 && !own {
            out &= !written;
        }
    }
    out
}

/// True if the instruction sets all of the register that is its first operand, whatever that held.
fn replaces(i: &Instruction) -> bool {
    let plain = matches!(
        i.mnemonic(),
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd | Mnemonic::Lea | Mnemonic::Pop
    );
    let cleared =
        i.mnemonic() == Mnemonic::Xor && i.op1_kind() == OpKind::Register && i.op0_register() == i.op1_register();
    let whole = i.op_count() > 0
        && i.op0_kind() == OpKind::Register
        && i.op0_register().is_gpr()
        && i.op0_register().size() >= 4;
    whole && (plain || cleared)
}

/// True if the register that is replaced is among what the new value is made of.
fn reads_own(i: &Instruction) -> bool {
    let written = i.op0_register().full_register();
    match i.mnemonic() {
        Mnemonic::Lea => {
            x64::rip_target(i).is_none()
                && [i.memory_base(), i.memory_index()].into_iter().any(|r| r.full_register() == written)
        }
        // Less than an address, or the content of memory, which the frame alone has from this function.
        Mnemonic::Mov if i.op1_kind() == OpKind::Register => {
            i.op0_register().is_gpr64() && i.op1_register().full_register() == written
        }
        _ => false,
    }
}
