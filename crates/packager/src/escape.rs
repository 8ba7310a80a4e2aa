//! Does a function let the address of a constant out of its hands?
//!
//! A constant whose contents changed is copied into the patch, and the functions that read it are replaced. That is right
//! only if nobody else goes on to read the old one: no live data and no frame of another function may hold its address.
//! So the old code is followed: where the address is loaded, which registers it and what is derived from it reach, and
//! whether any of them is stored, passed on, or returned.
//!
//! Like [`access`](crate::access), this module knows x86-64.

use hotgraft_program::code::{Cfg, Context as CodeContext, Exit, analyse_function};
use hotgraft_program::{Architecture, Entity, Form, Function, FunctionId, ObjectId, Program};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use std::collections::BTreeSet;

/// General registers as bits.
type Set = u16;

const ARGUMENTS: Set = 1 << 1 | 1 << 2 | 1 << 8 | 1 << 9;
const VOLATILE: Set = 0b1111 << 8 | 0b111;
const RESULT: Set = 1;

fn bit(register: Register) -> Set {
    let full = register.full_register();
    if full.is_gpr64() { 1 << (full as u32 - Register::RAX as u32) } else { 0 }
}

/// Where `function` gives the address of one of `objects` away, if it does. What is loaded from one of the objects is
/// followed too if it can be such an address: if it is one of `holders`.
pub fn escapes(
    program: &Program,
    function: FunctionId,
    objects: &BTreeSet<ObjectId>,
    holders: &BTreeSet<ObjectId>,
) -> Option<u32> {
    let f = &program.functions[function.index()];
    if program.image.architecture != Architecture::X64 {
        return Some(f.rva());
    }
    let facts = analyse_function(&program.image, &f.ranges, &CodeContext::default());
    let cfg = Cfg::build(&program.image, &facts);
    let through = !holders.is_empty();
    let mut state: Vec<Set> = vec![0; cfg.graph.node_count()];
    let mut work: Vec<_> = cfg.graph.node_indices().collect();
    work.reverse();
    while let Some(node) = work.pop() {
        let block = &cfg.graph[node];
        let bytes = program.image.bytes(block.rva, block.end.saturating_sub(block.rva) as usize).unwrap_or_default();
        let mut held = state[node.index()];
        for instruction in Decoder::with_ip(64, bytes, u64::from(block.rva), DecoderOptions::NONE) {
            match step(program, &instruction, held, objects, holders, through) {
                Some(next) => held = next,
                None => return Some(instruction.ip() as u32),
            }
        }
        let out = match block.exit {
            Exit::None | Exit::Stop => 0,
            Exit::Return if returns_nothing(f) => 0,
            Exit::Return => RESULT,
            Exit::TailJump(_) | Exit::IndirectTailJump => ARGUMENTS,
            Exit::Unknown => Set::MAX,
        };
        if held & out != 0 {
            return Some(block.last);
        }
        for next in cfg.graph.neighbors(node) {
            if state[next.index()] | held != state[next.index()] {
                state[next.index()] |= held;
                work.push(next);
            }
        }
    }
    None
}

/// True if the PDB says that the function has no result.
pub fn returns_nothing(f: &Function) -> bool {
    f.prototype.as_deref().is_some_and(|p| p.starts_with("void ") && !p.starts_with("void *"))
}

/// Registers that hold the address behind the instruction; `None` if it is given away.
fn step(
    program: &Program,
    i: &Instruction,
    held: Set,
    objects: &BTreeSet<ObjectId>,
    holders: &BTreeSet<ObjectId>,
    through: bool,
) -> Option<Set> {
    let (start, end) = (i.ip() as u32, i.next_ip() as u32);
    let target = program.references_in(start, end).iter().find_map(|r| match r.target.entity {
        Entity::Object(id) if objects.contains(&id) => Some((id, r.form)),
        _ => None,
    });
    if i.is_call_near() || i.is_call_near_indirect() {
        return (held & ARGUMENTS == 0).then_some(held & !VOLATILE);
    }
    let base = bit(i.memory_base()) | bit(i.memory_index());
    let has_memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    let register =
        |n: u32| if n < i.op_count() && i.op_kind(n) == OpKind::Register { bit(i.op_register(n)) } else { 0 };
    // What the operand in memory is the address of, or can be a pointer out of.
    let named = target.is_some();
    let address = named || base & held != 0;
    let loads_pointer = through && address && target.is_none_or(|(id, _)| holders.contains(&id));
    let set = |destination: Set, is_held: bool| Some(if is_held { held | destination } else { held & !destination });
    match i.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Nop | Mnemonic::Prefetcht0 | Mnemonic::Bt => Some(held),
        Mnemonic::Lea => set(register(0), address),
        Mnemonic::Mov | Mnemonic::Movsxd | Mnemonic::Movzx | Mnemonic::Movsx => match i.op0_kind() {
            OpKind::Register if has_memory => set(register(0), loads_pointer),
            OpKind::Register if i.op1_kind() == OpKind::Register => set(register(0), register(1) & held != 0),
            // An absolute address as an immediate.
            OpKind::Register => set(register(0), named),
            _ if register(1) & held != 0 => None,
            // An absolute address stored as it is.
            _ if target.is_some_and(|(_, form)| form == Form::Absolute) => None,
            _ => Some(held),
        },
        Mnemonic::Xor | Mnemonic::Sub
            if i.op_count() == 2 && register(0) != 0 && i.op0_register() == i.op1_register() =>
        {
            Some(held & !register(0))
        }
        Mnemonic::Add
        | Mnemonic::Sub
        | Mnemonic::And
        | Mnemonic::Or
        | Mnemonic::Xor
        | Mnemonic::Inc
        | Mnemonic::Dec
        | Mnemonic::Imul
        | Mnemonic::Shl
        | Mnemonic::Shr
        | Mnemonic::Sar
        | Mnemonic::Neg
            if i.op0_kind() == OpKind::Register =>
        {
            let more = register(1) & held != 0 || has_memory && loads_pointer;
            Some(if more { held | register(0) } else { held })
        }
        Mnemonic::Pop => Some(held & !register(0)),
        Mnemonic::Jmp if has_memory || register(0) != 0 => {
            // Through a table: the address is used, not kept.
            Some(held)
        }
        _ => {
            // Anything else may only read memory through the address.
            let direct = (0..i.op_count()).fold(0, |all, n| all | register(n));
            let conditional_move = matches!(
                i.mnemonic(),
                Mnemonic::Cmova
                    | Mnemonic::Cmovae
                    | Mnemonic::Cmovb
                    | Mnemonic::Cmovbe
                    | Mnemonic::Cmove
                    | Mnemonic::Cmovg
                    | Mnemonic::Cmovge
                    | Mnemonic::Cmovl
                    | Mnemonic::Cmovle
                    | Mnemonic::Cmovne
                    | Mnemonic::Cmovns
                    | Mnemonic::Cmovs
            );
            if conditional_move {
                let more = register(1) & held != 0 || has_memory && loads_pointer;
                return Some(if more { held | register(0) } else { held });
            }
            if direct & held != 0 || named && !has_memory || loads_pointer { None } else { Some(held) }
        }
    }
}
