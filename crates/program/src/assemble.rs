//! Puts the facts of image, PDB, unwind data and code together.
//!
//! The order matters: functions first, because what lies in no function may be data; then objects, whose borders are
//! symbols, contributions, directories and every address that anything refers to; then references, which need both;
//! then the account of every byte.

mod functions;
mod lookup;
mod names;
mod objects;
mod pieces;
mod references;
mod rtti;
mod spans;
mod strings;

use crate::code::{self, Access, RawReference};
use crate::entity::FunctionId;
use crate::error::Result;
use crate::image::Image;
use crate::pdb::Pdb;
use crate::pe;
use crate::program::Program;
use crate::unwind;
use rayon::prelude::*;

/// A sentence about facts that contradict each other, with the RVA it is about.
pub(crate) type Conflict = (u32, String);

/// Builds the program of an image.
pub fn program(image: Image, pdb: Option<Pdb>) -> Result<Program> {
    let has_pdb = pdb.is_some();
    let mut pdb = pdb.unwrap_or_default();
    let directories = pe::directories(&image)?;
    let mut conflicts: Vec<Conflict> = Vec::new();
    if image.characteristics & object::pe::IMAGE_FILE_RELOCS_STRIPPED.0 != 0 {
        let text = "base relocations are stripped: addresses in data cannot be told from numbers".to_owned();
        conflicts.push((0, text));
    }
    let names = names::Names::new(&image, &pdb, &directories);
    let mut unwind = unwind::read(&image, &|rva| names.handler(rva))?;
    for problem in &unwind.problems {
        conflicts.push((problem.rva, format!("{}: {}", problem.key, problem.text)));
    }
    let pointers = references::pointers(&image, &mut conflicts);
    let found = functions::find(&image, &pdb, &directories, &unwind, &pointers, &names, &mut conflicts);

    let mut raw = references::collect(&directories, &unwind, &pointers, &found);
    let objects = objects::find(&image, &pdb, &directories, &unwind, &found, &raw, &mut conflicts);
    references::add_tables(&image, &objects, &mut raw);
    references::sort(&mut raw, &mut conflicts);

    let ranges = functions::range_index(&found.functions);
    let mut program = Program {
        image,
        has_pdb,
        modules: std::mem::take(&mut pdb.modules),
        functions: found.functions,
        objects: objects.objects,
        imports: directories.imports,
        exports: directories.exports,
        references: Vec::new(),
        unwind: std::mem::take(&mut unwind.entries),
        types: std::mem::take(&mut pdb.types),
        spans: Vec::new(),
        ranges,
        lines: std::mem::take(&mut pdb.lines.lines),
        files: std::mem::take(&mut pdb.lines.files),
        conflicts: Vec::new(),
    };
    objects::link(&mut program, &found.tables, &pdb);
    let lookup = lookup::Lookup::new(&program);
    for access in &found.accesses {
        let Some(object) = lookup.object_at(&program, access.rva).map(|id| &program.objects[id.index()]) else {
            continue;
        };
        if u64::from(access.rva) + u64::from(access.size) > u64::from(object.end()) {
            let text =
                format!("code reads or writes {} bytes over the end of an object at {:#x}", access.size, object.end());
            conflicts.push((access.rva, text));
        }
    }
    program.references = raw.par_iter().map(|r| references::resolve(&program, &lookup, r)).collect();
    for i in 0..program.unwind.len() {
        let (start, end) = (program.unwind[i].info, program.unwind[i].info.saturating_add(program.unwind[i].size));
        program.unwind[i].references = program.references_in(start, end).to_vec();
    }
    functions::link_unwind(&mut program, &unwind.code_targets);
    let (spans, kinds): (_, Vec<_>) = {
        let covered = spans::Covered::new(&program, &lookup, &raw);
        let kind = |i: usize| {
            let entry = program.functions[i].ranges[0];
            code::entry_kind(&program.image, entry, &found.facts[i], &|rva| covered.contains(rva))
        };
        rayon::join(
            || spans::account(&program, &covered),
            || (0..program.functions.len()).into_par_iter().map(kind).collect(),
        )
    };
    program.spans = spans;
    for (function, kind) in program.functions.iter_mut().zip(kinds) {
        function.entry_kind = kind;
    }
    conflicts.sort();
    conflicts.dedup();
    program.conflicts = conflicts;
    Ok(program)
}

/// What is known of functions before objects are.
pub(crate) struct Found {
    /// Sorted by entry; jump tables, unwind indices and entry kinds are still missing.
    pub functions: Vec<crate::function::Function>,
    /// Facts by function and range.
    pub facts: Vec<Vec<code::CodeFacts>>,
    /// Tables that code reads, sorted by address.
    pub tables: Vec<Table>,
    /// Memory operands with fixed addresses, sorted, each once.
    pub accesses: Vec<Access>,
}

/// A jump table or lookup table that code reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// First entry.
    pub rva: u32,
    /// Number of entries.
    pub entries: u32,
    /// Bytes per entry.
    pub width: u8,
    /// The function that reads it.
    pub function: FunctionId,
    /// The indirect jump, `None` for a table that is not of code addresses.
    pub jump: Option<u32>,
    /// Number of entries proven by code or told by the compiler.
    pub proven: bool,
    /// Addresses in its entries.
    pub references: Vec<RawReference>,
}

impl Table {
    /// First byte behind.
    pub fn end(&self) -> u32 {
        self.rva.saturating_add(self.entries.saturating_mul(self.width.into()))
    }
}
