//! Which general-purpose registers hold a value that may still be read, before each instruction of a function.
//!
//! Needed to believe that re-encoded code may use a register of its own. Whatever leaves the code at hand counts as reading
//! every register, so the answer errs towards "still needed".

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, OpAccess, Register};

/// One bit per register, by number.
pub(crate) type Set = u16;

/// What `instruction` reads, and what it overwrites as a whole.
pub(crate) fn uses(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> (Set, Set) {
    let (mut read, mut written) = (0, 0);
    for used in factory.info(instruction).used_registers() {
        let register = used.register();
        if !register.full_register().is_gpr64() {
            continue;
        }
        let bit = bit(register);
        match used.access() {
            OpAccess::None | OpAccess::NoMemAccess => {}
            // Writing 32 bits clears the upper half; writing 8 or 16 keeps what was there.
            OpAccess::Write if register.size() >= 4 => written |= bit,
            _ => read |= bit,
        }
    }
    (read, written)
}

/// The bit of the 64-bit register that `register` is part of.
pub(crate) fn bit(register: Register) -> Set {
    1 << (register.full_register() as u32 - Register::RAX as u32)
}

/// The set before each instruction. `branch(i)` is the index that the direct branch `i` leads to, if it stays in the code.
pub(crate) fn before(code: &[Instruction], branch: &[Option<usize>]) -> Vec<Set> {
    let mut factory = InstructionInfoFactory::new();
    let uses: Vec<(Set, Set)> = code.iter().map(|i| uses(i, &mut factory)).collect();
    let mut sets = vec![0 as Set; code.len() + 1];
    sets[code.len()] = Set::MAX;
    let mut stable = false;
    while !stable {
        stable = true;
        for (i, instruction) in code.iter().enumerate().rev() {
            let elsewhere = branch[i].map_or(Set::MAX, |t| sets[t]);
            let after = match instruction.flow_control() {
                FlowControl::Next => sets[i + 1],
                FlowControl::ConditionalBranch => sets[i + 1] | elsewhere,
                FlowControl::UnconditionalBranch => elsewhere,
                _ => Set::MAX,
            };
            let (read, written) = uses[i];
            let set = read | (after & !written);
            stable &= set == sets[i];
            sets[i] = set;
        }
    }
    sets
}
