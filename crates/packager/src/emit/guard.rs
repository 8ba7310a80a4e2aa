//! Which ranges of the base must be, in memory, what the base file says.

use super::pieces::Parts;
use super::{Input, internal};
use crate::error::Result;
use hotgraft_diff::comparison::function_label;
use hotgraft_hotpatch::{Guarded, GuardedKind, guarded_digest};
use hotgraft_program::{Entity, FunctionId, ObjectId, ObjectKind, Program};
use std::collections::{BTreeMap, BTreeSet};

/// Pointer fields of the load configuration that name places which the loader fills: SecurityCookie, the guard check and
/// dispatch pointers, and what newer loaders add.
const FILLED: [u32; 10] = [0x58, 0x70, 0x78, 0xD8, 0xE8, 0x118, 0x120, 0x128, 0x130, 0x138];

/// The guarded ranges, sorted by RVA.
pub(crate) fn ranges(input: &Input<'_>, parts: &Parts) -> Result<Vec<Guarded>> {
    let old = input.old;
    let mut wanted: BTreeMap<(u32, u32), (GuardedKind, String)> = BTreeMap::new();
    let mut function = |id: FunctionId, kind: GuardedKind| {
        let range = old.functions[id.index()].ranges[0];
        wanted.entry((range.rva, range.size)).or_insert_with(|| (kind, function_label(old, id)));
    };
    for planned in input.plan.functions.iter().filter(|f| f.method.is_some()) {
        planned.old.into_iter().for_each(|id| function(id, GuardedKind::Replaced));
    }
    for (target, _) in &parts.base_uses {
        if let Entity::Function(id) | Entity::Fragment(id, _) = target.entity {
            function(id, GuardedKind::Function);
        }
    }
    let changing = changing(old);
    for (target, _) in &parts.base_uses {
        if let Entity::Object(id) = target.entity
            && is_constant(old, id, &changing)
        {
            let object = &old.objects[id.index()];
            let name = object.name.clone().unwrap_or_else(|| format!("data_{:x}", object.rva));
            wanted.insert((object.rva, object.size), (GuardedKind::Constant, name));
        }
    }
    let image = &old.image;
    wanted
        .into_iter()
        .filter(|((_, size), _)| *size != 0)
        .map(|((rva, size), (kind, name))| {
            let digest = image
                .bytes(rva, size as usize)
                .and_then(|bytes| guarded_digest(bytes, rva, &image.base_relocations, image.image_base, 8))
                .ok_or_else(|| internal(format!("{name} at {rva:#x} of the base cuts through a relocated field")))?;
            Ok(Guarded { rva, size, kind, digest, name })
        })
        .collect()
}

/// True if the object has in memory what the file says, apart from base relocations.
pub(crate) fn is_constant(old: &Program, id: ObjectId, changing: &BTreeSet<u32>) -> bool {
    let object = &old.objects[id.index()];
    let fixed = matches!(
        object.kind,
        ObjectKind::Data
            | ObjectKind::String
            | ObjectKind::WideString
            | ObjectKind::JumpTable(_)
            | ObjectKind::VTable
            | ObjectKind::Rtti
            | ObjectKind::Unwind
    );
    let touched = |start: u32, end: u32| changing.range(start.saturating_sub(7)..end).next().is_some();
    let imports = old.imports.iter().any(|i| i.slot < object.end() && i.slot + 8 > object.rva);
    fixed && !object.writable && !touched(object.rva, object.end()) && !imports
}

/// Addresses of read-only fields that the loader or the runtime fills at start.
pub(crate) fn changing(old: &Program) -> BTreeSet<u32> {
    let image = &old.image;
    let mut out = BTreeSet::new();
    for field in FILLED {
        let value = image.load_config_field(field, 8).unwrap_or(0);
        out.extend(value.checked_sub(image.image_base).and_then(|rva| u32::try_from(rva).ok()));
    }
    // Pseudo relocations of mingw, version 2: three zero-or-one words, then (slot, target, flags).
    for object in old.objects.iter().filter(|o| o.kind == ObjectKind::PseudoRelocations) {
        let bytes = image.bytes(object.rva, object.size as usize).unwrap_or(&[]);
        for entry in bytes.get(12..).unwrap_or(&[]).chunks_exact(12) {
            out.insert(u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]));
        }
    }
    out
}
