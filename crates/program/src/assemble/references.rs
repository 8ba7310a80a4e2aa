//! Every field that holds an address, and what the address means.

use super::lookup::Lookup;
use super::objects::Objects;
use super::{Conflict, Found, rtti};
use crate::code::RawReference;
use crate::entity::{Entity, Target};
use crate::image::Image;
use crate::object::ObjectKind;
use crate::pe::Directories;
use crate::program::Program;
use crate::reference::{Form, Reference};
use crate::unwind::UnwindTable;
use rayon::prelude::*;

/// Fields under base relocations and the RVAs they hold, by field. Pointers out of the image are reported and left out.
pub fn pointers(image: &Image, conflicts: &mut Vec<Conflict>) -> Vec<(u32, u32)> {
    let mut out = Vec::with_capacity(image.base_relocations.len());
    for &site in &image.base_relocations {
        let Some(value) = image.u64(site) else { continue };
        match value.checked_sub(image.image_base).filter(|&rva| rva <= u64::from(image.size_of_image)) {
            Some(rva) => out.push((site, rva as u32)),
            None => conflicts
                .push((site, format!("the pointer under a base relocation leads out of the image: {value:#x}"))),
        }
    }
    out
}

/// References of directories, unwind data, code and base relocations, one per field, sorted by site.
pub fn collect(
    directories: &Directories,
    unwind: &UnwindTable,
    pointers: &[(u32, u32)],
    found: &Found,
) -> Vec<RawReference> {
    let mut out: Vec<RawReference> = Vec::new();
    let of_code: usize = found.facts.iter().flatten().map(|f| f.references.len()).sum();
    out.reserve(of_code + pointers.len() + directories.references.len() + unwind.references.len());
    out.extend(found.facts.iter().flatten().flat_map(|f| &f.references));
    out.extend(&directories.references);
    out.extend(&unwind.references);
    let absolute = |&(site, rva): &(u32, u32)| RawReference { site, width: 8, form: Form::Absolute, origin: 0, rva };
    out.extend(pointers.iter().map(absolute));
    for table in &found.tables {
        out.extend(&table.references);
    }
    out.par_sort_by_key(key);
    out.dedup();
    out
}

/// Adds what only objects reveal: the fields of Visual C++'s type information and of mingw's runtime pseudo
/// relocations.
pub fn add_tables(image: &Image, objects: &Objects, raw: &mut Vec<RawReference>) {
    raw.extend(objects.objects.iter().flat_map(|object| rtti::references(image, object)));
    for object in objects.objects.iter().filter(|o| o.kind == ObjectKind::PseudoRelocations) {
        // Version 2: a header of two zero words and the version, then (symbol, target, flags).
        let word = |at: u32| image.u32(at);
        if (word(object.rva), object.rva.checked_add(8).and_then(word)) != (Some(0), Some(1)) {
            continue;
        }
        let mut at = object.rva + 12;
        while at + 12 <= object.end() {
            for site in [at, at + 4] {
                if let Some(rva) = word(site) {
                    raw.push(RawReference { site, width: 4, form: Form::ImageRelative, origin: 0, rva });
                }
            }
            at += 12;
        }
    }
}

fn key(r: &RawReference) -> (u32, u8, u8, u32, u32) {
    (r.site, r.width, r.form as u8, r.origin, r.rva)
}

/// Sorts by site and keeps one reference per field; fields that hold two addresses are reported.
pub fn sort(raw: &mut Vec<RawReference>, conflicts: &mut Vec<Conflict>) {
    raw.par_sort_by_key(key);
    raw.dedup_by(|later, kept| {
        if later.site != kept.site {
            return false;
        }
        if later.rva != kept.rva || later.width != kept.width {
            let text = format!("the field is read as {:#x} and as {:#x}", kept.rva, later.rva);
            conflicts.push((kept.site, text));
        }
        true
    });
}

/// What a field means.
pub fn resolve(program: &Program, lookup: &Lookup, r: &RawReference) -> Reference {
    let resolve =
        |rva| program.resolve_by(rva, |rva| lookup.function_at(program, rva), |rva| lookup.object_behind(program, rva));
    let reference =
        |target| Reference { site: r.site, width: r.width, form: r.form, origin: r.origin, rva: r.rva, target };
    // The second field of a RUNTIME_FUNCTION is the end of what the first field begins; another function may start
    // there, which it does not mean.
    let table = program.image.directories.get(3).copied().unwrap_or_default();
    let offset = r.site.checked_sub(table.0).filter(|&d| d < table.1);
    if let Some(offset) = offset.filter(|o| o % 12 == 4)
        && let Some(begin) = program.image.u32(table.0 + offset - 4)
        && begin < r.rva
    {
        let start = resolve(begin);
        if matches!(start.entity, Entity::Function(_) | Entity::Fragment(..)) {
            return reference(Target { addend: start.addend + i64::from(r.rva - begin), ..start });
        }
    }
    reference(resolve(r.rva))
}
