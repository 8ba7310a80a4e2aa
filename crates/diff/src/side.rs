//! One program with what the matcher and the comparison look up again and again.

use crate::code::Code;
use hotgraft_program::{Entity, FunctionId, Object, ObjectId, ObjectKind, Program, Reference};
use rayon::prelude::*;
use rustc_hash::FxHasher;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

/// A program and its indices.
pub(crate) struct Side<'a> {
    pub(crate) program: &'a Program,
    /// True if names of functions and objects may be used.
    pub(crate) named: bool,
    /// Per function: hash of its bytes with reference fields masked, and of where those fields are.
    pub(crate) body: Vec<u64>,
    /// Per object: hash of its bytes with reference fields masked, without trailing zeros.
    pub(crate) content: Vec<u64>,
    /// Per function: functions that refer to it by code, sorted.
    pub(crate) callers: Vec<Vec<FunctionId>>,
    /// Per function: functions it refers to by code, sorted.
    pub(crate) callees: Vec<Vec<FunctionId>>,
    /// Per object: true if code or data refers to it.
    pub(crate) referenced: Vec<bool>,
    codes: Vec<OnceLock<Code>>,
}

/// What the object holds is compared through its meaning, not as bytes.
pub(crate) fn is_loader_table(kind: ObjectKind) -> bool {
    matches!(
        kind,
        ObjectKind::Unwind
            | ObjectKind::RuntimeFunctions
            | ObjectKind::ImportTable
            | ObjectKind::ImportAddressTable
            | ObjectKind::ExportTable
            | ObjectKind::TlsDirectory
            | ObjectKind::LoadConfig
            | ObjectKind::Debug
            | ObjectKind::Resource
            | ObjectKind::BaseRelocations
    )
}

/// Hash of anything.
pub(crate) fn hash_of(value: impl Hash) -> u64 {
    let mut hasher = FxHasher::default();
    value.hash(&mut hasher);
    hasher.finish()
}

impl<'a> Side<'a> {
    pub(crate) fn new(program: &'a Program, named: bool) -> Self {
        let body = program.functions.par_iter().map(|f| {
            let mut hasher = FxHasher::default();
            for range in &f.ranges {
                (range.kind as u8, range.size).hash(&mut hasher);
                hash_masked(program, range.rva, range.size, &mut hasher);
            }
            hasher.finish()
        });
        let content = program.objects.par_iter().map(|o| {
            let mut hasher = FxHasher::default();
            if o.zero_fill {
                o.size.hash(&mut hasher);
            } else {
                hash_masked(program, o.rva, significant_size(program, o), &mut hasher);
            }
            hasher.finish()
        });
        let (body, content) = rayon::join(|| body.collect(), || content.collect());
        let mut callers = vec![Vec::new(); program.functions.len()];
        let mut callees = vec![Vec::new(); program.functions.len()];
        let mut referenced = vec![false; program.objects.len()];
        for reference in &program.references {
            match reference.target.entity {
                Entity::Function(id) | Entity::Fragment(id, _) => {
                    if let Some((from, _)) = program.function_at(reference.site)
                        && from != id
                    {
                        callers[id.index()].push(from);
                        callees[from.index()].push(id);
                    }
                }
                Entity::Object(id) => referenced[id.index()] = true,
                _ => {}
            }
        }
        for reference in program.unwind.iter().flat_map(|u| &u.references) {
            if let Entity::Object(id) = reference.target.entity {
                referenced[id.index()] = true;
            }
        }
        for list in callers.iter_mut().chain(&mut callees) {
            list.sort_unstable();
            list.dedup();
        }
        let codes = program.functions.iter().map(|_| OnceLock::new()).collect();
        Side { program, named, body, content, callers, callees, referenced, codes }
    }

    /// The function's instructions, decoded once when first asked for.
    pub(crate) fn code(&self, id: FunctionId) -> &Code {
        self.codes[id.index()].get_or_init(|| Code::decode(self.program, id))
    }

    /// All references of a function's code, range by range.
    pub(crate) fn references_of(&self, id: FunctionId) -> impl Iterator<Item = &'a Reference> + use<'a> {
        let program = self.program;
        program.functions[id.index()].ranges.iter().flat_map(move |r| program.references_in(r.rva, r.end()))
    }

    /// The references an object holds.
    pub(crate) fn references_in_object(&self, id: ObjectId) -> &'a [Reference] {
        let o = &self.program.objects[id.index()];
        self.program.references_in(o.rva, o.end())
    }

    /// Bytes in the file of an object; empty if it is zero filled.
    pub(crate) fn bytes_of(&self, o: &Object) -> &'a [u8] {
        if o.zero_fill { &[] } else { self.program.image.bytes(o.rva, o.size as usize).unwrap_or(&[]) }
    }

    /// Text of a string object from `offset` to its terminator, without it; the unit is 1 or 2 bytes.
    pub(crate) fn text_of(&self, id: ObjectId, offset: i64) -> Option<&'a [u8]> {
        let o = &self.program.objects[id.index()];
        let unit = match o.kind {
            ObjectKind::String => 1,
            ObjectKind::WideString => 2,
            _ => return None,
        };
        let bytes = self.bytes_of(o).get(usize::try_from(offset).ok()?..)?;
        let length = bytes.chunks_exact(unit).position(|c| c.iter().all(|b| *b == 0))? * unit;
        Some(&bytes[..length])
    }

    /// True if the object is the same thing by its name, whatever it holds. Constants without identity (strings,
    /// literals, jump tables, everything unnamed) are what they contain.
    pub(crate) fn has_identity(&self, id: ObjectId) -> bool {
        let o = &self.program.objects[id.index()];
        if matches!(o.kind, ObjectKind::JumpTable(_)) {
            return false;
        }
        self.named
            && o.decorated
                .as_deref()
                .or(o.name.as_deref())
                .is_some_and(|name| !crate::names::is_derived_from_content(name))
    }

    /// Names of a function, its own first; empty if names are not to be used.
    pub(crate) fn function_names(&self, id: FunctionId) -> impl Iterator<Item = &'a str> + use<'a> {
        let f = &self.program.functions[id.index()];
        let names =
            f.decorated.as_deref().into_iter().chain(f.name.as_deref()).chain(f.aliases.iter().map(String::as_str));
        names.take(if self.named { usize::MAX } else { 0 })
    }
}

/// Bytes of an object without trailing zeros that hold no reference: what counts when only a boundary is known.
pub(crate) fn significant_size(program: &Program, o: &Object) -> u32 {
    let bytes = if o.zero_fill { &[] } else { program.image.bytes(o.rva, o.size as usize).unwrap_or(&[]) };
    let data = bytes.iter().rposition(|b| *b != 0).map_or(0, |p| p as u32 + 1);
    let reference = program.references_in(o.rva, o.end()).last().map_or(0, |r| r.site - o.rva + u32::from(r.width));
    data.max(reference).min(o.size)
}

fn hash_masked(program: &Program, rva: u32, size: u32, hasher: &mut FxHasher) {
    let Some(bytes) = program.image.bytes(rva, size as usize) else { return };
    let mut at = 0usize;
    for reference in program.references_in(rva, rva.saturating_add(size)) {
        let offset = (reference.site - rva) as usize;
        let end = (offset + usize::from(reference.width)).min(bytes.len());
        if offset < at {
            continue;
        }
        hasher.write(&bytes[at..offset]);
        (offset, reference.width, reference.form).hash(hasher);
        at = end;
    }
    hasher.write(&bytes[at.min(bytes.len())..]);
}
