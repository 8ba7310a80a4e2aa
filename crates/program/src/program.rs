//! The whole of one image, and how to look things up in it.

use crate::entity::{Entity, FunctionId, ImportId, ObjectId, Target};
use crate::function::Function;
use crate::image::{Export, Image, Import};
use crate::object::{Object, ObjectKind};
use crate::reference::Reference;
use crate::types::Types;
use crate::unwind::UnwindInfo;
use serde::Serialize;
use std::collections::BTreeSet;

/// A compiland (object file) named by the PDB.
#[derive(Clone, Debug, Serialize)]
pub struct Module {
    /// Object file or library member, as in the PDB.
    pub name: String,
    /// Compiler and version, from S_COMPILE3.
    pub compiler: Option<String>,
    /// Language (S_COMPILE3), such as `c`, `cpp`, `masm`, `rust`.
    pub language: Option<String>,
    /// True if compiled with link-time code generation.
    pub lto: bool,
}

/// What a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanKind {
    /// Instructions of a known function.
    Code,
    /// A data object.
    Object,
    /// Alignment or patch padding (zero, 0xCC, 0x90 or multi-byte no-ops) that nothing refers to.
    Padding,
    /// Not explained.
    Unknown,
}

/// A run of bytes of one section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// First byte.
    pub rva: u32,
    /// Bytes.
    pub size: u32,
    /// What it is.
    pub kind: SpanKind,
}

/// How much of one section is explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SectionCoverage {
    /// Name of the section.
    pub section: String,
    /// First byte of the section.
    pub rva: u32,
    /// IMAGE_SCN_MEM_EXECUTE.
    pub executable: bool,
    /// Bytes in memory.
    pub size: u64,
    /// Bytes of instructions.
    pub code: u64,
    /// Bytes of data objects.
    pub object: u64,
    /// Bytes of filler.
    pub padding: u64,
    /// Bytes that are not explained.
    pub unknown: u64,
    /// (RVA, bytes) of the runs that are not explained.
    pub unknown_ranges: Vec<(u32, u32)>,
}

/// A source position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceLine {
    /// File as in the PDB.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
}

/// One image as entities and references. See the crate documentation.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file.
    pub image: Image,
    /// True if a matching PDB was read.
    pub has_pdb: bool,
    /// Compilands.
    pub modules: Vec<Module>,
    /// Sorted by entry RVA.
    pub functions: Vec<Function>,
    /// Sorted by RVA, disjoint.
    pub objects: Vec<Object>,
    /// Sorted by slot.
    pub imports: Vec<Import>,
    /// Sorted by ordinal, then name.
    pub exports: Vec<Export>,
    /// All references in code and data, sorted by site. Branches within one code range are not references.
    pub references: Vec<Reference>,
    /// Sorted by `begin`.
    pub unwind: Vec<UnwindInfo>,
    /// User-defined types of the PDB.
    pub types: Types,
    /// Every byte of every section, sorted, without gaps inside a section.
    pub spans: Vec<Span>,
    /// All code ranges: (first RVA, function, index of the range), sorted.
    pub ranges: Vec<(u32, FunctionId, u16)>,
    /// First and last line tables: (RVA, file index, line), sorted by RVA; a line of 0 ends a run.
    pub lines: Vec<(u32, u32, u32)>,
    /// File names that `lines` refers to.
    pub files: Vec<String>,
    /// Facts that contradict each other, one sentence each with the RVA.
    pub conflicts: Vec<(u32, String)>,
}

impl Program {
    /// The function and range that hold `rva`.
    pub fn function_at(&self, rva: u32) -> Option<(FunctionId, u16)> {
        let i = self.ranges.partition_point(|r| r.0 <= rva).checked_sub(1)?;
        let (_, id, n) = self.ranges[i];
        self.functions[id.index()].ranges[n as usize].contains(rva).then_some((id, n))
    }

    /// The function whose entry is exactly `rva`.
    pub fn function_entry(&self, rva: u32) -> Option<FunctionId> {
        self.functions.binary_search_by_key(&rva, Function::rva).ok().map(FunctionId::from)
    }

    /// The object that holds `rva`.
    pub fn object_at(&self, rva: u32) -> Option<ObjectId> {
        let i = self.objects.partition_point(|o| o.rva <= rva).checked_sub(1)?;
        self.objects[i].contains(rva).then(|| ObjectId::from(i))
    }

    /// The import slot that holds `rva`.
    pub fn import_at(&self, rva: u32) -> Option<ImportId> {
        let width = 8;
        let i = self.imports.partition_point(|o| o.slot <= rva).checked_sub(1)?;
        (rva - self.imports[i].slot < width).then(|| ImportId::from(i))
    }

    /// What `rva` means: code first, then import slot, then object; where none of these lies, the end of an object.
    pub fn resolve(&self, rva: u32) -> Target {
        self.resolve_by(rva, |rva| self.function_at(rva), |rva| self.objects.partition_point(|o| o.rva <= rva))
    }

    /// The same with look-ups of choice: the function at an address, and the position of the first object behind it.
    pub(crate) fn resolve_by(
        &self,
        rva: u32,
        function_at: impl Fn(u32) -> Option<(FunctionId, u16)>,
        object_behind: impl Fn(u32) -> usize,
    ) -> Target {
        if let Some((id, n)) = function_at(rva) {
            let start = self.functions[id.index()].ranges[n as usize].rva;
            let entity = if n == 0 { Entity::Function(id) } else { Entity::Fragment(id, n) };
            return Target { entity, addend: i64::from(rva) - i64::from(start) };
        }
        if let Some(id) = self.import_at(rva) {
            return Target { entity: Entity::Import(id), addend: i64::from(rva - self.imports[id.index()].slot) };
        }
        let upto = &self.objects[..object_behind(rva)];
        if let Some(object) = upto.last().filter(|o| o.contains(rva)) {
            let id = ObjectId::from(upto.len() - 1);
            return Target { entity: Entity::Object(id), addend: i64::from(rva - object.rva) };
        }
        // One past the last byte of an object, where nothing else begins: the end pointer of a table.
        let before = upto.iter().rposition(|o| o.rva < rva);
        if let Some(i) = before.filter(|&i| self.objects[i].end() == rva) {
            return Target { entity: Entity::Object(ObjectId::from(i)), addend: self.objects[i].size.into() };
        }
        if rva < self.image.size_of_headers {
            return Target { entity: Entity::ImageBase, addend: i64::from(rva) };
        }
        Target { entity: Entity::Unknown, addend: i64::from(rva) }
    }

    /// How much of each section is explained, in file order.
    pub fn coverage(&self) -> Vec<SectionCoverage> {
        let of = |section: &crate::image::Section| {
            let mut out = SectionCoverage {
                section: section.name.clone(),
                rva: section.rva,
                executable: section.is_executable(),
                size: section.size.into(),
                code: 0,
                object: 0,
                padding: 0,
                unknown: 0,
                unknown_ranges: Vec::new(),
            };
            let first = self.spans.partition_point(|s| s.rva < section.rva);
            for span in self.spans[first..].iter().take_while(|s| section.contains(s.rva)) {
                let total = match span.kind {
                    SpanKind::Code => &mut out.code,
                    SpanKind::Object => &mut out.object,
                    SpanKind::Padding => &mut out.padding,
                    SpanKind::Unknown => {
                        out.unknown_ranges.push((span.rva, span.size));
                        &mut out.unknown
                    }
                };
                *total += u64::from(span.size);
            }
            out
        };
        self.image.sections.iter().map(of).collect()
    }

    /// RVA of a target, the reverse of [`resolve`](Self::resolve).
    pub fn rva_of(&self, target: Target) -> i64 {
        let start = match target.entity {
            Entity::Function(id) => self.functions[id.index()].rva(),
            Entity::Fragment(id, n) => self.functions[id.index()].ranges[n as usize].rva,
            Entity::Object(id) => self.objects[id.index()].rva,
            Entity::Import(id) => self.imports[id.index()].slot,
            Entity::ImageBase | Entity::Unknown => 0,
        };
        i64::from(start) + target.addend
    }

    /// Functions that the unwind data of a function names, itself excepted: handlers, filters, clean-up actions,
    /// destructors, catch blocks; through all maps that the data leads to. Sorted.
    pub fn named_by_unwind(&self, id: FunctionId) -> Vec<FunctionId> {
        let mut out = Vec::new();
        let mut seen = BTreeSet::new();
        let mut maps = Vec::new();
        let mut visit = |references: &[Reference], maps: &mut Vec<ObjectId>| {
            for reference in references {
                match reference.target.entity {
                    Entity::Function(named) | Entity::Fragment(named, _) if named != id => out.push(named),
                    Entity::Object(map) if self.objects[map.index()].kind == ObjectKind::Unwind && seen.insert(map) => {
                        maps.push(map);
                    }
                    _ => {}
                }
            }
        };
        for info in self.functions[id.index()].unwind.iter().filter_map(|&u| self.unwind.get(u as usize)) {
            visit(&info.references, &mut maps);
        }
        while let Some(map) = maps.pop() {
            let map = &self.objects[map.index()];
            visit(self.references_in(map.rva, map.end()), &mut maps);
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// References whose site lies in `[start, end)`.
    pub fn references_in(&self, start: u32, end: u32) -> &[Reference] {
        let rest = &self.references[self.references.partition_point(|r| r.site < start)..];
        // Mostly few of a great many: look for the end close by first.
        let mut near = 8;
        while near < rest.len() && rest[near].site < end {
            near *= 2;
        }
        &rest[..rest[..near.min(rest.len())].partition_point(|r| r.site < end)]
    }

    /// Source position of an instruction.
    pub fn source_line(&self, rva: u32) -> Option<SourceLine> {
        let i = self.lines.partition_point(|l| l.0 <= rva).checked_sub(1)?;
        let (_, file, line) = self.lines[i];
        (line != 0).then(|| SourceLine { file: self.files[file as usize].clone(), line })
    }
}
