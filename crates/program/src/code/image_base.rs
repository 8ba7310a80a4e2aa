//! Uses of `__ImageBase` as a value.
//!
//! Code that adds displacements to the image base means tables and data of its own image, while code that passes the
//! base on, keeps it, or compares it means the image as such (its module handle). A copy of the function in another
//! image can follow only one of the two.

use super::Flow;
use super::descent::Step;
use super::transfer::{Effective, Machine};
use super::values::{Origin, State, Value};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// Registers that carry arguments (rcx, rdx, r8, r9), by number.
const ARGUMENTS: [usize; 4] = [1, 2, 8, 9];
/// The register that carries a result (rax).
const RESULT: usize = 0;

/// What a function does with the image base, beside adding displacements to it.
#[derive(Default)]
pub(super) struct BaseUses {
    /// Instructions that use it as a value.
    values: Vec<u32>,
    /// Stores of it into the frame: the slot, and the instruction.
    saved: Vec<((u32, i32), u32)>,
    /// Slots it was read from again. What nobody reads again was stored for somebody else.
    restored: Vec<(u32, i32)>,
}

impl BaseUses {
    /// Takes note of an instruction; `state` is the one before it. `inside` tells whether an address belongs to the
    /// function.
    pub(super) fn before(&mut self, machine: &Machine, state: &State, step: &Step, inside: impl Fn(u32) -> bool) {
        let i = &step.instruction;
        let held = |n: usize| is_base(state, state.registers[n]);
        let register = |n: u32| whole_register(i, n).is_some_and(held);
        let arguments = || ARGUMENTS.into_iter().any(held);
        let value = match step.decoded.flow {
            Flow::Call(_) | Flow::IndirectCall => arguments(),
            Flow::Branch(to) => !inside(to) && arguments(),
            // Through memory it leaves the function; through a register it may be a switch, whose anchor stays behind.
            Flow::IndirectJump => i.op0_kind() == OpKind::Memory && arguments(),
            Flow::Return => state.registers[RESULT] == Value::Address(0),
            _ => match i.mnemonic() {
                Mnemonic::Mov if i.op0_kind() == OpKind::Memory && register(1) => {
                    match machine.effective(state, step, &mut None) {
                        Effective::Frame(frame, offset) => {
                            self.saved.push(((frame, offset), step.rva));
                            false
                        }
                        _ => true,
                    }
                }
                Mnemonic::Push => register(0),
                Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Sub => register(0) || register(1),
                _ => false,
            },
        };
        if value {
            self.values.push(step.rva);
        }
    }

    /// Takes note of an instruction; `state` is the one after it.
    pub(super) fn after(&mut self, machine: &Machine, state: &State, step: &Step) {
        let i = &step.instruction;
        let Some(value) = whole_register(i, 0).map(|n| state.registers[n]) else { return };
        match i.mnemonic() {
            // Something other than a table's element was added.
            Mnemonic::Add | Mnemonic::Lea
                if matches!(value, Value::Symbol(..)) && state.origin(value) == Origin::BasePlus =>
            {
                self.values.push(step.rva)
            }
            Mnemonic::Mov if i.op1_kind() == OpKind::Memory && is_base(state, value) => {
                if let Effective::Frame(frame, offset) = machine.effective(state, step, &mut None) {
                    self.restored.push((frame, offset));
                }
            }
            _ => {}
        }
    }

    /// The instructions that use it as a value.
    pub(super) fn values(self) -> impl Iterator<Item = u32> {
        let Self { values, saved, restored } = self;
        let passed = saved.into_iter().filter(move |(slot, _)| !restored.contains(slot)).map(|(_, rva)| rva);
        values.into_iter().chain(passed)
    }
}

fn is_base(state: &State, value: Value) -> bool {
    value == Value::Address(0) || state.may_be_base(value)
}

/// Number of the 64-bit register that is operand `n`.
fn whole_register(i: &Instruction, n: u32) -> Option<usize> {
    let whole = n < i.op_count() && i.op_kind(n) == OpKind::Register && i.op_register(n).is_gpr64();
    whole.then(|| i.op_register(n).number())
}
