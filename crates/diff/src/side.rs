//! One program with what the matcher and the comparison look up again and again.

use crate::code::Code;
use hotgraft_program::{CodeRange, Entity, FunctionId, Object, ObjectId, ObjectKind, Program, Reference};
use rayon::prelude::*;
use rustc_hash::{FxHashSet, FxHasher};
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
    /// Per unwind entry: the object that holds its information.
    pub(crate) unwind_object: Vec<Option<ObjectId>>,
    /// Per function: the references in its entry range, as positions among all.
    in_function: Vec<(u32, u32)>,
    /// Per object: the references it holds, likewise.
    in_object: Vec<(u32, u32)>,
    codes: Vec<OnceLock<Code>>,
    blocks: OnceLock<FxHashSet<[u8; BLOCK]>>,
}

/// Bytes of the pieces that [`Side::holds`] looks for.
const BLOCK: usize = 8;

/// Bytes of a code range that count. Without a PDB the end of a range may be the next entry: filler behind the last
/// instruction is not part of the function then.
pub(crate) fn range_size(program: &Program, range: &CodeRange) -> u32 {
    if program.has_pdb {
        return range.size;
    }
    let bytes = program.image.bytes(range.rva, range.size as usize).unwrap_or(&[]);
    bytes.iter().rposition(|b| *b != 0xcc).map_or(range.size, |last| last as u32 + 1)
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
        let in_function = positions(program, program.functions.iter().map(|f| (f.rva(), f.ranges[0].end())));
        let in_object = positions(program, program.objects.iter().map(|o| (o.rva, o.end())));
        let at = |(first, last): (u32, u32)| &program.references[first as usize..last as usize];
        let body = program.functions.par_iter().zip(&in_function).map(|(f, span)| {
            let mut hasher = FxHasher::default();
            for (n, range) in f.ranges.iter().enumerate() {
                let size = range_size(program, range);
                (range.kind as u8, size).hash(&mut hasher);
                let references = if n == 0 { at(*span) } else { program.references_in(range.rva, range.end()) };
                hash_masked(program, range.rva, size, references, &mut hasher);
            }
            hasher.finish()
        });
        let content = program.objects.par_iter().zip(&in_object).map(|(o, span)| {
            let mut hasher = FxHasher::default();
            if o.zero_fill {
                o.size.hash(&mut hasher);
            } else {
                let references = at(*span);
                let size = significant(program, o, references);
                hash_masked(program, o.rva, size, references, &mut hasher);
            }
            hasher.finish()
        });
        let (body, content) = rayon::join(|| body.collect(), || content.collect());
        let mut callers = vec![Vec::new(); program.functions.len()];
        let mut callees = vec![Vec::new(); program.functions.len()];
        let mut referenced = vec![false; program.objects.len()];
        // References come in the order of the ranges that they stand in.
        let mut next = 0;
        for reference in &program.references {
            while program.ranges.get(next).is_some_and(|r| r.0 <= reference.site) {
                next += 1;
            }
            let around = next.checked_sub(1).map(|i| program.ranges[i]);
            let around = around
                .filter(|(_, id, n)| program.functions[id.index()].ranges[usize::from(*n)].contains(reference.site));
            match reference.target.entity {
                Entity::Function(id) | Entity::Fragment(id, _) => {
                    if let Some((_, from, _)) = around
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
        let unwind_object = program.unwind.par_iter().map(|u| program.object_at(u.info)).collect();
        let codes = program.functions.iter().map(|_| OnceLock::new()).collect();
        let blocks = OnceLock::new();
        Side {
            program,
            named,
            body,
            content,
            callers,
            callees,
            referenced,
            unwind_object,
            in_function,
            in_object,
            codes,
            blocks,
        }
    }

    /// The function's instructions, decoded once when first asked for.
    pub(crate) fn code(&self, id: FunctionId) -> &Code {
        self.codes[id.index()].get_or_init(|| Code::decode(self.program, id))
    }

    /// All references of a function's code, range by range.
    pub(crate) fn references_of(&self, id: FunctionId) -> impl Iterator<Item = &'a Reference> + use<'a> {
        let program = self.program;
        let parts = &program.functions[id.index()].ranges[1..];
        let more = parts.iter().flat_map(move |r| program.references_in(r.rva, r.end()));
        self.in_entry_range(id).iter().chain(more)
    }

    /// The references in the entry range of a function.
    pub(crate) fn in_entry_range(&self, id: FunctionId) -> &'a [Reference] {
        let (first, last) = self.in_function[id.index()];
        &self.program.references[first as usize..last as usize]
    }

    /// The references an object holds.
    pub(crate) fn references_in_object(&self, id: ObjectId) -> &'a [Reference] {
        let (first, last) = self.in_object[id.index()];
        &self.program.references[first as usize..last as usize]
    }

    /// Bytes in the file of an object; empty if it is zero filled.
    pub(crate) fn bytes_of(&self, o: &Object) -> &'a [u8] {
        if o.zero_fill { &[] } else { self.program.image.bytes(o.rva, o.size as usize).unwrap_or(&[]) }
    }

    /// True if every aligned piece of `size` bytes at `rva` of `other` also stands somewhere in this program's
    /// constants, addresses masked, and what is too short to be such a piece is zero.
    pub(crate) fn holds(&self, other: &Side<'_>, rva: u32, size: u32) -> bool {
        let end = rva.saturating_add(size);
        let first = rva.next_multiple_of(BLOCK as u32).min(end);
        let last = first + (end - first) / BLOCK as u32 * BLOCK as u32;
        let zero = |from: u32, to: u32| {
            other.program.image.bytes(from, (to - from) as usize).is_some_and(|bytes| bytes.iter().all(|b| *b == 0))
        };
        if !zero(rva, first) || !zero(last, end) {
            return false;
        }
        let blocks = self.blocks.get_or_init(|| {
            let constant = |s: &&hotgraft_program::Section| !s.is_writable() && !s.is_executable();
            let sections = self.program.image.sections.iter().filter(constant);
            sections.flat_map(|s| pieces(self.program, s.rva, s.size)).collect()
        });
        pieces(other.program, rva, size).all(|piece| blocks.contains(&piece))
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
    significant(program, o, program.references_in(o.rva, o.end()))
}

fn significant(program: &Program, o: &Object, references: &[Reference]) -> u32 {
    let bytes = if o.zero_fill { &[] } else { program.image.bytes(o.rva, o.size as usize).unwrap_or(&[]) };
    let data = bytes.iter().rposition(|b| *b != 0).map_or(0, |p| p as u32 + 1);
    let reference = references.last().map_or(0, |r| r.site - o.rva + u32::from(r.width));
    data.max(reference).min(o.size)
}

/// The aligned pieces of a run of bytes with reference fields zeroed.
fn pieces(program: &Program, rva: u32, size: u32) -> impl Iterator<Item = [u8; BLOCK]> {
    let start = rva.next_multiple_of(BLOCK as u32);
    let length = size.saturating_sub(start - rva) as usize;
    let mut bytes = program.image.bytes(start, length).unwrap_or(&[]).to_vec();
    for r in program.references_in(start, start.saturating_add(size)) {
        let at = (r.site - start) as usize;
        let end = (at + usize::from(r.width)).min(bytes.len());
        if at < end {
            bytes[at..end].fill(0);
        }
    }
    let count = bytes.len() / BLOCK;
    (0..count).map(move |n| {
        let mut piece = [0; BLOCK];
        piece.copy_from_slice(&bytes[n * BLOCK..(n + 1) * BLOCK]);
        piece
    })
}

/// The references between each two addresses, which are sorted by the first, as positions among all.
fn positions(program: &Program, runs: impl Iterator<Item = (u32, u32)>) -> Vec<(u32, u32)> {
    let all = &program.references;
    let mut next = 0;
    let of = |(start, end): (u32, u32)| {
        while next < all.len() && all[next].site < start {
            next += 1;
        }
        let length = all[next..].iter().take_while(|r| r.site < end).count();
        (next as u32, (next + length) as u32)
    };
    runs.map(of).collect()
}

/// Hashes a run of bytes; `references` are those in it, perhaps with some behind it.
fn hash_masked(program: &Program, rva: u32, size: u32, references: &[Reference], hasher: &mut FxHasher) {
    let Some(bytes) = program.image.bytes(rva, size as usize) else { return };
    let end = rva.saturating_add(size);
    let mut at = 0usize;
    for reference in references.iter().take_while(|r| r.site < end) {
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
