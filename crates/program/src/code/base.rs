//! The uses of `__ImageBase` in a function, where they are plain.
//!
//! For each block three sets of registers: those that hold the image base on every path, those that hold it or something
//! made of it on some path, and those that may do so for all that is known. Where a use falls into the first or the second
//! for certain, the dataflow over everything would find the same there: the first set holds nothing that is not the base
//! to it, the second nothing that it does not count as perhaps the base, the third all of that. Anything else is left to
//! that dataflow: the base in memory, most arithmetic, an operand that may hold it or not.

use super::descent::{Descent, Step};
use super::flow::{Blocks, Roots, is_call};
use super::needs::{bit, volatile};
use super::transfer::NONVOLATILE;
use super::{Flow, RawReference, x64};
use crate::function::Problem;
use crate::image::Image;
use crate::reference::Form;
use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use std::collections::BTreeSet;

/// rcx, rdx, r8 and r9, which carry arguments.
const ARGUMENTS: u32 = 1 << 1 | 1 << 2 | 1 << 8 | 1 << 9;
/// rax, which carries a result.
const RESULT: u32 = 1;
const RBP: u32 = 1 << 5;
/// Stands for the frame, whose content nothing is known of.
const FRAME: u32 = 1 << 16;

/// What a function does with the image base.
#[derive(Default)]
pub(super) struct Uses {
    /// Displacements from it.
    pub(super) displacements: Vec<RawReference>,
    /// Instructions that use it as a value.
    pub(super) values: Vec<u32>,
    /// Instructions that add it to an element of a table, if what they add it to is one.
    pub(super) sums: Vec<u32>,
    /// Uses that no copy of the function can follow.
    pub(super) problems: Vec<Problem>,
}

/// Which registers hold the image base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    /// On every path.
    surely: u32,
    /// On some path, or something made of it; includes the former.
    partly: u32,
    /// For all that is known; includes the former.
    maybe: u32,
}

impl Held {
    /// Where nothing is known of how control came, any register that functions keep may hold it, and so may the frame.
    fn unknown() -> Self {
        let kept = NONVOLATILE.iter().fold(0, |all, n| all | 1 << n);
        Self { surely: 0, partly: kept, maybe: kept | FRAME }
    }

    fn join(self, other: Self) -> Self {
        Self { surely: self.surely & other.surely, partly: self.partly | other.partly, maybe: self.maybe | other.maybe }
    }

    fn may(self, registers: u32) -> bool {
        self.maybe & registers != 0
    }

    /// True if it is not known whether some of these count as perhaps the base.
    fn is_unclear(self, registers: u32) -> bool {
        self.maybe & !self.partly & registers != 0
    }

    fn is_partly(self, registers: u32) -> bool {
        self.partly & registers != 0
    }

    fn set(&mut self, register: u32, what: Content) {
        let if_at_least = |least| if what >= least { register } else { 0 };
        self.surely = self.surely & !register | if_at_least(Content::Base);
        self.partly = self.partly & !register | if_at_least(Content::Part);
        self.maybe = self.maybe & !register | if_at_least(Content::Unclear);
    }

    /// What a register holds.
    fn get(self, register: u32) -> Content {
        match register {
            r if self.surely & r != 0 => Content::Base,
            r if self.partly & r != 0 => Content::Part,
            r if self.maybe & r != 0 => Content::Unclear,
            _ => Content::Other,
        }
    }
}

/// What a register holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    /// Nothing of the image base.
    Other,
    /// This is not known.
    Unclear,
    /// The base on some path, or something made of it.
    Part,
    /// The base.
    Base,
}

/// Something that takes the dataflow over everything.
struct Unclear;

struct Follower<'a> {
    image: &'a Image,
    descent: &'a Descent<'a>,
    /// Instructions that add an element of a table to what it is relative to.
    sums: &'a [u32],
    factory: InstructionInfoFactory,
}

/// The uses of the image base; `None` if they are not plain. `sums` are the instructions, sorted, that add an element of
/// a table to what it is relative to, and that something else explains.
pub(super) fn uses(
    image: &Image,
    descent: &Descent<'_>,
    roots: &Roots<'_>,
    blocks: &Blocks,
    sums: &[u32],
) -> Option<Uses> {
    let mut follower = Follower { image, descent, sums, factory: InstructionInfoFactory::new() };
    let at = |rva: u32| blocks.by_rva.get(&rva).copied();
    let pads: Vec<usize> = roots.pads.iter().filter_map(|p| at(*p)).collect();
    let mut starts: Vec<Option<Held>> = vec![None; blocks.starts.len()];
    let mut frozen = vec![false; blocks.starts.len()];
    let mut work = BTreeSet::new();
    if let Some(entry) = at(roots.entry) {
        starts[entry] = Some(Held::default());
        work.insert(entry);
    }
    // As in the dataflow over everything, what nothing leads to takes nothing away from what is known elsewhere.
    for weak in [false, true] {
        if weak {
            for (block, state) in starts.iter().enumerate() {
                frozen[block] = state.is_some();
            }
            for block in roots.pads.iter().chain(roots.weak).filter_map(|r| at(*r)) {
                if starts[block].is_none() {
                    starts[block] = Some(Held::unknown());
                    work.insert(block);
                }
            }
        }
        let mut next = 0;
        while let Some(block) = work.range(next..).next().or_else(|| work.first()).copied() {
            work.remove(&block);
            next = block + 1;
            let Some(mut held) = starts[block] else { continue };
            let mut enter = |to: usize, held: Held| {
                let joined = starts[to].map_or(held, |known| known.join(held));
                if !frozen[to] && starts[to] != Some(joined) {
                    starts[to] = Some(joined);
                    work.insert(to);
                }
            };
            let steps = blocks.steps(descent, block);
            for step in steps {
                follower.step(&mut held, step, None).ok()?;
                if is_call(step) {
                    pads.iter().for_each(|pad| enter(*pad, held));
                }
            }
            let Some(last) = steps.last() else { continue };
            match last.decoded.flow {
                Flow::Branch(target) => at(target).into_iter().for_each(|to| enter(to, held)),
                Flow::ConditionalBranch(target) => {
                    at(target).into_iter().chain(at(last.end())).for_each(|to| enter(to, held));
                }
                Flow::IndirectJump => {
                    let targets = descent.edges.get(&last.rva).into_iter().flatten();
                    targets.filter_map(|t| at(*t)).for_each(|to| enter(to, held));
                }
                flow if flow.falls_through() => at(last.end()).into_iter().for_each(|to| enter(to, held)),
                _ => {}
            }
        }
    }
    let mut uses = Uses::default();
    for (block, start) in starts.into_iter().enumerate() {
        let mut held = start.unwrap_or_else(Held::unknown);
        for step in blocks.steps(descent, block) {
            follower.step(&mut held, step, Some(&mut uses)).ok()?;
        }
    }
    Some(uses)
}

impl Follower<'_> {
    /// Applies one instruction, and takes note of what it does with the base.
    fn step(&mut self, held: &mut Held, step: &Step, mut uses: Option<&mut Uses>) -> Result<(), Unclear> {
        let i = &step.instruction;
        if held.maybe == 0 {
            // Nothing else brings it.
            if i.mnemonic() == Mnemonic::Lea && x64::rip_target(i) == Some(0) && i.op0_register().is_gpr64() {
                held.set(bit(i.op0_register()), Content::Base);
            }
            return Ok(());
        }
        if matches!(i.mnemonic(), Mnemonic::Nop | Mnemonic::Endbr64) {
            return Ok(());
        }
        let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        if memory {
            self.operand(*held, step, &mut uses)?;
        }
        if self.sums.binary_search(&step.rva).is_ok()
            && let Some(uses) = uses.as_deref_mut()
        {
            let added = (0..i.op_count()).filter(|n| i.op_kind(*n) == OpKind::Register).map(|n| i.op_register(n));
            let parts = added.chain([i.memory_base(), i.memory_index()]);
            if held.may(parts.fold(0, |all, r| all | bit(r))) {
                uses.sums.push(step.rva);
            }
        }
        let passes = match step.decoded.flow {
            Flow::Call(_) | Flow::IndirectCall => ARGUMENTS,
            Flow::Branch(to) if !self.descent.contains(to) => ARGUMENTS,
            Flow::IndirectJump if i.op0_kind() == OpKind::Memory => ARGUMENTS,
            _ => 0,
        };
        self.value(held.is_unclear(passes), held.is_partly(passes), step, &mut uses)?;
        if step.decoded.flow == Flow::Return {
            // Only the base itself counts as returned.
            self.value(held.is_unclear(RESULT), held.surely & RESULT != 0, step, &mut uses)?;
        }
        if is_call(step) {
            held.set(volatile(), Content::Other);
            return Ok(());
        }
        self.data(held, step, memory, &mut uses)
    }

    /// Takes note of a use as a value.
    fn value(&self, unclear: bool, used: bool, step: &Step, uses: &mut Option<&mut Uses>) -> Result<(), Unclear> {
        if unclear {
            return Err(Unclear);
        }
        if used && let Some(uses) = uses {
            uses.values.push(step.rva);
        }
        Ok(())
    }

    /// The memory operand.
    fn operand(&self, held: Held, step: &Step, uses: &mut Option<&mut Uses>) -> Result<(), Unclear> {
        let i = &step.instruction;
        let (base, index) = (bit(i.memory_base()), bit(i.memory_index()));
        if !held.may(base | index) {
            return Ok(());
        }
        let registers = [i.memory_base(), i.memory_index()];
        let narrow = !registers.into_iter().all(|r| r == Register::None || r.is_gpr64());
        let wide = step.decoded.displacement.filter(|f| f.width == 4);
        let displacement = i.memory_displacement64() as i64;
        // Where the index is not scaled, either register may be the base. The other is no address of the image then, for
        // the sum of two addresses leads nowhere.
        let alone = |one: u32, other: u32| held.surely & one != 0 && !held.may(other);
        let plain = alone(base, index) || i.memory_index_scale() == 1 && alone(index, base);
        if narrow || matches!(i.segment_prefix(), Register::FS | Register::GS) {
            return Err(Unclear);
        }
        let Some(field) = wide else {
            // Nothing that the linker has filled in.
            return Ok(());
        };
        if plain {
            if !(0..=i64::from(self.image.size_of_image)).contains(&displacement) {
                return Err(Unclear);
            }
            if let Some(uses) = uses {
                uses.displacements.push(RawReference {
                    site: step.rva + u32::from(field.offset),
                    width: 4,
                    form: Form::ImageRelativeDisplacement,
                    origin: 0,
                    rva: displacement as u32,
                });
            }
            return Ok(());
        }
        // The base on some paths only: then the displacement must not be an address.
        if held.surely & (base | index) != 0
            || held.is_unclear(base | index)
            || held.is_partly(base) && held.is_partly(index)
        {
            return Err(Unclear);
        }
        let lowest = self.image.sections.iter().map(|s| s.rva).min().unwrap_or(self.image.size_of_headers);
        if (i64::from(lowest)..i64::from(self.image.size_of_image)).contains(&displacement) {
            self.untracked(step, uses, "a memory operand's base may be __ImageBase, but not on every path");
        }
        Ok(())
    }

    fn untracked(&self, step: &Step, uses: &mut Option<&mut Uses>, why: &str) {
        if let Some(uses) = uses {
            uses.problems.push(super::transfer::untracked(step, why));
        }
    }

    /// What becomes of the registers.
    fn data(
        &mut self,
        held: &mut Held,
        step: &Step,
        memory: bool,
        uses: &mut Option<&mut Uses>,
    ) -> Result<(), Unclear> {
        let i = &step.instruction;
        let register = |n: u32| match n < i.op_count() && i.op_kind(n) == OpKind::Register {
            true => i.op_register(n),
            false => Register::None,
        };
        let (a, b) = (register(0), register(1));
        let (to, from) = (bit(a), bit(b));
        let size = if to == 0 { 0 } else { a.size() };
        // What is read from the frame, of which nothing is known where nothing is known of how control came.
        let read = if memory && held.may(FRAME) { Content::Unclear } else { Content::Other };
        match i.mnemonic() {
            Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd if to != 0 => {
                let what = match held.get(from) {
                    _ if from == 0 && size == 8 && i.mnemonic() == Mnemonic::Mov => read,
                    what if size == 8 && b.is_gpr64() => what,
                    // Half of the base is none, while half of what may be anything may be anything.
                    Content::Base | Content::Other => Content::Other,
                    _ => Content::Unclear,
                };
                // A part of a register leaves the rest.
                let rest = if size < 4 && held.may(to) { Content::Unclear } else { Content::Other };
                held.set(to, what.max(rest));
            }
            Mnemonic::Mov if i.op0_kind() == OpKind::Memory => {
                if held.may(from) {
                    return Err(Unclear);
                }
            }
            Mnemonic::Lea if size == 8 => {
                let (base, index) = (bit(i.memory_base()), bit(i.memory_index()));
                let addition = index != 0 && i.memory_index_scale() == 1 && step.decoded.displacement.is_none();
                if x64::rip_target(i).is_some() || !held.may(base | index) {
                    let is_base = x64::rip_target(i) == Some(0);
                    held.set(to, if is_base { Content::Base } else { Content::Other });
                } else if addition && held.surely & (base | index) != 0 {
                    self.sum(held, step, base, index)?;
                    held.set(to, Content::Other);
                } else if held.surely & base != 0 && !held.may(index) {
                    // An address in the image, the base again, or an element of a table.
                    let same = index == 0 && i.memory_displacement64() == 0;
                    held.set(to, if same { Content::Base } else { Content::Other });
                } else if !addition && index == 0 && held.get(base) == Content::Part {
                    self.value(false, true, step, uses)?;
                    held.set(to, Content::Part);
                } else {
                    return Err(Unclear);
                }
            }
            Mnemonic::Add if size == 8 => {
                if held.may(to | from) {
                    let constant = !matches!(i.op1_kind(), OpKind::Register | OpKind::Memory);
                    if constant && held.get(to) == Content::Part {
                        return Ok(());
                    }
                    if from == 0 {
                        return Err(Unclear);
                    }
                    self.sum(held, step, to, from)?;
                }
                held.set(to, Content::Other);
            }
            Mnemonic::Xor | Mnemonic::Sub if size >= 4 && a == b => {
                // The difference of the base and itself is a use of it, too.
                if i.mnemonic() == Mnemonic::Sub && held.may(to) {
                    return Err(Unclear);
                }
                held.set(to, Content::Other);
            }
            Mnemonic::Sub if size == 8 => {
                if held.may(to | from) {
                    return Err(Unclear);
                }
            }
            Mnemonic::Cmp | Mnemonic::Test => {
                let whole = [a, b].into_iter().filter(|r| r.is_gpr64()).fold(0, |all, r| all | bit(r));
                self.value(held.is_unclear(whole), held.is_partly(whole), step, uses)?;
            }
            Mnemonic::Push => {
                self.value(held.is_unclear(to), a.is_gpr64() && held.is_partly(to), step, uses)?;
                if held.may(to) {
                    held.maybe |= FRAME;
                }
            }
            Mnemonic::Inc | Mnemonic::Dec => {
                if held.may(to) && (size != 8 || held.get(to) != Content::Part) {
                    return Err(Unclear);
                }
            }
            Mnemonic::And | Mnemonic::Or | Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Add | Mnemonic::Sub if to != 0 => {
                let what = match held.get(to).max(held.get(from)) {
                    Content::Other => Content::Other,
                    _ => Content::Unclear,
                };
                held.set(to, what);
            }
            Mnemonic::Pop if size == 8 => {
                let what = if held.may(FRAME) { Content::Unclear } else { Content::Other };
                held.set(to, what);
            }
            Mnemonic::Leave => {
                if held.may(RBP) {
                    return Err(Unclear);
                }
                let what = if held.may(FRAME) { Content::Unclear } else { Content::Other };
                held.set(RBP, what);
            }
            _ => self.other(held, step, memory, read)?,
        }
        Ok(())
    }

    /// The sum of the base and an element of a table.
    fn sum(&self, held: &Held, step: &Step, a: u32, b: u32) -> Result<(), Unclear> {
        let plain = held.surely & a != 0 && !held.may(b) || held.surely & b != 0 && !held.may(a);
        if plain && self.sums.binary_search(&step.rva).is_ok() { Ok(()) } else { Err(Unclear) }
    }

    /// Any other instruction: what reads the base makes something of it, or moves it out of sight.
    fn other(&mut self, held: &mut Held, step: &Step, memory: bool, read: Content) -> Result<(), Unclear> {
        let i: &Instruction = &step.instruction;
        let mut written = 0;
        for used in self.factory.info(i).used_registers() {
            let bit = bit(used.register());
            let address = memory && (used.register() == i.memory_base() || used.register() == i.memory_index());
            let access = used.access();
            // What is written on a condition may stay what it was.
            if access != OpAccess::Write && !address && held.may(bit) {
                return Err(Unclear);
            }
            if matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite) {
                written |= bit;
            }
        }
        held.set(written, read);
        Ok(())
    }
}
