//! x86-64 instructions through iced-x86: length, control flow, and the fields that hold an address.
//!
//! Decoding runs with the instruction pointer set to the RVA, so every target iced computes is an RVA; arithmetic is
//! modulo 2^32, which is exact for images (they are smaller than 2 GB) and for the EIP-relative form alike.

use super::{AddressField, Decoded, FieldPart, Flow};
use crate::reference::Form;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// Longest x86 instruction, bytes.
pub(crate) const MAX_LENGTH: usize = 15;

/// One instruction in iced's form, its length checked against `bytes`.
pub(crate) fn instruction(bytes: &[u8], rva: u32) -> Option<(Instruction, iced_x86::ConstantOffsets)> {
    let bytes = &bytes[..bytes.len().min(MAX_LENGTH)];
    let mut decoder = Decoder::with_ip(64, bytes, u64::from(rva), DecoderOptions::NONE);
    if !decoder.can_decode() {
        return None;
    }
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let offsets = decoder.get_constant_offsets(&instruction);
    Some((instruction, offsets))
}

/// See [`super::decode_at`].
pub(crate) fn decode(bytes: &[u8], rva: u32) -> Option<Decoded> {
    let (instruction, offsets) = instruction(bytes, rva)?;
    Some(describe(&instruction, &offsets))
}

/// What the rest of the crate needs to know of a decoded instruction.
pub(crate) fn describe(instruction: &Instruction, offsets: &iced_x86::ConstantOffsets) -> Decoded {
    let part = |offset: usize, width: usize| FieldPart { offset: offset as u8, width: width as u8 };
    let displacement =
        offsets.has_displacement().then(|| part(offsets.displacement_offset(), offsets.displacement_size()));
    let immediate = offsets.has_immediate().then(|| part(offsets.immediate_offset(), offsets.immediate_size()));
    let length = instruction.len() as u8;

    let mut address = None;
    if let Some(target) = branch_target(instruction) {
        // iced reports the displacement of a branch as an immediate.
        if let Some(part) = immediate {
            address = Some(AddressField { offset: part.offset, width: part.width, form: Form::Branch, target });
        }
    } else if let (Some(target), Some(part)) = (rip_target(instruction), displacement) {
        address = Some(AddressField { offset: part.offset, width: part.width, form: Form::RipRelative, target });
    }
    Decoded { length, flow: flow(instruction), address, displacement, immediate }
}

/// RVA of a direct near branch, call or `xbegin`.
fn branch_target(instruction: &Instruction) -> Option<u32> {
    match instruction.op0_kind() {
        OpKind::NearBranch16 => Some(u32::from(instruction.near_branch16())),
        OpKind::NearBranch32 => Some(instruction.near_branch32()),
        OpKind::NearBranch64 => Some(instruction.near_branch64() as u32),
        _ => None,
    }
}

/// RVA of a RIP- or EIP-relative memory operand.
pub(crate) fn rip_target(instruction: &Instruction) -> Option<u32> {
    match instruction.memory_base() {
        Register::RIP | Register::EIP => Some(instruction.memory_displacement64() as u32),
        _ => None,
    }
}

/// Bytes that the instruction reads or writes through a RIP-relative operand that leads to `target`; 0 if it only takes
/// the address.
pub(crate) fn access_of(instruction: &Instruction, target: u32) -> Option<u32> {
    let here = rip_target(instruction) == Some(target) && !is_no_op(instruction);
    let takes_address = matches!(instruction.mnemonic(), Mnemonic::Lea | Mnemonic::Bndmk | Mnemonic::Invlpg)
        || matches!(
            instruction.mnemonic(),
            Mnemonic::Prefetcht0
                | Mnemonic::Prefetcht1
                | Mnemonic::Prefetcht2
                | Mnemonic::Prefetchnta
                | Mnemonic::Prefetchw
        );
    here.then(|| if takes_address { 0 } else { instruction.memory_size().size() as u32 })
}

/// Where control goes.
fn flow(instruction: &Instruction) -> Flow {
    let target = branch_target(instruction);
    match instruction.flow_control() {
        FlowControl::Next => Flow::Next,
        FlowControl::UnconditionalBranch => target.map_or(Flow::IndirectJump, Flow::Branch),
        FlowControl::ConditionalBranch => target.map_or(Flow::Next, Flow::ConditionalBranch),
        // iced counts system and hypervisor calls here; they go on with the next instruction.
        FlowControl::Call | FlowControl::IndirectCall => match (target, instruction.mnemonic()) {
            (Some(target), _) => Flow::Call(target),
            (None, Mnemonic::Call) => Flow::IndirectCall,
            (None, _) => Flow::Next,
        },
        FlowControl::IndirectBranch => Flow::IndirectJump,
        FlowControl::Return => Flow::Return,
        // `xbegin` may continue at its target; `xabort` and `xend` go on.
        FlowControl::XbeginXabortXend => target.map_or(Flow::Next, Flow::ConditionalBranch),
        FlowControl::Exception => Flow::Trap,
        FlowControl::Interrupt => match instruction.mnemonic() {
            Mnemonic::Int3 => Flow::Breakpoint,
            // `__fastfail` never returns.
            Mnemonic::Int if instruction.immediate8() == 0x29 => Flow::Trap,
            _ => Flow::Next,
        },
    }
}

/// Bytes of filler at the start of `bytes`: `int3`, zero bytes (only as a whole run) and one- or multi-byte no-ops.
/// Returns 0 if the first bytes are anything else.
pub(crate) fn filler_length(bytes: &[u8]) -> usize {
    match bytes.first() {
        None => 0,
        Some(0xCC) => bytes.iter().take_while(|b| **b == 0xCC).count(),
        Some(0) => bytes.iter().take_while(|b| **b == 0).count(),
        Some(_) => match instruction(bytes, 0) {
            Some((i, _)) if is_no_op(&i) => i.len(),
            _ => 0,
        },
    }
}

/// True for `nop`, the long `nop r/m` forms without an address of their own, `xchg ax,ax`, and `mov`/`lea` of a
/// register to itself that assemblers use as filler.
fn is_no_op(instruction: &Instruction) -> bool {
    if instruction.memory_base() == Register::RIP || instruction.memory_base() == Register::EIP {
        return false;
    }
    match instruction.code() {
        Code::Nopw | Code::Nopd | Code::Nopq | Code::Nop_rm16 | Code::Nop_rm32 | Code::Nop_rm64 => true,
        Code::Lea_r64_m => {
            instruction.memory_base() == instruction.op0_register()
                && instruction.memory_index() == Register::None
                && instruction.memory_displacement64() == 0
        }
        Code::Xchg_rm16_r16 | Code::Xchg_r16_AX => {
            instruction.op0_kind() == OpKind::Register
                && instruction.op1_kind() == OpKind::Register
                && instruction.op0_register() == instruction.op1_register()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8], rva: u32) -> Decoded {
        let d = decode(bytes, rva).unwrap_or_else(|| panic!("{bytes:x?} does not decode"));
        assert_eq!(usize::from(d.length), bytes.len(), "{bytes:x?}");
        d
    }

    fn field(d: Decoded) -> (u8, u8, Form, u32) {
        let a = d.address.expect("an address field");
        (a.offset, a.width, a.form, a.target)
    }

    #[test]
    fn rip_relative_with_an_immediate_counts_from_the_end() {
        // mov dword ptr [rip+0x10], 0x11223344
        let d = one(&[0xC7, 0x05, 0x10, 0, 0, 0, 0x44, 0x33, 0x22, 0x11], 0x1000);
        assert_eq!(field(d), (2, 4, Form::RipRelative, 0x101A));
        assert_eq!(d.immediate, Some(FieldPart { offset: 6, width: 4 }));
        // cmp byte ptr [rip-1], 5
        let d = one(&[0x80, 0x3D, 0xFF, 0xFF, 0xFF, 0xFF, 0x05], 0x1000);
        assert_eq!(field(d), (2, 4, Form::RipRelative, 0x1006));
    }

    #[test]
    fn address_size_prefix_keeps_the_field() {
        // lea eax, [eip+0x20]
        let d = one(&[0x67, 0x8D, 0x05, 0x20, 0, 0, 0], 0x2000);
        assert_eq!(field(d), (3, 4, Form::RipRelative, 0x2027));
    }

    #[test]
    fn vector_encodings() {
        // vmovaps ymm0, [rip+0x10] (VEX)
        let d = one(&[0xC5, 0xFC, 0x28, 0x05, 0x10, 0, 0, 0], 0x1000);
        assert_eq!(field(d), (4, 4, Form::RipRelative, 0x1018));
        // vpcmpeqd k1, zmm0, [rip+0x40] (EVEX)
        let d = one(&[0x62, 0xF1, 0x7D, 0x48, 0x76, 0x0D, 0x40, 0, 0, 0], 0x1000);
        assert_eq!(field(d), (6, 4, Form::RipRelative, 0x104A));
        // vpshufd xmm0, [rip+0x10], 0x1B (VEX with immediate)
        let d = one(&[0xC5, 0xF9, 0x70, 0x05, 0x10, 0, 0, 0, 0x1B], 0x1000);
        assert_eq!(field(d), (4, 4, Form::RipRelative, 0x1019));
    }

    #[test]
    fn branches() {
        assert_eq!(one(&[0xEB, 0xFE], 0x1000).flow, Flow::Branch(0x1000));
        assert_eq!(field(one(&[0xEB, 0xFE], 0x1000)), (1, 1, Form::Branch, 0x1000));
        assert_eq!(one(&[0xE8, 0, 0, 0, 0], 0x1000).flow, Flow::Call(0x1005));
        assert_eq!(one(&[0x0F, 0x84, 0xFA, 0xFF, 0xFF, 0xFF], 0x1000).flow, Flow::ConditionalBranch(0x1000));
        assert_eq!(one(&[0xE3, 0x10], 0x1000).flow, Flow::ConditionalBranch(0x1012));
        assert_eq!(one(&[0xE2, 0x10], 0x1000).flow, Flow::ConditionalBranch(0x1012));
        // xbegin
        let d = one(&[0xC7, 0xF8, 0x10, 0, 0, 0], 0x1000);
        assert_eq!((d.flow, field(d)), (Flow::ConditionalBranch(0x1016), (2, 4, Form::Branch, 0x1016)));
        // A branch prefix does not move the field's meaning: bnd jmp / repz ret / notrack jmp rax.
        assert_eq!(one(&[0xF2, 0xE9, 0, 0, 0, 0], 0x1000).flow, Flow::Branch(0x1006));
        assert_eq!(one(&[0xF3, 0xC3], 0).flow, Flow::Return);
        assert_eq!(one(&[0x3E, 0xFF, 0xE0], 0).flow, Flow::IndirectJump);
    }

    #[test]
    fn ends_of_control() {
        assert_eq!(one(&[0x0F, 0x0B], 0).flow, Flow::Trap);
        assert_eq!(one(&[0xCD, 0x29], 0).flow, Flow::Trap);
        assert_eq!(one(&[0xCD, 0x2E], 0).flow, Flow::Next);
        assert_eq!(one(&[0xCC], 0).flow, Flow::Breakpoint);
        assert_eq!(one(&[0x0F, 0x05], 0).flow, Flow::Next);
        assert_eq!(one(&[0xFF, 0x25, 1, 0, 0, 0], 0).flow, Flow::IndirectJump);
        assert_eq!(one(&[0xFF, 0x15, 1, 0, 0, 0], 0).flow, Flow::IndirectCall);
    }

    #[test]
    fn eight_byte_fields() {
        let d = one(&[0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8], 0);
        assert_eq!((d.address, d.immediate), (None, Some(FieldPart { offset: 2, width: 8 })));
        let d = one(&[0xA1, 1, 2, 3, 4, 5, 6, 7, 8], 0);
        assert_eq!((d.address, d.displacement), (None, Some(FieldPart { offset: 1, width: 8 })));
    }

    #[test]
    fn filler() {
        assert_eq!(filler_length(&[0xCC, 0xCC, 0x90]), 2);
        assert_eq!(filler_length(&[0x66, 0x2E, 0x0F, 0x1F, 0x84, 0, 0, 0, 0, 0, 0xC3]), 10);
        assert_eq!(filler_length(&[0x66, 0x90]), 2);
        assert_eq!(filler_length(&[0xC3]), 0);
        // nop [rip+0]: holds an address field, so it is code.
        assert_eq!(filler_length(&[0x0F, 0x1F, 0x05, 0, 0, 0, 0]), 0);
    }
}
