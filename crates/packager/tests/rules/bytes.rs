//! Every byte of both images, mapped, belongs to one thing, and what differs is the business of one finding.
//!
//! This counts bytes on its own: the comparison's word is taken for which things are each other's counterparts, and for
//! nothing else.

use hotgraft_diff::Comparison;
use hotgraft_diff::comparison::Status;
use hotgraft_packager::verdict::{Difference, Verdict};
use hotgraft_program::{FunctionId, ObjectKind, Program, Span, SpanKind};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of one image by what becomes of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// In something that is equal to its counterpart, byte for byte outside of the fields that hold addresses.
    pub equal: u64,
    /// In something that one finding speaks of.
    pub found: u64,
    /// Filler between things.
    pub filler: u64,
    /// Headers, and tables that the linker or loader makes of other things, which are compared by meaning.
    pub derived: u64,
}

impl Account {
    pub fn sum(&self) -> u64 {
        self.equal + self.found + self.filler + self.derived
    }
}

/// The account of the new image (or the old one, with the sides exchanged).
pub fn account(old: &Program, new: &Program, cmp: &Comparison, verdict: &Verdict, of_new: bool) -> Account {
    let mut speakers: BTreeMap<Difference, usize> = BTreeMap::new();
    for difference in verdict.findings.iter().flat_map(|f| &f.covers) {
        *speakers.entry(*difference).or_default() += 1;
    }
    let one = |difference: Difference| {
        assert_eq!(speakers.get(&difference), Some(&1), "findings that speak of {difference:?}");
    };
    let index = |i: usize| u32::try_from(i).unwrap();
    let (mine, theirs) = if of_new { (new, old) } else { (old, new) };
    let unwound = functions_by_unwind_data(mine);
    let mut out = Account { derived: u64::from(mine.image.size_of_headers), ..Account::default() };
    for span in mine.spans.iter().flat_map(|span| things(mine, *span)) {
        let size = u64::from(span.size);
        match span.kind {
            SpanKind::Padding => out.filler += size,
            SpanKind::Unknown => panic!("nothing explains {:#x}", span.rva),
            SpanKind::Code => {
                let (id, range) = mine.function_at(span.rva).expect("code lies in a function");
                let i = if of_new { cmp.function_of_new[id.index()] } else { cmp.function_of_old[id.index()] } as usize;
                let pair = &cmp.functions[i];
                if pair.status == Status::Identical {
                    let other = if of_new { pair.old } else { pair.new }.unwrap();
                    let home = mine.functions[id.index()].ranges[usize::from(range)].rva;
                    let there = theirs.functions[other.index()].ranges[usize::from(range)].rva;
                    same_but_for_addresses(mine, theirs, span.rva, there + (span.rva - home), span.size);
                    out.equal += size;
                } else {
                    one(Difference::Function(index(i)));
                    out.found += size;
                }
            }
            SpanKind::Object => {
                let id = mine.object_at(span.rva).expect("data lies in an object");
                let object = &mine.objects[id.index()];
                let i = if of_new { cmp.object_of_new[id.index()] } else { cmp.object_of_old[id.index()] } as usize;
                let pair = &cmp.objects[i];
                if pair.status != Status::Identical {
                    one(Difference::Object(index(i)));
                    out.found += size;
                } else if is_derived(&object.kind) {
                    out.derived += size;
                } else {
                    let other = if of_new { pair.old } else { pair.new }.unwrap();
                    let there = theirs.objects[other.index()].rva;
                    let at = there + (span.rva - object.rva);
                    // Unwind data is a part of the functions that it describes: what differs in it is told of these.
                    let changed = unwound.get(&object.rva).into_iter().flatten().map(|f| {
                        let i = if of_new { cmp.function_of_new[f.index()] } else { cmp.function_of_old[f.index()] };
                        (i, cmp.functions[i as usize].status)
                    });
                    let changed: Vec<u32> = changed.filter(|(_, s)| *s != Status::Identical).map(|(i, _)| i).collect();
                    if first_difference(mine, theirs, span.rva, at, span.size).is_some() && !changed.is_empty() {
                        changed.into_iter().for_each(|i| one(Difference::Function(i)));
                        out.found += size;
                    } else {
                        same_but_for_addresses(mine, theirs, span.rva, at, span.size);
                        out.equal += size;
                    }
                }
            }
        }
    }
    for i in 0..cmp.image.len() {
        one(Difference::Image(index(i)));
    }
    out
}

/// A span, cut where one function or object ends and the next begins.
fn things(program: &Program, span: Span) -> Vec<Span> {
    let mut out = Vec::new();
    let (mut rva, end) = (span.rva, span.rva + span.size);
    while rva < end {
        let whole = match span.kind {
            SpanKind::Code => program
                .function_at(rva)
                .map(|(id, range)| program.functions[id.index()].ranges[usize::from(range)].end()),
            SpanKind::Object => program.object_at(rva).map(|id| program.objects[id.index()].end()),
            SpanKind::Padding | SpanKind::Unknown => None,
        };
        let next = whole.unwrap_or(end).min(end);
        assert!(next > rva, "{rva:#x} belongs to nothing");
        out.push(Span { rva, size: next - rva, ..span });
        rva = next;
    }
    out
}

/// Made of other things: what they say is compared as imports, exports, unwind data, headers and so on.
fn is_derived(kind: &ObjectKind) -> bool {
    !matches!(
        kind,
        ObjectKind::Data
            | ObjectKind::String
            | ObjectKind::WideString
            | ObjectKind::JumpTable(_)
            | ObjectKind::VTable
            | ObjectKind::Rtti
            | ObjectKind::Unwind
            | ObjectKind::TlsTemplate
            | ObjectKind::InitializerTable
    )
}

/// The functions that each piece of unwind data describes, by its RVA.
fn functions_by_unwind_data(program: &Program) -> BTreeMap<u32, Vec<FunctionId>> {
    let mut out: BTreeMap<u32, Vec<FunctionId>> = BTreeMap::new();
    for info in &program.unwind {
        let Some((function, _)) = program.function_at(info.begin) else { continue };
        let mut seen = BTreeSet::new();
        let mut next: Vec<_> = program.object_at(info.info).into_iter().collect();
        next.extend(info.references.iter().filter_map(|r| program.object_at(r.rva)));
        while let Some(id) = next.pop() {
            let object = &program.objects[id.index()];
            if object.kind != ObjectKind::Unwind || !seen.insert(id) {
                continue;
            }
            out.entry(object.rva).or_default().push(function);
            let references = program.references_in(object.rva, object.end());
            next.extend(references.iter().filter_map(|r| program.object_at(r.rva)));
        }
    }
    for functions in out.values_mut() {
        functions.sort_unstable();
        functions.dedup();
    }
    out
}

fn same_but_for_addresses(mine: &Program, theirs: &Program, rva: u32, there: u32, size: u32) {
    assert_eq!(
        first_difference(mine, theirs, rva, there, size),
        None,
        "{}: said to be equal, but {rva:#x} ({:?}) and {there:#x} differ at this offset",
        mine.image.path,
        mine.object_at(rva).map(|id| &mine.objects[id.index()])
    );
}

fn first_difference(mine: &Program, theirs: &Program, rva: u32, there: u32, size: u32) -> Option<usize> {
    let bytes = |p: &Program, at: u32| -> Vec<u8> {
        // Behind what the file holds there are zeroes.
        let mut bytes: Vec<u8> = (0..size).map(|i| p.image.bytes(at + i, 1).map_or(0, |byte| byte[0])).collect();
        for r in p.references_in(at.saturating_sub(7), at + size) {
            for byte in r.site..r.site + u32::from(r.width) {
                if let Some(slot) = byte.checked_sub(at).and_then(|i| bytes.get_mut(i as usize)) {
                    *slot = 0;
                }
            }
        }
        bytes
    };
    let (a, b) = (bytes(mine, rva), bytes(theirs, there));
    a.iter().zip(&b).position(|(x, y)| x != y)
}

/// The accounts of both sides add up to their images.
pub fn assert_all_accounted(name: &str, old: &Program, new: &Program, cmp: &Comparison, verdict: &Verdict) {
    for (program, of_new) in [(old, false), (new, true)] {
        let account = account(old, new, cmp, verdict, of_new);
        let whole: u64 = u64::from(program.image.size_of_headers)
            + program.image.sections.iter().map(|s| u64::from(s.size)).sum::<u64>();
        assert_eq!(account.sum(), whole, "{name}: {account:?}");
    }
}
