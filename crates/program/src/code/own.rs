//! Which registers hold what a path itself has made: constants, what calls returned, and what it read from memory that
//! nothing earlier can tell anything of.
//!
//! What a path makes by itself is the same however control came to it. So if a path leaves open where a table ends whose
//! index it has made, the dataflow over the whole function leaves it open as well, and need not be asked. That memory
//! outside of the frame says nothing at the start of a path is taken for granted, although it may have been looked at
//! before: to be wrong here costs the proof of a bound, for what a path concludes holds whatever was before it.

use super::descent::Step;
use super::needs::{bit, is_frame, volatile};
use super::{flow, x64};
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

/// Registers with their own content, as bits; and the memory that was looked at on the way.
#[derive(Default)]
pub(super) struct Own {
    registers: u32,
    /// The same if what a mask leaves counts, whatever was masked: compilers leave out masks that bounds make superfluous.
    /// People do not, so it is believed of tables of data alone.
    masked: u32,
    /// Registers and displacements that memory was read or written at since it may last have changed.
    seen: Vec<(Register, u64)>,
    /// True if memory at a fixed address was.
    fixed: bool,
}

impl Own {
    /// At the entry of a function, before which there is nothing to be known.
    pub(super) fn entry() -> Self {
        Self { registers: u32::MAX, masked: u32::MAX, ..Self::default() }
    }

    /// True if a register holds what the path has made.
    pub(super) fn holds(&self, register: Register) -> bool {
        bit(register) & self.registers != 0
    }

    /// The same if what a mask leaves counts.
    pub(super) fn holds_masked(&self, register: Register) -> bool {
        bit(register) & self.masked != 0
    }

    /// Takes note of an instruction.
    pub(super) fn step(&mut self, step: &Step) {
        let i = &step.instruction;
        if flow::is_call(step) {
            self.registers |= volatile();
            self.masked |= volatile();
            self.forget();
            return;
        }
        let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        let new = memory && i.mnemonic() != Mnemonic::Lea && self.look(step);
        // What a table holds depends on the index.
        let from_memory = |own: u32| new && (i.memory_index() == Register::None || bit(i.memory_index()) & own != 0);
        self.registers = written(i, self.registers, from_memory(self.registers), false);
        self.masked = written(i, self.masked, from_memory(self.masked), true);
    }

    /// Looks at the memory operand. True if nothing earlier tells anything of what is read there.
    fn look(&mut self, step: &Step) -> bool {
        let i = &step.instruction;
        if is_frame(i.memory_base()) {
            return false;
        }
        let writes = i.op0_kind() == OpKind::Memory && !matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
        if writes {
            self.forget();
        }
        if x64::rip_target(i).is_some() {
            self.fixed = true;
            return false;
        }
        let at = (i.memory_base(), i.memory_displacement64());
        // Elements of arrays are not remembered.
        if i.memory_index() != Register::None {
            return true;
        }
        let new = !self.fixed && !self.seen.contains(&at);
        self.seen.push(at);
        new
    }

    fn forget(&mut self) {
        self.seen.clear();
        self.fixed = false;
    }
}

/// The registers that hold what the path has made after an instruction, if `own` do before it. `from_memory` tells whether
/// what it reads there is the path's own, `masks` whether what a mask leaves is.
fn written(i: &Instruction, own: u32, from_memory: bool, masks: bool) -> u32 {
    let register = i.op_count() > 0 && i.op0_kind() == OpKind::Register;
    let to = if register { bit(i.op0_register()) } else { 0 };
    let of = |n: u32| match i.op_kind(n) {
        OpKind::Register => bit(i.op_register(n)) & own != 0,
        OpKind::Memory => from_memory,
        _ => true,
    };
    let is_constant = |n: u32| !matches!(i.op_kind(n), OpKind::Register | OpKind::Memory);
    let made = match i.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd => of(1),
        Mnemonic::Xor | Mnemonic::Sub if i.op1_kind() == OpKind::Register && i.op0_register() == i.op1_register() => {
            true
        }
        Mnemonic::And if masks && is_constant(1) => true,
        Mnemonic::Add | Mnemonic::Sub | Mnemonic::And | Mnemonic::Or | Mnemonic::Shl | Mnemonic::Shr => of(0) && of(1),
        Mnemonic::Inc | Mnemonic::Dec => of(0),
        Mnemonic::Lea => {
            let part = |r: Register| r == Register::None || bit(r) & own != 0;
            x64::rip_target(i).is_some() || part(i.memory_base()) && part(i.memory_index())
        }
        // What is compared with something that comes from before the path may be bounded by it.
        Mnemonic::Cmp | Mnemonic::Test if of(0) && of(1) => return own,
        Mnemonic::Cmp | Mnemonic::Test => {
            let named = (0..2).filter(|n| i.op_kind(*n) == OpKind::Register);
            return own & !named.fold(0, |all, n| all | bit(i.op_register(n)));
        }
        Mnemonic::Push | Mnemonic::Nop => return own,
        _ if i.flow_control() != FlowControl::Next => return own,
        // Multiplication, division and extension have results that no operand names.
        _ if i.op_count() < 2 => return own & !to & !volatile(),
        _ => false,
    };
    if made { own | to } else { own & !to }
}
