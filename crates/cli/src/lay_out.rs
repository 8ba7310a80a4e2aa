//! `hotgraft lay-out`: the patched base and the new image in one address space, for those who want to run both: the memory,
//! and what is what on both sides under names that both share.
//!
//! Names come from the PDBs where these are unique, and not from the comparison, so that a wrong match shows.

use crate::args::LayOutArgs;
use crate::output::{self, Exit, Terminal};
use anyhow::{Context as _, Result, ensure};
use hotgraft_diff::Comparison;
use hotgraft_engine::{AddressSpace, BufferSpace, memory};
use hotgraft_program::{FunctionId, ObjectId, ObjectKind, Program};
use hotgraft_residual::Code;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Distance of the new image from the base, so that no address of one is one of the other's by accident.
const APART: u64 = 0x10_0000_0000;
/// Constants up to this size are known by what they hold.
const LITERAL: u32 = 64;

/// `hotgraft.space/1`, described by docs/schemas/space.json.
#[derive(Serialize)]
struct Space {
    schema: &'static str,
    /// File with the bytes of all regions, beside this document.
    memory: &'static str,
    regions: Vec<RegionOut>,
    imports: Vec<ImportOut>,
    functions: Vec<FunctionOut>,
    entities: Sides,
}

#[derive(Serialize)]
struct RegionOut {
    side: &'static str,
    image: &'static str,
    address: u64,
    size: u64,
    offset: u64,
}

#[derive(Serialize)]
struct ImportOut {
    address: u64,
    dll: String,
    name: String,
}

/// A function to run on both sides.
#[derive(Serialize)]
struct FunctionOut {
    name: String,
    prototype: Option<String>,
    /// Where callers enter: the base's entry where it is redirected, else the patch's.
    patched: u64,
    /// Its entry in the patch.
    body: u64,
    new: u64,
    /// Code in the patch.
    patch_code: Vec<(u64, u32)>,
    new_code: Vec<(u64, u32)>,
}

#[derive(Serialize)]
struct Sides {
    patched: Vec<EntityOut>,
    new: Vec<EntityOut>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct EntityOut {
    address: u64,
    size: u32,
    /// The same on both sides for the same thing.
    key: String,
    kind: &'static str,
    /// A variable that a test may fill.
    variable: bool,
    /// Prototype, for functions.
    prototype: Option<String>,
}

/// Names that both sides share.
struct Names<'a> {
    old: &'a Program,
    new: &'a Program,
    comparison: &'a Comparison,
    /// Names that more than one thing has on a side.
    twice: BTreeSet<String>,
}

impl<'a> Names<'a> {
    fn new(old: &'a Program, new: &'a Program, comparison: &'a Comparison) -> Self {
        let mut twice = BTreeSet::new();
        for program in [old, new] {
            let mut count: BTreeMap<String, u32> = BTreeMap::new();
            let functions = (0..program.functions.len()).filter_map(|i| function_name(program, FunctionId::from(i)));
            let objects = (0..program.objects.len()).filter_map(|i| object_name(program, ObjectId::from(i)));
            for name in functions.chain(objects) {
                *count.entry(name).or_default() += 1;
            }
            twice.extend(count.into_iter().filter(|(_, n)| *n > 1).map(|(name, _)| name));
        }
        Self { old, new, comparison, twice }
    }

    fn unique(&self, name: Option<String>) -> Option<String> {
        name.filter(|name| !self.twice.contains(name))
    }

    fn old_function(&self, id: FunctionId) -> String {
        let pair = self.comparison.function_of_old[id.index()];
        self.unique(function_name(self.old, id)).unwrap_or_else(|| format!("function pair {pair}"))
    }

    fn new_function(&self, id: FunctionId) -> String {
        let pair = self.comparison.function_of_new[id.index()];
        self.unique(function_name(self.new, id)).unwrap_or_else(|| format!("function pair {pair}"))
    }

    fn old_object(&self, id: ObjectId) -> String {
        let pair = self.comparison.object_of_old[id.index()];
        literal(self.old, id)
            .or_else(|| self.unique(object_name(self.old, id)))
            .unwrap_or_else(|| format!("object pair {pair}"))
    }

    fn new_object(&self, id: ObjectId) -> String {
        let pair = self.comparison.object_of_new[id.index()];
        literal(self.new, id)
            .or_else(|| self.unique(object_name(self.new, id)))
            .unwrap_or_else(|| format!("object pair {pair}"))
    }
}

fn function_name(program: &Program, id: FunctionId) -> Option<String> {
    let f = &program.functions[id.index()];
    f.decorated.as_ref().or(f.name.as_ref()).map(|name| format!("function {name}"))
}

fn object_name(program: &Program, id: ObjectId) -> Option<String> {
    let o = &program.objects[id.index()];
    o.decorated.as_ref().or(o.name.as_ref()).map(|name| format!("object {name}"))
}

/// What a constant without an identity of its own holds.
fn literal(program: &Program, id: ObjectId) -> Option<String> {
    let o = &program.objects[id.index()];
    if o.writable {
        return None;
    }
    let text = matches!(o.kind, ObjectKind::String | ObjectKind::WideString);
    let unnamed = o.kind == ObjectKind::Data && o.name.is_none() && o.size <= LITERAL;
    let plain = program.references_in(o.rva, o.end()).is_empty();
    if !(text || unnamed && plain) {
        return None;
    }
    let bytes = program.image.bytes(o.rva, o.size as usize)?;
    Some(format!("literal {}", hotgraft_hotpatch::hex::text(bytes)))
}

/// Variables that the program itself keeps there: no table of the loader's, nothing that the run-time owns.
fn is_variable(program: &Program, id: ObjectId) -> bool {
    let o = &program.objects[id.index()];
    let owned = o.name.as_deref().is_some_and(|name| name.contains("security_cookie") || name.starts_with("_tls"));
    o.writable && o.kind == ObjectKind::Data && !owned
}

fn kind(program: &Program, id: ObjectId) -> &'static str {
    match program.objects[id.index()].kind {
        ObjectKind::JumpTable(_) => "table",
        _ if program.objects[id.index()].writable => "variable",
        _ => "constant",
    }
}

/// Run the command.
pub fn run(args: &LayOutArgs, terminal: &Terminal) -> Result<Exit> {
    let (old, new) = crate::build::load_pair(&args.old, &args.new, &args.pdbs)?;
    let comparison = hotgraft_diff::compare(&old, &new, &hotgraft_diff::Options::default());
    let (old_file, patch_file) = (output::read(&args.old)?, output::read(&args.patch)?);
    let related = hotgraft_residual::relate(&old, &new, &comparison, &old_file, &patch_file)?;
    let mut space = related.space;
    let at = (related.base + APART).next_multiple_of(0x1_0000);
    space.load("the new image", &output::read(&args.new)?, at).context("the new image cannot be loaded")?;
    std::fs::create_dir_all(&args.output).with_context(|| format!("cannot make {}", args.output.display()))?;

    let mut bytes = Vec::new();
    let mut regions = Vec::new();
    let images = [
        ("patched", "base", related.base, old.image.size_of_image),
        ("patched", "patch", related.patch.0, related.patch.1),
        ("new", "new", at, new.image.size_of_image),
    ];
    for (side, image, address, size) in images {
        let offset = bytes.len() as u64;
        bytes.extend(memory::read_bytes(&space, address, size as usize)?);
        regions.push(RegionOut { side, image, address, size: size.into(), offset });
    }
    let names = Names::new(&old, &new, &comparison);
    let functions = functions(&names, &space, related.base, at, &related.code)?;
    ensure!(!functions.is_empty(), "the patch replaces nothing");
    let mut patched = side(&old, related.base, |id| names.old_function(id), |id| names.old_object(id));
    for code in related.code {
        let name = names.new_function(code.function);
        let key = if code.range == 0 { name } else { format!("{name} part {}", code.range) };
        let prototype = new.functions[code.function.index()].prototype.clone();
        let (address, size) = (code.address, code.size);
        patched.push(EntityOut { address, size, key, kind: "function", variable: false, prototype });
    }
    for (address, id) in related.data {
        let (key, size) = (names.new_object(id), new.objects[id.index()].size);
        let (kind, variable) = (kind(&new, id), is_variable(&new, id));
        patched.push(EntityOut { address, size, key, kind, variable, prototype: None });
    }
    patched.sort();
    patched.dedup();
    let document = Space {
        schema: "hotgraft.space/1",
        memory: "memory.bin",
        regions,
        imports: imports(&space, [(&old, related.base), (&new, at)])?,
        functions,
        entities: Sides { patched, new: side(&new, at, |id| names.new_function(id), |id| names.new_object(id)) },
    };
    output::write_bytes(&args.output.join("memory.bin"), &bytes)?;
    output::write_bytes(&args.output.join("space.json"), &output::json(&document)?)?;
    terminal.detail(format!("{} functions, {} bytes of memory", document.functions.len(), bytes.len()));
    Ok(Exit::Done)
}

/// The functions of the patch.
fn functions(names: &Names<'_>, space: &BufferSpace, base: u64, at: u64, code: &[Code]) -> Result<Vec<FunctionOut>> {
    let mut out = Vec::new();
    for &Code { address: va, function: id, .. } in code.iter().filter(|one| one.range == 0) {
        let f = &names.new.functions[id.index()];
        let entry = names.comparison.old_function(id).map(|old| {
            let old = &names.old.functions[old.index()];
            (base + u64::from(old.rva()), old.rva())
        });
        // A redirected entry is entered as callers do.
        let redirected = match entry {
            Some((entry, rva)) => {
                let mut first = [0; 5];
                space.read(entry, &mut first)?;
                names.old.image.bytes(rva, 5) != Some(first.as_slice())
                    && first.first().is_some_and(|b| matches!(b, 0xEB | 0xE9))
            }
            None => false,
        };
        let parts = code.iter().filter(|one| one.function == id);
        out.push(FunctionOut {
            name: names.new_function(id),
            prototype: f.prototype.clone(),
            patched: entry.filter(|_| redirected).map_or(va, |(entry, _)| entry),
            body: va,
            new: at + u64::from(f.rva()),
            patch_code: parts.map(|one| (one.address, one.size)).collect(),
            new_code: f.ranges.iter().map(|range| (at + u64::from(range.rva), range.size)).collect(),
        });
    }
    Ok(out)
}

/// Everything with a name in one image.
fn side(
    program: &Program,
    base: u64,
    function: impl Fn(FunctionId) -> String,
    object: impl Fn(ObjectId) -> String,
) -> Vec<EntityOut> {
    let mut out = Vec::new();
    for (i, f) in program.functions.iter().enumerate() {
        for (n, range) in f.ranges.iter().enumerate() {
            let key = function(FunctionId::from(i));
            let key = if n == 0 { key } else { format!("{key} part {n}") };
            out.push(EntityOut {
                address: base + u64::from(range.rva),
                size: range.size,
                key,
                kind: "function",
                variable: false,
                prototype: f.prototype.clone(),
            });
        }
    }
    for (i, o) in program.objects.iter().enumerate() {
        let id = ObjectId::from(i);
        out.push(EntityOut {
            address: base + u64::from(o.rva),
            size: o.size,
            key: object(id),
            kind: kind(program, id),
            variable: is_variable(program, id),
            prototype: None,
        });
    }
    for import in &program.imports {
        let key = format!("slot {}!{}", import.dll.to_ascii_lowercase(), import.name);
        let address = base + u64::from(import.slot);
        out.push(EntityOut { address, size: 8, key, kind: "slot", variable: false, prototype: None });
    }
    out.sort();
    out
}

fn imports(space: &BufferSpace, sides: [(&Program, u64); 2]) -> Result<Vec<ImportOut>> {
    let mut out: BTreeMap<u64, (String, String)> = BTreeMap::new();
    for (program, base) in sides {
        for import in program.imports.iter().filter(|import| !import.delayed) {
            let mut slot = [0; 8];
            space.read(base + u64::from(import.slot), &mut slot)?;
            let name = (import.dll.to_ascii_lowercase(), import.name.to_string());
            out.insert(u64::from_le_bytes(slot), name);
        }
    }
    Ok(out.into_iter().map(|(address, (dll, name))| ImportOut { address, dll, name }).collect())
}
