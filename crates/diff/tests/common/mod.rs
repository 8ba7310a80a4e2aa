//! Programs made from a description: functions as bytes and references by label, data with pointers by label.
#![allow(dead_code, reason = "each test file uses a part")]

use hotgraft_program::{
    Architecture, CodeRange, Entity, EntryKind, Evidence, Export, ExportTarget, Extent, Form, Function, FunctionId,
    HandlerData, Image, Import, ImportName, JumpTable, Linkage, Module, Object, ObjectId, ObjectKind, Program,
    RangeKind, Reference, Section, Target, Types, UnwindInfo,
};
use std::collections::HashMap;

pub const TEXT: u32 = 0x1000;
pub const RDATA: u32 = 0x4_0000;
pub const DATA: u32 = 0x8_0000;
pub const IDATA: u32 = 0xc_0000;
pub const XDATA: u32 = 0xd_0000;
pub const SIZE: u32 = 0x10_0000;
pub const BASE: u64 = 0x1_8000_0000;

/// A piece of code.
#[derive(Clone, Debug)]
pub enum Code {
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// `call label`
    Call(String),
    /// `jmp label`
    Jump(String),
    /// `lea rax, [label + n]`
    Lea(String, i32),
    /// `mov eax, [label + n]`
    Load(String, i32),
}

pub fn raw(bytes: &[u8]) -> Code {
    Code::Raw(bytes.to_vec())
}
/// `mov eax, n`
pub fn number(n: u32) -> Code {
    let mut bytes = vec![0xb8];
    bytes.extend(n.to_le_bytes());
    Code::Raw(bytes)
}
/// `ret`
pub fn ret() -> Code {
    raw(&[0xc3])
}
pub fn call(label: &str) -> Code {
    Code::Call(label.to_owned())
}
pub fn lea(label: &str) -> Code {
    Code::Lea(label.to_owned(), 0)
}
pub fn lea_at(label: &str, n: i32) -> Code {
    Code::Lea(label.to_owned(), n)
}
pub fn load(label: &str) -> Code {
    Code::Load(label.to_owned(), 0)
}

/// A function to build.
#[derive(Clone, Debug)]
pub struct F {
    pub label: String,
    pub name: String,
    pub aliases: Vec<String>,
    pub module: String,
    pub code: Vec<Code>,
    pub unwind: Option<(Vec<u8>, Option<String>)>,
    pub tables: Vec<String>,
    pub prototype: Option<String>,
}

pub fn f(label: &str, code: Vec<Code>) -> F {
    F {
        label: label.to_owned(),
        name: label.to_owned(),
        aliases: Vec::new(),
        module: "m.obj".to_owned(),
        code,
        unwind: None,
        tables: Vec::new(),
        prototype: None,
    }
}

impl F {
    pub fn named(mut self, name: &str, module: &str) -> Self {
        self.name = name.to_owned();
        self.module = module.to_owned();
        self
    }
    pub fn alias(mut self, name: &str) -> Self {
        self.aliases.push(name.to_owned());
        self
    }
    pub fn unwind(mut self, codes: &[u8], handler: Option<&str>) -> Self {
        self.unwind = Some((codes.to_vec(), handler.map(str::to_owned)));
        self
    }
    pub fn table(mut self, label: &str) -> Self {
        self.tables.push(label.to_owned());
        self
    }
    pub fn prototype(mut self, text: &str) -> Self {
        self.prototype = Some(text.to_owned());
        self
    }
}

/// An object to build.
#[derive(Clone, Debug)]
pub struct D {
    pub label: String,
    pub name: Option<String>,
    pub scope: Option<String>,
    pub bytes: Vec<u8>,
    /// Absolute pointers: offset, label, addend.
    pub pointers: Vec<(usize, String, i64)>,
    /// Differences to the start of the object (jump tables): offset, label, addend.
    pub relative: Vec<(usize, String, i64)>,
    pub writable: bool,
    pub zero_fill: bool,
    pub kind: ObjectKind,
    pub extent: Extent,
    pub type_name: Option<String>,
    pub align: u32,
}

fn d(label: &str, name: Option<&str>, bytes: &[u8], writable: bool) -> D {
    D {
        label: label.to_owned(),
        name: name.map(str::to_owned),
        scope: None,
        bytes: bytes.to_vec(),
        pointers: Vec::new(),
        relative: Vec::new(),
        writable,
        zero_fill: false,
        kind: ObjectKind::Data,
        extent: Extent::Exact,
        type_name: None,
        align: 8,
    }
}
pub fn variable(label: &str, bytes: &[u8]) -> D {
    d(label, Some(label), bytes, true)
}
pub fn constant(label: &str, bytes: &[u8]) -> D {
    d(label, Some(label), bytes, false)
}
pub fn literal(label: &str, bytes: &[u8]) -> D {
    d(label, None, bytes, false)
}
pub fn string(label: &str, text: &str) -> D {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    let mut string = d(label, None, &bytes, false);
    string.kind = ObjectKind::String;
    string.align = 1;
    string
}

impl D {
    pub fn pointer(mut self, at: usize, label: &str) -> Self {
        self.pointers.push((at, label.to_owned(), 0));
        self
    }
    pub fn entry(mut self, at: usize, label: &str, addend: i64) -> Self {
        self.relative.push((at, label.to_owned(), addend));
        self
    }
    pub fn boundary(mut self) -> Self {
        self.extent = Extent::Boundary;
        self
    }
    pub fn named(mut self, name: Option<&str>) -> Self {
        self.name = name.map(str::to_owned);
        self
    }
    pub fn scope(mut self, label: &str) -> Self {
        self.scope = Some(label.to_owned());
        self
    }
    pub fn kind(mut self, kind: ObjectKind) -> Self {
        self.kind = kind;
        self
    }
    pub fn typed(mut self, text: &str) -> Self {
        self.type_name = Some(text.to_owned());
        self
    }
    pub fn align(mut self, align: u32) -> Self {
        self.align = align;
        self
    }
}

/// A program to build; functions and data lie in the order of the lists.
#[derive(Clone, Debug)]
pub struct Spec {
    pub folder: String,
    pub functions: Vec<F>,
    pub data: Vec<D>,
    pub imports: Vec<(String, String)>,
    pub exports: Vec<(String, String)>,
    pub types: Types,
    /// Bytes of filler before each function.
    pub padding: u32,
    pub pdb: bool,
}

pub fn spec(functions: Vec<F>, data: Vec<D>) -> Spec {
    Spec {
        folder: "/build".to_owned(),
        functions,
        data,
        imports: Vec::new(),
        exports: Vec::new(),
        types: Types::default(),
        padding: 6,
        pdb: true,
    }
}

impl Spec {
    pub fn import(mut self, dll: &str, name: &str) -> Self {
        self.imports.push((dll.to_owned(), name.to_owned()));
        self
    }
    pub fn export(mut self, name: &str, label: &str) -> Self {
        self.exports.push((name.to_owned(), label.to_owned()));
        self
    }

    /// The program: labels of imports are `dll!name`.
    pub fn build(&self) -> Program {
        Layout::new(self).program()
    }
}

struct Layout<'s> {
    spec: &'s Spec,
    labels: HashMap<String, u32>,
    starts: Vec<u32>,
    places: Vec<(u32, usize)>,
}

fn size_of(code: &[Code]) -> u32 {
    code.iter()
        .map(|c| match c {
            Code::Raw(bytes) => bytes.len() as u32,
            Code::Call(_) | Code::Jump(_) => 5,
            Code::Lea(..) => 7,
            Code::Load(..) => 6,
        })
        .sum()
}

impl<'s> Layout<'s> {
    fn new(spec: &'s Spec) -> Self {
        let mut labels = HashMap::new();
        let mut at = TEXT;
        let mut starts = Vec::new();
        for f in &spec.functions {
            at = (at + spec.padding).next_multiple_of(16);
            labels.insert(f.label.clone(), at);
            starts.push(at);
            at += size_of(&f.code);
        }
        assert!(at < RDATA);
        let (mut constants, mut variables) = (RDATA, DATA);
        let mut places = Vec::new();
        for (i, d) in spec.data.iter().enumerate() {
            let at = if d.writable { &mut variables } else { &mut constants };
            *at = at.next_multiple_of(d.align);
            labels.insert(d.label.clone(), *at);
            places.push((*at, i));
            *at += d.bytes.len() as u32;
        }
        assert!(constants < DATA && variables < IDATA);
        places.sort_unstable();
        for (i, (dll, name)) in spec.imports.iter().enumerate() {
            labels.insert(format!("{dll}!{name}"), IDATA + 8 * i as u32);
        }
        Layout { spec, labels, starts, places }
    }

    fn rva(&self, label: &str) -> u32 {
        *self.labels.get(label).unwrap_or_else(|| panic!("label {label}"))
    }

    fn program(self) -> Program {
        let spec = self.spec;
        let mut mapped = vec![0u8; SIZE as usize];
        let mut references: Vec<(u32, u8, Form, u32, u32)> = Vec::new();
        let mut modules: Vec<String> = spec.functions.iter().map(|f| f.module.clone()).collect();
        modules.push("m.obj".to_owned());
        modules.sort();
        modules.dedup();
        let module = |name: &str| modules.iter().position(|m| m == name).map(Into::into);
        let mut functions = Vec::new();
        let mut unwind = Vec::new();
        let mut handlers = Vec::new();
        let mut x = XDATA;
        mapped[TEXT as usize..RDATA as usize].fill(0xcc);
        for (f, start) in spec.functions.iter().zip(&self.starts) {
            let mut at = *start;
            for code in &f.code {
                let (opcode, label, n, form): (&[u8], _, _, _) = match code {
                    Code::Raw(bytes) => {
                        mapped[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
                        at += bytes.len() as u32;
                        continue;
                    }
                    Code::Call(label) => (&[0xe8], label, 0, Form::Branch),
                    Code::Jump(label) => (&[0xe9], label, 0, Form::Branch),
                    Code::Lea(label, n) => (&[0x48, 0x8d, 0x05], label, *n, Form::RipRelative),
                    Code::Load(label, n) => (&[0x8b, 0x05], label, *n, Form::RipRelative),
                };
                let site = at + opcode.len() as u32;
                let target = self.rva(label).wrapping_add_signed(n);
                mapped[at as usize..site as usize].copy_from_slice(opcode);
                at = site + 4;
                mapped[site as usize..at as usize].copy_from_slice(&target.wrapping_sub(at).to_le_bytes());
                references.push((site, 4, form, at, target));
            }
            let mut entries = Vec::new();
            if let Some((codes, handler)) = &f.unwind {
                mapped[x as usize..x as usize + codes.len()].copy_from_slice(codes);
                let mut size = codes.len() as u32;
                handlers.push((x + size, handler.as_ref().map(|h| self.rva(h))));
                size += if handler.is_some() { 4 } else { 0 };
                entries.push(unwind.len() as u32);
                unwind.push(UnwindInfo {
                    entry: 0,
                    begin: *start,
                    end: at,
                    info: x,
                    size,
                    chained: false,
                    handler_data: HandlerData::None,
                    references: Vec::new(),
                });
                x = (x + size).next_multiple_of(4);
            }
            functions.push((
                Function {
                    name: spec.pdb.then(|| f.name.clone()),
                    decorated: None,
                    aliases: if spec.pdb { f.aliases.clone() } else { Vec::new() },
                    ranges: vec![CodeRange { rva: *start, size: at - start, kind: RangeKind::Entry }],
                    module: if spec.pdb { module(&f.module) } else { None },
                    linkage: Linkage::Unknown,
                    evidence: Evidence::PDATA,
                    prototype: f.prototype.clone(),
                    udts: Vec::new(),
                    inlined: Vec::new(),
                    unwind: entries,
                    funclet_of: Vec::new(),
                    jump_tables: Vec::new(),
                    no_return: false,
                    hotpatched: false,
                    entry_kind: EntryKind::PaddedShortJump,
                    problems: Vec::new(),
                },
                f,
            ));
        }
        functions.sort_by_key(|(f, _)| f.rva());
        let function_of = |rva: u32| functions.iter().position(|(f, _)| f.rva() == rva).map(FunctionId::from);
        let mut objects = Vec::new();
        for (at, i) in &self.places {
            let d = &spec.data[*i];
            let range = *at as usize..*at as usize + d.bytes.len();
            mapped[range].copy_from_slice(&d.bytes);
            for (offset, label, n) in &d.pointers {
                let target = self.rva(label).wrapping_add_signed(*n as i32);
                let site = at + *offset as u32;
                mapped[site as usize..site as usize + 8].copy_from_slice(&(BASE + u64::from(target)).to_le_bytes());
                references.push((site, 8, Form::Absolute, 0, target));
            }
            for (offset, label, n) in &d.relative {
                let target = self.rva(label).wrapping_add_signed(*n as i32);
                let site = at + *offset as u32;
                mapped[site as usize..site as usize + 4].copy_from_slice(&target.wrapping_sub(*at).to_le_bytes());
                references.push((site, 4, Form::Relative, *at, target));
            }
            let kind = match d.kind {
                ObjectKind::JumpTable(_) => {
                    let owner =
                        functions.iter().position(|(_, f)| f.tables.contains(&d.label)).expect("owner of a table");
                    ObjectKind::JumpTable(FunctionId::from(owner))
                }
                kind => kind,
            };
            objects.push(Object {
                name: d.name.clone().filter(|_| spec.pdb),
                decorated: None,
                rva: *at,
                size: d.bytes.len() as u32,
                extent: d.extent,
                kind,
                writable: d.writable,
                zero_fill: d.zero_fill,
                module: if spec.pdb { module("m.obj") } else { None },
                scope: d.scope.as_ref().and_then(|s| function_of(self.rva(s))),
                linkage: Linkage::Unknown,
                evidence: Evidence::CODE_REFERENCE,
                type_name: d.type_name.clone(),
                udt: None,
            });
        }
        let mut functions: Vec<Function> = functions
            .into_iter()
            .map(|(mut f, s)| {
                for label in &s.tables {
                    let rva = self.rva(label);
                    let object = objects.iter().position(|o: &Object| o.rva == rva).expect("table");
                    f.jump_tables.push(JumpTable {
                        object: ObjectId::from(object),
                        jump: f.rva(),
                        entries: objects[object].size / 4,
                        width: 4,
                        bound_proven: true,
                    });
                }
                f
            })
            .collect();
        functions.sort_by_key(Function::rva);
        let ranges = functions.iter().enumerate().map(|(i, f)| (f.rva(), FunctionId::from(i), 0)).collect();
        let section = |name: &str, rva: u32, size: u32, characteristics: u32| Section {
            name: name.to_owned(),
            rva,
            size,
            file_offset: rva,
            file_size: size,
            characteristics,
        };
        let image = Image {
            path: "test.dll".to_owned(),
            architecture: Architecture::X64,
            image_base: BASE,
            timestamp: 1,
            checksum: 0,
            size_of_image: SIZE,
            size_of_headers: 0x400,
            section_alignment: 0x1000,
            entry_point: 0,
            characteristics: 0x2022,
            dll_characteristics: 0x160,
            extended_dll_characteristics: 0,
            subsystem: 3,
            directories: vec![(0, 0); 16],
            sections: vec![
                section(".text", TEXT, RDATA - TEXT, 0x6000_0020),
                section(".rdata", RDATA, DATA - RDATA, 0x4000_0040),
                section(".data", DATA, IDATA - DATA, 0xc000_0040),
                section(".idata", IDATA, XDATA - IDATA, 0x4000_0040),
                section(".xdata", XDATA, SIZE - XDATA, 0x4000_0040),
            ],
            mapped,
            file_size: u64::from(SIZE),
            sha256: [0; 32],
            sha1: [0; 20],
            base_relocations: Vec::new(),
            pdb: None,
        };
        let mut program = Program {
            image,
            has_pdb: spec.pdb,
            modules: modules
                .iter()
                .map(|m| Module { name: format!("{}/{m}", spec.folder), compiler: None, language: None, lto: false })
                .collect(),
            functions,
            objects,
            imports: spec
                .imports
                .iter()
                .enumerate()
                .map(|(i, (dll, name))| Import {
                    dll: dll.clone(),
                    name: ImportName::Name(name.clone()),
                    slot: IDATA + 8 * i as u32,
                    delayed: false,
                })
                .collect(),
            exports: spec
                .exports
                .iter()
                .enumerate()
                .map(|(i, (name, label))| Export {
                    ordinal: 1 + i as u32,
                    name: Some(name.clone()),
                    target: ExportTarget::Rva(self.rva(label)),
                })
                .collect(),
            references: Vec::new(),
            unwind,
            types: spec.types.clone(),
            spans: Vec::new(),
            ranges,
            lines: Vec::new(),
            files: Vec::new(),
            conflicts: Vec::new(),
        };
        references.sort_unstable_by_key(|r| r.0);
        program.references = references
            .into_iter()
            .map(|(site, width, form, origin, rva)| Reference {
                site,
                width,
                form,
                origin,
                rva,
                target: program.resolve(rva),
            })
            .collect();
        for (site, handler) in handlers {
            if let Some(rva) = handler {
                let target: Target = program.resolve(rva);
                assert!(matches!(target.entity, Entity::Function(_)));
                let info = program.unwind.iter_mut().find(|u| u.info + u.size == site + 4).expect("unwind entry");
                info.references.push(Reference { site, width: 4, form: Form::ImageRelative, origin: 0, rva, target });
            }
        }
        program
    }
}
