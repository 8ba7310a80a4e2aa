//! How an instruction uses the address it holds. The only module of the verdict that knows an instruction set.

use hotgraft_program::{Architecture, Program};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};

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

/// How the instruction of `program` whose field lies at `site` uses its address.
pub fn access(program: &Program, site: u32) -> Access {
    if program.image.architecture != Architecture::X64 {
        return Access::Unknown;
    }
    let Some((id, n)) = program.function_at(site) else { return Access::Unknown };
    let range = program.functions[id.index()].ranges[n as usize];
    let Some(bytes) = program.image.bytes(range.rva, range.size as usize) else { return Access::Unknown };
    // Instructions have no marks in the byte stream, so decode from the start of the range.
    let mut decoder = Decoder::with_ip(64, bytes, u64::from(range.rva), DecoderOptions::NONE);
    for instruction in &mut decoder {
        let end = instruction.next_ip();
        if end <= u64::from(site) {
            continue;
        }
        if instruction.is_invalid() || instruction.ip() > u64::from(site) {
            return Access::Unknown;
        }
        return match instruction.mnemonic() {
            Mnemonic::Lea => Access::Address,
            _ if instruction.is_ip_rel_memory_operand() => Access::Direct,
            _ if instruction.is_call_near() || instruction.is_jmp_near() || instruction.is_jmp_short() => {
                Access::Direct
            }
            _ if instruction.is_jcc_near() || instruction.is_jcc_short() => Access::Direct,
            _ => Access::Unknown,
        };
    }
    Access::Unknown
}
