//! Jump tables that the few blocks before the jump explain.
//!
//! A compiler checks the index of a switch right before it reads the table, so the only path that leads to the jump tells
//! how far the index goes: going back from the jump as long as there is exactly one way to come. What holds at the start
//! of that path is taken to be nothing, so whatever is concluded holds however control came there. Only tables whose end
//! is proven are accepted; anything else is left to the dataflow over the whole function.

use super::descent::{Descent, Step};
use super::flow::{Blocks, Findings, Roots, jump, next_step};
use super::needs::Needs;
use super::transfer::{Machine, Record, refine};
use super::values::{State, TableRead};
use super::{Context, Flow};
use crate::image::Image;

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

/// Explains what a function needs to have explained. False if something takes the whole dataflow; `out` is then of no
/// use.
pub(super) fn explain(
    image: &Image,
    descent: &Descent<'_>,
    roots: &Roots<'_>,
    context: &Context<'_>,
    needs: &Needs,
    out: &mut Findings,
) -> bool {
    if needs.jumps.is_empty() {
        return needs.elements.is_empty();
    }
    let blocks = Blocks::build(descent, roots);
    let entrances = entrances(descent, roots, &blocks);
    let mut machine = Machine::new(image);
    let mut record = Record::default();
    for at in &needs.jumps {
        let block = blocks.starts.partition_point(|s| s <= at) - 1;
        let (known, problems) = (out.jump_tables.len(), out.problems.len());
        let path = path(descent, &blocks, &entrances, block);
        let mut state = walk(&mut machine, descent, &blocks, &path, &mut record);
        jump(image, descent, roots, context, &machine, &mut state, &descent.steps[*at], out);
        let explained = out.jump_tables.len() == known + 1 && out.problems.len() == problems;
        if !explained || !out.jump_tables[known].bound_proven {
            return false;
        }
    }
    // The elements that serve these jumps are no differences to data.
    let serves = |read: &TableRead| out.jump_tables.iter().any(|t| (t.table..t.end()).contains(&read.table));
    let explained = |load: &u32| record.sums.iter().any(|(_, read, _)| read.load == *load && serves(read));
    needs.elements.iter().all(explained)
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

/// The blocks that control has come through, the one with the jump last.
fn path(descent: &Descent<'_>, blocks: &Blocks, entrances: &[Entrance], block: usize) -> Vec<usize> {
    let mut path = vec![block];
    let mut length = blocks.steps(descent, block).len();
    let mut first = block;
    while path.len() < BLOCKS
        && let Entrance::From(before) = entrances[first]
        && !path.contains(&before)
    {
        length += blocks.steps(descent, before).len();
        if length > STEPS {
            break;
        }
        path.push(before);
        first = before;
    }
    path.reverse();
    path
}

/// What is known before the last instruction of the path.
fn walk(
    machine: &mut Machine<'_>,
    descent: &Descent<'_>,
    blocks: &Blocks,
    path: &[usize],
    record: &mut Record,
) -> State {
    let start = |block: usize| blocks.steps(descent, block)[0].rva;
    let mut state = State::unknown(start(path[0]), &[]);
    for (n, block) in path.iter().enumerate() {
        let steps = blocks.steps(descent, *block);
        let count = if n + 1 == path.len() { steps.len() - 1 } else { steps.len() };
        for (i, step) in steps[..count].iter().enumerate() {
            machine.step(&mut state, step, next_step(descent, steps, i), Some(&mut *record));
            if is_call(step) {
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
    state
}

fn is_call(step: &Step) -> bool {
    matches!(step.decoded.flow, Flow::Call(_) | Flow::IndirectCall)
}
