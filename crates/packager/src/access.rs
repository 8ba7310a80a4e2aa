//! How an instruction uses the address it holds. The only module of the verdict that knows an instruction set.

use hotgraft_program::{Architecture, FunctionId, Program};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use rustc_hash::FxHashMap;

/// What is done with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The bytes there are read, written, or jumped to: the address lies in what it means.
    Direct,
    /// The address itself becomes a value: it may be the end of one thing or the start of the next.
    Address,
    /// Not known.
    Unknown,
}

/// How each instruction of a function uses the address it holds, by the RVA of the field; what is not in the map is
/// [`Access::Unknown`].
pub fn accesses(program: &Program, id: FunctionId) -> FxHashMap<u32, Access> {
    let mut out = FxHashMap::default();
    if program.image.architecture != Architecture::X64 {
        return out;
    }
    for range in &program.functions[id.index()].ranges {
        let Some(bytes) = program.image.bytes(range.rva, range.size as usize) else { continue };
        let mut references = program.references_in(range.rva, range.end()).iter().peekable();
        // Instructions have no marks in the byte stream, so decode from the start of the range.
        for instruction in Decoder::with_ip(64, bytes, u64::from(range.rva), DecoderOptions::NONE) {
            let end = instruction.next_ip() as u32;
            while let Some(r) = references.next_if(|r| r.site < end) {
                if u64::from(r.site) > instruction.ip() && !instruction.is_invalid() {
                    out.insert(r.site, of(&instruction));
                }
            }
        }
    }
    out
}

fn of(instruction: &Instruction) -> Access {
    match instruction.mnemonic() {
        Mnemonic::Lea => Access::Address,
        _ if instruction.is_ip_rel_memory_operand() => Access::Direct,
        _ if instruction.is_call_near() || instruction.is_jmp_near() || instruction.is_jmp_short() => Access::Direct,
        _ if instruction.is_jcc_near() || instruction.is_jcc_short() => Access::Direct,
        _ => Access::Unknown,
    }
}
