//! Which functions there are, where they end, and what their code says.

mod finish;

use super::names::Names;
use super::{Conflict, Found};
use crate::code::{self, CodeFacts, Context};
use crate::entity::FunctionId;
use crate::function::{CodeRange, Evidence, Function, RangeKind};
use crate::image::{ExportTarget, Image};
use crate::pdb::Pdb;
use crate::pe::Directories;
use crate::program::Program;
use crate::reference::Form;
use crate::unwind::{CodeTarget, CodeTargetKind, UnwindInfo, UnwindTable};
use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};

/// Rounds of finding functions through the code of those found before.
const ROUND_LIMIT: usize = 64;

/// What is known of an entry.
#[derive(Clone)]
struct Seed {
    /// Bytes by the PDB or .pdata.
    size: Option<u32>,
    evidence: Evidence,
    /// Index of the first procedure of the PDB, and how many share the entry.
    procedures: Option<(usize, usize)>,
    /// Further ranges.
    parts: Vec<CodeRange>,
}

impl Default for Seed {
    fn default() -> Self {
        Seed { size: None, evidence: Evidence::empty(), procedures: None, parts: Vec::new() }
    }
}

struct Finder<'a> {
    image: &'a Image,
    pdb: &'a Pdb,
    seeds: BTreeMap<u32, Seed>,
    /// Ranges with a known end, sorted and disjoint: (start, end, entry of the function).
    exact: Vec<(u32, u32, u32)>,
    /// Entries that turned out to be data.
    dropped: BTreeSet<u32>,
    /// Targets that code was found to lead to, and in which way: the second time says nothing new.
    followed: FxHashSet<(u32, u16)>,
    /// Entries that came or went since ranges were last made.
    moved: Vec<u32>,
}

/// Finds functions and reads their code.
pub fn find(
    image: &Image,
    pdb: &Pdb,
    directories: &Directories,
    unwind: &UnwindTable,
    pointers: &[(u32, u32)],
    names: &Names<'_>,
    conflicts: &mut Vec<Conflict>,
) -> Found {
    let mut finder = Finder {
        image,
        pdb,
        seeds: BTreeMap::new(),
        exact: Vec::new(),
        dropped: BTreeSet::new(),
        followed: FxHashSet::default(),
        moved: Vec::new(),
    };
    finder.procedures();
    finder.runtime_functions(unwind, conflicts);
    finder.settle(conflicts);
    finder.separated(unwind, conflicts);
    finder.tables(directories, pointers);
    finder.contributions();
    finder.import_thunks(directories);

    let mut targets: Vec<u32> = pointers.iter().map(|p| p.1).collect();
    targets.sort_unstable();
    targets.dedup();
    let mut boundaries = targets.clone();
    boundaries.extend(pdb.data.iter().map(|d| d.rva));
    boundaries.extend(pdb.publics.iter().map(|p| p.rva));
    boundaries.extend(pdb.contributions.iter().flat_map(|c| [c.rva, c.rva + c.size]));
    boundaries.sort_unstable();
    boundaries.dedup();

    let mut known: BTreeMap<u32, (Vec<CodeRange>, Vec<CodeFacts>)> = BTreeMap::new();
    finder.moved = finder.seeds.keys().copied().collect();
    for round in 0..=ROUND_LIMIT {
        let layout = finder.affected();
        let stale: Vec<(u32, Vec<CodeRange>)> = layout
            .into_iter()
            .filter_map(|entry| Some((entry, finder.ranges(entry)?)))
            .filter(|(entry, ranges)| known.get(entry).is_none_or(|(before, _)| before != ranges))
            .collect();
        let read: Vec<(u32, Vec<CodeRange>, Vec<CodeFacts>)> = stale
            .into_par_iter()
            .map(|(entry, ranges)| {
                let pads: Vec<u32> = ranges.iter().flat_map(|r| landing_pads(unwind, r)).collect();
                let context = Context { landing_pads: &pads, boundaries: &boundaries, pointer_targets: &targets };
                let facts = code::analyse_function(image, &ranges, &context);
                (entry, ranges, facts)
            })
            .collect();
        if round == ROUND_LIMIT {
            break;
        }
        let mut grown = false;
        for (entry, ranges, facts) in read {
            grown |= finder.follow(entry, &facts, conflicts);
            grown |= finder.split(&ranges, &facts);
            known.insert(entry, (ranges, facts));
        }
        if !grown && !finder.drop_data(&mut known) {
            break;
        }
    }
    finder.finish(known, unwind, names, conflicts)
}

impl Finder<'_> {
    fn is_code(&self, rva: u32) -> bool {
        self.image.section_at(rva).is_some_and(crate::image::Section::is_executable)
    }

    fn add(&mut self, rva: u32, evidence: Evidence) -> bool {
        let new = !self.seeds.contains_key(&rva);
        let seed = self.seeds.entry(rva).or_default();
        seed.evidence |= evidence;
        if new {
            self.moved.push(rva);
        }
        new
    }

    /// The known range around `rva`.
    fn exact_at(&self, rva: u32) -> Option<(u32, u32, u32)> {
        let i = self.exact.partition_point(|e| e.0 <= rva).checked_sub(1)?;
        Some(self.exact[i]).filter(|e| rva < e.1)
    }

    fn procedures(&mut self) {
        let mut i = 0;
        while i < self.pdb.procedures.len() {
            let first = &self.pdb.procedures[i];
            let count = self.pdb.procedures[i..].iter().take_while(|p| p.rva == first.rva).count();
            let all = &self.pdb.procedures[i..i + count];
            if self.is_code(first.rva) {
                let size = all.iter().map(|p| p.size).max().filter(|&s| s != 0);
                let seed = self.seeds.entry(first.rva).or_default();
                seed.size = size;
                seed.procedures = Some((i, count));
                seed.evidence |= Evidence::PDB_SYMBOL;
            }
            i += count;
        }
    }

    /// Entries of .pdata that are not part of a procedure of the PDB.
    fn runtime_functions(&mut self, unwind: &UnwindTable, conflicts: &mut Vec<Conflict>) {
        self.settle(&mut Vec::new());
        for entry in unwind.entries.iter().filter(|e| e.end > e.begin) {
            if !self.is_code(entry.begin) {
                continue;
            }
            let size = entry.end - entry.begin;
            let around = self.exact_at(entry.begin);
            match around {
                Some((start, end, _)) if start != entry.begin => {
                    if entry.end > end {
                        let text = format!(
                            "a runtime function {:#x}..{:#x} begins inside of a procedure that ends at {end:#x}",
                            entry.begin, entry.end
                        );
                        conflicts.push((entry.begin, text));
                    }
                    continue;
                }
                Some((_, end, _)) if entry.end > end => {
                    let text = format!("the PDB ends the procedure at {end:#x}, .pdata at {:#x}", entry.end);
                    conflicts.push((entry.begin, text));
                }
                _ => {}
            }
            if entry.chained || (around.is_none() && funclet_owner(unwind, entry.begin).is_some()) {
                continue;
            }
            let seed = self.seeds.entry(entry.begin).or_default();
            seed.evidence |= Evidence::PDATA;
            if seed.size.is_none() {
                seed.size = Some(size);
            }
        }
    }

    /// Cold parts and funclets become ranges of the functions that own them.
    fn separated(&mut self, unwind: &UnwindTable, conflicts: &mut Vec<Conflict>) {
        let mut parts: Vec<(u32, u32, u32, RangeKind)> = Vec::new();
        for s in &self.pdb.separated {
            parts.push((s.rva, s.rva.saturating_add(s.size), s.parent, RangeKind::Cold));
        }
        for entry in unwind.entries.iter().filter(|e| e.end > e.begin) {
            if entry.chained {
                match primary(self.image, entry) {
                    Some(begin) => parts.push((entry.begin, entry.end, begin, RangeKind::Cold)),
                    None => {
                        conflicts.push((entry.begin, "a chained runtime function without a primary one".to_owned()))
                    }
                }
            } else if !self.seeds.contains_key(&entry.begin)
                && let Some(owner) = funclet_owner(unwind, entry.begin)
            {
                parts.push((entry.begin, entry.end, owner, RangeKind::Funclet));
            }
        }
        parts.sort_unstable_by_key(|p| (p.0, p.1, p.2));
        // A part may belong to a part: look the owner up until it is a function.
        let parents: FxHashMap<u32, u32> = parts.iter().map(|p| (p.0, p.2)).collect();
        for part in &mut parts {
            for _ in 0..8 {
                match parents.get(&part.2) {
                    Some(&outer) if outer != part.2 && part.2 != part.0 => part.2 = outer,
                    _ => break,
                }
            }
        }
        for (start, end, parent, kind) in parts {
            if !self.is_code(start) {
                continue;
            }
            if let Some((_, _, owner)) = self.exact_at(start) {
                if owner != parent && self.exact_at(parent).is_none_or(|p| p.2 != owner) {
                    conflicts
                        .push((start, format!("a part of the function at {parent:#x} lies in the one at {owner:#x}")));
                }
                continue;
            }
            let owner = self.exact_at(parent).map_or(parent, |e| e.2);
            let Some(seed) = self.seeds.get_mut(&owner) else {
                conflicts.push((start, format!("a part of the function at {parent:#x}, which is not one")));
                self.add(start, Evidence::PDATA);
                continue;
            };
            seed.parts.push(CodeRange { rva: start, size: end - start, kind });
            let at = self.exact.partition_point(|e| e.0 < start);
            let end = self.exact.get(at).map_or(end, |next| end.min(next.0));
            self.exact.insert(at, (start, end, owner));
        }
    }

    fn tables(&mut self, directories: &Directories, pointers: &[(u32, u32)]) {
        let mut entries: Vec<(u32, Evidence)> = Vec::new();
        for e in &directories.exports {
            if let ExportTarget::Rva(rva) = e.target {
                entries.push((rva, Evidence::EXPORT));
            }
        }
        if self.image.entry_point != 0 {
            entries.push((self.image.entry_point, Evidence::ENTRY_POINT));
        }
        if let Some(tls) = &directories.tls {
            entries.extend(tls.callbacks.iter().map(|&rva| (rva, Evidence::ENTRY_POINT)));
        }
        if let Some(config) = &directories.load_config {
            entries.extend(config.guard_functions.targets.iter().map(|&rva| (rva, Evidence::GUARD_TABLE)));
        }
        entries.extend(self.pdb.publics.iter().map(|p| (p.rva, Evidence::PDB_PUBLIC)));
        entries.extend(pointers.iter().map(|p| (p.1, Evidence::BASE_RELOCATION)));
        for (rva, evidence) in entries {
            // A pointer into a function, such as an entry of a table of labels, is not an entry.
            let interior = self.exact_at(rva).is_some_and(|e| e.0 != rva || e.2 != rva);
            if self.is_code(rva) && !interior {
                self.add(rva, evidence);
            }
        }
    }

    /// Code of an object file begins with a function.
    fn contributions(&mut self) {
        for c in &self.pdb.contributions {
            let code = c.characteristics & object::pe::IMAGE_SCN_CNT_CODE.0 != 0;
            if !code || !self.is_code(c.rva) || self.exact_at(c.rva).is_some() {
                continue;
            }
            let bytes = self.image.bytes(c.rva, c.size as usize).unwrap_or_default();
            if code::filler_length(bytes) == 0 {
                self.seeds.entry(c.rva).or_default().evidence |= Evidence::CONTRIBUTION;
            }
        }
    }

    /// True if a PDB says which code there is. Then no border between functions is guessed.
    fn is_told(&self) -> bool {
        !self.pdb.publics.is_empty() || !self.pdb.procedures.is_empty() || !self.pdb.contributions.is_empty()
    }

    /// Jumps through import slots that stand alone: functions of six bytes that only the linker's import library made,
    /// often referred to by unwind data or pointers alone. One that follows other code directly is its tail call, and
    /// what looks like one in code of an object file may be any part of it.
    fn import_thunks(&mut self, directories: &Directories) {
        const THUNK: u32 = 6;
        let is_thunk = |rva: u32| {
            let bytes = self.image.bytes(rva, THUNK as usize)?;
            let to = bytes.strip_prefix(&[0xff, 0x25])?;
            let displacement = i32::from_le_bytes(to.try_into().ok()?);
            let slot = rva.wrapping_add(THUNK).wrapping_add_signed(displacement);
            directories.imports.binary_search_by_key(&slot, |i| i.slot).ok()
        };
        let mut found = Vec::new();
        for section in self.image.sections.iter().filter(|s| s.is_executable()) {
            let bytes = self.image.bytes(section.rva, section.size as usize).unwrap_or_default();
            for at in bytes.windows(2).enumerate().filter(|(_, w)| *w == [0xff, 0x25]).map(|(at, _)| at) {
                let rva = section.rva + at as u32;
                let alone = at == 0
                    || matches!(bytes[at - 1], 0x90 | 0xcc)
                    || self.exact_at(rva - 1).is_some_and(|e| e.1 == rva)
                    || rva.checked_sub(THUNK).is_some_and(|before| found.last() == Some(&before));
                let foreign =
                    !self.is_told() || (!self.pdb.contributions.is_empty() && self.contribution_end(rva).is_none());
                if alone && foreign && self.exact_at(rva).is_none() && is_thunk(rva).is_some() {
                    found.push(rva);
                }
            }
        }
        for rva in found {
            self.seeds.entry(rva).or_insert_with(|| Seed { evidence: Evidence::DIRECTORY, ..Seed::default() });
        }
    }

    /// Makes `exact` from the seeds with sizes; a range that reaches into the next is cut there.
    fn settle(&mut self, conflicts: &mut Vec<Conflict>) {
        self.exact.clear();
        for (&rva, seed) in &self.seeds {
            let Some(size) = seed.size else { continue };
            let end = self.image.section_at(rva).map_or(rva, |s| s.rva + s.size).min(rva.saturating_add(size));
            if let Some(last) = self.exact.last_mut().filter(|last| last.1 > rva) {
                conflicts.push((
                    rva,
                    format!("a function begins inside of the one at {:#x} that ends at {:#x}", last.0, last.1),
                ));
                last.1 = rva;
            }
            self.exact.push((rva, end, rva));
        }
    }

    /// Entries whose ranges may be others than before, sorted: those that came, and those before one that came or went.
    fn affected(&mut self) -> Vec<u32> {
        let mut out: Vec<u32> = Vec::with_capacity(2 * self.moved.len());
        for rva in std::mem::take(&mut self.moved) {
            out.extend(self.seeds.range(..=rva).rev().take(2).map(|s| *s.0));
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// Ranges of a function. Without a known size it reaches up to the next border.
    fn ranges(&self, rva: u32) -> Option<Vec<CodeRange>> {
        let seed = self.seeds.get(&rva)?;
        let end = match self.exact_at(rva) {
            Some((start, end, _)) if start == rva => end,
            _ => {
                let section = self.image.section_at(rva).map_or(rva, |s| s.rva + s.size);
                let next = self.seeds.range(rva.saturating_add(1)..).next().map_or(section, |s| *s.0);
                let exact = self.exact.partition_point(|e| e.0 <= rva);
                let exact = self.exact.get(exact).map_or(section, |e| e.0);
                section.min(next).min(exact).min(self.contribution_end(rva).unwrap_or(section))
            }
        };
        let mut ranges = Vec::with_capacity(1 + seed.parts.len());
        ranges.push(CodeRange { rva, size: end - rva, kind: RangeKind::Entry });
        ranges.extend_from_slice(&seed.parts);
        for part in &mut ranges[1..] {
            let end = self.exact_at(part.rva).map_or(part.rva, |e| e.1);
            part.size = end - part.rva;
        }
        ranges.retain(|r| r.rva == rva || r.size != 0);
        ranges[1..].sort_unstable_by_key(|p| p.rva);
        (ranges[0].size != 0).then_some(ranges)
    }

    fn contribution_end(&self, rva: u32) -> Option<u32> {
        let i = self.pdb.contributions.partition_point(|c| c.rva <= rva).checked_sub(1)?;
        let c = &self.pdb.contributions[i];
        Some(c.rva + c.size).filter(|&end| rva < end)
    }

    /// Adds the functions that the code of one calls, jumps to or takes the address of. True if there are new ones.
    fn follow(&mut self, entry: u32, facts: &[CodeFacts], conflicts: &mut Vec<Conflict>) -> bool {
        let mut grown = false;
        for f in facts {
            for &target in &f.calls {
                let kind = (target, Evidence::CALL_TARGET.bits());
                if self.followed.contains(&kind) || !self.is_code(target) {
                    continue;
                }
                match self.exact_at(target) {
                    Some((start, _, owner)) if start != target || owner != target => {
                        if owner != entry {
                            conflicts.push((
                                target,
                                format!("the function at {entry:#x} calls into the middle of the one at {owner:#x}"),
                            ));
                        }
                    }
                    _ => {
                        grown |= self.add(target, Evidence::CALL_TARGET);
                        self.followed.insert(kind);
                    }
                }
            }
            let addresses = f.references.iter().filter(|r| matches!(r.form, Form::RipRelative | Form::Absolute));
            let jumps = f.tail_jumps.iter().map(|&t| (t, Evidence::JUMP_TARGET));
            let weak = jumps.chain(addresses.map(|r| (r.rva, Evidence::CODE_REFERENCE)));
            for (target, evidence) in weak {
                let kind = (target, evidence.bits());
                if self.followed.contains(&kind) || !self.is_code(target) {
                    continue;
                }
                if let Some(seed) = self.seeds.get_mut(&target) {
                    seed.evidence |= evidence;
                } else if !self.inside(target) {
                    grown |= self.add(target, evidence);
                } else {
                    continue;
                }
                self.followed.insert(kind);
            }
        }
        grown
    }

    /// Without a PDB, a function that nothing names and that has no unwind data seems to belong to the one before it. It
    /// is told apart by an aligned address that control does not run into and that no branch before it leads to or behind:
    /// whatever stands there, the code before cannot reach it.
    fn split(&mut self, ranges: &[CodeRange], facts: &[CodeFacts]) -> bool {
        const ALIGNMENT: u32 = 16;
        let (Some(range), Some(facts)) = (ranges.first(), facts.first()) else { return false };
        if self.is_told() || self.exact_at(range.rva).is_some() {
            return false;
        }
        let Some(bytes) = self.image.bytes(range.rva, range.size as usize) else { return false };
        // A jump that is not understood may lead anywhere.
        let lost = |p: &crate::function::Problem| p.key.starts_with("code.indirect_jump.");
        let mut grown = false;
        let (mut start, mut furthest) = (range.rva, range.rva);
        let (mut end, mut runs_on) = (range.rva, true);
        for &rva in &facts.instructions {
            let Some(code) = bytes.get(rva.wrapping_sub(range.rva) as usize..) else { break };
            let Some(decoded) = code::decode_at(code, rva) else { break };
            let between = bytes.get((end - range.rva) as usize..(rva - range.rva) as usize).unwrap_or_default();
            let apart = if between.is_empty() { !runs_on } else { code::filler_length(between) == between.len() };
            if apart
                && rva % ALIGNMENT == 0
                && furthest < rva
                && !facts.jump_tables.iter().any(|t| (start..rva).contains(&t.jump))
                && !facts.problems.iter().any(|p| lost(p) && (start..rva).contains(&p.rva))
                && !self.dropped.contains(&rva)
            {
                grown |= self.add(rva, Evidence::empty());
                (start, furthest) = (rva, rva);
            }
            if let code::Flow::Branch(to) | code::Flow::ConditionalBranch(to) = decoded.flow
                && range.contains(to)
            {
                furthest = furthest.max(to);
            }
            (end, runs_on) = (rva + u32::from(decoded.length), decoded.flow.falls_through());
        }
        grown
    }

    /// True if `rva` lies in a known function, however its end is known.
    fn inside(&self, rva: u32) -> bool {
        if self.exact_at(rva).is_some() {
            return true;
        }
        let Some((&start, seed)) = self.seeds.range(..=rva).next_back() else { return false };
        if seed.size.is_some() {
            return false;
        }
        let same_section = self.image.section_at(start).is_some_and(|s| s.contains(rva));
        same_section && self.contribution_end(start).is_none_or(|end| rva < end)
    }

    /// An address that is only pointed to may be data in a code section: what does not decode as code from its first
    /// byte on is no function. True if something was dropped.
    fn drop_data(&mut self, known: &mut BTreeMap<u32, (Vec<CodeRange>, Vec<CodeFacts>)>) -> bool {
        let weak = Evidence::CODE_REFERENCE | Evidence::BASE_RELOCATION | Evidence::CONTRIBUTION;
        let bad: Vec<u32> = known
            .iter()
            .filter(|(entry, (_, facts))| {
                let seed = &self.seeds[entry];
                weak.contains(seed.evidence)
                    && seed.size.is_none()
                    && facts.iter().any(|f| f.problems.iter().any(|p| p.key == "code.undecodable"))
            })
            .map(|(entry, _)| *entry)
            .collect();
        for entry in &bad {
            self.seeds.remove(entry);
            self.dropped.insert(*entry);
            self.moved.push(*entry);
            known.remove(entry);
        }
        if !bad.is_empty() {
            self.followed.clear();
        }
        !bad.is_empty()
    }
}

/// Places in a range that only unwind data leads to.
fn landing_pads<'a>(unwind: &'a UnwindTable, range: &CodeRange) -> impl Iterator<Item = u32> + use<'a> {
    let start = unwind.code_targets.partition_point(|t| t.rva < range.rva);
    let end = unwind.code_targets.partition_point(|t| t.rva < range.end());
    unwind.code_targets[start..end.max(start)].iter().map(|t| t.rva)
}

/// The runtime function whose handler data runs the code at `rva` as a part of its own.
fn funclet_owner(unwind: &UnwindTable, rva: u32) -> Option<u32> {
    let start = unwind.code_targets.partition_point(|t| t.rva < rva);
    let here = unwind.code_targets[start..].iter().take_while(|t| t.rva == rva);
    here.filter(|t| t.kind != CodeTargetKind::LandingPad).map(|t| t.function).find(|&f| f != rva)
}

/// First byte of the function that a chained entry leads to.
fn primary(image: &Image, entry: &UnwindInfo) -> Option<u32> {
    let mut info = entry.info;
    for _ in 0..32 {
        let head = image.bytes(info, 4)?;
        let codes = u32::from(head[2]);
        let tail = info.checked_add(4 + 2 * (codes + (codes & 1)))?;
        if head[0] >> 3 & 4 == 0 {
            return None;
        }
        let (begin, next) = (image.u32(tail)?, image.u32(tail.checked_add(8)?)?);
        // An odd address is that of another RUNTIME_FUNCTION.
        let (begin, next) = if next & 1 != 0 {
            (image.u32(next & !1)?, image.u32((next & !1).checked_add(8)?)?)
        } else {
            (begin, next)
        };
        let flags = image.bytes(next, 1)?[0] >> 3;
        if flags & 4 == 0 {
            return Some(begin);
        }
        info = next;
    }
    None
}

/// All ranges by address.
pub fn range_index(functions: &[Function]) -> Vec<(u32, FunctionId, u16)> {
    let mut out: Vec<_> = functions
        .iter()
        .enumerate()
        .flat_map(|(i, f)| f.ranges.iter().enumerate().map(move |(n, r)| (r.rva, FunctionId::from(i), n as u16)))
        .collect();
    out.sort_unstable();
    out
}

/// Attaches unwind entries to the functions whose ranges they cover, and the functions that unwind data runs on the frame
/// of others to these.
pub fn link_unwind(program: &mut Program, targets: &[CodeTarget]) {
    for target in targets.iter().filter(|t| t.kind != CodeTargetKind::LandingPad) {
        if let Some(funclet) = program.function_entry(target.rva)
            && let Some((owner, _)) = program.function_at(target.function)
            && owner != funclet
        {
            program.functions[funclet.index()].funclet_of.push(owner);
        }
    }
    for function in &mut program.functions {
        function.funclet_of.sort_unstable();
        function.funclet_of.dedup();
    }
    for i in 0..program.unwind.len() {
        if let Some((id, _)) = program.function_at(program.unwind[i].begin) {
            program.functions[id.index()].unwind.push(i as u32);
        }
    }
}
