//! Which registers are free at an instruction.
//!
//! Free means: on every way on, the register is written as a whole before anything could read it. Whatever leaves the
//! code at hand (calls, returns, jumps elsewhere, indirect jumps) counts as reading everything: a caller that was compiled
//! together with a function may rely on registers that the calling convention would let the function destroy. So a
//! register that is free here is one that the function destroys anyway.

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register};

/// A set of the 16 general-purpose registers, by number.
pub(crate) type Registers = u16;

const ALL: Registers = 0xFFFF;

/// The number of the 64-bit register that `register` is part of.
pub(crate) fn number(register: Register) -> Option<u8> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number() as u8)
}

/// What one instruction does to the general-purpose registers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effect {
    /// Read, or written in part, or written under a condition.
    pub(crate) reads: Registers,
    /// Written as a whole, always.
    pub(crate) writes: Registers,
}

/// The effect of an instruction.
pub(crate) fn effect(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> Effect {
    let mut out = Effect::default();
    for used in factory.info(instruction).used_registers() {
        let Some(n) = number(used.register()) else { continue };
        let whole = used.register().is_gpr64() || used.register().is_gpr32();
        match used.access() {
            OpAccess::None | OpAccess::NoMemAccess => {}
            OpAccess::Write if whole => out.writes |= 1 << n,
            _ => out.reads |= 1 << n,
        }
    }
    out
}

/// For each instruction the registers that are not free before it. `targets` gives, for a direct branch, the index of the
/// instruction it leads to; `None` if it leads elsewhere.
pub(crate) fn live(instructions: &[Instruction], targets: &[Option<usize>]) -> Vec<Registers> {
    let mut factory = InstructionInfoFactory::new();
    let effects: Vec<Effect> = instructions.iter().map(|i| effect(i, &mut factory)).collect();
    let mut live = vec![0; instructions.len()];
    loop {
        let mut changed = false;
        for i in (0..instructions.len()).rev() {
            let next = || live.get(i + 1).copied().unwrap_or(ALL);
            let branch = || targets[i].map_or(ALL, |t| live[t]);
            let after = match instructions[i].flow_control() {
                FlowControl::Next => next(),
                FlowControl::UnconditionalBranch => branch(),
                FlowControl::ConditionalBranch => branch() | next(),
                _ => ALL,
            };
            let before = (after & !effects[i].writes) | effects[i].reads;
            changed |= before != live[i];
            live[i] = before;
        }
        if !changed {
            return live;
        }
    }
}
