//! The account of every byte.

use super::lookup::Lookup;
use crate::code::{RawReference, filler_length};
use crate::program::{Program, Span, SpanKind};
use rayon::prelude::*;

/// Classifies every byte of every section.
pub fn account(program: &Program, covered: &Covered<'_>) -> Vec<Span> {
    let mut known: Vec<Span> = Vec::with_capacity(program.ranges.len() + program.objects.len());
    for f in &program.functions {
        known.extend(f.ranges.iter().map(|r| Span { rva: r.rva, size: r.size, kind: SpanKind::Code }));
    }
    known.extend(program.objects.iter().map(|o| Span { rva: o.rva, size: o.size, kind: SpanKind::Object }));
    // Tables inside of a function are objects: they go after the code that surrounds them and win.
    known.sort_by_key(|s| (s.rva, s.kind == SpanKind::Object));

    let mut out: Vec<Span> = Vec::new();
    for section in &program.image.sections {
        let end = section.rva + section.size;
        let first = known.partition_point(|s| s.rva < section.rva);
        let last = known.partition_point(|s| s.rva < end);
        let mut at = section.rva;
        // Code that a table interrupts goes on behind it.
        let mut resume = section.rva;
        for span in &known[first..last] {
            if span.rva > at {
                if resume > at {
                    let stop = resume.min(span.rva);
                    push(&mut out, at, stop, SpanKind::Code);
                    at = stop;
                }
                gap(program, covered, at, span.rva, section.is_executable(), &mut out);
                at = span.rva;
            }
            let stop = (span.rva + span.size).min(end);
            if span.kind == SpanKind::Code {
                resume = resume.max(stop);
                continue;
            }
            if stop > at {
                push(&mut out, at, stop, span.kind);
                at = stop;
            }
        }
        if resume > at {
            push(&mut out, at, resume.min(end), SpanKind::Code);
            at = resume.min(end);
        }
        gap(program, covered, at, end, section.is_executable(), &mut out);
    }
    out
}

fn push(out: &mut Vec<Span>, start: u32, end: u32, kind: SpanKind) {
    if end <= start {
        return;
    }
    match out.last_mut() {
        Some(last) if last.kind == kind && last.rva + last.size == start && kind != SpanKind::Object => {
            last.size += end - start;
        }
        _ => out.push(Span { rva: start, size: end - start, kind }),
    }
}

/// Bytes between code and objects: filler that nothing refers to, or unexplained.
fn gap(program: &Program, covered: &Covered<'_>, start: u32, end: u32, executable: bool, out: &mut Vec<Span>) {
    if end <= start {
        return;
    }
    let bytes = program.image.bytes(start, (end - start) as usize).unwrap_or_default();
    let filler = if executable { filler_length(bytes) } else { bytes.iter().take_while(|&&b| b == 0).count() } as u32;
    let filler = covered.first_target(start, start + filler).map_or(filler, |rva| rva - start);
    push(out, start, start + filler, SpanKind::Padding);
    push(out, start + filler, end, SpanKind::Unknown);
}

/// Which bytes belong to something or are referred to.
pub struct Covered<'a> {
    program: &'a Program,
    lookup: &'a Lookup,
    targets: Vec<u32>,
}

impl<'a> Covered<'a> {
    /// Takes all addresses that fields hold.
    pub fn new(program: &'a Program, lookup: &'a Lookup, raw: &[RawReference]) -> Self {
        let table = program.image.directories.get(3).copied().unwrap_or_default();
        let ends = |r: &RawReference| {
            // The end of a runtime function refers to no byte.
            r.site.checked_sub(table.0).is_some_and(|d| d < table.1 && d % 12 == 4)
        };
        let mut targets: Vec<u32> = raw.iter().filter(|r| !ends(r)).map(|r| r.rva).collect();
        targets.par_sort_unstable();
        targets.dedup();
        // The end of an object may be named without meaning the byte behind it.
        targets.retain(|&rva| {
            let upto = &program.objects[..lookup.object_behind(program, rva)];
            let inside = upto.last().is_some_and(|o| o.contains(rva));
            inside || upto.iter().rfind(|o| o.rva < rva).is_none_or(|o| o.end() != rva)
        });
        Covered { program, lookup, targets }
    }

    /// First referenced address in a range.
    fn first_target(&self, start: u32, end: u32) -> Option<u32> {
        let i = self.targets.partition_point(|&t| t < start);
        self.targets.get(i).copied().filter(|&t| t < end)
    }

    /// True if a byte belongs to a function or object or is referred to.
    pub fn contains(&self, rva: u32) -> bool {
        self.lookup.function_at(self.program, rva).is_some()
            || self.lookup.object_at(self.program, rva).is_some()
            || self.targets.binary_search(&rva).is_ok()
    }
}
