//! The little that writing a patch must know of x64 instructions.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};

/// `jmp [rip+rel32]`; the displacement follows.
pub(crate) const JUMP_THROUGH: [u8; 2] = [0xFF, 0x25];
/// Filler between functions: `int3`.
pub(crate) const FILLER: u8 = 0xCC;

/// True if control cannot run out of the end of `code`, which is at `rva`: its last instruction that is not a
/// no-op never goes on to the next, or is a call (of something that does not return).
pub(crate) fn ends_here(code: &[u8], rva: u32) -> bool {
    let mut decoder = Decoder::with_ip(64, code, u64::from(rva), DecoderOptions::NONE);
    let mut last = None;
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return false;
        }
        if instruction.mnemonic() != Mnemonic::Nop {
            last = Some((instruction.flow_control(), instruction.mnemonic()));
        }
    }
    match last {
        Some((flow, mnemonic)) => {
            matches!(
                flow,
                FlowControl::UnconditionalBranch
                    | FlowControl::IndirectBranch
                    | FlowControl::Return
                    | FlowControl::Call
                    | FlowControl::IndirectCall
                    | FlowControl::Exception
            ) || mnemonic == Mnemonic::Int3
                || mnemonic == Mnemonic::Int
        }
        None => false,
    }
}
