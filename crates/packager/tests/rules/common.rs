//! Small programs made by hand, and their comparison by name.
//!
//! A [`Side`] is described by what its functions and objects are called and refer to; [`Side::program`] lays it out as
//! an x64 image with real instructions, so that whatever the rules decode is there.

use hotgraft_diff::comparison::{Change, Comparison, FunctionPair, ImageChange, Match, ObjectPair, Rung, Status};
use hotgraft_packager::verdict::{Decision, Finding, Options, Outcome, Verdict, differences, judge};
use hotgraft_packager::{Plan, plan};
use hotgraft_program::*;
use std::collections::BTreeMap;

const TEXT: u32 = 0x1000;
const RDATA: u32 = 0x10_000;
const DATA: u32 = 0x20_000;
const IDATA: u32 = 0x30_000;
const SIZE: u32 = 0x40_000;

/// How code refers to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Call,
    Jump,
    Read,
    Take,
    ImageRelative,
}

#[derive(Clone, Debug)]
pub struct F {
    pub name: String,
    pub body: u8,
    /// Instructions before everything else.
    pub code: Vec<u8>,
    pub uses: Vec<(How, String, i64)>,
    pub f: Function,
    pub unwind: Vec<(HandlerData, Vec<String>)>,
}

#[derive(Clone, Debug)]
pub struct O {
    pub name: String,
    pub named: bool,
    pub bytes: Vec<u8>,
    pub packed: bool,
    pub points: Vec<(u32, String, i64, Form)>,
    pub o: Object,
    pub owner: Option<String>,
    pub scope: Option<String>,
}

/// One image, by names.
#[derive(Clone, Debug, Default)]
pub struct Side {
    pub functions: Vec<F>,
    pub objects: Vec<O>,
    pub imports: Vec<(String, String, bool)>,
    pub exports: Vec<(String, String)>,
    pub types: Vec<Udt>,
    pub pointed: Vec<UdtId>,
    pub no_pdb: bool,
    pub shift: u32,
    pub edit: Vec<fn(&mut Program)>,
}

impl Side {
    /// An image with a function `main` that does nothing special.
    pub fn new() -> Self {
        let mut side = Self::default();
        side.function("main", 1);
        side
    }

    /// Adds a function; `body` stands for its code.
    pub fn function(&mut self, name: &str, body: u8) -> &mut F {
        let f = Function {
            name: Some(name.into()),
            decorated: None,
            aliases: Vec::new(),
            ranges: Vec::new(),
            module: Some(ModuleId(0)),
            linkage: Linkage::Global,
            evidence: Evidence::PDB_SYMBOL,
            prototype: Some("void (void)".into()),
            udts: Vec::new(),
            inlined: Vec::new(),
            unwind: Vec::new(),
            funclet_of: Vec::new(),
            jump_tables: Vec::new(),
            no_return: false,
            hotpatched: false,
            entry_kind: EntryKind::PaddedShortJump,
            problems: Vec::new(),
        };
        self.functions.push(F { name: name.into(), body, code: Vec::new(), uses: Vec::new(), f, unwind: Vec::new() });
        self.functions.last_mut().unwrap()
    }

    fn object(&mut self, name: &str, bytes: &[u8], kind: ObjectKind, writable: bool) -> &mut O {
        let o = Object {
            name: None,
            decorated: None,
            rva: 0,
            size: bytes.len() as u32,
            extent: Extent::Exact,
            kind,
            writable,
            zero_fill: false,
            module: Some(ModuleId(0)),
            scope: None,
            linkage: Linkage::Local,
            evidence: Evidence::PDB_SYMBOL,
            type_name: None,
            udt: None,
        };
        self.objects.push(O {
            name: name.into(),
            named: true,
            bytes: bytes.to_vec(),
            packed: false,
            points: Vec::new(),
            o,
            owner: None,
            scope: None,
        });
        self.objects.last_mut().unwrap()
    }

    /// A named constant.
    pub fn constant(&mut self, name: &str, bytes: &[u8]) -> &mut O {
        self.object(name, bytes, ObjectKind::Data, false)
    }

    /// A variable.
    pub fn variable(&mut self, name: &str, bytes: &[u8]) -> &mut O {
        self.object(name, bytes, ObjectKind::Data, true)
    }

    /// An object of a special kind.
    pub fn special(&mut self, name: &str, bytes: &[u8], kind: ObjectKind, writable: bool) -> &mut O {
        self.object(name, bytes, kind, writable)
    }

    /// A string literal; `name` is only for the test.
    pub fn string(&mut self, name: &str, text: &str) -> &mut O {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        let o = self.object(name, &bytes, ObjectKind::String, false);
        o.named = false;
        o
    }

    /// An import.
    pub fn import(&mut self, dll: &str, name: &str) {
        self.imports.push((dll.into(), name.into(), false));
    }

    /// Looks a function of the description up.
    pub fn f(&mut self, name: &str) -> &mut F {
        self.functions.iter_mut().find(|f| f.name == name).unwrap()
    }

    /// Looks an object of the description up.
    pub fn o(&mut self, name: &str) -> &mut O {
        self.objects.iter_mut().find(|o| o.name == name).unwrap()
    }

    /// Lays it out.
    pub fn program(&self) -> Program {
        let mut mapped = vec![0u8; SIZE as usize];
        // Names to RVAs first.
        let mut place: BTreeMap<String, u32> = BTreeMap::new();
        let mut at = TEXT + 0x10 + self.shift;
        for f in &self.functions {
            place.insert(f.name.clone(), at);
            at += 0x100;
        }
        let (mut ro, mut rw) = (RDATA + self.shift, DATA + self.shift);
        for o in &self.objects {
            let next = if o.o.writable { &mut rw } else { &mut ro };
            if !o.packed {
                *next = (*next + 0x1F) & !0xF;
            }
            place.insert(o.name.clone(), *next);
            *next += o.o.size;
        }
        for (i, (_, name, _)) in self.imports.iter().enumerate() {
            place.insert(name.clone(), IDATA + 8 * i as u32);
        }
        place.insert("__ImageBase".into(), 0);
        let section = |name: &str, rva, size, characteristics| Section {
            name: name.into(),
            rva,
            size,
            file_offset: rva,
            file_size: size,
            characteristics,
        };
        let image = Image {
            path: "base.dll".into(),
            architecture: Architecture::X64,
            image_base: 0x1_8000_0000,
            timestamp: 1,
            checksum: 2,
            size_of_image: SIZE,
            size_of_headers: 0x400,
            section_alignment: 0x1000,
            entry_point: 0,
            characteristics: 0x2022,
            dll_characteristics: 0x160,
            extended_dll_characteristics: 0,
            subsystem: 3,
            directories: Vec::new(),
            sections: vec![
                section(".text", TEXT, RDATA - TEXT, 0x6000_0020),
                section(".rdata", RDATA, DATA - RDATA, 0x4000_0040),
                section(".data", DATA, IDATA - DATA, 0xC000_0040),
                section(".idata", IDATA, 0x1000, 0x4000_0040),
            ],
            mapped: Vec::new(),
            file_size: u64::from(SIZE),
            sha256: [7; 32],
            sha1: [8; 20],
            base_relocations: Vec::new(),
            pdb: None,
        };
        let mut p = Program {
            image,
            has_pdb: !self.no_pdb,
            modules: vec![Module {
                name: "a.obj".into(),
                compiler: Some("clang 19".into()),
                language: Some("c".into()),
                lto: false,
            }],
            functions: Vec::new(),
            objects: Vec::new(),
            imports: Vec::new(),
            exports: Vec::new(),
            references: Vec::new(),
            unwind: Vec::new(),
            types: Types { udts: self.types.clone(), pointed: Some(self.pointed.clone()) },
            spans: Vec::new(),
            ranges: Vec::new(),
            lines: Vec::new(),
            files: Vec::new(),
            conflicts: Vec::new(),
        };
        for (dll, name, delayed) in &self.imports {
            p.imports.push(Import {
                dll: dll.clone(),
                name: ImportName::Name(name.clone()),
                slot: place[name],
                delayed: *delayed,
            });
        }
        let mut raw: Vec<(u32, u8, Form, u32, u32)> = Vec::new();
        for f in &self.functions {
            let start = place[&f.name];
            let mut at = start;
            let mut put = |at: &mut u32, bytes: &[u8]| {
                mapped[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
                *at += bytes.len() as u32;
            };
            put(&mut at, &f.code);
            put(&mut at, &[0xB0, f.body]);
            for (how, target, addend) in &f.uses {
                let target = (i64::from(*place.get(target).unwrap_or_else(|| panic!("no {target}"))) + addend) as u32;
                let (opcode, form): (&[u8], Form) = match how {
                    How::Call => (&[0xE8], Form::Branch),
                    How::Jump => (&[0xE9], Form::Branch),
                    How::Read => (&[0x8B, 0x05], Form::RipRelative),
                    How::Take => (&[0x48, 0x8D, 0x05], Form::RipRelative),
                    How::ImageRelative => (&[0x8B, 0x80], Form::ImageRelativeDisplacement),
                };
                put(&mut at, opcode);
                let site = at;
                let origin = if form == Form::ImageRelativeDisplacement { 0 } else { site + 4 };
                put(&mut at, &target.wrapping_sub(origin).to_le_bytes());
                raw.push((site, 4, form, origin, target));
            }
            put(&mut at, &[0xC3]);
            let id = FunctionId::from(p.functions.len());
            let mut function = f.f.clone();
            function.ranges.insert(0, CodeRange { rva: start, size: at - start, kind: RangeKind::Entry });
            p.ranges.push((start, id, 0));
            p.functions.push(function);
        }
        let ids: BTreeMap<&str, FunctionId> =
            self.functions.iter().enumerate().map(|(i, f)| (f.name.as_str(), FunctionId::from(i))).collect();
        let mut objects: Vec<&O> = self.objects.iter().collect();
        objects.sort_by_key(|o| place[&o.name]);
        for o in objects {
            let start = place[&o.name];
            let mut object = o.o.clone();
            object.rva = start;
            object.name = o.named.then(|| o.name.clone());
            if let Some(owner) = &o.owner {
                let owner = ids[owner.as_str()];
                object.kind = ObjectKind::JumpTable(owner);
                let table = JumpTable {
                    object: ObjectId::from(p.objects.len()),
                    jump: p.functions[owner.index()].rva(),
                    entries: object.size / 4,
                    width: 4,
                    bound_proven: true,
                };
                p.functions[owner.index()].jump_tables.push(table);
            }
            object.scope = o.scope.as_ref().map(|s| ids[s.as_str()]);
            mapped[start as usize..start as usize + o.bytes.len()].copy_from_slice(&o.bytes);
            for (offset, target, addend, form) in &o.points {
                let target = (i64::from(place[target]) + addend) as u32;
                let site = start + offset;
                match form {
                    Form::Absolute => {
                        let va = p.image.image_base + u64::from(target);
                        mapped[site as usize..site as usize + 8].copy_from_slice(&va.to_le_bytes());
                        p.image.base_relocations.push(site);
                        raw.push((site, 8, *form, 0, target));
                    }
                    _ => {
                        let origin = if *form == Form::Relative { start } else { 0 };
                        let value = target.wrapping_sub(origin);
                        mapped[site as usize..site as usize + 4].copy_from_slice(&value.to_le_bytes());
                        raw.push((site, 4, *form, origin, target));
                    }
                }
            }
            p.objects.push(object);
        }
        for (name, target) in &self.exports {
            p.exports.push(Export {
                ordinal: p.exports.len() as u32 + 1,
                name: Some(name.clone()),
                target: ExportTarget::Rva(place[target]),
            });
        }
        p.image.mapped = mapped;
        p.image.base_relocations.sort_unstable();
        raw.sort_unstable_by_key(|r| r.0);
        p.references = raw
            .into_iter()
            .map(|(site, width, form, origin, rva)| Reference {
                site,
                width,
                form,
                origin,
                rva,
                target: p.resolve(rva),
            })
            .collect();
        for (i, f) in self.functions.iter().enumerate() {
            for (handler_data, handlers) in &f.unwind {
                let begin = p.functions[i].rva();
                let info = IDATA + 0x1000 + 0x40 * p.unwind.len() as u32;
                let references = handlers
                    .iter()
                    .enumerate()
                    .map(|(n, h)| {
                        let rva = place[h];
                        let site = info + 8 + 4 * n as u32;
                        Reference { site, width: 4, form: Form::ImageRelative, origin: 0, rva, target: p.resolve(rva) }
                    })
                    .collect();
                p.functions[i].unwind.push(p.unwind.len() as u32);
                p.unwind.push(UnwindInfo {
                    entry: 0,
                    begin,
                    end: begin + p.functions[i].size(),
                    info,
                    size: 16,
                    chained: false,
                    handler_data: handler_data.clone(),
                    references,
                });
            }
        }
        for edit in &self.edit {
            edit(&mut p);
        }
        p
    }
}

impl F {
    pub fn calls(&mut self, name: &str) -> &mut Self {
        self.uses.push((How::Call, name.into(), 0));
        self
    }
    pub fn reads(&mut self, name: &str) -> &mut Self {
        self.uses.push((How::Read, name.into(), 0));
        self
    }
    pub fn takes(&mut self, name: &str) -> &mut Self {
        self.uses.push((How::Take, name.into(), 0));
        self
    }
    pub fn takes_at(&mut self, name: &str, addend: i64) -> &mut Self {
        self.uses.push((How::Take, name.into(), addend));
        self
    }
    pub fn uses(&mut self, how: How, name: &str, addend: i64) -> &mut Self {
        self.uses.push((how, name.into(), addend));
        self
    }
    pub fn private(&mut self) -> &mut Self {
        self.f.linkage = Linkage::Local;
        self
    }
    pub fn with(&mut self, edit: impl FnOnce(&mut Function)) -> &mut Self {
        edit(&mut self.f);
        self
    }
}

impl O {
    pub fn points(&mut self, offset: u32, name: &str) -> &mut Self {
        self.points.push((offset, name.into(), 0, Form::Absolute));
        self
    }
    pub fn packed(&mut self) -> &mut Self {
        self.packed = true;
        self
    }
    pub fn unnamed(&mut self) -> &mut Self {
        self.named = false;
        self
    }
    pub fn with(&mut self, edit: impl FnOnce(&mut Object)) -> &mut Self {
        edit(&mut self.o);
        self
    }
}

/// An old and a new image and their comparison, by name.
pub struct Pair {
    pub old: Program,
    pub new: Program,
    pub cmp: Comparison,
    pub options: Options,
}

const SURE: Match = Match { by: Rung::NameAndModule, score: 1.0 };

fn change(key: &'static str) -> Vec<Change> {
    vec![Change { key, old_rva: None, new_rva: None, text: "They differ.".into() }]
}

fn object_changes(o: &O, new: &Side) -> Vec<Change> {
    let n = new.objects.iter().find(|n| n.name == o.name).unwrap();
    let differs = [
        ("object.section.changed", o.o.writable != n.o.writable),
        ("object.size.changed", o.o.size != n.o.size),
        ("object.pointer.changed", o.points != n.points),
        ("object.content.changed", o.bytes != n.bytes),
        ("object.type.changed", o.o.type_name != n.o.type_name),
    ];
    differs.iter().filter(|d| d.1).flat_map(|d| change(d.0)).collect()
}

/// Both sides and what differs between them.
pub fn pair(old: &Side, new: &Side) -> Pair {
    let (a, b) = (old.program(), new.program());
    let mut cmp = Comparison::default();
    let signature = |f: &F| (f.body, f.uses.clone(), format!("{:?}", f.unwind));
    cmp.function_of_old = vec![0; a.functions.len()];
    cmp.function_of_new = vec![0; b.functions.len()];
    cmp.object_of_old = vec![0; a.objects.len()];
    cmp.object_of_new = vec![0; b.objects.len()];
    for (i, f) in old.functions.iter().enumerate() {
        let at = cmp.functions.len() as u32;
        cmp.function_of_old[i] = at;
        let j = new.functions.iter().position(|g| g.name == f.name);
        if let Some(j) = j {
            cmp.function_of_new[j] = at;
        }
        let status = match j {
            None => Status::Removed,
            Some(j) if signature(f) == signature(&new.functions[j]) => Status::Identical,
            Some(_) => Status::Changed,
        };
        cmp.functions.push(FunctionPair {
            old: Some(FunctionId::from(i)),
            new: j.map(FunctionId::from),
            status,
            matched: j.map(|_| SURE),
            changes: if status == Status::Changed { change("function.instruction.changed") } else { Vec::new() },
        });
    }
    for (j, g) in new.functions.iter().enumerate() {
        if !old.functions.iter().any(|f| f.name == g.name) {
            cmp.function_of_new[j] = cmp.functions.len() as u32;
            cmp.functions.push(FunctionPair {
                old: None,
                new: Some(FunctionId::from(j)),
                status: Status::Added,
                matched: None,
                changes: Vec::new(),
            });
        }
    }
    let id = |p: &Program, side: &Side, name: &str| {
        let o = side.objects.iter().position(|o| o.name == name)?;
        let mut order: Vec<usize> = (0..side.objects.len()).collect();
        // Laid out read-only first, each kind in order of description.
        order.sort_by_key(|&i| (side.objects[i].o.writable, i));
        let at = order.iter().position(|&i| i == o)?;
        assert_eq!(p.objects[at].size, side.objects[o].o.size);
        Some(ObjectId::from(at))
    };
    let contents =
        |o: &O| (o.bytes.clone(), o.points.clone(), o.o.size, o.o.writable, o.owner.clone(), o.o.type_name.clone());
    for o in &old.objects {
        let x = id(&a, old, &o.name).unwrap();
        let y = id(&b, new, &o.name);
        let at = cmp.objects.len() as u32;
        cmp.object_of_old[x.index()] = at;
        let status = match y {
            None => Status::Removed,
            Some(y) => {
                cmp.object_of_new[y.index()] = at;
                let n = new.objects.iter().find(|n| n.name == o.name).unwrap();
                if contents(o) == contents(n) { Status::Identical } else { Status::Changed }
            }
        };
        cmp.objects.push(ObjectPair {
            old: Some(x),
            new: y,
            status,
            matched: y.map(|_| SURE),
            changes: if status == Status::Changed { object_changes(o, new) } else { Vec::new() },
        });
    }
    for o in &new.objects {
        if !old.objects.iter().any(|n| n.name == o.name) {
            let y = id(&b, new, &o.name).unwrap();
            cmp.object_of_new[y.index()] = cmp.objects.len() as u32;
            cmp.objects.push(ObjectPair {
                old: None,
                new: Some(y),
                status: Status::Added,
                matched: None,
                changes: Vec::new(),
            });
        }
    }
    cmp.import_of_new = b
        .imports
        .iter()
        .map(|n| {
            a.imports.iter().position(|o| o.dll.eq_ignore_ascii_case(&n.dll) && o.name == n.name).map(ImportId::from)
        })
        .collect();
    Pair { old: a, new: b, cmp, options: Options::default() }
}

impl Pair {
    /// Adds a difference of the image as a whole.
    pub fn image(self, key: &'static str) -> Self {
        self.image_of(key, "image")
    }

    /// Likewise, of something named.
    pub fn image_of(mut self, key: &'static str, subject: &str) -> Self {
        self.cmp.image.push(ImageChange { key, subject: subject.into(), text: "It differs.".into() });
        self
    }

    /// Changes the evidence of a function's match.
    pub fn match_function(mut self, name: &str, by: Rung, score: f32) -> Self {
        for p in &mut self.cmp.functions {
            if p.new.is_some_and(|id| self.new.functions[id.index()].name.as_deref() == Some(name)) {
                p.matched = Some(Match { by, score });
            }
        }
        self
    }

    /// Changes the evidence of an object's match.
    pub fn match_object(mut self, name: &str, by: Rung, score: f32) -> Self {
        for p in &mut self.cmp.objects {
            if p.new.is_some_and(|id| self.new.objects[id.index()].name.as_deref() == Some(name)) {
                p.matched = Some(Match { by, score });
            }
        }
        self
    }

    /// Accepts a condition.
    pub fn accept(mut self, key: &str) -> Self {
        self.options.accept.push(key.into());
        self
    }

    /// Gives the patch hooks: those of the fixture, or what is no object file.
    pub fn hooks(mut self, sound: bool) -> Self {
        let object = include_bytes!("../../../../testdata/fixtures/hook/hooks.obj");
        self.options.hooks = Some(if sound { object.to_vec() } else { vec![0x64, 0x86, 9] });
        self
    }

    /// The verdict; every difference must be accounted for exactly once, and a plan must follow where it may.
    pub fn verdict(&self) -> Verdict {
        let verdict = judge(&self.old, &self.new, &self.cmp, &self.options);
        assert_accounts(&self.cmp, &verdict);
        match verdict.decision {
            Decision::Patch | Decision::Conditional => {
                self.plan();
            }
            _ => {}
        }
        verdict
    }

    /// The plan.
    pub fn plan(&self) -> Plan {
        let verdict = judge(&self.old, &self.new, &self.cmp, &self.options);
        plan::plan(&self.old, &self.new, &self.cmp, &verdict, &self.options)
            .unwrap_or_else(|e| panic!("{e}\n{:#?}", verdict.findings))
    }

    /// Names of the planned functions.
    pub fn planned(&self) -> Vec<String> {
        self.plan().functions.iter().map(|f| self.new.functions[f.new.index()].name.clone().unwrap()).collect()
    }

    /// Labels of the planned objects.
    pub fn copied(&self) -> Vec<String> {
        let plan = self.plan();
        plan.objects.iter().map(|o| hotgraft_packager::context::object_label(&self.new, o.new)).collect()
    }

    /// Asserts that the rule says so.
    pub fn trips(&self, key: &str, outcome: Outcome) -> Finding {
        let verdict = self.verdict();
        verdict
            .findings
            .iter()
            .find(|f| f.key == key && f.outcome == outcome)
            .unwrap_or_else(|| panic!("{key} {outcome:?} not in {:#?}", verdict.findings))
            .clone()
    }

    /// Asserts that the rule is silent, and that the verdict is this.
    pub fn spares(&self, key: &str, decision: Decision) {
        let verdict = self.verdict();
        assert!(!verdict.findings.iter().any(|f| f.key == key), "{key} in {:#?}", verdict.findings);
        assert_eq!(verdict.decision, decision, "{:#?}", verdict.findings);
    }
}

/// Every difference is in exactly one finding.
pub fn assert_accounts(cmp: &Comparison, verdict: &Verdict) {
    let mut covered: Vec<_> = verdict.findings.iter().flat_map(|f| f.covers.iter().copied()).collect();
    covered.sort();
    let mut all = differences(cmp);
    all.sort();
    assert_eq!(covered, all);
    let by =
        |outcome| -> usize { verdict.findings.iter().filter(|f| f.outcome == outcome).map(|f| f.covers.len()).sum() };
    let sum = by(Outcome::Patch) + by(Outcome::Condition) + by(Outcome::Refuse) + by(Outcome::Harmless);
    assert_eq!(sum, all.len());
    let listed = verdict
        .findings
        .iter()
        .all(|f| hotgraft_packager::rules::explain(f.key).is_some_and(|rule| rule.outcomes.contains(&f.outcome)));
    assert!(listed, "a finding whose key or outcome is not in the table: {:#?}", verdict.findings);
}
