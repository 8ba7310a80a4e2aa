//! Making code reach the base through slots alone, so that the patch works at any distance from it.
//!
//! | in the new image | in the patch |
//! |---|---|
//! | `call f`, `jmp f`, `jcc f` | through a slot with the address of `f` |
//! | `lea r, [rip+x]` | `mov r, [rip+slot]` |
//! | a read of an import slot, or of a pointer that only the loader sets | the same read of an own slot with a copy |
//! | a read of a constant pointer | the same read of a slot with its value |
//! | a read of another constant | the same read of a copy |
//! | any other access | `mov r, [rip+slot]`, then the access through `r`: the register that the instruction writes without reading it, or one that is free |
//!
//! Whatever does not fit is refused, and the patch is then made the near way.

use super::pieces::{Field, Goal, Literal, Origin, Parts, Piece, PieceId, PieceKind, Slot};
use super::reencode::{Body, place};
use super::{Input, guard, internal, liveness, refused};
use crate::error::Result;
use hotgraft_program::{Entity, Form, HandlerData};
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, InstructionInfoFactory, OpAccess, OpKind,
    Register,
};
use std::collections::{BTreeMap, BTreeSet};

/// Stable key of a refusal: the patch can be made the near way only.
pub(crate) const KEY: &str = "code.reach.near";

/// Rewrite every near reference into the base.
///
/// # Errors
/// [`Error::Refused`](crate::Error::Refused) for the first reference that cannot be proven safe to rewrite.
pub(crate) fn reencode(input: &Input<'_>, parts: &mut Parts) -> Result<()> {
    let changing = guard::changing(input.old);
    for id in 0..parts.pieces.len() {
        if !parts.pieces[id].fields.iter().any(is_near) {
            continue;
        }
        if !matches!(parts.pieces[id].kind, PieceKind::Code(..)) {
            return Err(refused(
                KEY,
                format!("data at {:#x} of the new image holds a distance to the base", parts.pieces[id].start),
            ));
        }
        let done = Rewriter { input, changing: &changing, parts, id }.run()?;
        parts.pieces[id] = done;
    }
    unwind(input, parts)
}

fn is_near(field: &Field) -> bool {
    matches!(field.goal, Goal::Base(_)) && field.form != Form::Absolute
}

struct Rewriter<'a, 'b> {
    input: &'a Input<'b>,
    changing: &'a BTreeSet<u32>,
    parts: &'a mut Parts,
    id: PieceId,
}

/// An instruction of the new image, with what holds addresses in it.
struct Decoded {
    instruction: Instruction,
    offset: u32,
    /// Index of the field in the piece.
    field: Option<usize>,
    /// Offset in the piece that a direct branch within it leads to.
    inner: Option<u32>,
}

impl Rewriter<'_, '_> {
    fn run(&mut self) -> Result<Piece> {
        let piece = self.parts.pieces[self.id].clone();
        let decoded = self.decode(&piece)?;
        let index: BTreeMap<u32, usize> = decoded.iter().enumerate().map(|(i, d)| (d.offset, i)).collect();
        let mut targets = Vec::with_capacity(decoded.len());
        for d in &decoded {
            targets.push(match d.inner {
                Some(inner) => {
                    Some(*index.get(&inner).ok_or_else(|| self.refuse(d, "a branch leads into an instruction"))?)
                }
                None => None,
            });
        }
        let instructions: Vec<Instruction> = decoded.iter().map(|d| d.instruction).collect();
        let live = liveness::live(&instructions, &targets);
        let mut bodies = Vec::with_capacity(decoded.len());
        for (i, d) in decoded.iter().enumerate() {
            bodies.push((d.offset, self.body(&piece, d, live[i])?));
        }
        place(&piece, bodies)
    }

    fn refuse(&self, d: &Decoded, why: &str) -> crate::Error {
        refused(KEY, format!("at {:#x} of the new image: {why}", self.parts.pieces[self.id].start + d.offset))
    }

    fn decode(&self, piece: &Piece) -> Result<Vec<Decoded>> {
        let mut decoder = Decoder::with_ip(64, &piece.bytes, u64::from(piece.start), DecoderOptions::NONE);
        let mut out: Vec<Decoded> = Vec::new();
        let mut fields = piece.fields.iter().enumerate().peekable();
        while decoder.can_decode() {
            let offset = decoder.position() as u32;
            let instruction = decoder.decode();
            let offsets = decoder.get_constant_offsets(&instruction);
            let mut d = Decoded { instruction, offset, field: None, inner: None };
            if instruction.is_invalid() {
                return Err(self.refuse(&d, "bytes that are no instruction"));
            }
            let end = offset + instruction.len() as u32;
            if let Some((i, field)) = fields.next_if(|(_, f)| f.offset < end) {
                let at = field.offset.wrapping_sub(offset) as usize;
                let constant = (offsets.has_displacement() && offsets.displacement_offset() == at)
                    || (offsets.has_immediate() && offsets.immediate_offset() == at);
                if !constant || fields.peek().is_some_and(|(_, f)| f.offset < end) {
                    return Err(self.refuse(&d, "an instruction with more than one address"));
                }
                d.field = Some(i);
            }
            let direct =
                matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
            if direct && instruction.op_count() > 0 {
                d.inner = match d.field.map(|i| piece.fields[i].goal) {
                    Some(Goal::Piece(id, to)) if id == self.id => u32::try_from(to).ok(),
                    Some(_) => None,
                    None => {
                        let to = instruction.near_branch_target().wrapping_sub(u64::from(piece.start));
                        let to = u32::try_from(to).ok().filter(|to| *to < piece.end - piece.start);
                        Some(to.ok_or_else(|| self.refuse(&d, "a branch out of the code without a reference"))?)
                    }
                };
            } else if instruction.is_ip_rel_memory_operand() && d.field.is_none() {
                return Err(self.refuse(&d, "an address without a reference"));
            }
            out.push(d);
        }
        Ok(out)
    }

    /// What an instruction becomes.
    fn body(&mut self, piece: &Piece, d: &Decoded, live: liveness::Registers) -> Result<Body> {
        let bytes = &piece.bytes[d.offset as usize..d.offset as usize + d.instruction.len()];
        if let Some(target) = d.inner {
            return Body::branch(bytes, &d.instruction, target)
                .ok_or_else(|| self.refuse(d, "a branch of a kind that cannot be moved"));
        }
        let Some(field) = d.field.map(|i| piece.fields[i]) else {
            return Ok(Body::Copy { bytes: bytes.to_vec(), field: None });
        };
        let Goal::Base(rva) = field.goal else {
            return Ok(copied(bytes, d, field));
        };
        match field.form {
            Form::Absolute => Ok(copied(bytes, d, field)),
            Form::Branch => self.branch(d, bytes, rva),
            Form::RipRelative => self.memory(d, bytes, field, rva, live),
            _ => Err(self.refuse(d, "an address of a form that has no slot")),
        }
    }

    fn branch(&mut self, d: &Decoded, bytes: &[u8], rva: u32) -> Result<Body> {
        let head: Vec<u8> = match bytes {
            [0xE8, _, _, _, _] => vec![0xFF, 0x15],
            [0xE9, _, _, _, _] => vec![0xFF, 0x25],
            // The opposite condition jumps over.
            [0x0F, cc @ 0x80..=0x8F, _, _, _, _] => vec![(cc - 0x10) ^ 1, 6, 0xFF, 0x25],
            _ => return Err(self.refuse(d, "a branch to the base of a kind that has no form through memory")),
        };
        let slot = self.parts.slot(Slot::Address(rva));
        let at = head.len() as u32;
        Ok(Body::Copy { bytes: [head, vec![0; 4]].concat(), field: Some(rip_field(at, at + 4, Goal::Slot(slot))) })
    }

    fn memory(&mut self, d: &Decoded, bytes: &[u8], field: Field, rva: u32, live: liveness::Registers) -> Result<Body> {
        let instruction = &d.instruction;
        if instruction.code() == Code::Lea_r64_m {
            let [rex @ 0x48..=0x4F, 0x8D, modrm, _, _, _, _] = *bytes else {
                return Err(self.refuse(d, "an address is taken in an unusual encoding"));
            };
            let slot = self.parts.slot(Slot::Address(rva));
            let bytes = vec![rex, 0x8B, modrm, 0, 0, 0, 0];
            return Ok(Body::Copy { bytes, field: Some(rip_field(3, 7, Goal::Slot(slot))) });
        }
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(instruction);
        let access = match info.used_memory() {
            [memory] => memory.access(),
            // Such as `call [x]`, which also writes the stack.
            [_, ..] => {
                let own = info.used_memory().iter().find(|m| m.base() == Register::RIP || m.base() == Register::None);
                own.map_or(OpAccess::None, |m| m.access())
            }
            [] => OpAccess::None,
        };
        let size = instruction.memory_size().size();
        if access == OpAccess::Read && size > 0 {
            if size == 8 && self.is_set_once(rva) {
                let slot = self.parts.slot(Slot::Copy(rva));
                return Ok(copied(bytes, d, Field { goal: Goal::Slot(slot), ..field }));
            }
            if let Some(target) = self.constant_pointer(rva).filter(|_| size == 8) {
                let slot = self.parts.slot(Slot::Address(target));
                return Ok(copied(bytes, d, Field { goal: Goal::Slot(slot), ..field }));
            }
            let site = self.parts.pieces[self.id].start + field.offset;
            if let Some((literal, offset)) = self.literal(site, rva, size) {
                return Ok(copied(bytes, d, Field { goal: Goal::Literal(literal, offset), ..field }));
            }
        }
        if !matches!(
            access,
            OpAccess::Read
                | OpAccess::Write
                | OpAccess::ReadWrite
                | OpAccess::CondRead
                | OpAccess::CondWrite
                | OpAccess::ReadCondWrite
        ) || instruction.flow_control() != FlowControl::Next
        {
            return Err(self.refuse(d, "an access to the base of a kind that has no form through a register"));
        }
        let effect = liveness::effect(instruction, &mut factory);
        let own = destination(instruction).filter(|n| effect.reads & (1 << n) == 0);
        let rsp = 1 << 4;
        let free = (0..16u8).filter(|n| (live | effect.reads | effect.writes | rsp) & (1 << n) == 0);
        let slot = self.parts.slot(Slot::Address(rva));
        for register in own.into_iter().chain(free) {
            if let Some(access) = through(instruction, register) {
                let load = [0x48 | if register >= 8 { 4 } else { 0 }, 0x8B, 5 | (register & 7) << 3, 0, 0, 0, 0];
                let bytes = [&load[..], &access].concat();
                return Ok(Body::Copy { bytes, field: Some(rip_field(3, 7, Goal::Slot(slot))) });
            }
        }
        Err(self.refuse(d, "no register is free for the address"))
    }

    /// True for a pointer in the base that the loader sets before any code runs, and nobody after it.
    fn is_set_once(&self, rva: u32) -> bool {
        let old = self.input.old;
        let import = old.imports.iter().any(|i| i.slot == rva && !i.delayed);
        let writable = old.image.section_at(rva).is_none_or(|s| s.is_writable());
        import || (!writable && self.changing.contains(&rva))
    }

    /// The RVA in the base that a constant pointer of the base leads to.
    fn constant_pointer(&self, rva: u32) -> Option<u32> {
        let old = self.input.old;
        let image = &old.image;
        image.base_relocations.binary_search(&rva).ok()?;
        let id = old.object_at(rva)?;
        if rva.checked_add(8)? > old.objects[id.index()].end() || !guard::is_constant(old, id, self.changing) {
            return None;
        }
        let target = image.u64(rva)?.checked_sub(image.image_base)?;
        u32::try_from(target).ok().filter(|t| t.checked_add(8).is_some_and(|end| end <= image.size_of_image))
    }

    /// A copy of the constant that is read by the field at `site` of the new image, and the offset in it. The whole
    /// object is copied, so that it can be compared as one; large ones, and those with addresses in them, are not.
    fn literal(&mut self, site: u32, rva: u32, size: usize) -> Option<(usize, u32)> {
        let (old, new) = (self.input.old, self.input.new);
        let target = new.references_in(site, site + 1).first()?.target;
        let Entity::Object(id) = target.entity else { return None };
        let object = &new.objects[id.index()];
        let offset = u32::try_from(target.addend).ok()?;
        let start = rva.checked_sub(offset)?;
        let fits = u64::from(offset) + size as u64 <= u64::from(object.size) && object.size <= LARGEST_LITERAL;
        let relocations = &old.image.base_relocations;
        let first = relocations.partition_point(|r| r.saturating_add(8) <= start);
        let relocated = relocations.get(first).is_some_and(|r| *r < start.saturating_add(object.size));
        let plain = new.references_in(object.rva, object.end()).is_empty() && !relocated;
        let bytes = new.image.bytes(object.rva, object.size as usize)?;
        let same = old.image.bytes(start, bytes.len()) == Some(bytes);
        let constant = guard::is_constant(old, old.object_at(rva)?, self.changing) && !object.writable;
        if !(fits && plain && same && constant) {
            return None;
        }
        let literal = Literal { rva: object.rva, bytes: bytes.to_vec() };
        let at = self.parts.literals.iter().position(|l| *l == literal).unwrap_or_else(|| {
            self.parts.literals.push(literal);
            self.parts.literals.len() - 1
        });
        Some((at, offset))
    }
}

/// Bytes of the largest constant that is copied for being read.
const LARGEST_LITERAL: u32 = 256;

fn copied(bytes: &[u8], d: &Decoded, field: Field) -> Body {
    let origin = match field.origin {
        Origin::Here(origin) => Origin::Here(origin - d.offset),
        other => other,
    };
    Body::Copy { bytes: bytes.to_vec(), field: Some(Field { offset: field.offset - d.offset, origin, ..field }) }
}

fn rip_field(offset: u32, origin: u32, goal: Goal) -> Field {
    Field { offset, width: 4, form: Form::RipRelative, origin: Origin::Here(origin), goal }
}

/// The register that an instruction writes as a whole with what it reads from memory, and does nothing else.
fn destination(instruction: &Instruction) -> Option<u8> {
    let load = matches!(
        instruction.code(),
        Code::Mov_r64_rm64
            | Code::Mov_r32_rm32
            | Code::Movzx_r32_rm8
            | Code::Movzx_r32_rm16
            | Code::Movzx_r64_rm8
            | Code::Movzx_r64_rm16
            | Code::Movsx_r32_rm8
            | Code::Movsx_r32_rm16
            | Code::Movsx_r64_rm8
            | Code::Movsx_r64_rm16
            | Code::Movsxd_r64_rm32
    );
    if load { liveness::number(instruction.op0_register()).filter(|n| *n != 4) } else { None }
}

/// The instruction with `[register]` in place of its RIP-relative operand.
fn through(instruction: &Instruction, register: u8) -> Option<Vec<u8>> {
    let mut changed = *instruction;
    changed.set_memory_base(Register::RAX + u32::from(register));
    changed.set_memory_displacement64(0);
    changed.set_memory_displ_size(0);
    let mut encoder = Encoder::new(64);
    encoder.encode(&changed, 0).ok()?;
    let bytes = encoder.take_buffer();
    // Only what decodes to the same operation on the same operands is used.
    let again = Decoder::with_ip(64, &bytes, 0, DecoderOptions::NONE).decode();
    let same = again.code() == instruction.code()
        && again.len() == bytes.len()
        && again.memory_base() == Register::RAX + u32::from(register)
        && again.memory_index() == Register::None
        && again.memory_displacement64() == 0
        && again.has_lock_prefix() == instruction.has_lock_prefix()
        && again.has_rep_prefix() == instruction.has_rep_prefix()
        && again.has_repne_prefix() == instruction.has_repne_prefix()
        && again.segment_prefix() == instruction.segment_prefix()
        && again.op_mask() == instruction.op_mask()
        && again.zeroing_masking() == instruction.zeroing_masking()
        && again.is_broadcast() == instruction.is_broadcast()
        && again.rounding_control() == instruction.rounding_control()
        && (0..instruction.op_count()).all(|i| {
            again.op_kind(i) == instruction.op_kind(i)
                && match instruction.op_kind(i) {
                    OpKind::Register => again.op_register(i) == instruction.op_register(i),
                    OpKind::Memory => true,
                    _ => again.immediate(i) == instruction.immediate(i),
                }
        });
    same.then_some(bytes)
}

/// Unwind data of code that was re-encoded: the places of the prologue's instructions.
fn unwind(input: &Input<'_>, parts: &mut Parts) -> Result<()> {
    let mut done: BTreeSet<(PieceId, u32)> = BTreeSet::new();
    for r in parts.runtime_functions.clone() {
        if parts.pieces[r.code].moved.is_none() {
            continue;
        }
        let rva = parts.pieces[r.info].start + r.info_offset;
        let kind = input.new.unwind.iter().find(|u| u.info == rva).map(|u| &u.handler_data);
        let known = matches!(kind, Some(HandlerData::None | HandlerData::GsCheck | HandlerData::ScopeTable));
        if !known || !done.insert((r.info, r.info_offset)) {
            return Err(refused(
                KEY,
                format!("unwind data at {rva:#x} counts from code in a way that cannot be moved"),
            ));
        }
        let code = &parts.pieces[r.code];
        let begin = code.place(i64::from(r.begin)).ok_or_else(|| internal("unwind data from inside an instruction"))?;
        let moved = |offset: u8| {
            let at = code.place(i64::from(r.begin) + i64::from(offset))?;
            u8::try_from(at - begin).ok()
        };
        let at = r.info_offset as usize;
        let mut bytes = parts.pieces[r.info].bytes.clone();
        let fits = adjust(&mut bytes[at..], moved);
        if fits.is_none() {
            return Err(refused(KEY, format!("the prologue described at {rva:#x} of the new image cannot be moved")));
        }
        parts.pieces[r.info].bytes = bytes;
    }
    Ok(())
}

/// Move the offsets in UNWIND_INFO. `None` for what is not version 1, or has no new offset.
fn adjust(info: &mut [u8], moved: impl Fn(u8) -> Option<u8>) -> Option<()> {
    if info.first()? & 7 != 1 {
        return None;
    }
    info[1] = moved(*info.get(1)?)?;
    let count = usize::from(*info.get(2)?);
    let mut i = 0;
    while i < count {
        let at = 4 + 2 * i;
        let code = *info.get(at + 1)?;
        info[at] = moved(info[at])?;
        i += match (code & 15, code >> 4) {
            (0 | 2 | 3 | 10, _) => 1,
            (1, 0) | (4 | 8, _) => 2,
            (1, 1) | (5 | 9, _) => 3,
            _ => return None,
        };
    }
    Some(())
}
