//! Differences of the image as a whole.

use super::resources;
use crate::comparison::{FunctionPair, ObjectPair};
use crate::comparison::{ImageChange, Status};
use crate::label;
use crate::matching::Matches;
use crate::side::hash_of;
use hotgraft_program::{Evidence, Export, ExportTarget, Image, ObjectKind, Program, SpanKind};
use std::collections::{BTreeMap, BTreeSet};

/// Everything but types.
pub(crate) fn changes(m: &Matches<'_>, functions: &[FunctionPair], objects: &[ObjectPair]) -> Vec<ImageChange> {
    let mut out = Out(Vec::new());
    let (old, new) = (m.old.program, m.new.program);
    headers(&old.image, &new.image, &mut out);
    sections(&old.image, &new.image, &mut out);
    imports(old, new, &mut out);
    exports(m, &mut out);
    entry_point(m, &mut out);
    tls(m, &mut out);
    load_config(&old.image, &new.image, &mut out);
    guard(m, &mut out);
    initialisers(m, objects, &mut out);
    resources::changes(&old.image, &new.image, &mut out.0);
    compilers(m, &mut out);
    prototypes(m, functions, &mut out);
    unexplained(old, new, &mut out);
    out.0
}

pub(super) struct Out(Vec<ImageChange>);

impl Out {
    fn push(&mut self, key: &'static str, subject: impl Into<String>, text: impl Into<String>) {
        self.0.push(ImageChange { key, subject: subject.into(), text: text.into() });
    }

    fn field<T: PartialEq>(&mut self, key: &'static str, subject: &str, old: T, new: T, show: impl Fn(&T) -> String) {
        if old != new {
            self.push(key, subject, format!("{} became {}", show(&old), show(&new)));
        }
    }
}

fn headers(old: &Image, new: &Image, out: &mut Out) {
    out.field("image.timestamp", "TimeDateStamp", old.timestamp, new.timestamp, |v| format!("{v:#010x}"));
    out.field("image.checksum", "CheckSum", old.checksum, new.checksum, |v| format!("{v:#x}"));
    out.field("image.header.machine", "Machine", old.architecture, new.architecture, |v| format!("{v:?}"));
    out.field("image.header.image_base", "ImageBase", old.image_base, new.image_base, |v| format!("{v:#x}"));
    out.field("image.header.subsystem", "Subsystem", old.subsystem, new.subsystem, |v| v.to_string());
    out.field("image.header.characteristics", "Characteristics", old.characteristics, new.characteristics, |v| {
        format!("{v:#06x}")
    });
    out.field(
        "image.header.dll_characteristics",
        "DllCharacteristics",
        old.dll_characteristics,
        new.dll_characteristics,
        |v| format!("{v:#06x}"),
    );
    out.field(
        "image.header.extended_dll_characteristics",
        "DllCharacteristicsEx",
        old.extended_dll_characteristics,
        new.extended_dll_characteristics,
        |v| format!("{v:#x}"),
    );
    out.field(
        "image.header.section_alignment",
        "SectionAlignment",
        old.section_alignment,
        new.section_alignment,
        |v| v.to_string(),
    );
    let identity = |i: &Image| i.pdb.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    out.field("image.pdb", "PDB identity", identity(old), identity(new), Clone::clone);
    let path = |i: &Image| i.pdb.as_ref().map(|p| p.path.clone()).unwrap_or_default();
    out.field("image.pdb.path", "PDB path", path(old), path(new), Clone::clone);
}

fn sections(old: &Image, new: &Image, out: &mut Out) {
    let table = |image: &Image| -> BTreeMap<(String, usize), u32> {
        let mut all = BTreeMap::new();
        for s in &image.sections {
            let n = all.keys().filter(|(name, _): &&(String, usize)| *name == s.name).count();
            all.insert((s.name.clone(), n), s.characteristics);
        }
        all
    };
    let (before, after) = (table(old), table(new));
    for (key, flags) in &before {
        match after.get(key) {
            None => out.push("image.section.removed", &key.0, format!("flags {flags:#010x}")),
            Some(now) => out.field("image.section.flags", &key.0, *flags, *now, |v| format!("{v:#010x}")),
        }
    }
    for (key, flags) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        out.push("image.section.added", &key.0, format!("flags {flags:#010x}"));
    }
}

fn imports(old: &Program, new: &Program, out: &mut Out) {
    let table = |p: &Program| -> BTreeSet<(String, String, bool)> {
        p.imports.iter().map(|i| (i.dll.to_ascii_lowercase(), i.name.to_string(), i.delayed)).collect()
    };
    let (before, after) = (table(old), table(new));
    let dlls = |t: &BTreeSet<(String, String, bool)>| -> BTreeSet<String> { t.iter().map(|i| i.0.clone()).collect() };
    let delayed = |d: bool| if d { "delay-loaded" } else { "loaded with the image" };
    for i in before.difference(&after) {
        out.push("image.import.removed", format!("{}!{}", i.0, i.1), delayed(i.2));
    }
    for i in after.difference(&before) {
        out.push("image.import.added", format!("{}!{}", i.0, i.1), delayed(i.2));
    }
    for dll in dlls(&before).difference(&dlls(&after)) {
        out.push("image.import.dll.removed", dll, "nothing is imported from it any more");
    }
    for dll in dlls(&after).difference(&dlls(&before)) {
        out.push("image.import.dll.added", dll, "nothing was imported from it before");
    }
}

fn exports(m: &Matches<'_>, out: &mut Out) {
    let (old, new) = (m.old.program, m.new.program);
    let table = |p: &'_ Program| -> BTreeMap<String, Export> {
        p.exports.iter().map(|e| (e.name.clone().unwrap_or_else(|| format!("#{}", e.ordinal)), e.clone())).collect()
    };
    let (before, after) = (table(old), table(new));
    let describe = |p: &Program, e: &Export| match &e.target {
        ExportTarget::Rva(rva) => label::target(p, p.resolve(*rva)),
        ExportTarget::Forwarder(to) => format!("forwarder {to}"),
    };
    // One export more moves the ordinals of all names behind it: one difference, not thousands.
    let mut ordinals: Vec<String> = Vec::new();
    for (name, e) in &before {
        let Some(now) = after.get(name) else {
            out.push("image.export.removed", name, format!("ordinal {}, {}", e.ordinal, describe(old, e)));
            continue;
        };
        if e.ordinal != now.ordinal {
            ordinals.push(format!("{name} from {} to {}", e.ordinal, now.ordinal));
        }
        let same = match (&e.target, &now.target) {
            (ExportTarget::Rva(a), ExportTarget::Rva(b)) => same_place(m, *a, *b),
            (a, b) => a == b,
        };
        if !same {
            out.push("image.export.changed", name, format!("{} became {}", describe(old, e), describe(new, now)));
        }
    }
    if let Some(first) = ordinals.first() {
        let text = format!("the ordinals of {} names moved, first {first}", ordinals.len());
        out.push("image.export.changed", "ordinals", text);
    }
    for (name, e) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        out.push("image.export.added", name, format!("ordinal {}, {}", e.ordinal, describe(new, e)));
    }
}

/// Two addresses that the image names lead to matched things.
fn same_place(m: &Matches<'_>, a: u32, b: u32) -> bool {
    use hotgraft_program::Entity::{Function, Object};
    let (x, y) = (m.old.program.resolve(a), m.new.program.resolve(b));
    x.addend == y.addend
        && match (x.entity, y.entity) {
            // That they share a name is not enough: of functions that were folded, one may have got code of its own.
            (Function(f), Function(g)) => m.functions.are(f, g),
            (Object(o), Object(p)) => m.objects.are(o, p),
            _ => false,
        }
}

fn entry_point(m: &Matches<'_>, out: &mut Out) {
    let (a, b) = (m.old.program.image.entry_point, m.new.program.image.entry_point);
    let same = (a == 0 && b == 0) || (a != 0 && b != 0 && same_place(m, a, b));
    if !same {
        let name = |p: &Program, rva: u32| {
            if rva == 0 { "none".to_owned() } else { label::target(p, p.resolve(rva)) }
        };
        out.push(
            "image.entry_point.changed",
            "AddressOfEntryPoint",
            format!("{} became {}", name(m.old.program, a), name(m.new.program, b)),
        );
    }
}

const DIRECTORY_TLS: usize = 9;
const DIRECTORY_LOAD_CONFIG: usize = 10;

fn directory(image: &Image, n: usize) -> Option<(u32, u32)> {
    image.directories.get(n).copied().filter(|d| d.0 != 0 && d.1 != 0)
}

/// Size of the template, zero fill, alignment, and the callbacks (RVAs) of a TLS directory.
fn tls_of(image: &Image) -> Option<((u64, u32, u32), Vec<u32>)> {
    const CALLBACKS: u32 = 1024;
    let (rva, _) = directory(image, DIRECTORY_TLS)?;
    let field = |n: u32| image.u64(rva.checked_add(n)?);
    let size = field(8)?.wrapping_sub(field(0)?);
    let (zero, flags) = (image.u32(rva.checked_add(32)?)?, image.u32(rva.checked_add(36)?)?);
    let mut callbacks = Vec::new();
    let table = field(24)?;
    if let Some(first) = table.checked_sub(image.image_base).and_then(|v| u32::try_from(v).ok())
        && table != 0
    {
        for n in 0..CALLBACKS {
            let Some(callback) = first.checked_add(8 * n).and_then(|rva| image.u64(rva)) else { break };
            if callback == 0 {
                break;
            }
            callbacks.push(callback.wrapping_sub(image.image_base) as u32);
        }
    }
    Some(((size, zero, flags), callbacks))
}

fn tls(m: &Matches<'_>, out: &mut Out) {
    let key = "image.tls.changed";
    match (tls_of(&m.old.program.image), tls_of(&m.new.program.image)) {
        (None, None) => {}
        (Some(_), None) => out.push(key, "TLS directory", "removed"),
        (None, Some(_)) => out.push(key, "TLS directory", "added"),
        (Some((a, x)), Some((b, y))) => {
            out.field(key, "TLS template", a, b, |v| format!("{} bytes and {} zeros, flags {:#x}", v.0, v.1, v.2));
            if x.len() != y.len() || !x.iter().zip(&y).all(|(a, b)| same_place(m, *a, *b)) {
                out.push(key, "TLS callbacks", format!("{} became {}, or lead elsewhere", x.len(), y.len()));
            }
        }
    }
}

/// Fields of IMAGE_LOAD_CONFIG_DIRECTORY64 that say something by value: (offset, bytes, name).
const LOAD_CONFIG_VALUES: [(u32, u32, &str); 12] = [
    (0, 4, "Size"),
    (12, 4, "GlobalFlagsClear"),
    (16, 4, "GlobalFlagsSet"),
    (20, 4, "CriticalSectionDefaultTimeout"),
    (24, 8, "DeCommitFreeBlockThreshold"),
    (32, 8, "DeCommitTotalFreeThreshold"),
    (48, 8, "MaximumAllocationSize"),
    (56, 8, "VirtualMemoryThreshold"),
    (64, 8, "ProcessAffinityMask"),
    (72, 4, "ProcessHeapFlags"),
    (78, 2, "DependentLoadFlags"),
    (144, 4, "GuardFlags"),
];

/// Fields that hold an address: whether they are there counts, and what they lead to is compared elsewhere.
const LOAD_CONFIG_POINTERS: [(u32, &str); 14] = [
    (40, "LockPrefixTable"),
    (88, "SecurityCookie"),
    (112, "GuardCFCheckFunctionPointer"),
    (120, "GuardCFDispatchFunctionPointer"),
    (128, "GuardCFFunctionTable"),
    (160, "GuardAddressTakenIatEntryTable"),
    (176, "GuardLongJumpTargetTable"),
    (200, "CHPEMetadataPointer"),
    (248, "EnclaveConfigurationPointer"),
    (256, "VolatileMetadataPointer"),
    (264, "GuardEHContinuationTable"),
    (280, "GuardXFGCheckFunctionPointer"),
    (288, "GuardXFGDispatchFunctionPointer"),
    (312, "GuardMemcpyFunctionPointer"),
];

fn load_config(old: &Image, new: &Image, out: &mut Out) {
    let key = "image.load_config.changed";
    let (a, b) = match (directory(old, DIRECTORY_LOAD_CONFIG), directory(new, DIRECTORY_LOAD_CONFIG)) {
        (None, None) => return,
        (Some(_), None) => return out.push(key, "load configuration", "removed"),
        (None, Some(_)) => return out.push(key, "load configuration", "added"),
        (Some(a), Some(b)) => (a.0, b.0),
    };
    let read = |image: &Image, at: u32, offset: u32, width: u32| -> u64 {
        let size = image.u32(at).unwrap_or(0);
        if offset + width > size {
            return 0;
        }
        let Some(rva) = at.checked_add(offset) else { return 0 };
        match width {
            8 => image.u64(rva).unwrap_or(0),
            2 => u64::from(image.u32(rva).unwrap_or(0) & 0xffff),
            _ => u64::from(image.u32(rva).unwrap_or(0)),
        }
    };
    for (offset, width, name) in LOAD_CONFIG_VALUES {
        out.field(key, name, read(old, a, offset, width), read(new, b, offset, width), |v| format!("{v:#x}"));
    }
    for (offset, name) in LOAD_CONFIG_POINTERS {
        let there = |v: u64| if v == 0 { "absent" } else { "present" };
        out.field(key, name, there(read(old, a, offset, 8)), there(read(new, b, offset, 8)), |v| (*v).to_owned());
    }
}

/// Matched functions that became, or are no longer, valid targets of indirect calls.
fn guard(m: &Matches<'_>, out: &mut Out) {
    let has = |p: &Program| p.functions.iter().any(|f| f.evidence.contains(Evidence::GUARD_TABLE));
    if !has(m.old.program) || !has(m.new.program) {
        return;
    }
    for (a, b) in m.functions.iter() {
        let valid = |p: &Program, i: usize| p.functions[i].evidence.contains(Evidence::GUARD_TABLE);
        let (before, after) = (valid(m.old.program, a.index()), valid(m.new.program, b.index()));
        if before != after {
            let text =
                if after { "is now a target of indirect calls" } else { "is no target of indirect calls any more" };
            out.push("image.guard.changed", label::function(m.new.program, b), text);
        }
    }
}

fn initialisers(m: &Matches<'_>, objects: &[ObjectPair], out: &mut Out) {
    let is = |p: &Program, id: Option<hotgraft_program::ObjectId>| {
        id.is_some_and(|id| p.objects[id.index()].kind == ObjectKind::InitializerTable)
    };
    for pair in objects {
        let table = is(m.old.program, pair.old) || is(m.new.program, pair.new);
        if table && pair.status != Status::Identical {
            let subject = pair
                .new
                .map(|id| label::object(m.new.program, id))
                .or_else(|| pair.old.map(|id| label::object(m.old.program, id)))
                .unwrap_or_default();
            let text = pair.changes.first().map_or_else(|| format!("{:?}", pair.status), |c| c.text.clone());
            out.push("image.initialisers.changed", subject, text);
        }
    }
}

fn compilers(m: &Matches<'_>, out: &mut Out) {
    let (old, new) = (m.old.program, m.new.program);
    for (i, a) in old.modules.iter().enumerate() {
        let Some(b) = m.modules.new.iter().position(|n| *n == m.modules.old[i]).map(|j| &new.modules[j]) else {
            continue;
        };
        let text = |v: &Option<String>| v.clone().unwrap_or_else(|| "unknown".to_owned());
        out.field("image.compiler.changed", &b.name, text(&a.compiler), text(&b.compiler), Clone::clone);
        out.field("image.compiler.changed", &b.name, text(&a.language), text(&b.language), Clone::clone);
        out.field("image.compiler.changed", &b.name, a.lto, b.lto, |v| format!("link-time code generation {v}"));
    }
}

/// Prototypes that differ although the code is the same; for changed functions this stands with the function.
fn prototypes(m: &Matches<'_>, functions: &[FunctionPair], out: &mut Out) {
    for pair in functions.iter().filter(|p| p.status == Status::Identical) {
        let (Some(a), Some(b)) = (pair.old, pair.new) else { continue };
        let (f, g) = (&m.old.program.functions[a.index()], &m.new.program.functions[b.index()]);
        if let (Some(s), Some(t)) = (&f.prototype, &g.prototype)
            && s != t
        {
            out.push("image.prototype.changed", label::function(m.new.program, b), format!("`{s}` became `{t}`"));
        }
    }
}

/// Bytes that nothing explains are compared as a set of runs: what differs is named, never passed over.
fn unexplained(old: &Program, new: &Program, out: &mut Out) {
    let runs = |p: &Program| -> Vec<(u64, u32, u32)> {
        let mut all: Vec<_> = p
            .spans
            .iter()
            .filter(|s| s.kind == SpanKind::Unknown)
            .map(|s| {
                let mut bytes = p.image.bytes(s.rva, s.size as usize).unwrap_or(&[]).to_vec();
                for r in p.references_in(s.rva, s.rva.saturating_add(s.size)) {
                    let at = (r.site - s.rva) as usize;
                    let end = (at + usize::from(r.width)).min(bytes.len());
                    bytes[at.min(end)..end].fill(0);
                }
                let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
                (hash_of(&bytes[..used]), s.rva, s.size)
            })
            .collect();
        all.sort_unstable();
        all
    };
    let (a, b) = (runs(old), runs(new));
    let mut report = |mine: &[(u64, u32, u32)], theirs: &[(u64, u32, u32)], p: &Program, which: &str| {
        let mut i = 0;
        for run in mine {
            while i < theirs.len() && theirs[i].0 < run.0 {
                i += 1;
            }
            if i < theirs.len() && theirs[i].0 == run.0 {
                i += 1;
                continue;
            }
            let section = p.image.section_at(run.1).map_or("", |s| s.name.as_str());
            out.push(
                "image.unknown.changed",
                format!("{section}+{:#x}", run.1),
                format!("{} bytes that nothing explains, only in the {which} image", run.2),
            );
        }
    };
    report(&a, &b, old, "old");
    report(&b, &a, new, "new");
}
