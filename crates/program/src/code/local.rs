//! Indirect jumps that the few blocks before them explain.
//!
//! A compiler checks the index of a switch right before it reads the table, so the only path that leads to the jump tells
//! how far the index goes: going back from the jump as long as there is exactly one way to come. What holds at the start
//! of that path is taken to be nothing, so whatever is concluded holds however control came there. Where that does not
//! do, the path starts with what a coarse dataflow knows, which follows addresses and the frame alone. Only tail calls,
//! tables whose end is proven, and tables of differences to data whose index the path itself has made are accepted;
//! anything else is left to the whole dataflow.

use super::descent::Descent;
use super::flow::{self, Blocks, Findings, Roots, is_call};
use super::needs::{self, Needs};
use super::own::Own;
use super::taint::Taint;
use super::transfer::{Machine, Record, refine};
use super::values::{Origin, State, TableRead, Value};
use super::{Context, Flow, tables};
use crate::image::Image;
use crate::reference::Form;
use iced_x86::{OpKind, Register};

/// Longest path, blocks.
const BLOCKS: usize = 8;
/// Longest path, instructions.
const STEPS: usize = 256;

/// How control comes to a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entrance {
    /// In no way that is known yet.
    None,
    /// From one block, over one edge.
    From(usize),
    /// In several ways, or from outside.
    Many,
}

/// Explains what a function needs to have explained. `based` are the instructions that add the image base to what must
/// then be an element of a table. False if something takes the whole dataflow; `out` is then of no use.
pub(super) fn explain(
    image: &Image,
    descent: &Descent<'_>,
    roots: &Roots<'_>,
    context: &Context<'_>,
    (needs, based): (&Needs, &[u32]),
    out: &mut Findings,
) -> bool {
    if needs.jumps.is_empty() && needs.elements.is_empty() {
        return true;
    }
    let (blocks, taint) = needs.ground(descent, roots);
    let entrances = entrances(descent, roots, blocks);
    let paths = Paths { image, descent, roots, context, blocks, based, entrances, starts: None };
    if needs.jumps.iter().all(|n| paths.has_table(*n)) && paths.explain(needs, out) {
        return true;
    }
    let Some(states) = flow::coarse(image, descent, roots, blocks) else { return false };
    *out = Findings::default();
    Paths { starts: Some((states, taint)), ..paths }.explain(needs, out)
}

struct Paths<'a> {
    image: &'a Image,
    descent: &'a Descent<'a>,
    roots: &'a Roots<'a>,
    context: &'a Context<'a>,
    blocks: &'a Blocks,
    based: &'a [u32],
    entrances: Vec<Entrance>,
    /// What a coarse dataflow knows at the start of each block, and what may hold addresses there.
    starts: Option<(Vec<Option<State>>, &'a Taint)>,
}

impl Paths<'_> {
    fn explain(&self, needs: &Needs, out: &mut Findings) -> bool {
        let mut machine = Machine::new(self.image);
        let mut record = Record::default();
        for at in &needs.jumps {
            let before = (out.jump_tables.len(), out.tail_jumps.len(), out.problems.len());
            let sums = record.sums.len();
            let (mut state, _) = self.walk(&mut machine, *at, 0, &mut record);
            let step = &self.descent.steps[*at];
            flow::jump(self.image, self.descent, self.roots, self.context, &machine, &mut state, step, out);
            let after = (out.jump_tables.len(), out.tail_jumps.len(), out.problems.len());
            let explained = if after == (before.0 + 1, before.1, before.2) {
                let table = &out.jump_tables[before.0];
                let sum = record.sums[sums..].iter().rev().find(|(_, _, anchor)| *anchor == table.anchor);
                // A bound that no comparison sets may be closer by what comes before the path, if the index does. Compilers
                // leave out masks that bounds make superfluous; people who write for `__ImageBase` do not.
                match sum.filter(|_| table.form == Form::ImageRelative) {
                    Some((_, read, _)) => {
                        table.bound_proven && !read.natural || self.is_own(&mut machine, read.load, Own::holds)
                    }
                    None => table.bound_proven,
                }
            } else {
                // A tail call. That the target is no label of the function takes that no address is lost sight of.
                after == (before.0, before.1 + 1, before.2)
                    && self.starts.is_some()
                    && !flow::pointer_into(self.descent, self.roots, self.context)
            };
            if !explained {
                return false;
            }
        }
        // The elements that serve these jumps are no differences to data, nor are those of what is no table.
        let serves = |read: &TableRead| out.jump_tables.iter().any(|t| (t.table..t.end()).contains(&read.table));
        let mut sums = Vec::new();
        for (at, add) in needs.elements.iter().zip(&needs.sums) {
            let load = self.descent.steps[*at].rva;
            if record.sums.iter().any(|(_, read, _)| read.load == load && serves(read)) {
                continue;
            }
            if self.starts.is_none() {
                return false;
            }
            if !self.based.contains(add) && self.is_number(&mut machine, *at) {
                continue;
            }
            let Some(sum) = self.sum(&mut machine, *at) else { return false };
            sums.push(sum);
        }
        tables::offset_tables(self.image, &sums, self.context, out);
        true
    }

    /// The address and the element of a table of differences that an instruction reads, if the path to it says as much of
    /// the index as there is to say.
    fn sum(&self, machine: &mut Machine<'_>, at: usize) -> Option<(u32, TableRead, u32)> {
        let (more, _) = needs::anchor(&self.descent.steps[at..])?;
        // Control may come in between.
        if self.block(at) != self.block(at + more) {
            return None;
        }
        let (read, add) = (&self.descent.steps[at], &self.descent.steps[at + more]);
        if !self.is_own(machine, read.rva, Own::holds_masked) {
            return None;
        }
        let mut record = Record::default();
        self.walk(machine, at, more + 1, &mut record);
        record.sums.into_iter().find(|(site, sum, _)| *site == add.rva && sum.load == read.rva)
    }

    /// True if the path to the instruction at `rva` says all that there is to say of the address it reads at; `holds` tells
    /// of a register whether the path has made its content.
    fn is_own(&self, machine: &mut Machine<'_>, rva: u32, holds: fn(&Own, Register) -> bool) -> bool {
        let Some(at) = self.descent.step_at(rva) else { return false };
        let (state, own) = self.walk(machine, at, 0, &mut Record::default());
        let i = &self.descent.steps[at].instruction;
        let address = |r: Register| matches!(state.registers[r.full_register().number() & 15], Value::Address(_));
        let mut registers = [i.memory_base(), i.memory_index()].into_iter().filter(|r| r.is_gpr());
        registers.all(|r| holds(&own, r) || address(r))
    }

    /// True if the instruction reads an element of something that is no table at a known address.
    fn is_number(&self, machine: &mut Machine<'_>, at: usize) -> bool {
        let (state, _) = self.walk(machine, at, 0, &mut Record::default());
        let i = &self.descent.steps[at].instruction;
        [i.memory_base(), i.memory_index()].into_iter().filter(|r| r.is_gpr()).all(|r| {
            let value = state.registers[r.full_register().number() & 15];
            let known = matches!(state.origin(value), Origin::Element(..) | Origin::Target(..));
            !(known || state.may_be_base(value) || matches!(value, Value::Address(_)))
        })
    }

    /// The block of an instruction.
    fn block(&self, at: usize) -> usize {
        self.blocks.starts.partition_point(|s| *s <= at) - 1
    }

    /// The blocks that control has come through before it comes to an instruction, the block of that last.
    fn path(&self, block: usize) -> Vec<usize> {
        let length = |block: usize| self.blocks.steps(self.descent, block).len();
        let mut path = vec![block];
        let mut total = length(block);
        let mut first = block;
        while path.len() < BLOCKS
            && let Entrance::From(before) = self.entrances[first]
            && !path.contains(&before)
        {
            total += length(before);
            if total > STEPS {
                break;
            }
            path.push(before);
            first = before;
        }
        path.reverse();
        path
    }

    /// What is known before the instruction with this index, or `more` behind it in its block, and what of it the path to it
    /// has made.
    fn walk(&self, machine: &mut Machine<'_>, at: usize, more: usize, record: &mut Record) -> (State, Own) {
        let (descent, blocks) = (self.descent, self.blocks);
        let start = |block: usize| descent.steps[blocks.starts[block]].rva;
        let path = self.path(self.block(at));
        let head = start(path[0]);
        let mut state = match &self.starts {
            Some((states, taint)) => match &states[path[0]] {
                Some(state) => {
                    let held = taint.at_start(path[0]);
                    state.refined(head, held, held & needs::FRAME != 0)
                }
                None => State::unknown(head, &[]).coarse().refined(head, u32::MAX, true),
            },
            None => State::unknown(head, &[]),
        };
        let mut own = if head == self.roots.entry { Own::entry() } else { Own::default() };
        for (n, block) in path.iter().enumerate() {
            let steps = blocks.steps(descent, *block);
            let count = if n + 1 == path.len() { at + more - blocks.starts[*block] } else { steps.len() };
            for (i, step) in steps[..count].iter().enumerate() {
                machine.step(&mut state, step, flow::next_step(descent, steps, i), Some(&mut *record));
                own.step(step);
                if is_call(step) && self.starts.is_none() {
                    // Whatever the function has let out of its frame before this path, the callee may change.
                    state.places.clear();
                }
            }
            if let (Some(next), Some(last)) = (path.get(n + 1), steps.last())
                && let Flow::ConditionalBranch(target) = last.decoded.flow
            {
                refine(&mut state, last.instruction.condition_code(), start(*next) == target);
            }
        }
        (state, own)
    }

    /// True if the instructions right before a jump may read a table: the quick attempt is worth it.
    fn has_table(&self, at: usize) -> bool {
        let i = &self.descent.steps[at].instruction;
        i.op0_kind() == OpKind::Register || i.memory_index().is_gpr()
    }
}

fn entrances(descent: &Descent<'_>, roots: &Roots<'_>, blocks: &Blocks) -> Vec<Entrance> {
    let mut out = vec![Entrance::None; blocks.starts.len()];
    let mut come = |to: u32, from: Entrance| {
        if let Some(block) = blocks.by_rva.get(&to) {
            out[*block] = if out[*block] == Entrance::None { from } else { Entrance::Many };
        }
    };
    come(roots.entry, Entrance::Many);
    roots.pads.iter().chain(roots.weak).for_each(|r| come(*r, Entrance::Many));
    for block in 0..blocks.starts.len() {
        let Some(last) = blocks.steps(descent, block).last() else { continue };
        let from = Entrance::From(block);
        match last.decoded.flow {
            Flow::Branch(target) => come(target, from),
            Flow::ConditionalBranch(target) => {
                come(target, from);
                come(last.end(), from);
            }
            Flow::IndirectJump => {
                for target in descent.edges.get(&last.rva).into_iter().flatten() {
                    come(*target, Entrance::Many);
                }
            }
            flow if flow.falls_through() => come(last.end(), from),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::code::analysis::{Context, analyse_by};
    use crate::code::flow;
    use crate::{PdbChoice, Program};
    use rayon::prelude::*;
    use std::path::{Path, PathBuf};

    fn images(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("fixtures").map(|e| e.expect("entry").path()) {
            if entry.is_dir() {
                images(&entry, out);
            } else if entry.extension().is_some_and(|e| e == "dll" || e == "exe") {
                out.push(entry);
            }
        }
    }

    #[test]
    fn what_paths_explain_is_what_the_whole_dataflow_finds() {
        let mut all = Vec::new();
        for folder in ["fixtures", "series"] {
            images(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(folder), &mut all);
        }
        assert!(all.len() > 20, "only {} images", all.len());
        all.par_iter().for_each(|path| {
            let program = Program::load(path, PdbChoice::None).expect("readable");
            let pointer_targets = {
                let value = |site: &u32| program.image.u64(*site)?.checked_sub(program.image.image_base);
                let targets = program.image.base_relocations.iter().filter_map(value);
                let mut all: Vec<u32> = targets.filter_map(|rva| rva.try_into().ok()).collect();
                all.sort_unstable();
                all
            };
            let known = Context { landing_pads: &[], boundaries: &pointer_targets, pointer_targets: &pointer_targets };
            for function in &program.functions {
                for context in [Context::default(), known] {
                    let facts = |solve| analyse_by(solve, &program.image, &function.ranges, &context);
                    assert_eq!(facts(flow::solve), facts(flow::whole), "{}: {:#x}", path.display(), function.rva());
                }
            }
        });
    }
}
