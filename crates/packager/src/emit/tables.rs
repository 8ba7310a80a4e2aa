//! The hotpatch tables and `.hgraft`, and putting the whole image together.

use super::layout::{Extent, Layout, SLOT, SectionId, THUNK};
use super::pe::{self, Section};
use super::pieces::{Parts, PieceKind, Slot};
use super::{Input, fields, guard, internal, x64};
use crate::error::Result;
use crate::plan::PlannedFunction;
use hotgraft_diff::comparison::function_label;
use hotgraft_hotpatch::info::base_flags;
use hotgraft_hotpatch::{
    Base, Chunk, ChunkKind, EntryMethod, Graft, GraftFunction, Hashes, Hook, Hooks, HotPatchInfo, Record,
};
use hotgraft_program::{CodeRange, Entity, Evidence, FunctionId};
use std::collections::BTreeSet;

/// The Windows tables for a layout. Their size does not depend on positions.
pub(crate) fn info(input: &Input<'_>, parts: &Parts, layout: &Layout) -> Result<HotPatchInfo> {
    let demands = fields::demands(parts, layout)?;
    let record = |place: u32, target: u32, extra: u32| Record { place, target, extra: vec![extra] };
    let functions = replaced(input)
        .map(|(planned, range, method)| {
            let (_, expected) = site(input, range, method)?;
            let at = (range.rva - site_start(range, method)) as usize;
            let word = u32::from(u16::from_le_bytes([expected[at], expected[at + 1]]));
            Ok(record(range.rva, entry(input, parts, layout, planned.new)?, word))
        })
        .collect::<Result<Vec<_>>>()?;
    let slot_at = |i: usize| layout.slots + SLOT * i as u32;
    let mut absolute: Vec<Record> = demands.absolute.iter().map(|(site, target)| record(*site, *target, 0)).collect();
    let mut indirect = Vec::new();
    for (i, slot) in parts.slots.iter().enumerate() {
        match slot {
            Slot::Address(rva) => absolute.push(record(slot_at(i), *rva, 0)),
            Slot::Copy(rva) => indirect.push(record(slot_at(i), *rva, 0)),
        }
    }
    let targets = newly_taken(input, parts).into_iter().map(|rva| record(0, rva, 0)).collect();
    let chunks = [
        (ChunkKind::Function, false, functions),
        (ChunkKind::Absolute, true, absolute),
        (ChunkKind::CallTarget, true, targets),
        (ChunkKind::Indirect, true, indirect),
    ];
    let chunks = chunks
        .into_iter()
        .filter(|(_, _, records)| !records.is_empty())
        .map(|(kind, inverse, mut records)| {
            records.sort();
            Chunk { kind, inverse, obligatory: false, records }
        })
        .collect();
    let base = &input.plan.base;
    let roll_back = if input.plan.irrevertible.is_none() { base_flags::CAN_ROLL_BACK } else { 0 };
    Ok(HotPatchInfo {
        version: 3,
        sequence: input.options.sequence.unwrap_or(1),
        buffer_offset: 0,
        extra_patch_size: 1,
        min_sequence: 0,
        flags: 0,
        bases: vec![Base {
            sequence: 0,
            flags: base_flags::of_machine(base.machine) | roll_back,
            original_timestamp: base.timestamp,
            original_checksum: base.checksum,
            buffer_offset: 0,
            hashes: Some(Hashes { sha256: base.sha256, sha1: input.old.image.sha1 }),
            chunks,
        }],
    })
}

/// `.hgraft` for a layout. Its size does not depend on positions.
pub(crate) fn graft(input: &Input<'_>, parts: &Parts, layout: &Layout) -> Result<Graft> {
    let size = |id: FunctionId| -> u32 {
        let own = parts.pieces.iter().filter(|p| matches!(p.kind, PieceKind::Code(f, _) if f == id));
        own.map(|p| p.bytes.len() as u32).sum()
    };
    let mut functions = Vec::with_capacity(input.plan.functions.len());
    for (planned, range, method) in replaced(input) {
        let (site, expected) = site(input, range, method)?;
        functions.push(GraftFunction {
            name: function_label(input.new, planned.new),
            base_rva: Some(range.rva),
            base_size: range.size,
            patch_rva: entry(input, parts, layout, planned.new)?,
            patch_size: size(planned.new),
            method: Some(method),
            site,
            expected,
            quiesce: planned.quiesce,
        });
    }
    functions.sort_by_key(|f| f.base_rva);
    // A function whose old entry stays as it is, is one more function of the patch for whoever applies it.
    let mut added = Vec::new();
    for planned in input.plan.functions.iter().filter(|f| f.old.is_none() || f.method.is_none()) {
        added.push(GraftFunction {
            name: function_label(input.new, planned.new),
            base_rva: None,
            base_size: 0,
            patch_rva: entry(input, parts, layout, planned.new)?,
            patch_size: size(planned.new),
            method: None,
            site: 0,
            expected: Vec::new(),
            quiesce: false,
        });
    }
    added.sort_by_key(|f| f.patch_rva);
    functions.append(&mut added);
    let sorted = |list: &[String]| list.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
    Ok(Graft {
        base: input.plan.base.clone(),
        sequence: input.options.sequence.unwrap_or(1),
        kb: input.options.kb.clone(),
        cves: sorted(&input.options.cves),
        accepted: sorted(&input.plan.accepted),
        accepted_by: input.options.accepted_by.clone().filter(|_| !input.plan.accepted.is_empty()),
        hooks: hooks(input, parts, layout)?,
        new_sha256: input.new.image.sha256,
        functions,
        near: fields::demands(parts, layout)?.near,
        guarded: guard::ranges(input, parts)?,
        irrevertible: input.plan.irrevertible.clone(),
    })
}

/// The hooks, in the order of their points.
fn hooks(input: &Input<'_>, parts: &Parts, layout: &Layout) -> Result<Option<Hooks>> {
    let Some(file) = &input.options.hooks else { return Ok(None) };
    let entry = |&(point, piece, offset): &(_, usize, u32)| Hook { point, patch_rva: layout.pieces[piece] + offset };
    Ok(Some(Hooks {
        object_sha256: hotgraft_hotpatch::sha::both(file).0,
        entries: parts.hooks.iter().map(entry).collect(),
    }))
}

/// The image, with everything at its final position.
pub(crate) fn assemble(input: &Input<'_>, parts: &Parts, layout: &Layout) -> Result<Vec<u8>> {
    let mut text = vec![x64::FILLER; layout.text.size as usize];
    let mut data = vec![0; layout.data_initialised as usize];
    let mut graft_section = vec![0; layout.graft.size as usize];
    for (id, piece) in parts.pieces.iter().enumerate() {
        let bytes = fields::bytes(parts, layout, id)?;
        let rva = layout.pieces[id];
        let (section, start): (&mut Vec<u8>, u32) = if piece.kind.is_code() {
            (&mut text, layout.text.rva)
        } else if rva >= layout.graft.rva {
            (&mut graft_section, layout.graft.rva)
        } else {
            (&mut data, layout.data.rva)
        };
        let at = (rva - start) as usize;
        if at >= section.len() && piece.kind == PieceKind::Zero {
            if bytes.iter().any(|b| *b != 0) {
                return Err(internal(format!("the variable at {:#x} is not zero at start", piece.start)));
            }
            continue;
        }
        put(section, at, &bytes)?;
    }
    for (i, slot) in parts.thunks.iter().enumerate() {
        let at = layout.thunks + THUNK * i as u32;
        let target = layout.slots + SLOT * *slot as u32;
        put(&mut text, (at - layout.text.rva) as usize, &x64::JUMP_THROUGH)?;
        put(&mut text, (at - layout.text.rva) as usize + 2, &(target.wrapping_sub(at + 6)).to_le_bytes())?;
    }
    let mut constant = |rva: u32, bytes: &[u8]| put(&mut graft_section, (rva - layout.graft.rva) as usize, bytes);
    constant(layout.graft.rva, &graft(input, parts, layout)?.to_bytes()?)?;
    for (literal, at) in parts.literals.iter().zip(&layout.literals) {
        constant(*at, &literal.bytes)?;
    }
    constant(layout.load_config, &pe::load_config(input, parts, layout))?;
    let mut targets = parts.call_targets.iter().map(|f| entry(input, parts, layout, *f)).collect::<Result<Vec<_>>>()?;
    targets.sort_unstable();
    for (i, target) in targets.iter().enumerate() {
        constant(layout.guard_table + 4 * i as u32, &target.to_le_bytes())?;
    }
    constant(layout.hot_patch, &info(input, parts, layout)?.to_bytes()?)?;
    for (i, words) in runtime_functions(parts, layout)?.iter().enumerate() {
        for (n, word) in words.iter().enumerate() {
            constant(layout.pdata.rva + 12 * i as u32 + 4 * n as u32, &word.to_le_bytes())?;
        }
    }
    let imports = pe::imports(input, parts, layout.idata.rva)?;
    constant(layout.idata.rva, &imports.bytes)?;
    let mut sites = fields::demands(parts, layout)?.relocations;
    if pe::is_guarded(&input.old.image) && !parts.call_targets.is_empty() {
        sites.push(layout.load_config + pe::GUARD_TABLE_FIELD);
    }
    sites.sort_unstable();
    let reloc = pe::relocations(&sites);
    graft_section.extend_from_slice(&reloc);

    let mut directories = pe::Directories::new();
    let mut add = |index: usize, extent: Extent| {
        if extent.size != 0 {
            directories.insert(index, extent);
        }
    };
    add(1, imports.directory);
    add(3, layout.pdata);
    add(5, Extent { rva: layout.reloc, size: reloc.len() as u32 });
    add(10, Extent { rva: layout.load_config, size: pe::load_config_size(input) });
    add(12, imports.table);
    let section = |id, extent: Extent, bytes| Section { id, rva: extent.rva, size: extent.size, bytes };
    let constants = Extent { rva: layout.graft.rva, size: graft_section.len() as u32 };
    let sections: Vec<Section> = [
        section(SectionId::Text, layout.text, text),
        section(SectionId::Data, layout.data, data),
        section(SectionId::Graft, constants, graft_section),
    ]
    .into_iter()
    .filter(|s| s.size != 0)
    .collect();
    for section in &sections {
        let held = section.bytes.len() as u64;
        if held > u64::from(section.size) || (section.id != SectionId::Data && held != u64::from(section.size)) {
            return Err(internal(format!("{:?} has {held} bytes, {} were laid out", section.id, section.size)));
        }
    }
    pe::write(&input.old.image, layout.image_base, &sections, &directories)
}

fn put(section: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    let slot = at.checked_add(bytes.len()).and_then(|end| section.get_mut(at..end));
    slot.ok_or_else(|| internal("something was laid out outside of its section"))?.copy_from_slice(bytes);
    Ok(())
}

/// RUNTIME_FUNCTIONs: begin, end, unwind data; sorted by begin.
fn runtime_functions(parts: &Parts, layout: &Layout) -> Result<Vec<[u32; 3]>> {
    let mut out = Vec::with_capacity(parts.runtime_functions.len());
    for r in &parts.runtime_functions {
        let code = &parts.pieces[r.code];
        let at = |offset: u32| {
            let place = code.place(i64::from(offset)).and_then(|p| u32::try_from(p).ok());
            place.map(|p| layout.pieces[r.code] + p).ok_or_else(|| internal("an unwind range inside an instruction"))
        };
        out.push([at(r.begin)?, at(r.end)?, layout.pieces[r.info] + r.info_offset]);
    }
    out.sort_unstable();
    if let Some(pair) = out.windows(2).find(|p| p[1][0] < p[0][1]) {
        return Err(internal(format!("the unwind ranges at {:#x} and {:#x} overlap", pair[0][0], pair[1][0])));
    }
    Ok(out)
}

/// The replaced functions with their old entry range and the way in.
fn replaced<'a>(input: &'a Input<'a>) -> impl Iterator<Item = (&'a PlannedFunction, CodeRange, EntryMethod)> {
    input.plan.functions.iter().filter_map(|planned| {
        let old = &input.old.functions[planned.old?.index()];
        Some((planned, old.ranges[0], planned.method?))
    })
}

fn site_start(range: CodeRange, method: EntryMethod) -> u32 {
    match method {
        EntryMethod::PaddedShortJump => range.rva.saturating_sub(6),
        EntryMethod::NearJump => range.rva,
    }
}

/// What the redirect touches in the base: first RVA and bytes.
fn site(input: &Input<'_>, range: CodeRange, method: EntryMethod) -> Result<(u32, Vec<u8>)> {
    let image = &input.old.image;
    let start = site_start(range, method);
    let len = if method == EntryMethod::PaddedShortJump { 8 } else { 5 };
    let room = if method == EntryMethod::PaddedShortJump { 2 } else { 5 };
    let bytes = image.bytes(start, len).filter(|_| range.size >= room && range.rva - start <= 6);
    let bytes = bytes.ok_or_else(|| internal(format!("no room for a redirect at {:#x} of the base", range.rva)))?;
    let end = start + len as u32;
    let relocated = image.base_relocations.partition_point(|r| *r + 8 <= start);
    if image.base_relocations.get(relocated).is_some_and(|r| *r < end) {
        return Err(internal(format!("the redirect at {:#x} of the base meets a base relocation", range.rva)));
    }
    Ok((start, bytes.to_vec()))
}

/// RVA in the patch of a planned function's entry.
fn entry(input: &Input<'_>, parts: &Parts, layout: &Layout, id: FunctionId) -> Result<u32> {
    let rva = input.new.functions[id.index()].rva();
    let piece = parts.piece_at(rva).filter(|p| parts.pieces[*p].start == rva);
    piece.map(|p| layout.pieces[p]).ok_or_else(|| internal(format!("the function at {rva:#x} is not in the patch")))
}

/// Functions of a guarded base whose address the patch takes although the base's own guard table does not list them.
fn newly_taken(input: &Input<'_>, parts: &Parts) -> BTreeSet<u32> {
    if !pe::is_guarded(&input.old.image) {
        return BTreeSet::new();
    }
    let taken = parts.base_uses.iter().filter(|(target, taken)| *taken && target.addend == 0);
    taken
        .filter_map(|(target, _)| match target.entity {
            Entity::Function(id) => Some(&input.old.functions[id.index()]),
            _ => None,
        })
        .filter(|f| !f.evidence.contains(Evidence::GUARD_TABLE))
        .map(|f| f.rva())
        .collect()
}
