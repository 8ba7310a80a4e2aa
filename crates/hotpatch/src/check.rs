//! Does an image obey every rule of the format? [`check`] looks at the image alone, [`check_against`] at its base too.

use crate::error::Error;
use crate::graft::{Graft, guarded_digest};
use crate::info::{ChunkKind, Record, base_flags};
use crate::pe::{DIRECTORY_EXPORT, View};
use crate::raw::{self, CHUNK_INVERSE, CHUNK_TYPE, RawBase, RawInfo};
use crate::read::{SECTION, call_targets, graft_bytes};
use crate::rules::*;
use crate::{check_graft, sha};
use serde::Serialize;

/// A rule that the image breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Stable name of the rule, one of [`RULES`].
    pub rule: &'static str,
    /// Who demands it.
    pub demanded_by: DemandedBy,
    /// What was found, one sentence.
    pub text: String,
}

/// Violations of one rule that are told one by one; the rest is counted.
const TOLD: usize = 8;

/// Collects violations.
#[derive(Default)]
pub(crate) struct Findings {
    list: Vec<(usize, String)>,
    more: Vec<usize>,
}

impl Findings {
    pub(crate) fn add(&mut self, rule: Rule, text: impl Into<String>) {
        let index = RULES.iter().position(|r| r.name == rule.name).unwrap_or(0);
        self.more.resize(RULES.len(), 0);
        if self.list.iter().filter(|(i, _)| *i == index).count() < TOLD {
            self.list.push((index, text.into()));
        } else {
            self.more[index] += 1;
        }
    }

    pub(crate) fn require(&mut self, holds: bool, rule: Rule, text: impl FnOnce() -> String) {
        if !holds {
            self.add(rule, text());
        }
    }

    fn finish(mut self) -> Vec<Violation> {
        for (index, more) in self.more.iter().enumerate().filter(|(_, n)| **n > 0) {
            self.list.push((index, format!("{more} more of the same")));
        }
        self.list.sort_by_key(|(index, _)| *index);
        let violation =
            |(i, text): (usize, String)| Violation { rule: RULES[i].name, demanded_by: RULES[i].demanded_by, text };
        self.list.into_iter().map(violation).collect()
    }
}

/// Check every rule that can be checked without the base. Empty means: the image obeys them all.
/// A file that is not a PE image, or not a hotpatch, breaks the rule that says so; nothing is an error.
pub fn check(bytes: &[u8]) -> Vec<Violation> {
    let mut findings = Findings::default();
    examine(bytes, &mut findings);
    findings.finish()
}

/// As [`check`], and every rule that compares the patch with the file of its base.
pub fn check_against(bytes: &[u8], base: &[u8]) -> Vec<Violation> {
    let mut findings = Findings::default();
    if let Some((info, graft)) = examine(bytes, &mut findings) {
        compare(&info, graft.as_ref(), base, &mut findings);
    }
    findings.finish()
}

fn examine(bytes: &[u8], findings: &mut Findings) -> Option<(RawInfo, Option<Graft>)> {
    let view = match View::parse(bytes) {
        Ok(view) => view,
        Err(error) => {
            findings.add(IMAGE_FORMAT, error.to_string());
            return None;
        }
    };
    let relocations = image(&view, findings);
    let info = load_config(&view, findings)?;
    let graft = match graft_bytes(&view).map(|b| (b, Graft::from_bytes(b))) {
        None => {
            findings.add(GRAFT_PRESENT, "there is no section .hgraft");
            None
        }
        Some((_, Err(error))) => {
            findings.add(GRAFT_READABLE, error.to_string());
            None
        }
        Some((bytes, Ok(graft))) => {
            let flags = view.section(SECTION).map_or(0, |s| s.characteristics);
            findings
                .require(flags & 0xA000_0000 == 0, GRAFT_PRESENT, || "the section is writable or executable".into());
            // What is behind the record belongs to the image.
            let canonical = graft.to_bytes().is_ok_and(|b| bytes.starts_with(&b));
            findings.require(canonical, GRAFT_CANONICAL, || "another encoding of the same content".into());
            Some(graft)
        }
    };
    info_rules(&view, &info, findings);
    for base in &info.bases {
        base_rules(&view, &info, base, graft.as_ref(), &relocations, findings);
    }
    if let (Some(graft), [base, ..]) = (&graft, info.bases.as_slice()) {
        check_graft::rules(&view, &info, base, graft, &relocations, findings);
    }
    Some((info, graft))
}

/// Rules on the image as a whole. Returns the fields under base relocations, sorted.
fn image(view: &View<'_>, f: &mut Findings) -> Vec<u32> {
    f.require(base_flags::of_machine(view.machine) != 0, IMAGE_MACHINE, || format!("machine {:#06x}", view.machine));
    f.require(view.characteristics & 0x2002 == 0x2002, IMAGE_DLL, || {
        format!("characteristics {:#06x}", view.characteristics)
    });
    let relocatable = view.characteristics & 1 == 0 && view.dll_characteristics & 0x140 == 0x140;
    f.require(relocatable, IMAGE_RELOCATABLE, || {
        format!("characteristics {:#06x}, DLL characteristics {:#06x}", view.characteristics, view.dll_characteristics)
    });
    let sum = view.computed_checksum();
    f.require(view.checksum == sum, IMAGE_CHECKSUM, || format!("{:#x} instead of {sum:#x}", view.checksum));
    let (export, export_size) = view.directory(DIRECTORY_EXPORT);
    f.require(export == 0 && export_size == 0, IMAGE_EXPORTS, || format!("an export directory at RVA {export:#x}"));
    let size = view.pointer_size();
    let mut relocations = view.base_relocations().unwrap_or_else(|| {
        f.add(IMAGE_RELOCATIONS, "a malformed block");
        Vec::new()
    });
    relocations.sort_unstable();
    for site in relocations.iter().filter(|s| !inside(**s, size, view.size_of_image)) {
        f.add(IMAGE_RELOCATIONS, format!("a relocation at RVA {site:#x}, outside of the image"));
    }
    relocations
}

fn load_config(view: &View<'_>, f: &mut Findings) -> Option<RawInfo> {
    let config = match raw::load_config(view) {
        Ok(Some(config)) => config,
        Ok(None) => {
            f.add(CONFIG_PRESENT, "no load configuration directory");
            return None;
        }
        Err(error) => {
            f.add(CONFIG_PRESENT, error.to_string());
            return None;
        }
    };
    f.require(config.size == config.directory_size, CONFIG_SIZE, || {
        format!("the directory says {:#x}, the structure {:#x}", config.directory_size, config.size)
    });
    let (_, minimum) = raw::load_config_layout(view.is_64);
    let size = config.size.min(config.directory_size);
    f.require(size >= minimum, CONFIG_MINIMUM, || format!("{size:#x} bytes, {minimum:#x} are needed"));
    f.require(inside(config.rva, config.size, view.size_of_image), CONFIG_INSIDE, || {
        format!("{:#x} bytes at RVA {:#x}", config.size, config.rva)
    });
    f.require(config.chpe == 0, CONFIG_CHPE, || format!("{:#x}", config.chpe));
    match call_targets(view, &config) {
        Ok(targets) => f.require(targets.is_sorted(), CONFIG_TARGETS, || "the table is not sorted".into()),
        Err(error) => f.add(CONFIG_TARGETS, error.to_string()),
    }
    let at = config.hot_patch;
    if at == 0 || at % 4 != 0 || view.bytes(at, 8).is_none() {
        f.add(CONFIG_OFFSET, format!("HotPatchTableOffset is {at:#x}"));
        return None;
    }
    match raw::info(view, at) {
        Ok(info) => Some(info),
        Err(error) => {
            let head = matches!(error, Error::Table { what: "IMAGE_HOT_PATCH_INFO", .. });
            f.add(if head { INFO_READABLE } else { INFO_SPANS }, error.to_string());
            None
        }
    }
}

fn info_rules(view: &View<'_>, info: &RawInfo, f: &mut Findings) {
    let version = if info.min_sequence != 0 || info.flags != 0 { 4 } else { 3 };
    f.require(info.version == version, INFO_VERSION, || format!("version {}, {version} says the same", info.version));
    f.require(inside(info.rva, info.size, view.size_of_image), INFO_READABLE, || "not inside SizeOfImage".into());
    f.require(info.sequence != 0, INFO_SEQUENCE, || "it is 0".into());
    f.require(info.base_count != 0, INFO_BASES, || "no base".into());
    f.require(info.base_count <= 1, INFO_ONE_BASE, || format!("{} bases", info.base_count));
    f.require(info.extra == 1, INFO_EXTRA, || format!("it is {}", info.extra));
    f.require(info.flags & !2 == 0, INFO_FLAGS, || format!("{:#x}", info.flags));
    f.require(info.base_list.is_multiple_of(4), INFO_ALIGNED, || {
        format!("BaseImageList at offset {:#x}", info.base_list)
    });
    for base in &info.bases {
        for (what, offset) in
            [("a base", base.offset), ("CodeIntegrityInfo", base.words[4]), ("PatchTable", base.words[6])]
        {
            f.require(offset % 4 == 0, INFO_ALIGNED, || format!("{what} at offset {offset:#x}"));
        }
    }
}

fn base_rules(
    view: &View<'_>,
    info: &RawInfo,
    base: &RawBase,
    graft: Option<&Graft>,
    relocations: &[u32],
    f: &mut Findings,
) {
    let flags = base.words[1];
    f.require(flags & !0x1F == 0, BASE_FLAGS, || format!("{flags:#x}"));
    let machine = base_flags::of_machine(view.machine);
    let machines = base_flags::MACHINE_I386 | base_flags::MACHINE_ARM64 | base_flags::MACHINE_AMD64;
    f.require(flags & machines & !machine == 0, BASE_MACHINE, || {
        format!("{flags:#x} for machine {:#06x}", view.machine)
    });
    f.require(machine != 0 && flags & machine != 0, BASE_MACHINE_SET, || format!("{flags:#x}"));
    f.require(base.hashes.is_some() && base.words[5] == raw::HASHES_SIZE, BASE_HASHES, || {
        format!("CodeIntegrityInfo {:#x}, CodeIntegritySize {}", base.words[4], base.words[5])
    });
    let function = |header: u32| header & CHUNK_TYPE == ChunkKind::Function as u32;
    f.require(base.chunks.iter().any(|c| function(c.header) && !c.records.is_empty()), BASE_TABLE, || {
        format!("PatchTable {:#x}, {} chunks", base.words[6], base.chunks.len())
    });
    let base_size = graft.map(|g| g.base.image_size);
    let mut order = None;
    let mut extents: [Vec<(u32, u32)>; 2] = Default::default();
    for chunk in &base.chunks {
        let header = chunk.header;
        let inverse = header & CHUNK_INVERSE != 0;
        let say = |text: &str| format!("chunk {header:#010x} at offset {:#x}: {text}", chunk.offset);
        f.require(header & raw::CHUNK_RESERVED == 0, CHUNK_RESERVED, || say("reserved bits"));
        f.require(header & raw::CHUNK_OBLIGATORY == 0, CHUNK_OBLIGATORY, || say("OBLIGATORY"));
        f.require(!chunk.records.is_empty(), CHUNK_EMPTY, || say("no records"));
        let Some(kind) = ChunkKind::from_bits(header & CHUNK_TYPE) else {
            f.add(CHUNK_KIND, say("an unknown type"));
            continue;
        };
        f.require(inverse || kind == ChunkKind::Function, CHUNK_DIRECTION, || say("forward"));
        f.require(!inverse || kind != ChunkKind::Function, CHUNK_FUNCTION, || say("inverse"));
        let emitted = !matches!(kind, ChunkKind::Rel32 | ChunkKind::NoCallTarget | ChunkKind::DynamicValue);
        f.require(emitted, CHUNK_EMITTED, || say("of a type that is not to be emitted"));
        for record in &chunk.records {
            let key = (inverse, kind, record.place, record.target);
            if order.is_some_and(|last| last >= key) {
                f.add(CHUNK_ORDER, say(&format!("the record for {:#x} is out of order or there twice", record.place)));
            }
            order = Some(key);
            if let Some(extent) = record_rules(view, info, kind, inverse, record, base_size, relocations, f) {
                extents[usize::from(inverse)].push(extent);
            }
        }
    }
    for list in &mut extents {
        list.sort_unstable();
        for pair in list.windows(2).filter(|p| p[1].0 < p[0].0.saturating_add(p[0].1)) {
            f.add(RECORD_OVERLAP, format!("records at {:#x} and {:#x}", pair[0].0, pair[1].0));
        }
    }
}

/// Rules on one record; returns the bytes that it changes, as (first RVA, bytes) in the image that is changed.
#[allow(clippy::too_many_arguments)]
fn record_rules(
    view: &View<'_>,
    info: &RawInfo,
    kind: ChunkKind,
    inverse: bool,
    record: &Record,
    base_size: Option<u32>,
    relocations: &[u32],
    f: &mut Findings,
) -> Option<(u32, u32)> {
    let pointer = view.pointer_size();
    let say =
        |what: &str, rva: u32| format!("{kind:?} record {:#x} -> {:#x}: {what} {rva:#x}", record.place, record.target);
    let (place_size, target_size) =
        if inverse { (Some(view.size_of_image), base_size) } else { (base_size, Some(view.size_of_image)) };
    let first_extra = record.extra.first().copied().unwrap_or(0);
    if kind == ChunkKind::Function {
        f.require(first_extra & 0xFFFF != 0 && first_extra >> 16 == 0, RECORD_EXPECTED, || {
            say("expected bytes", first_extra)
        });
    } else {
        f.require(record.extra.iter().all(|e| *e == 0), RECORD_EXPECTED, || say("extra word", first_extra));
    }
    if kind == ChunkKind::DynamicValue {
        f.require(record.target != u32::MAX, RECORD_DYNAMIC, || say("operand", record.target));
    } else if let Some(size) = target_size {
        f.require(inside(record.target, pointer, size), RECORD_TARGET, || say("target outside of", size));
    }
    match kind {
        ChunkKind::CallTarget | ChunkKind::NoCallTarget => None,
        ChunkKind::Function => {
            let inside = record.place >= 0x10 && place_size.is_none_or(|size| inside(record.place, 2, size));
            f.require(inside, RECORD_PLACE, || say("place outside of", place_size.unwrap_or(0)));
            if !inverse {
                let code = view.section_at(record.target).is_some_and(|s| s.characteristics & 0x2000_0000 != 0);
                let padded = record.target.is_multiple_of(16)
                    && record
                        .target
                        .checked_sub(6)
                        .and_then(|p| view.bytes(p, 6))
                        .is_some_and(|p| p.iter().all(|b| *b == 0xCC));
                f.require(code && padded, RECORD_CODE, || say("target", record.target));
            }
            Some((record.place.saturating_sub(6), 8))
        }
        _ => {
            let width = if kind == ChunkKind::Rel32 { 4 } else { pointer };
            f.require(place_size.is_none_or(|size| inside(record.place, width, size)), RECORD_PLACE, || {
                say("place outside of", place_size.unwrap_or(0))
            });
            if inverse {
                let data = view.section_at(record.place).is_some()
                    && view.bytes(record.place, width as usize).is_some()
                    && !touches(relocations, pointer, record.place, width);
                let table = record.place < info.rva.saturating_add(info.size) && record.place + width > info.rva;
                f.require(data && !table, RECORD_DATA, || say("place", record.place));
            }
            Some((record.place, width))
        }
    }
}

fn compare(info: &RawInfo, graft: Option<&Graft>, base: &[u8], f: &mut Findings) {
    let view = match View::parse(base) {
        Ok(view) => view,
        Err(error) => return f.add(AGAINST_IDENTITY, format!("the base: {error}")),
    };
    let (sha256, sha1) = sha::both(base);
    for entry in &info.bases {
        f.require((entry.words[2], entry.words[3]) == (view.timestamp, view.checksum), AGAINST_IDENTITY, || {
            format!(
                "TimeDateStamp {:#x}, CheckSum {:#x}; the base has {:#x}, {:#x}",
                entry.words[2], entry.words[3], view.timestamp, view.checksum
            )
        });
        if let Some(hashes) = &entry.hashes {
            f.require(hashes[..32] == sha256 && hashes[32..] == sha1, AGAINST_FILE, || "other hashes".into());
        }
        let function = |header: u32| header & CHUNK_TYPE == ChunkKind::Function as u32 && header & CHUNK_INVERSE == 0;
        for record in entry.chunks.iter().filter(|c| function(c.header)).flat_map(|c| &c.records) {
            let found = view.bytes(record.place, 2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])));
            f.require(found.is_some() && found == record.extra.first().map(|e| e & 0xFFFF), AGAINST_EXPECTED, || {
                format!("function {:#x}: {:x?} expected, found {found:x?}", record.place, record.extra.first())
            });
        }
    }
    let Some(graft) = graft else { return };
    let same =
        (graft.base.machine, graft.base.image_size, graft.base.sha256) == (view.machine, view.size_of_image, sha256);
    f.require(same, AGAINST_FILE, || "another machine, SizeOfImage or SHA-256".into());
    f.require(graft.base.pdb == view.pdb_identity(), AGAINST_FILE, || "another PDB identity".into());
    let Some(mut relocations) = view.base_relocations() else {
        return f.add(AGAINST_FILE, "the base relocations of the base cannot be read");
    };
    relocations.sort_unstable();
    for function in graft.functions.iter().filter(|g| g.base_rva.is_some()) {
        let same = view.bytes(function.site, function.expected.len()) == Some(&function.expected);
        let free = !touches(&relocations, view.pointer_size(), function.site, function.expected.len() as u32);
        f.require(same && free, AGAINST_SITES, || format!("{} at {:#x}", function.name, function.site));
    }
    for range in &graft.guarded {
        let digest = view
            .mapped(range.rva, range.size)
            .and_then(|bytes| guarded_digest(&bytes, range.rva, &relocations, view.image_base, view.pointer_size()));
        f.require(digest == Some(range.digest), AGAINST_GUARDED, || format!("{} at {:#x}", range.name, range.rva));
    }
}

/// True if `[rva, rva + len)` lies inside an image of `size` bytes.
pub(crate) fn inside(rva: u32, len: u32, size: u32) -> bool {
    rva.checked_add(len).is_some_and(|end| end <= size)
}

/// True if a field of `width` bytes at one of the sorted `sites` shares a byte with `[rva, rva + len)`.
pub(crate) fn touches(sites: &[u32], width: u32, rva: u32, len: u32) -> bool {
    let first = sites.partition_point(|s| s.saturating_add(width) <= rva);
    sites.get(first).is_some_and(|s| *s < rva.saturating_add(len))
}
