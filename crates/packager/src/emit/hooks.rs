//! The developer's own code in a patch: a COFF object file, linked against the base.
//!
//! What it calls in the base is reached through thunks, what it imports (`__imp_x`) through slots, for functions and
//! variables alike; other data of the base near, which ties the patch to within 2 GB of it. Names are those of the base's
//! PDB, and must be unique there: nothing is linked on a guess.

use super::pieces::{Field, Goal, Origin, Parts, Piece, PieceId, PieceKind, RuntimeFunction, Slot};
use super::{Input, internal, refused};
use crate::error::Result;
use hotgraft_hotpatch::HookPoint;
use hotgraft_program::{Entity, Form, FunctionId, ImportName, ObjectId, Program, Target};
use object::pe;
use object::read::coff::CoffFile;
use object::read::{Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionIndex, SymbolIndex};
use std::collections::BTreeMap;

/// Larger objects are no repair code.
const LARGEST: u64 = 1 << 20;
/// What the linker alone reads.
const NOT_LOADED: u32 = pe::IMAGE_SCN_LNK_REMOVE.0 | pe::IMAGE_SCN_LNK_INFO.0 | pe::IMAGE_SCN_MEM_DISCARDABLE.0;
/// Key of all refusals.
const KEY: &str = "runtime.hook";

/// Which hooks an object file has.
///
/// # Errors
/// If it is no x64 COFF object, or has none.
pub fn points(file: &[u8]) -> Result<Vec<HookPoint>> {
    let object = parse(file)?;
    let found = HookPoint::ALL.into_iter().filter(|point| hook_symbol(&object, *point).is_some()).collect::<Vec<_>>();
    if found.is_empty() {
        let names: Vec<&str> = HookPoint::ALL.iter().map(|point| point.symbol()).collect();
        return Err(refused(KEY, format!("the object file defines none of {}", names.join(", "))));
    }
    Ok(found)
}

fn parse(file: &[u8]) -> Result<CoffFile<'_>> {
    let object = CoffFile::parse(file).map_err(|e| refused(KEY, format!("the hooks are no COFF object file: {e}")))?;
    if object.architecture() != object::Architecture::X86_64 {
        return Err(refused(KEY, "the object file of the hooks is not for x64"));
    }
    Ok(object)
}

fn hook_symbol(object: &CoffFile<'_>, point: HookPoint) -> Option<(SectionIndex, u64)> {
    let symbol = object.symbols().find(|s| s.is_global() && s.is_definition() && s.name() == Ok(point.symbol()))?;
    Some((symbol.section_index()?, symbol.address()))
}

/// Adds the object's sections to the patch, with their addresses resolved.
pub(crate) fn link(input: &Input<'_>, parts: &mut Parts) -> Result<()> {
    let Some(file) = &input.options.hooks else { return Ok(()) };
    points(file)?;
    let object = parse(file)?;
    let mut linker = Linker { input, object, sections: BTreeMap::new(), tables: Vec::new() };
    linker.take_sections(parts)?;
    for (index, piece) in linker.sections.clone() {
        let fields = linker.fields(parts, SectionIndex(index))?;
        parts.pieces[piece].fields = fields;
    }
    linker.unwind(parts)?;
    for point in HookPoint::ALL {
        let Some((section, offset)) = hook_symbol(&linker.object, point) else { continue };
        let piece = linker.sections.get(&section.0).copied();
        let piece = piece.filter(|piece| parts.pieces[*piece].kind == PieceKind::Hook);
        let piece = piece.ok_or_else(|| refused(KEY, format!("{} is no function", point.symbol())))?;
        let inside = offset < u64::from(parts.pieces[piece].end - parts.pieces[piece].start);
        let offset = u32::try_from(offset).ok().filter(|_| inside);
        parts.hooks.push((point, piece, offset.ok_or_else(|| refused(KEY, "a hook lies outside of its section"))?));
    }
    Ok(())
}

struct Linker<'a, 'b, 'c> {
    input: &'a Input<'b>,
    object: CoffFile<'c>,
    sections: BTreeMap<usize, PieceId>,
    /// Sections with RUNTIME_FUNCTIONs.
    tables: Vec<SectionIndex>,
}

impl Linker<'_, '_, '_> {
    fn take_sections(&mut self, parts: &mut Parts) -> Result<()> {
        // Behind everything that the new image has, so that no two pieces share an address.
        let mut at = u64::from(self.input.new.image.size_of_image).next_multiple_of(0x1000);
        let mut total = 0;
        for section in self.object.sections() {
            let header = section.coff_section();
            let flags = header.characteristics.get(object::LittleEndian).0;
            let name = section.name().map_err(|e| refused(KEY, format!("a section without a name: {e}")))?.to_owned();
            let size = u64::from(header.size_of_raw_data.get(object::LittleEndian));
            if flags & NOT_LOADED != 0 || size == 0 || name == ".llvm_addrsig" {
                continue;
            }
            total += size;
            if total > LARGEST {
                return Err(refused(KEY, "the object file of the hooks has more than 1 MB"));
            }
            let stem = name.split('$').next().unwrap_or(&name);
            if matches!(stem, ".CRT" | ".tls" | ".ctors" | ".dtors") {
                return Err(refused(KEY, format!("{name} of the hooks would need a start of its own")));
            }
            if stem == ".pdata" {
                self.tables.push(section.index());
                continue;
            }
            let zero = flags & pe::IMAGE_SCN_CNT_UNINITIALIZED_DATA.0 != 0;
            let kind = match flags {
                _ if stem == ".xdata" => PieceKind::Unwind,
                f if f & pe::IMAGE_SCN_MEM_EXECUTE.0 != 0 => PieceKind::Hook,
                f if f & pe::IMAGE_SCN_MEM_WRITE.0 != 0 && zero => PieceKind::Zero,
                f if f & pe::IMAGE_SCN_MEM_WRITE.0 != 0 => PieceKind::Variable,
                _ => PieceKind::Constant,
            };
            if kind == PieceKind::Hook && flags & pe::IMAGE_SCN_MEM_WRITE.0 != 0 {
                return Err(refused(KEY, format!("{name} of the hooks is writable code")));
            }
            let bytes = if zero {
                vec![0; size as usize]
            } else {
                let data = section.data().map_err(|e| refused(KEY, format!("{name} of the hooks: {e}")))?;
                if data.len() as u64 != size {
                    return Err(refused(KEY, format!("{name} of the hooks is cut off")));
                }
                data.to_vec()
            };
            at = at.next_multiple_of(section.align().clamp(16, 0x1000));
            let end = at + size;
            let (Ok(start), Ok(stop)) = (u32::try_from(at), u32::try_from(end)) else {
                return Err(refused(KEY, "there is no room for the hooks"));
            };
            parts.pieces.push(Piece { start, end: stop, kind, bytes, fields: Vec::new(), moved: None });
            self.sections.insert(section.index().0, parts.pieces.len() - 1);
            at = end;
        }
        Ok(())
    }

    fn fields(&self, parts: &mut Parts, index: SectionIndex) -> Result<Vec<Field>> {
        let section = self.object.section_by_index(index).map_err(|e| refused(KEY, format!("the hooks: {e}")))?;
        let bytes = parts.pieces[self.sections[&index.0]].bytes.clone();
        let mut out: Vec<Field> = Vec::new();
        for (offset, relocation) in section.relocations() {
            let RelocationFlags::Coff { typ } = relocation.flags() else {
                return Err(internal("a COFF object with relocations of another kind"));
            };
            let (form, width, behind) = match typ {
                pe::IMAGE_REL_AMD64_ADDR64 => (Form::Absolute, 8u8, 0),
                pe::IMAGE_REL_AMD64_ADDR32NB => (Form::ImageRelative, 4, 0),
                typ if (pe::IMAGE_REL_AMD64_REL32.0..=pe::IMAGE_REL_AMD64_REL32_5.0).contains(&typ.0) => {
                    (Form::RipRelative, 4, u32::from(typ.0 - pe::IMAGE_REL_AMD64_REL32.0))
                }
                typ => return Err(refused(KEY, format!("the hooks need a relocation of type {typ:#x}"))),
            };
            let at = usize::try_from(offset).ok().filter(|at| at.saturating_add(usize::from(width)) <= bytes.len());
            let at = at.ok_or_else(|| refused(KEY, "a relocation of the hooks lies outside of its section"))?;
            let mut raw = [0; 8];
            raw[..usize::from(width)].copy_from_slice(&bytes[at..at + usize::from(width)]);
            let held = u64::from_le_bytes(raw);
            let addend = if width == 4 { i64::from(held as u32 as i32) } else { held as i64 };
            // A call or jump: the byte before its field is no ModRM byte of an address relative to RIP (05, 0D and so on to 3D).
            let branch = form == Form::RipRelative && at > 0 && matches!(bytes[at - 1], 0xE8 | 0xE9 | 0x80..=0x8F);
            let form = if branch { Form::Branch } else { form };
            // Larger ones lead nowhere that is known here.
            if addend.unsigned_abs() > LARGEST << 12 {
                return Err(refused(KEY, "a relocation of the hooks with an offset beyond all bounds"));
            }
            let RelocationTarget::Symbol(symbol) = relocation.target() else {
                return Err(refused(KEY, "a relocation of the hooks without a symbol"));
            };
            let goal = self.goal(parts, symbol, addend, form)?;
            let offset = at as u32;
            let origin = match form {
                Form::Branch | Form::RipRelative => Origin::Here(offset + 4 + behind),
                _ => Origin::None,
            };
            out.push(Field { offset, width, form, origin, goal });
        }
        out.sort_by_key(|field| field.offset);
        if out.windows(2).any(|pair| pair[0].offset + u32::from(pair[0].width) > pair[1].offset) {
            return Err(refused(KEY, "relocations of the hooks overlap"));
        }
        Ok(out)
    }

    fn goal(&self, parts: &mut Parts, index: SymbolIndex, addend: i64, form: Form) -> Result<Goal> {
        let symbol = self.object.symbol_by_index(index).map_err(|e| refused(KEY, format!("the hooks: {e}")))?;
        if let Some(section) = symbol.section_index() {
            let piece = self.sections.get(&section.0).copied();
            let piece = piece.ok_or_else(|| refused(KEY, "the hooks refer to a section that is not loaded"))?;
            let size = i64::from(parts.pieces[piece].end - parts.pieces[piece].start);
            let offset = i64::try_from(symbol.address()).ok().and_then(|at| at.checked_add(addend));
            let offset = offset.filter(|offset| (0..=size).contains(offset));
            let offset = offset.ok_or_else(|| refused(KEY, "the hooks lead out of one of their sections"))?;
            return Ok(Goal::Piece(piece, offset));
        }
        let name = symbol.name().map_err(|e| refused(KEY, format!("a symbol of the hooks: {e}")))?;
        if symbol.is_definition()
            || symbol.is_common()
            || symbol.is_weak()
            || symbol.coff_symbol().value.get(object::LittleEndian) != 0
        {
            return Err(refused(KEY, format!("{name} of the hooks is neither defined there nor in the base")));
        }
        self.outside(parts, name, addend, form)
    }

    /// What a name that the object does not define stands for.
    fn outside(&self, parts: &mut Parts, name: &str, addend: i64, form: Form) -> Result<Goal> {
        let (old, new) = (self.input.old, self.input.new);
        if let Some(imported) = name.strip_prefix("__imp_") {
            if addend != 0 {
                return Err(refused(KEY, format!("{name} of the hooks is used with an offset")));
            }
            let slot = match import(old, imported)? {
                Some(slot) => Slot::Copy(slot),
                None => Slot::Address(self.base(parts, imported, true)?.1),
            };
            return Ok(Goal::Slot(parts.slot(slot)));
        }
        let calls = form == Form::Branch && addend == 0 || form == Form::ImageRelative;
        if let Some(slot) = import(old, name)? {
            return if calls {
                Ok(Goal::Thunk(parts.thunk_through(Slot::Copy(slot))))
            } else {
                Err(refused(KEY, format!("the address of the import {name} is taken; use its slot (__imp_{name})")))
            };
        }
        // Things that the patch adds are its own.
        if let Some(piece) = self.added(parts, name) {
            return Ok(Goal::Piece(piece, addend));
        }
        let (is_function, rva) = self.base(parts, name, !calls).map_err(|error| match find(new, name) {
            Some(_) => refused(KEY, format!("{name} is in the new image, but neither in the base nor in the patch")),
            None => error,
        })?;
        match (is_function, calls) {
            (true, true) => Ok(Goal::Thunk(parts.thunk_through(Slot::Address(rva)))),
            (true, false) if addend != 0 => Err(refused(KEY, format!("the hooks lead into the middle of {name}"))),
            (false, true) => Err(refused(KEY, format!("the hooks call {name}, which is a variable"))),
            _ => {
                let rva = u32::try_from(i64::from(rva) + addend).ok().filter(|rva| *rva <= old.image.size_of_image);
                Ok(Goal::Base(
                    rva.ok_or_else(|| refused(KEY, format!("the hooks lead outside of the base by {name}")))?,
                ))
            }
        }
    }

    /// The piece of a function or variable that the base does not have.
    fn added(&self, parts: &Parts, name: &str) -> Option<PieceId> {
        let new = self.input.new;
        let rva = match find(new, name)? {
            Entity::Function(id) => {
                let planned = self.input.plan.function(id)?;
                planned.old.is_none().then(|| new.functions[id.index()].rva())?
            }
            Entity::Object(id) => {
                self.input.plan.objects.iter().find(|o| o.new == id)?;
                new.objects[id.index()].rva
            }
            _ => return None,
        };
        parts.piece_at(rva).filter(|piece| parts.pieces[*piece].start == rva)
    }

    /// A function (true) or variable of the base by name, and its address there.
    fn base(&self, parts: &mut Parts, name: &str, taken: bool) -> Result<(bool, u32)> {
        let old = self.input.old;
        let entity = find(old, name)
            .ok_or_else(|| refused(KEY, format!("the hooks need {name}, which the base has not, or has twice")))?;
        let target = Target { entity, addend: 0 };
        parts.base_uses.insert((target, taken));
        let rva = u32::try_from(old.rva_of(target)).map_err(|_| internal("a name outside of the base"))?;
        Ok((matches!(entity, Entity::Function(_)), rva))
    }

    fn unwind(&self, parts: &mut Parts) -> Result<()> {
        for &index in &self.tables {
            let wrong = || refused(KEY, "the unwind table of the hooks cannot be read");
            let section = self.object.section_by_index(index).map_err(|_| wrong())?;
            let data = section.data().map_err(|_| wrong())?.to_vec();
            let mut words: BTreeMap<u64, (PieceId, u32)> = BTreeMap::new();
            for (offset, relocation) in section.relocations() {
                let RelocationTarget::Symbol(symbol) = relocation.target() else { return Err(wrong()) };
                let symbol = self.object.symbol_by_index(symbol).map_err(|_| wrong())?;
                let piece = symbol.section_index().and_then(|section| self.sections.get(&section.0).copied());
                let held = usize::try_from(offset).ok().and_then(|at| data.get(at..at.checked_add(4)?));
                let held = held.and_then(|held| held.try_into().ok()).map(u32::from_le_bytes).ok_or_else(wrong)?;
                let place =
                    u32::try_from(symbol.address()).ok().and_then(|at| at.checked_add(held)).ok_or_else(wrong)?;
                words.insert(offset, (piece.ok_or_else(wrong)?, place));
            }
            for at in (0..data.len() as u64).step_by(12) {
                let word = |n: u64| words.get(&(at + 4 * n)).copied().ok_or_else(wrong);
                let ((code, begin), (ends_in, end), (info, info_offset)) = (word(0)?, word(1)?, word(2)?);
                let size = |piece: PieceId| parts.pieces[piece].end - parts.pieces[piece].start;
                let sound = code == ends_in
                    && begin < end
                    && end <= size(code)
                    && parts.pieces[code].kind == PieceKind::Hook
                    && parts.pieces[info].kind == PieceKind::Unwind
                    && info_offset < size(info);
                if !sound {
                    return Err(wrong());
                }
                parts.runtime_functions.push(RuntimeFunction { code, begin, end, info, info_offset });
            }
        }
        parts.runtime_functions.sort_by_key(|r| (r.code, r.begin));
        Ok(())
    }
}

/// The slot of an import by name, if exactly one DLL is asked for it.
fn import(program: &Program, name: &str) -> Result<Option<u32>> {
    let named = |import: &&hotgraft_program::Import| {
        !import.delayed && matches!(&import.name, ImportName::Name(n) if n == name)
    };
    let mut slots = program.imports.iter().filter(named);
    let first = slots.next();
    if slots.any(|other| first.is_some_and(|first| !first.dll.eq_ignore_ascii_case(&other.dll))) {
        return Err(refused(KEY, format!("the base imports {name} from more than one DLL")));
    }
    Ok(first.map(|import| import.slot))
}

/// The only thing of this linker name.
fn find(program: &Program, name: &str) -> Option<Entity> {
    let named = |decorated: &Option<String>, plain: &Option<String>| {
        decorated.as_deref() == Some(name)
            || decorated.is_none() && plain.as_deref() == Some(name)
            || plain.as_deref() == Some(name) && !name.contains("::")
    };
    let functions = program
        .functions
        .iter()
        .enumerate()
        .filter(|(_, f)| named(&f.decorated, &f.name) || f.aliases.iter().any(|alias| alias == name));
    let objects = program.objects.iter().enumerate().filter(|(_, o)| named(&o.decorated, &o.name));
    let mut found = functions
        .map(|(i, _)| Entity::Function(FunctionId::from(i)))
        .chain(objects.map(|(i, _)| Entity::Object(ObjectId::from(i))));
    match (found.next(), found.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    }
}
