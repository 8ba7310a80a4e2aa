//! From the ranges of one function to [`CodeFacts`].

use super::descent::{Descent, Step};
use super::flow::{self, Findings, Roots};
use super::{
    Access, CodeFacts, CodeSpan, CodeSpanKind, Flow, RawJumpTable, RawOffsetTable, RawReference, filler_length,
};
use crate::function::{CodeRange, Problem, RangeKind};
use crate::image::Image;
use crate::reference::Form;
use std::collections::BTreeSet;

/// Rounds of descent and dataflow; each finds the code behind the switches of the round before.
const MAX_ROUNDS: usize = 48;

/// What is known outside of the function.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// Places inside of the function that control reaches from its calls through unwind data, in any order; those outside
    /// of the ranges and at the start of a function or funclet are ignored.
    pub landing_pads: &'a [u32],
    /// Addresses that something else refers to, sorted: where a table without a proven bound must end.
    pub boundaries: &'a [u32],
    /// RVAs that pointers under base relocations hold, sorted. With it a jump through a table whose address is not
    /// known can be told from a tail call; without it no pointer into the function is assumed to exist.
    pub pointer_targets: &'a [u32],
}

/// Reads one contiguous range of a function whose ranges are `all_ranges` (its entry range first).
///
/// The whole function is analysed, since registers live across its ranges; see [`analyse_function`] to get the facts of
/// all ranges at once.
pub fn analyse(image: &Image, range: CodeRange, all_ranges: &[CodeRange]) -> CodeFacts {
    let mut ranges = all_ranges.to_vec();
    if !ranges.contains(&range) {
        ranges.insert(0, range);
    }
    let at = ranges.iter().position(|r| *r == range).unwrap_or(0);
    analyse_function(image, &ranges, &Context::default()).swap_remove(at)
}

/// Reads all ranges of one function; `ranges[0]` starts with the entry. One result per range, in the order given.
///
/// Ranges must be disjoint. Bytes that do not lie in the image give a `code.undecodable` problem.
pub fn analyse_function(image: &Image, ranges: &[CodeRange], context: &Context<'_>) -> Vec<CodeFacts> {
    analyse_by(flow::solve, image, ranges, context)
}

type Solve = fn(&Image, &Descent<'_>, &Roots<'_>, &Context<'_>) -> Findings;

/// The same by a dataflow of choice.
pub(super) fn analyse_by(solve: Solve, image: &Image, ranges: &[CodeRange], context: &Context<'_>) -> Vec<CodeFacts> {
    let Some(entry) = ranges.first().map(|r| r.rva) else {
        return Vec::new();
    };
    let mut weak: Vec<u32> = ranges[1..].iter().map(|r| r.rva).collect();
    let mut edges = rustc_hash::FxHashMap::<u32, Vec<u32>>::default();
    let mut barriers: Vec<(u32, u32)> = Vec::new();
    // The start of a function or funclet is reached by a call, not from inside of the function.
    let called =
        |rva: u32| ranges.iter().enumerate().any(|(i, r)| r.rva == rva && (i == 0 || r.kind == RangeKind::Funclet));
    let is_pad = |p: &u32| ranges.iter().any(|r| r.contains(*p)) && !called(*p);
    let pads: Vec<u32> = context.landing_pads.iter().copied().filter(is_pad).collect();

    let mut rounds = 0;
    let (descent, findings) = loop {
        rounds += 1;
        let mut descent = Descent::new(image, ranges, &barriers);
        descent.edges.clone_from(&edges);
        // What is certain comes first, so that a guess never claims its bytes. A range may start with a table: chained
        // unwind data can cover the table alone.
        descent.run([entry]);
        descent.run(pads.iter().copied());
        let is_table = |rva: &u32| barriers.iter().any(|(start, end)| (start..end).contains(&rva));
        descent.run(weak.iter().copied().filter(|w| !is_table(w)));
        descent.sort();
        let roots = Roots { entry, pads: &pads, weak: &weak };
        let findings = solve(image, &descent, &roots, context);

        // A table may turn out longer once all ways to its jump are known, and one without a proven end shorter once
        // what follows it is known.
        let mut grown = false;
        for (jump, targets) in &findings.targets {
            grown |= edges.insert(*jump, targets.clone()).as_ref() != Some(targets);
        }
        let inside = |t: &(u32, u32)| t.0 < t.1 && ranges.iter().any(|r| t.0 < r.end() && r.rva < t.1);
        let tables: Vec<(u32, u32)> = findings.tables().into_iter().filter(inside).collect();
        grown |= tables != barriers;
        barriers = tables;
        if !grown {
            let found: Vec<u32> = descent.gaps().into_iter().flat_map(|gap| descent.explore(gap).0).collect();
            grown = !found.is_empty();
            weak.extend(found);
        }
        if !grown || rounds == MAX_ROUNDS {
            break (descent, findings);
        }
    };
    let mut facts: Vec<CodeFacts> = ranges.iter().map(|r| facts(image, *r, &descent, &findings)).collect();
    if rounds == MAX_ROUNDS {
        let text = format!("code still turned up after {MAX_ROUNDS} rounds");
        facts[0].problems.push(Problem { rva: ranges[0].rva, key: "code.undecodable", text });
    }
    facts
}

/// What concerns one range.
fn facts(image: &Image, range: CodeRange, descent: &Descent<'_>, findings: &Findings) -> CodeFacts {
    let mut out = CodeFacts::default();
    if image.bytes(range.rva, range.size as usize).is_none() {
        let text = format!("the range {:#x}..{:#x} does not lie in the image", range.rva, range.end());
        out.problems.push(Problem { rva: range.rva, key: "code.undecodable", text });
        return out;
    }
    let inside = |rva: &u32| range.contains(*rva);
    let first = descent.steps.partition_point(|s| s.rva < range.rva);
    let last = descent.steps.partition_point(|s| s.rva < range.end());
    let steps = &descent.steps[first..last.max(first)];
    out.instructions.reserve_exact(steps.len());
    for step in steps {
        match step.decoded.flow {
            Flow::Call(target) => {
                out.calls.push(target);
            }
            Flow::Branch(target) | Flow::ConditionalBranch(target) if !descent.contains(target) => {
                out.tail_jumps.push(target);
            }
            Flow::Branch(target) | Flow::ConditionalBranch(target) => out.branches.push(target),
            _ => {}
        }
        if let Some(reference) = step.decoded.reference(step.rva)
            && (reference.form != Form::Branch || !range.contains(reference.rva))
        {
            out.references.push(reference);
        }
        out.instructions.push(step.rva);
    }
    for targets in [&mut out.branches, &mut out.calls, &mut out.tail_jumps] {
        targets.sort_unstable();
        targets.dedup();
    }
    out.references.extend(findings.displacements.iter().filter(|r| range.contains(r.site)));
    out.jump_tables = findings.jump_tables.iter().filter(|t| range.contains(t.jump)).cloned().collect();
    out.offset_tables = findings.offset_tables.iter().filter(|t| range.contains(t.load)).cloned().collect();
    out.indirect_tail_jumps = findings.tail_jumps.iter().copied().filter(inside).collect();
    out.problems.extend(descent.problems.iter().chain(&findings.problems).filter(|p| range.contains(p.rva)).cloned());

    spans(image, range, steps, findings, &mut out);
    relocations(image, range, descent, findings, &mut out);
    out.references.sort_by_key(|r| (r.site, r.width));
    out.references.dedup();
    out.accesses = accesses(steps, &out.references);
    out.problems.sort_by(|a, b| (a.rva, a.key, &a.text).cmp(&(b.rva, b.key, &b.text)));
    out.problems.dedup();
    out
}

/// What the memory operands with fixed addresses read or write; `references` are those of these steps, sorted.
fn accesses(steps: &[Step], references: &[RawReference]) -> Vec<Access> {
    let mut rest = steps;
    let with_address = references.iter().filter(|r| r.form != Form::Branch);
    with_address
        .map(|r| {
            // References come in the order of the steps, so the one that holds the next is not far.
            while let [_, next, ..] = rest
                && next.rva <= r.site
            {
                rest = &rest[1..];
            }
            let step = rest.first().filter(|s| s.rva <= r.site);
            let size = step.and_then(|s| super::x64::access_of(&s.instruction, r.rva));
            Access { rva: r.rva, size: size.unwrap_or(0) }
        })
        .collect()
}

/// Accounts for every byte of the range, whose instructions are `steps`.
fn spans(image: &Image, range: CodeRange, steps: &[Step], findings: &Findings, out: &mut CodeFacts) {
    let mut spans: Vec<CodeSpan> = Vec::new();
    let mut add = |rva: u32, size: u32, kind| match spans.last_mut() {
        Some(CodeSpan { rva: r, size: s, kind: k }) if *k == kind && *r + *s == rva => *s += size,
        _ => spans.push(CodeSpan { rva, size, kind }),
    };
    let tables = findings.tables();
    let mut rva = range.rva;
    let mut rest = steps;
    while rva < range.end() {
        // An instruction that a table was found over is none.
        while let [first, after @ ..] = rest
            && first.rva < rva
        {
            rest = after;
        }
        if let [first, after @ ..] = rest
            && first.rva == rva
        {
            let length = u32::from(first.decoded.length);
            add(rva, length, CodeSpanKind::Code);
            rva += length;
            rest = after;
            continue;
        }
        if let Some((_, end)) = tables.iter().find(|(start, end)| (*start..*end).contains(&rva)) {
            let end = (*end).min(range.end());
            add(rva, end - rva, CodeSpanKind::Table);
            rva = end;
            continue;
        }
        let next = rest.first().map_or(range.end(), |s| s.rva).min(range.end());
        let table = tables.iter().map(|(start, _)| *start).filter(|start| (rva + 1..next).contains(start)).min();
        let end = table.unwrap_or(next);
        let filler = image.bytes(rva, (end - rva) as usize).map_or(0, filler_length) as u32;
        if filler > 0 {
            add(rva, filler, CodeSpanKind::Padding);
        }
        if rva + filler < end {
            let (start, size) = (rva + filler, end - rva - filler);
            add(start, size, CodeSpanKind::Unknown);
            let text = format!("{size} bytes at {start:#x} are neither instructions that control reaches nor filler");
            out.problems.push(Problem { rva: start, key: "code.undecodable", text });
        }
        rva = end;
    }
    out.spans = spans;
}

/// Every base relocation in the range must cover exactly an 8-byte field of an instruction or an entry of a table.
fn relocations(image: &Image, range: CodeRange, descent: &Descent<'_>, findings: &Findings, out: &mut CodeFacts) {
    let first = image.base_relocations.partition_point(|r| *r < range.rva.saturating_sub(7));
    let last = image.base_relocations.partition_point(|r| *r < range.end());
    for site in &image.base_relocations[first..last.max(first)] {
        if findings.is_absolute_entry(*site) {
            continue;
        }
        let step = descent.steps.partition_point(|s| s.rva <= *site).checked_sub(1).map(|i| &descent.steps[i]);
        let field = step.filter(|s| *site < s.end()).and_then(|s| {
            let parts = [s.decoded.immediate, s.decoded.displacement];
            parts.into_iter().flatten().find(|p| p.width == 8 && s.rva + u32::from(p.offset) == *site)
        });
        let target = image
            .u64(*site)
            .and_then(|v| v.checked_sub(image.image_base))
            .and_then(|v| u32::try_from(v).ok())
            .filter(|v| *v <= image.size_of_image);
        match (field, target) {
            (Some(_), Some(rva)) => {
                out.references.push(RawReference { site: *site, width: 8, form: Form::Absolute, origin: 0, rva });
            }
            (Some(_), None) => {
                let text = format!("the address under the base relocation at {site:#x} lies outside of the image");
                out.problems.push(Problem { rva: *site, key: "code.reference.unknown", text });
            }
            (None, _) => {
                let text = format!("the base relocation at {site:#x} covers no 8-byte field of an instruction");
                out.problems.push(Problem { rva: *site, key: "code.reference.unknown", text });
            }
        }
    }
}

impl Findings {
    /// Extents of all tables, sorted.
    pub(super) fn tables(&self) -> Vec<(u32, u32)> {
        let jump = self.jump_tables.iter().map(|t: &RawJumpTable| (t.table, t.end()));
        let offset = self
            .offset_tables
            .iter()
            .map(|t: &RawOffsetTable| (t.table, t.table.saturating_add(t.entries.saturating_mul(u32::from(t.width)))));
        let set: BTreeSet<(u32, u32)> = jump.chain(offset).collect();
        set.into_iter().collect()
    }

    fn is_absolute_entry(&self, site: u32) -> bool {
        self.jump_tables.iter().any(|t| {
            t.form == Form::Absolute
                && (t.table..t.end()).contains(&site)
                && (site - t.table).is_multiple_of(u32::from(t.width))
        })
    }
}
