//! Code of the patch that is not a copy of the new image's, but does the same: reached through slots, moved, lengthened.
//!
//! The two are decoded side by side. Every instruction must be the same one, or one of the few forms that reach through a
//! read-only slot of the patch what the new image reaches directly:
//!
//! | new image | patch |
//! |---|---|
//! | `call f`, `jmp f` | `call [slot]`, `jmp [slot]` |
//! | `jcc f` | `jncc over; jmp [slot]; over:` |
//! | `lea r, [x]` | `mov r, [slot]` |
//! | `op ..., [x]` | `mov s, [slot]; op ..., [s]`, where `s` is overwritten by `op` without being read, or is not needed |
//! | `op r, [constant]` | `op r, [copy of the constant]` |

use crate::liveness;
use crate::walk::{Context, Found};
use crate::world::Place;
use hotgraft_program::{Entity, Form, FunctionId, Reference, Target};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, OpAccess, OpKind, Register};

/// Offsets of instructions: (in the new range, in the patch's code), both ascending, the ends included.
pub(crate) type Places = Vec<(u32, u32)>;

/// Where an offset of the new range is in the patch's code.
pub(crate) fn find(places: &[(u32, u32)], offset: u32) -> Option<u32> {
    places.binary_search_by_key(&offset, |p| p.0).ok().map(|i| places[i].1)
}

struct Side<'a> {
    bytes: &'a [u8],
    start: u64,
}

impl Side<'_> {
    fn decode(&self, offset: u32) -> Result<Instruction, String> {
        let bytes = self.bytes.get(offset as usize..).unwrap_or_default();
        let instruction = Decoder::with_ip(64, bytes, self.start + u64::from(offset), DecoderOptions::NONE).decode();
        if instruction.is_invalid() { Err(format!("no instruction at +{offset:#x}")) } else { Ok(instruction) }
    }

    fn of(&self, instruction: &Instruction) -> &[u8] {
        let at = (instruction.ip() - self.start) as usize;
        &self.bytes[at..at + instruction.len()]
    }
}

struct Walker<'a, 'c> {
    context: &'a Context<'c>,
    ours: Side<'a>,
    theirs: Side<'a>,
    found: &'a mut Found,
}

/// Show that the code at `va` in the patch does what a range of a new function does. `Err` says where it does not.
pub(crate) fn compare(
    context: &Context<'_>,
    va: u64,
    id: FunctionId,
    number: u16,
    found: &mut Found,
) -> Result<Places, String> {
    let range = context.range(id, number);
    let new = context.new;
    let (Place::Patch(rva), Some((mapped, patch))) = (context.world.place(va), context.world.patch.as_ref()) else {
        return Err("differs from the new image's".to_owned());
    };
    let section = patch.image.section_at(rva).filter(|s| s.is_executable()).ok_or("is not in a code section")?;
    let room = section.rva + section.size - rva;
    let ours = Side { bytes: mapped.bytes(rva, room).ok_or("lies outside of the patch")?, start: va };
    let bytes = new.image.bytes(range.rva, range.size as usize).ok_or("has no counterpart bytes")?;
    let theirs = Side { bytes, start: u64::from(range.rva) };

    // First the new side alone: instructions, inner branches, what is live.
    let references = new.references_in(range.rva, range.end());
    let mut instructions = Vec::new();
    let mut at = 0;
    while at < range.size {
        let instruction = theirs.decode(at)?;
        at += instruction.len() as u32;
        instructions.push(instruction);
    }
    let index = |rva: u64| instructions.binary_search_by_key(&rva, Instruction::ip).ok();
    let reference_of = |i: &Instruction| -> Result<Option<&Reference>, String> {
        let a = references.partition_point(|r| u64::from(r.site) < i.ip());
        let b = references.partition_point(|r| u64::from(r.site) < i.next_ip());
        match &references[a..b] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => Err(format!("the instruction at new RVA {:#x} holds two addresses", i.ip())),
        }
    };
    let inner = |i: &Instruction| {
        let direct = matches!(i.op0_kind(), OpKind::NearBranch64) && i.op_count() > 0;
        (direct && range.contains(i.near_branch_target() as u32)).then(|| i.near_branch_target())
    };
    let mut branches = Vec::with_capacity(instructions.len());
    for instruction in &instructions {
        branches.push(match inner(instruction) {
            Some(to) => Some(
                index(to)
                    .ok_or_else(|| format!("a branch at new RVA {:#x} leads into an instruction", instruction.ip()))?,
            ),
            None => None,
        });
    }
    let live = liveness::before(&instructions, &branches);

    let mut walker = Walker { context, ours, theirs, found };
    let mut places: Places = Vec::with_capacity(instructions.len() + 1);
    let mut pending = Vec::new();
    let mut our = 0;
    for (i, instruction) in instructions.iter().enumerate() {
        let offset = (instruction.ip() - u64::from(range.rva)) as u32;
        places.push((offset, our));
        let said = |why: String| format!("at new RVA {:#x} ({instruction}): {why}", instruction.ip());
        let reference = reference_of(instruction)?;
        let length = if let Some(to) = inner(instruction) {
            let mine = walker.ours.decode(our)?;
            if mine.mnemonic() != instruction.mnemonic() || mine.op0_kind() != OpKind::NearBranch64 {
                return Err(said(format!("`{mine}` in the patch")));
            }
            pending.push((
                (to - u64::from(range.rva)) as u32,
                mine.near_branch_target().wrapping_sub(va),
                instruction.ip(),
            ));
            mine.len() as u32
        } else {
            match reference {
                None => walker.copied(our, instruction).map_err(said)?,
                Some(r) => walker.reaching(our, instruction, r, live[i]).map_err(said)?,
            }
        };
        our += length;
    }
    places.push((range.size, our));
    for (to, seen, ip) in pending {
        if find(&places, to).map(u64::from) != Some(seen) {
            return Err(format!("the branch at new RVA {ip:#x} leads elsewhere in the patch (+{seen:#x})"));
        }
    }
    Ok(places)
}

impl Walker<'_, '_> {
    fn same(&self, mine: &Instruction, theirs: &Instruction) -> Result<(), String> {
        if self.ours.of(mine) == self.theirs.of(theirs) { Ok(()) } else { Err(format!("`{mine}` in the patch")) }
    }

    fn copied(&self, our: u32, theirs: &Instruction) -> Result<u32, String> {
        let mine = self.ours.decode(our)?;
        self.same(&mine, theirs)?;
        Ok(mine.len() as u32)
    }

    /// The 8-byte value of a read-only slot of the patch that `mine` reads.
    fn slot(&self, mine: &Instruction) -> Result<u64, String> {
        let world = self.context.world;
        let address = mine.ip_rel_memory_address();
        let image = world.patch_image().filter(|_| mine.is_ip_rel_memory_operand());
        match (world.place(address), image) {
            (Place::Patch(rva), Some(image)) if image.section_at(rva).is_some_and(|s| !s.is_writable()) => {
                world.u64(address).ok_or_else(|| format!("the slot {address:#x} lies outside of the patch"))
            }
            _ => Err(format!("`{mine}` reads no slot of the patch")),
        }
    }

    /// An instruction that holds an address; the bytes it takes in the patch.
    fn reaching(&mut self, our: u32, theirs: &Instruction, r: &Reference, live: liveness::Set) -> Result<u32, String> {
        let mine = self.ours.decode(our)?;
        let length = mine.len() as u32;
        if r.form == Form::Branch {
            return self.branch(mine, theirs, r);
        }
        if self.masked_equal(&mine, theirs, r) {
            let held = if r.form == Form::Absolute {
                let at = (u64::from(r.site) - theirs.ip()) as usize;
                let field = &self.ours.of(&mine)[at..at + usize::from(r.width)];
                let mut raw = [0; 8];
                raw[..field.len()].copy_from_slice(field);
                u64::from_le_bytes(raw)
            } else if r.form == Form::RipRelative {
                mine.ip_rel_memory_address()
            } else {
                return Err("an image-relative displacement was re-encoded".to_owned());
            };
            let mut trial = Found { shallow: self.found.shallow, ..Found::default() };
            return match self.context.relate(held, r.target, r.form, &mut trial) {
                Ok(()) => {
                    self.found.pairs.append(&mut trial.pairs);
                    Ok(length)
                }
                Err(why) => {
                    self.read(&mine, held, r.target).map(|()| length).map_err(|other| format!("{why}; {other}"))
                }
            };
        }
        if r.form != Form::RipRelative || mine.code() != Code::Mov_r64_rm64 {
            return Err(format!("`{mine}` in the patch"));
        }
        let value = self.slot(&mine)?;
        let register = mine.op0_register();
        if theirs.code() == Code::Lea_r64_m && theirs.op0_register() == register {
            self.context.relate(value, r.target, r.form, self.found)?;
            return Ok(length);
        }
        let access = self.ours.decode(our + length)?;
        self.through(&access, theirs, register, live)?;
        self.context.relate(value, r.target, r.form, self.found)?;
        Ok(length + access.len() as u32)
    }

    fn branch(&mut self, mine: Instruction, theirs: &Instruction, r: &Reference) -> Result<u32, String> {
        let length = mine.len() as u32;
        let direct = matches!(mine.op0_kind(), OpKind::NearBranch64);
        if direct && mine.mnemonic() == theirs.mnemonic() {
            self.context.relate(mine.near_branch_target(), r.target, r.form, self.found)?;
            return Ok(length);
        }
        let indirect = match theirs.code() {
            Code::Call_rel32_64 => Code::Call_rm64,
            Code::Jmp_rel32_64 | Code::Jmp_rel8_64 => Code::Jmp_rm64,
            _ => Code::INVALID,
        };
        if mine.code() == indirect {
            let value = self.slot(&mine)?;
            self.context.relate(value, r.target, r.form, self.found)?;
            return Ok(length);
        }
        // The opposite condition jumps over.
        let over = (mine.next_ip() - self.ours.start) as u32;
        let jump = self.ours.decode(over)?;
        let opposite = direct && theirs.is_jcc_short_or_near() && mine.condition_code() == negated(theirs);
        if opposite && mine.near_branch_target() == jump.next_ip() && jump.code() == Code::Jmp_rm64 {
            let value = self.slot(&jump)?;
            self.context.relate(value, r.target, r.form, self.found)?;
            return Ok(length + jump.len() as u32);
        }
        Err(format!("`{mine}` in the patch"))
    }

    /// Same bytes outside of the field.
    fn masked_equal(&self, mine: &Instruction, theirs: &Instruction, r: &Reference) -> bool {
        let (a, b) = (self.ours.of(mine), self.theirs.of(theirs));
        let site = (u64::from(r.site) - theirs.ip()) as usize;
        let field = site..site + usize::from(r.width);
        a.len() == b.len() && (0..a.len()).all(|i| field.contains(&i) || a[i] == b[i])
    }

    /// A plain read of a constant is the same if it reads the same bytes, whatever else is near them.
    fn read(&mut self, mine: &Instruction, held: u64, target: Target) -> Result<(), String> {
        let size = mine.memory_size().size() as u32;
        let mut factory = InstructionInfoFactory::new();
        let only_read = matches!(factory.info(mine).used_memory(), [m] if m.access() == OpAccess::Read)
            || matches!(mine.code(), Code::Call_rm64 | Code::Jmp_rm64);
        let Entity::Object(id) = target.entity else { return Err("not a read of an object".to_owned()) };
        let object = &self.context.new.objects[id.index()];
        let offset = u32::try_from(target.addend).map_err(|_| "a read before the object")?;
        if !only_read || size == 0 || object.writable || offset + size > object.size {
            return Err("not a plain read of a constant".to_owned());
        }
        crate::data::same_bytes(self.context, held, object.rva + offset, size, self.found)
    }

    /// `access` is `theirs` with `[register]` in place of its memory operand, and the register may be used so.
    fn through(
        &self,
        access: &Instruction,
        theirs: &Instruction,
        register: Register,
        live: liveness::Set,
    ) -> Result<(), String> {
        let wrong = || format!("`{access}` in the patch");
        let plain = access.memory_base() == register
            && access.memory_index() == Register::None
            && access.memory_displacement64() == 0
            && access.segment_prefix() == theirs.segment_prefix();
        let prefixes = |i: &Instruction| {
            (
                i.has_lock_prefix(),
                i.has_rep_prefix(),
                i.has_repne_prefix(),
                i.op_mask(),
                i.zeroing_masking(),
                i.is_broadcast(),
                i.rounding_control(),
                i.suppress_all_exceptions(),
            )
        };
        if !plain || access.code() != theirs.code() || prefixes(access) != prefixes(theirs) {
            return Err(wrong());
        }
        for i in 0..theirs.op_count() {
            let same = access.op_kind(i) == theirs.op_kind(i)
                && match theirs.op_kind(i) {
                    OpKind::Register => access.op_register(i) == theirs.op_register(i),
                    OpKind::Memory => true,
                    _ => access.immediate(i) == theirs.immediate(i),
                };
            if !same {
                return Err(wrong());
            }
        }
        let mut factory = InstructionInfoFactory::new();
        let (read, written) = liveness::uses(theirs, &mut factory);
        let bit = liveness::bit(register);
        let overwritten = written & bit != 0 && read & bit == 0;
        let unneeded = (read | live) & bit == 0;
        let stack = register == Register::RSP;
        if stack || !(overwritten || unneeded) {
            return Err(format!("{register:?} is still needed"));
        }
        Ok(())
    }
}

fn negated(instruction: &Instruction) -> iced_x86::ConditionCode {
    let mut other = *instruction;
    other.negate_condition_code();
    other.condition_code()
}
