//! What is taken over from the new image: runs of code and data with every address in them made a field.

use super::{Input, hooks, internal, refused, unwind, x64};
use crate::plan::Destination;
use hotgraft_diff::comparison::function_label;
use hotgraft_hotpatch::HookPoint;
use hotgraft_program::{Entity, Form, FunctionId, ImportId, ObjectId, ObjectKind, Program, Reference, Target};
use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;

/// Index into [`Parts::pieces`].
pub(crate) type PieceId = usize;

/// What a piece is; decides its section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PieceKind {
    /// Code of a planned function. `true` if the piece starts with its entry.
    Code(FunctionId, bool),
    /// Code of the developer's hooks.
    Hook,
    /// A constant.
    Constant,
    /// A variable.
    Variable,
    /// A variable that is zero at start.
    Zero,
    /// UNWIND_INFO, handler data or what it leads to.
    Unwind,
}

impl PieceKind {
    /// True for what lies in the code section.
    pub(crate) fn is_code(self) -> bool {
        matches!(self, Self::Code(..) | Self::Hook)
    }
}

/// A run of bytes of the new image that keeps its inner distances (unless it is code that was re-encoded).
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// First byte in the new image, RVA.
    pub(crate) start: u32,
    /// First byte behind it in the new image.
    pub(crate) end: u32,
    pub(crate) kind: PieceKind,
    /// Contents; fields still hold what they hold in the new image.
    pub(crate) bytes: Vec<u8>,
    /// Sorted by offset, disjoint.
    pub(crate) fields: Vec<Field>,
    /// Where each instruction went, for re-encoded code: (offset in the new image's piece, offset in `bytes`), sorted.
    pub(crate) moved: Option<Vec<(u32, u32)>>,
}

impl Piece {
    /// Offset in `bytes` of what is at `offset` in the new image's piece. `None` where that has no counterpart.
    pub(crate) fn place(&self, offset: i64) -> Option<i64> {
        let Some(moved) = &self.moved else { return Some(offset) };
        let offset = u32::try_from(offset).ok()?;
        let i = moved.binary_search_by_key(&offset, |m| m.0).ok()?;
        Some(i64::from(moved[i].1))
    }
}

/// What a field's value counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nothing: a virtual address or an RVA.
    None,
    /// An offset in the `bytes` of the field's own piece (the end of the instruction).
    Here(u32),
    /// An offset in the new image's piece.
    Piece(PieceId, i64),
}

/// Where a field leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Goal {
    /// An offset (in the new image's terms) in a piece of the patch.
    Piece(PieceId, i64),
    /// An RVA in the base.
    Base(u32),
    /// A slot of the patch's own import address table.
    Import(usize),
    /// An 8-byte slot of the patch.
    Slot(usize),
    /// A `jmp [rip+slot]` of the patch.
    Thunk(usize),
    /// An offset in a copy of a constant.
    Literal(usize, u32),
    /// The patch's image base.
    PatchBase,
}

/// One address in a piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Offset in `bytes`.
    pub(crate) offset: u32,
    /// Bytes: 1, 2, 4 or 8.
    pub(crate) width: u8,
    pub(crate) form: Form,
    pub(crate) origin: Origin,
    pub(crate) goal: Goal,
}

/// A slot that is filled from the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// With the address of an RVA in the base (INVERSE ABSOLUTE).
    Address(u32),
    /// With the 8 bytes at an RVA in the base (INVERSE INDIRECT).
    Copy(u32),
}

/// A constant that is copied because code reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Literal {
    /// RVA in the new image; its alignment is kept.
    pub(crate) rva: u32,
    pub(crate) bytes: Vec<u8>,
}

/// One RUNTIME_FUNCTION.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuntimeFunction {
    pub(crate) code: PieceId,
    /// Offsets in the new image's piece.
    pub(crate) begin: u32,
    pub(crate) end: u32,
    pub(crate) info: PieceId,
    pub(crate) info_offset: u32,
}

/// All that goes into the patch, without positions.
#[derive(Default)]
pub(crate) struct Parts {
    /// Sorted by RVA in the new image, disjoint.
    pub(crate) pieces: Vec<Piece>,
    /// Pieces that keep their distances to each other; every other piece stands alone.
    pub(crate) groups: Vec<Vec<PieceId>>,
    pub(crate) slots: Vec<Slot>,
    /// Index of the slot that each thunk jumps through.
    pub(crate) thunks: Vec<usize>,
    /// Copies of constants of the base that code reads.
    pub(crate) literals: Vec<Literal>,
    pub(crate) imports: Vec<ImportId>,
    pub(crate) runtime_functions: Vec<RuntimeFunction>,
    /// Entities of the base that the patch reaches, and whether its address is taken (or it is only called).
    pub(crate) base_uses: BTreeSet<(Target, bool)>,
    /// Planned functions whose address in the patch is taken.
    pub(crate) call_targets: BTreeSet<FunctionId>,
    /// Entries of the hooks: piece and offset.
    pub(crate) hooks: Vec<(HookPoint, PieceId, u32)>,
}

impl Parts {
    /// The piece that holds `rva` of the new image.
    pub(crate) fn piece_at(&self, rva: u32) -> Option<PieceId> {
        let i = self.pieces.partition_point(|p| p.start <= rva).checked_sub(1)?;
        (rva < self.pieces[i].end).then_some(i)
    }

    /// The slot with this content, made if there is none yet.
    pub(crate) fn slot(&mut self, slot: Slot) -> usize {
        match self.slots.iter().position(|s| *s == slot) {
            Some(i) => i,
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        }
    }

    /// The thunk to an RVA of the base.
    fn thunk(&mut self, rva: u32) -> usize {
        self.thunk_through(Slot::Address(rva))
    }

    /// The thunk through a slot, made if there is none yet.
    pub(crate) fn thunk_through(&mut self, slot: Slot) -> usize {
        let slot = self.slot(slot);
        match self.thunks.iter().position(|t| *t == slot) {
            Some(i) => i,
            None => {
                self.thunks.push(slot);
                self.thunks.len() - 1
            }
        }
    }
}

/// Collects all pieces with their fields.
pub(crate) fn collect(input: &Input<'_>) -> Result<Parts> {
    let new = input.new;
    let mut runs: BTreeMap<u32, (u32, PieceKind)> = BTreeMap::new();
    for planned in &input.plan.functions {
        code_runs(new, planned.new, &mut runs)?;
    }
    let mut infos: BTreeSet<u32> = BTreeSet::new();
    for planned in &input.plan.functions {
        for &index in &new.functions[planned.new.index()].unwind {
            let info = unwind::entry(new, index)?;
            if infos.insert(info.info) {
                add_run(&mut runs, info.info, info.info + info.size, PieceKind::Unwind)?;
            }
        }
    }
    for planned in &input.plan.objects {
        let object = &new.objects[planned.new.index()];
        if object.size == 0 {
            return Err(internal(format!("the planned object at {:#x} has no bytes", object.rva)));
        }
        let kind = match object.kind {
            ObjectKind::Unwind => PieceKind::Unwind,
            // Type descriptors are writable in the new image, for a cache of the runtime's.
            _ if object.writable && object.zero_fill => PieceKind::Zero,
            _ if object.writable => PieceKind::Variable,
            _ => PieceKind::Constant,
        };
        add_run(&mut runs, object.rva, object.end(), kind)?;
    }

    let mut parts = Parts { imports: input.plan.imports.clone(), ..Parts::default() };
    for (start, (end, kind)) in runs {
        let bytes = new
            .image
            .bytes(start, (end - start) as usize)
            .ok_or_else(|| internal(format!("{start:#x}..{end:#x} is not inside the new image")))?
            .to_vec();
        parts.pieces.push(Piece { start, end, kind, bytes, fields: Vec::new(), moved: None });
    }
    for group in &input.plan.groups {
        let mut members = Vec::new();
        for id in group {
            members.push(object_piece(&parts, new, *id)?);
        }
        members.dedup();
        parts.groups.push(members);
    }
    for id in 0..parts.pieces.len() {
        let fields = fields(input, &mut parts, id)?;
        parts.pieces[id].fields = fields;
    }
    unwind::complete(input, &mut parts)?;
    hooks::link(input, &mut parts)?;
    Ok(parts)
}

/// The extents of a function's code. Ranges that touch are one piece, because control may run from one to the next.
fn code_runs(new: &Program, id: FunctionId, runs: &mut BTreeMap<u32, (u32, PieceKind)>) -> Result<()> {
    let function = &new.functions[id.index()];
    let label = || function_label(new, id);
    if let Some(problem) = function.problems.first() {
        return Err(internal(format!("{} is planned although {} {}", label(), problem.key, problem.text)));
    }
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for range in &function.ranges {
        // Unwind data may cover filler behind the last instruction, where a call that does not return "returns" to.
        let covered = function.unwind.iter().map(|&u| unwind::entry(new, u)).collect::<Result<Vec<_>>>()?;
        let end = covered
            .iter()
            .filter(|u| range.contains(u.begin) && u.end > range.end())
            .map(|u| u.end)
            .filter(|end| new.ranges.iter().all(|(rva, ..)| *rva < range.end() || rva >= end))
            .max()
            .unwrap_or(range.end());
        ranges.push((range.rva, end));
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if start < last.1 => {
                return Err(internal(format!("ranges of {} overlap at {start:#x}", label())));
            }
            Some(last) if start == last.1 => last.1 = end,
            _ => merged.push((start, end)),
        }
    }
    for (start, end) in merged {
        let bytes = new.image.bytes(start, (end - start) as usize);
        if !bytes.is_some_and(|b| x64::ends_here(b, start)) {
            return Err(refused(
                "code.function.falls_through",
                format!("control runs out of the code of {} at {end:#x}", label()),
            ));
        }
        let entry = (start..end).contains(&function.rva());
        if entry && start != function.rva() {
            return Err(refused("code.function.layout", format!("{} has code right before its entry", label())));
        }
        add_run(runs, start, end, PieceKind::Code(id, entry))?;
    }
    Ok(())
}

fn add_run(runs: &mut BTreeMap<u32, (u32, PieceKind)>, start: u32, end: u32, kind: PieceKind) -> Result<()> {
    let before = runs.range(..=start).next_back().filter(|(_, run)| run.0 > start).map(|(s, run)| (*s, *run));
    if let Some((_, (outer, _))) = before {
        // A jump table inside a function's code, or unwind data that is planned as an object too.
        return if end <= outer {
            Ok(())
        } else {
            Err(internal(format!("{start:#x}..{end:#x} overlaps another piece up to {outer:#x}")))
        };
    }
    if let Some((next, _)) = runs.range(start..end).next() {
        return Err(internal(format!("{start:#x}..{end:#x} overlaps another piece at {next:#x}")));
    }
    runs.insert(start, (end, kind));
    Ok(())
}

fn object_piece(parts: &Parts, new: &Program, id: ObjectId) -> Result<PieceId> {
    let rva = new.objects[id.index()].rva;
    parts.piece_at(rva).ok_or_else(|| internal(format!("the object at {rva:#x} is not in the plan")))
}

/// Every reference in a piece as a field, with the checks that none is missing or misread.
fn fields(input: &Input<'_>, parts: &mut Parts, id: PieceId) -> Result<Vec<Field>> {
    let new = input.new;
    let (start, end, kind) = (parts.pieces[id].start, parts.pieces[id].end, parts.pieces[id].kind);
    let mut references: Vec<Reference> = new.references_in(start, end).to_vec();
    if kind == PieceKind::Unwind {
        // Handler data is held by the unwind entries; objects reached from there by the program.
        references.extend(new.unwind.iter().flat_map(|u| &u.references).filter(|r| (start..end).contains(&r.site)));
        references.sort_unstable_by_key(|r| r.site);
        references.dedup_by_key(|r| r.site);
    }
    let relocations = &new.image.base_relocations;
    let first = relocations.partition_point(|r| *r < start.saturating_sub(7));
    for site in relocations[first..].iter().take_while(|r| **r < end) {
        let known = references.iter().any(|r| r.site == *site && r.form == Form::Absolute && r.width == 8);
        if !known {
            return Err(internal(format!("the relocated field at {site:#x} of the new image is no reference")));
        }
    }
    let special = if kind == PieceKind::Unwind { unwind::special_fields(new, start, end)? } else { BTreeMap::new() };
    let mut out: Vec<Field> = Vec::with_capacity(references.len());
    for reference in &references {
        let site = reference.site;
        let offset = site - start;
        if u64::from(offset) + u64::from(reference.width) > u64::from(end - start)
            || out.last().is_some_and(|last| last.offset + u32::from(last.width) > offset)
        {
            return Err(internal(format!("the reference at {site:#x} overlaps another or leaves its piece")));
        }
        verify(new, reference)?;
        let goal = match special.get(&site) {
            Some(special) => unwind::special_goal(input, parts, reference, *special)?,
            None => goal(input, parts, reference, kind)?,
        };
        let goal = match goal {
            // Unwind data can name handlers, filters and the like only in its own image.
            Goal::Base(rva)
                if kind == PieceKind::Unwind
                    && reference.form == Form::ImageRelative
                    && input.old.function_entry(rva).is_some() =>
            {
                Goal::Thunk(parts.thunk(rva))
            }
            goal => goal,
        };
        let origin = match reference.form {
            Form::Branch | Form::RipRelative => Origin::Here(reference.origin - start),
            Form::Absolute | Form::ImageRelative | Form::ImageRelativeDisplacement => Origin::None,
            Form::Relative if (start..end).contains(&reference.origin) => {
                Origin::Piece(id, i64::from(reference.origin - start))
            }
            Form::Relative => {
                let anchor = parts.piece_at(reference.origin).ok_or_else(|| {
                    refused(
                        "data.reference.unknown",
                        format!("{site:#x} counts from {:#x}, which is not in the patch", reference.origin),
                    )
                })?;
                Origin::Piece(anchor, i64::from(reference.origin - parts.pieces[anchor].start))
            }
        };
        out.push(Field { offset, width: reference.width, form: reference.form, origin, goal });
    }
    Ok(out)
}

/// The field holds in the new image what the reference says.
fn verify(new: &Program, r: &Reference) -> Result<()> {
    let bytes = new.image.bytes(r.site, usize::from(r.width));
    let held = bytes.map(|b| b.iter().rev().fold(0u64, |v, b| (v << 8) | u64::from(*b)));
    let value = match r.form {
        Form::Absolute => new.image.image_base.wrapping_add(u64::from(r.rva)),
        Form::ImageRelative | Form::ImageRelativeDisplacement => u64::from(r.rva),
        Form::Branch | Form::RipRelative | Form::Relative => u64::from(r.rva).wrapping_sub(u64::from(r.origin)),
    };
    let mask = if r.width >= 8 { u64::MAX } else { (1 << (8 * u32::from(r.width))) - 1 };
    if !matches!(r.width, 1 | 2 | 4 | 8) || held != Some(value & mask) {
        return Err(internal(format!("the field at {:#x} does not hold what its reference says", r.site)));
    }
    Ok(())
}

/// Where the plan sends a reference.
fn goal(input: &Input<'_>, parts: &mut Parts, r: &Reference, kind: PieceKind) -> Result<Goal> {
    let destination = input
        .plan
        .destination(r.site)
        .ok_or_else(|| internal(format!("the plan does not resolve the reference at {:#x}", r.site)))?;
    Ok(match destination {
        Destination::Patch(target) => {
            if let (Entity::Function(id), 0, true) = (target.entity, target.addend, takes_address(r.form)) {
                parts.call_targets.insert(id);
            }
            patch_goal(parts, input.new, target)?
        }
        Destination::Base(target) => {
            let rva = input.old.rva_of(target);
            let rva = u32::try_from(rva)
                .ok()
                .filter(|rva| *rva <= input.old.image.size_of_image)
                .ok_or_else(|| internal(format!("{:#x} leads outside of the base", r.site)))?;
            parts.base_uses.insert((target, takes_address(r.form)));
            Goal::Base(rva)
        }
        Destination::NewImport(id) => {
            let i = parts.imports.iter().position(|i| *i == id);
            Goal::Import(i.ok_or_else(|| internal(format!("{:#x} needs an import that is not planned", r.site)))?)
        }
        Destination::PatchImageBase if matches!(kind, PieceKind::Code(..)) => Goal::PatchBase,
        Destination::PatchImageBase => {
            return Err(internal(format!("data at {:#x} holds the image base of the patch", r.site)));
        }
    })
}

/// A target of the new image that the patch contains.
pub(crate) fn patch_goal(parts: &Parts, new: &Program, target: Target) -> Result<Goal> {
    let start = new.rva_of(Target { entity: target.entity, addend: 0 });
    let piece = u32::try_from(start)
        .ok()
        .filter(|_| !matches!(target.entity, Entity::Import(_) | Entity::ImageBase | Entity::Unknown));
    let piece = piece
        .and_then(|rva| parts.piece_at(rva))
        .ok_or_else(|| internal(format!("{target:?} of the new image is not in the patch")))?;
    Ok(Goal::Piece(piece, start - i64::from(parts.pieces[piece].start) + target.addend))
}

fn takes_address(form: Form) -> bool {
    matches!(form, Form::RipRelative | Form::Absolute)
}
