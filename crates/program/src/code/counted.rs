//! Loops whose end is in sight: something moves by a fixed step in each round, and whether to go on depends on it.

use crate::image::Image;
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

/// True if a way out of the loop made of these blocks (first RVA, first behind) depends on a register that only moves by
/// a fixed step in the loop, or on what is read through one: a counter, or a walk over a table.
///
/// A loop that waits for work has no such way out: what ends it comes from elsewhere.
pub fn is_counted(image: &Image, blocks: &[(u32, u32)]) -> bool {
    let decoded: Vec<Vec<Instruction>> = blocks.iter().map(|&(start, end)| instructions(image, start, end)).collect();
    let mut stepping = registers(&decoded, step);
    let mut others = 0u32;
    let mut factory = InstructionInfoFactory::new();
    for i in decoded.iter().flatten().filter(|i| step(i).is_none()) {
        for used in factory.info(i).used_registers() {
            let writes = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None);
            others |= if writes { bit(used.register()) } else { 0 };
        }
    }
    let calls = decoded.iter().flatten().any(is_call);
    if calls {
        others |= VOLATILE;
    }
    stepping &= !others;
    // What is read through such a register changes with it.
    let through = |i: &Instruction| (bit(i.memory_base()) | bit(i.memory_index())) & stepping != 0;
    let read = registers(&decoded, |i| {
        let loads = matches!(i.mnemonic(), Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd);
        (loads && i.op0_kind() == OpKind::Register && i.op1_kind() == OpKind::Memory && through(i))
            .then(|| i.op0_register())
    });
    // A register that a call may have set since, its result say, tells nothing of what was read before.
    let kept = |before: &[Instruction], register: Register| {
        let bit = bit(register);
        let sets = |i: &&Instruction| {
            i.op_count() > 0 && i.op0_kind() == OpKind::Register && self::bit(i.op0_register()) == bit
        };
        let since = before.iter().rev().take_while(|i| !sets(i)).any(is_call);
        let here = before.iter().any(|i| sets(&i));
        bit & VOLATILE == 0 || !since && (here || !calls)
    };
    let inside = |rva: u64| blocks.iter().any(|&(start, _)| u64::from(start) == rva);
    decoded.iter().any(|block| {
        let Some((jump, before)) = block.split_last() else { return false };
        let leaves = jump.flow_control() == FlowControl::ConditionalBranch
            && !(inside(jump.near_branch_target()) && inside(jump.next_ip()));
        // The comparison right before it, moves aside.
        let decides = before.iter().rposition(|i| i.rflags_modified() != 0);
        leaves
            && decides.is_some_and(|at| {
                let (before, i) = (&before[..at], &before[at]);
                let compares = matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Test) || step(i).is_some();
                let named = (0..i.op_count())
                    .filter(|&n| i.op_kind(n) == OpKind::Register && kept(before, i.op_register(n)))
                    .fold(0, |all, n| all | bit(i.op_register(n)));
                let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) && through(i);
                compares && (named & (stepping | read) != 0 || memory)
            })
    })
}

/// rax, rcx, rdx, r8 to r11: a call may set them.
const VOLATILE: u32 = 0b1111_0000_0111;

fn is_call(i: &Instruction) -> bool {
    matches!(i.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
}

fn instructions(image: &Image, start: u32, end: u32) -> Vec<Instruction> {
    let bytes = image.bytes(start, end.saturating_sub(start) as usize).unwrap_or_default();
    Decoder::with_ip(64, bytes, start.into(), DecoderOptions::NONE).into_iter().collect()
}

/// The register that an instruction moves by a fixed step.
fn step(i: &Instruction) -> Option<Register> {
    let register = (i.op_count() > 0 && i.op0_kind() == OpKind::Register).then(|| i.op0_register())?;
    let constant = |n| !matches!(i.op_kind(n), OpKind::Register | OpKind::Memory);
    let steps = match i.mnemonic() {
        Mnemonic::Inc | Mnemonic::Dec => true,
        Mnemonic::Add | Mnemonic::Sub => constant(1),
        Mnemonic::Lea => {
            i.memory_base().full_register() == register.full_register()
                && i.memory_index() == Register::None
                && i.memory_displacement64() != 0
        }
        _ => false,
    };
    (steps && register.full_register() != Register::RSP).then_some(register)
}

fn registers(decoded: &[Vec<Instruction>], which: impl Fn(&Instruction) -> Option<Register>) -> u32 {
    decoded.iter().flatten().filter_map(which).fold(0, |all, register| all | bit(register))
}

fn bit(register: Register) -> u32 {
    let full = register.full_register();
    if full.is_gpr64() { 1 << full.number() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::{Instruction, is_counted};
    use crate::unwind::tests::image;
    use iced_x86::code_asm::*;

    const AT: u32 = 0x2000;

    /// The answer for `body` in a loop that jumps back to its start; blocks end behind jumps.
    fn counted(body: impl FnOnce(&mut CodeAssembler, CodeLabel)) -> bool {
        let mut a = CodeAssembler::new(64).unwrap();
        let mut out = a.create_label();
        let mut start = a.create_label();
        a.set_label(&mut start).unwrap();
        body(&mut a, out);
        a.jmp(start).unwrap();
        a.set_label(&mut out).unwrap();
        a.ret().unwrap();
        let options = iced_x86::BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let done = a.assemble_options(AT.into(), options).unwrap();
        let offsets = &done.inner.new_instruction_offsets;
        let mut blocks = Vec::new();
        let mut begin = AT;
        let jumps = |i: &Instruction| i.is_jcc_short_or_near() || i.is_jmp_short_or_near();
        for n in (0..a.instructions().len()).filter(|n| jumps(&a.instructions()[*n])) {
            let end = AT + offsets[n + 1];
            blocks.push((begin, end));
            begin = end;
        }
        is_counted(&image(&done.inner.code_buffer), &blocks)
    }

    #[test]
    fn counters_and_walks_over_tables() {
        assert!(counted(|a, out| {
            a.inc(ebx).unwrap();
            a.cmp(ebx, 10).unwrap();
            a.je(out).unwrap();
        }));
        assert!(counted(|a, out| {
            a.add(rbx, 8).unwrap();
            a.mov(rcx, qword_ptr(rbx)).unwrap();
            a.test(rcx, rcx).unwrap();
            a.je(out).unwrap();
            a.call(0x1000).unwrap();
        }));
        assert!(counted(|a, out| {
            a.lea(rbx, ptr(rbx + 1)).unwrap();
            a.cmp(byte_ptr(rsi + rbx), 0).unwrap();
            a.je(out).unwrap();
        }));
    }

    #[test]
    fn loops_that_wait_for_something_else() {
        // What a call left, the result of a call, a flag in memory, a register that anything may have set, and no way out at all.
        assert!(!counted(|a, out| {
            a.inc(ebx).unwrap();
            a.call(0x1000).unwrap();
            a.test(eax, eax).unwrap();
            a.js(out).unwrap();
        }));
        assert!(!counted(|a, out| {
            a.add(rbx, 8).unwrap();
            a.mov(rax, qword_ptr(rbx)).unwrap();
            a.call(0x1000).unwrap();
            a.test(rax, rax).unwrap();
            a.je(out).unwrap();
        }));
        assert!(!counted(|a, out| {
            a.cmp(byte_ptr(rsi), 0).unwrap();
            a.jne(out).unwrap();
        }));
        assert!(!counted(|a, out| {
            a.add(ebx, 1).unwrap();
            a.mov(ebx, dword_ptr(rsi)).unwrap();
            a.cmp(ebx, 5).unwrap();
            a.je(out).unwrap();
        }));
        assert!(!counted(|a, _| a.inc(ebx).unwrap()));
    }
}
