//! Which parts of a function need the dataflow at all. Most need none, and it is by far the costliest step.

use super::descent::{Descent, Step};
use super::flow::{Blocks, Roots, ends_block, joined};
use super::taint::Taint;
use super::{Flow, x64};
use crate::image::Image;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use std::cell::OnceCell;

/// What of a function the dataflow has to explain.
#[derive(Default)]
pub(super) struct Needs {
    /// True if the image base is used.
    pub(super) base: bool,
    /// Indices of steps: indirect jumps other than through a fixed slot.
    pub(super) jumps: Vec<usize>,
    /// Indices of steps that read what may be an element of a table of differences.
    pub(super) elements: Vec<usize>,
    /// For each of these, the RVA of the instruction that adds it to something.
    pub(super) sums: Vec<u32>,
    /// The blocks, and what may hold an address where; made if anything asks for it.
    pub(super) ground: OnceCell<(Blocks, Taint)>,
}

impl Needs {
    /// The blocks, and what may hold an address where.
    pub(super) fn ground(&self, descent: &Descent<'_>, roots: &Roots<'_>) -> &(Blocks, Taint) {
        self.ground.get_or_init(|| {
            let blocks = Blocks::build(descent, roots);
            let taint = Taint::of(descent, roots, &blocks);
            (blocks, taint)
        })
    }
}

/// `None` if the code holds addresses of eight bytes, which are found only by looking at everything.
pub(super) fn of(image: &Image, descent: &Descent<'_>, roots: &Roots<'_>) -> Option<Needs> {
    let mut needs = Needs::default();
    for (n, step) in descent.steps.iter().enumerate() {
        let i = &step.instruction;
        let target = x64::rip_target(i);
        if is_relocated(image, step) {
            return None;
        }
        needs.base |= target == Some(0);
        if step.decoded.flow == Flow::IndirectJump && target.is_none() {
            needs.jumps.push(n);
        }
        if let Some((more, anchor)) = anchor(&descent.steps[n..]) {
            let (blocks, taint) = needs.ground(descent, roots);
            let (held, behind) = taint.around(descent, blocks, n);
            let may_be = |r: Register| r.is_gpr64() && may_hold_address(&descent.steps[..n], r, held);
            let table = may_be(i.memory_base()) || (i.memory_index_scale() == 1 && may_be(i.memory_index()));
            if table && behind & anchor != 0 {
                needs.elements.push(n);
                needs.sums.push(descent.steps[n + more].rva);
            }
        }
    }
    Some(needs)
}

/// True if the 8-byte immediate is an address.
fn is_relocated(image: &Image, step: &Step) -> bool {
    let field = step.decoded.immediate.filter(|f| f.width == 8);
    field.is_some_and(|f| image.base_relocations.binary_search(&(step.rva + u32::from(f.offset))).is_ok())
}

/// If the first instruction reads a 32-bit element of an array and the same block adds it to something, which makes
/// perhaps a difference of addresses: which of the steps adds, and what it is added to, as [`spread`] gives it. Compilers
/// make both from one operation, so nothing else comes between blocks.
pub(super) fn anchor(steps: &[Step]) -> Option<(usize, u32)> {
    let i = &steps[0].instruction;
    let loads = matches!(i.mnemonic(), Mnemonic::Movsxd | Mnemonic::Mov)
        && i.op_count() == 2
        && i.op0_kind() == OpKind::Register
        && i.op1_kind() == OpKind::Memory
        && i.memory_size().size() == 4
        && (i.memory_index().is_gpr() || i.mnemonic() == Mnemonic::Movsxd);
    if !loads {
        return None;
    }
    let element = i.op0_register().full_register();
    for (n, pair) in steps.windows(2).enumerate() {
        let here = |anchor| Some((n + 1, anchor));
        if ends_block(pair[0].decoded.flow) || !joined(&pair[0], &pair[1]) {
            return None;
        }
        let i = &pair[1].instruction;
        let (a, b) = (i.op0_register(), i.op1_register());
        match i.mnemonic() {
            Mnemonic::Add if a == element && i.op1_kind() == OpKind::Register => return here(bit(b)),
            Mnemonic::Add if a == element && i.op1_kind() == OpKind::Memory => return here(FRAME),
            Mnemonic::Add if a == element => return here(bit(a)),
            Mnemonic::Add if b == element => return here(if i.op0_kind() == OpKind::Memory { FRAME } else { bit(a) }),
            Mnemonic::Lea if i.memory_index_scale() == 1 && i.memory_index() == element => {
                return here(bit(i.memory_base()));
            }
            Mnemonic::Lea if i.memory_index_scale() == 1 && i.memory_base() == element => {
                return here(bit(i.memory_index()));
            }
            _ => {}
        }
    }
    None
}

pub(super) fn is_frame(register: Register) -> bool {
    matches!(register, Register::RSP | Register::RBP)
}

pub(super) fn bit(register: Register) -> u32 {
    let full = register.full_register();
    if full.is_gpr64() { 1 << full.number() } else { 0 }
}

/// Stands for all places in the frame.
pub(super) const FRAME: u32 = 1 << 16;

/// Registers that hold an address of the image, or something made from one, at any point of the function: one set for
/// all points. Addresses that come in from outside, through parameters or memory other than the frame, do not count.
pub(super) fn holders(steps: &[Step]) -> u32 {
    let mut held = 0;
    loop {
        let before = held;
        for step in steps {
            held |= spread(&step.instruction, held);
        }
        if held == before {
            return held;
        }
    }
}

/// What holds an address after an instruction because of it, if `held` do before.
pub(super) fn spread(i: &Instruction, held: u32) -> u32 {
    if i.op_count() == 0 || is_half(i) {
        return 0;
    }
    let mut out = 0;
    let registers = (0..i.op_count()).filter(|n| i.op_kind(*n) == OpKind::Register);
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    let mut sources = registers.clone().skip(1).fold(0, |all, n| all | bit(i.op_register(n)));
    let frame = memory && (is_frame(i.memory_base()) || i.memory_base() == Register::None);
    match i.mnemonic() {
        Mnemonic::Lea => {
            sources |= bit(i.memory_base()) | bit(i.memory_index());
            if x64::rip_target(i).is_some() {
                out |= bit(i.op0_register());
            }
        }
        Mnemonic::Push => {
            let pushed = registers.fold(0, |all, n| all | bit(i.op_register(n)));
            return if pushed & held != 0 { FRAME } else { 0 };
        }
        Mnemonic::Pop => sources |= FRAME,
        _ if frame => sources |= FRAME,
        _ => {}
    }
    if i.mnemonic() == Mnemonic::Xchg {
        sources |= bit(i.op0_register());
    }
    match i.op0_kind() {
        OpKind::Register if sources & held != 0 => {
            out |= bit(i.op0_register());
            if i.mnemonic() == Mnemonic::Xchg {
                out |= sources & !FRAME;
            }
        }
        OpKind::Memory if frame && sources & held & !FRAME != 0 => out |= FRAME,
        _ => {}
    }
    out
}

/// Bits of the registers that a call may change.
pub(super) fn volatile() -> u32 {
    VOLATILE.iter().fold(0, |all, r| all | bit(*r))
}

/// True if the instruction writes less than an address: half a register, or what is extended from half of one.
fn is_half(i: &Instruction) -> bool {
    i.op0_kind() == OpKind::Register && !i.op0_register().is_gpr64()
        || matches!(i.mnemonic(), Mnemonic::Movsxd | Mnemonic::Movzx | Mnemonic::Movsx)
}

/// Registers that a call may change.
const VOLATILE: [Register; 7] =
    [Register::RAX, Register::RCX, Register::RDX, Register::R8, Register::R9, Register::R10, Register::R11];

/// True if `register` may hold an address of the image behind the last of these steps. `held` are the registers that do
/// at some point; the instruction of the same block that sets the register may tell better.
fn may_hold_address(steps: &[Step], register: Register, held: u32) -> bool {
    let possible = held & bit(register) != 0;
    if !possible {
        return false;
    }
    let mut next = None;
    for step in steps.iter().rev() {
        if ends_block(step.decoded.flow) || next.is_some_and(|n| !joined(step, n)) {
            return possible;
        }
        next = Some(step);
        let i = &step.instruction;
        if matches!(step.decoded.flow, Flow::Call(_) | Flow::IndirectCall) && VOLATILE.contains(&register) {
            return false;
        }
        let sets = i.op_count() > 0
            && i.op0_kind() == OpKind::Register
            && i.op0_register().full_register() == register
            && !matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push);
        if sets {
            if is_half(i) {
                return false;
            }
            // Memory other than the frame holds no address that this function has put there.
            let loads = i.mnemonic() == Mnemonic::Mov && i.op1_kind() == OpKind::Memory;
            return !(loads && i.memory_base() != Register::None && !is_frame(i.memory_base()));
        }
        if i.mnemonic() == Mnemonic::Xchg {
            return possible;
        }
    }
    possible
}
