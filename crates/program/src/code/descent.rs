//! Recursive descent through the ranges of one function.

use super::{Decoded, Flow, x64};
use crate::function::{CodeRange, Problem};
use crate::image::Image;
use iced_x86::{Decoder, DecoderOptions, Instruction};
use rustc_hash::FxHashMap;

/// One instruction that was reached.
pub(super) struct Step {
    pub(super) rva: u32,
    pub(super) decoded: Decoded,
    pub(super) instruction: Instruction,
}

impl Step {
    pub(super) fn end(&self) -> u32 {
        self.rva.wrapping_add(u32::from(self.decoded.length))
    }
}

const UNTOUCHED: u32 = 0;
const INTERIOR: u32 = u32::MAX;
const BARRED: u32 = u32::MAX - 1;

/// One range with what is known of each byte.
struct Area {
    range: CodeRange,
    /// Per byte: untouched, interior of an instruction, barred, or 1 + index of the instruction that starts there.
    bytes: Vec<u32>,
}

/// Instructions reached so far.
pub(super) struct Descent<'a> {
    image: &'a Image,
    areas: Vec<Area>,
    /// Bytes that nothing has claimed.
    untouched: usize,
    pub(super) steps: Vec<Step>,
    /// Targets of indirect jumps, by jump.
    pub(super) edges: FxHashMap<u32, Vec<u32>>,
    pub(super) problems: Vec<Problem>,
    /// Where a call is not followed by code: the callee does not return.
    pub(super) dead_ends: Vec<u32>,
}

/// How control comes to an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// By a branch or as a root.
    Branch,
    /// From the instruction before.
    Next,
    /// From a call, which may not return.
    AfterCall,
}

impl<'a> Descent<'a> {
    /// Starts with nothing reached. `barriers` are data inside of the ranges (first byte, first byte behind).
    pub(super) fn new(image: &'a Image, ranges: &[CodeRange], barriers: &[(u32, u32)]) -> Self {
        let mut areas: Vec<Area> = ranges
            .iter()
            .filter(|r| image.bytes(r.rva, r.size as usize).is_some())
            .map(|r| Area { range: *r, bytes: vec![UNTOUCHED; r.size as usize] })
            .collect();
        areas.sort_by_key(|a| a.range.rva);
        let mut untouched: usize = areas.iter().map(|a| a.bytes.len()).sum();
        for area in &mut areas {
            for (start, end) in barriers {
                let start = (*start).max(area.range.rva);
                let end = (*end).min(area.range.end());
                for rva in start..end {
                    let mark = &mut area.bytes[(rva - area.range.rva) as usize];
                    untouched -= usize::from(*mark == UNTOUCHED);
                    *mark = BARRED;
                }
            }
        }
        Self {
            image,
            // Most instructions have three to five bytes.
            steps: Vec::with_capacity(untouched / 4),
            areas,
            untouched,
            edges: FxHashMap::default(),
            problems: Vec::new(),
            dead_ends: Vec::new(),
        }
    }

    fn area(&self, rva: u32) -> Option<usize> {
        let i = self.areas.partition_point(|a| a.range.rva <= rva).checked_sub(1)?;
        self.areas[i].range.contains(rva).then_some(i)
    }

    fn mark(&self, rva: u32) -> Option<u32> {
        let area = &self.areas[self.area(rva)?];
        Some(area.bytes[(rva - area.range.rva) as usize])
    }

    /// True if `rva` lies in a range of the function.
    pub(super) fn contains(&self, rva: u32) -> bool {
        self.area(rva).is_some()
    }

    /// True if `rva` is exactly the first byte behind a range.
    pub(super) fn is_end(&self, rva: u32) -> bool {
        self.areas.iter().any(|a| a.range.end() == rva)
    }

    /// Index of the instruction that starts at `rva`.
    pub(super) fn step_at(&self, rva: u32) -> Option<usize> {
        match self.mark(rva)? {
            UNTOUCHED | INTERIOR | BARRED => None,
            n => Some(n as usize - 1),
        }
    }

    /// True if an instruction may start at `rva`: one does, or nothing is known of the byte.
    pub(super) fn may_start(&self, rva: u32) -> bool {
        matches!(self.mark(rva), Some(m) if m != INTERIOR && m != BARRED)
    }

    fn problem(&mut self, rva: u32, key: &'static str, text: String) {
        self.problems.push(Problem { rva, key, text });
    }

    /// One decoder for each area: making one for each instruction costs as much as decoding it.
    fn decoders(&self) -> Vec<Decoder<'a>> {
        let image = self.image;
        let code = |a: &Area| image.bytes(a.range.rva, a.bytes.len()).unwrap_or_default();
        self.areas.iter().map(|a| Decoder::new(64, code(a), DecoderOptions::NONE)).collect()
    }

    /// Follows control from `roots`.
    pub(super) fn run(&mut self, roots: impl IntoIterator<Item = u32>) {
        let mut decoders: Option<Vec<Decoder<'a>>> = None;
        let mut work: Vec<(u32, u32, Arrival)> = roots.into_iter().map(|r| (r, r, Arrival::Branch)).collect();
        while let Some((mut rva, mut from, mut arrival)) = work.pop() {
            let decoders = decoders.get_or_insert_with(|| self.decoders());
            loop {
                if arrival == Arrival::AfterCall && !self.goes_on(decoders, rva) {
                    self.dead_ends.push(from);
                    break;
                }
                let Some(mark) = self.mark(rva) else {
                    if arrival == Arrival::Next {
                        let text = format!("control runs past the end of the function behind {from:#x}");
                        self.problem(from, "code.falls_through", text);
                    }
                    break;
                };
                match mark {
                    UNTOUCHED => {}
                    INTERIOR => {
                        let text =
                            format!("control from {from:#x} leads into the middle of an instruction at {rva:#x}");
                        self.problem(rva, "code.undecodable", text);
                        break;
                    }
                    BARRED => {
                        let text = format!("control from {from:#x} leads into a table at {rva:#x}");
                        self.problem(rva, "code.undecodable", text);
                        break;
                    }
                    _ => break,
                }
                let Some(step) = self.decode(decoders, rva) else {
                    let text = format!("control from {from:#x} leads to bytes at {rva:#x} that are no instruction");
                    self.problem(rva, "code.undecodable", text);
                    break;
                };
                let (flow, end) = (step.decoded.flow, step.end());
                self.insert(step);
                match flow {
                    Flow::Branch(target) | Flow::ConditionalBranch(target) if self.contains(target) => {
                        work.push((target, rva, Arrival::Branch));
                    }
                    Flow::IndirectJump => {
                        if let Some(targets) = self.edges.get(&rva) {
                            work.extend(targets.iter().map(|t| (*t, rva, Arrival::Branch)));
                        }
                    }
                    _ => {}
                }
                if !flow.falls_through() {
                    break;
                }
                arrival = match flow {
                    Flow::Call(_) | Flow::IndirectCall => Arrival::AfterCall,
                    _ => Arrival::Next,
                };
                from = rva;
                rva = end;
            }
        }
    }

    /// True if code that can run stands behind a call.
    fn goes_on(&self, decoders: &mut [Decoder<'a>], rva: u32) -> bool {
        match self.mark(rva) {
            None | Some(BARRED | INTERIOR) => false,
            Some(UNTOUCHED) => {
                let filler = self.area(rva).and_then(|i| {
                    let rest = self.areas[i].range.end() - rva;
                    Some(super::filler_length(self.image.bytes(rva, rest as usize)?) == rest as usize)
                });
                filler == Some(false) && self.decode(decoders, rva).is_some_and(|s| s.decoded.flow != Flow::Breakpoint)
            }
            Some(_) => true,
        }
    }

    /// Decodes one instruction that must lie wholly in one range and in bytes nothing else claims.
    fn decode(&self, decoders: &mut [Decoder<'a>], rva: u32) -> Option<Step> {
        let i = self.area(rva)?;
        let (area, decoder) = (&self.areas[i], &mut decoders[i]);
        let offset = (rva - area.range.rva) as usize;
        decoder.set_position(offset).ok()?;
        decoder.set_ip(u64::from(rva));
        let mut instruction = Instruction::default();
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return None;
        }
        let claimed = area.bytes[offset..offset + instruction.len()].iter().any(|b| *b != UNTOUCHED);
        if claimed {
            return None;
        }
        let offsets = decoder.get_constant_offsets(&instruction);
        Some(Step { rva, decoded: x64::describe(&instruction, &offsets), instruction })
    }

    fn insert(&mut self, step: Step) {
        let Some(i) = self.area(step.rva) else {
            return;
        };
        let area = &mut self.areas[i];
        let offset = (step.rva - area.range.rva) as usize;
        let length = usize::from(step.decoded.length);
        area.bytes[offset + 1..offset + length].fill(INTERIOR);
        self.steps.push(step);
        area.bytes[offset] = self.steps.len() as u32;
        self.untouched -= length;
    }

    /// Runs of bytes that nothing has claimed, as (first byte, first byte behind).
    pub(super) fn gaps(&self) -> Vec<(u32, u32)> {
        let mut out = Vec::new();
        if self.untouched == 0 {
            return out;
        }
        for area in &self.areas {
            let mut start = None;
            for (i, mark) in area.bytes.iter().enumerate() {
                let rva = area.range.rva + i as u32;
                match (*mark == UNTOUCHED, start) {
                    (true, None) => start = Some(rva),
                    (false, Some(s)) => {
                        out.push((s, rva));
                        start = None;
                    }
                    _ => {}
                }
            }
            if let Some(s) = start {
                out.push((s, area.range.end()));
            }
        }
        out
    }

    /// Splits a gap into filler and runs that decode cleanly. Returns the starts of the runs, and the first byte that is
    /// neither.
    pub(super) fn explore(&self, gap: (u32, u32)) -> (Vec<u32>, Option<u32>) {
        let (mut rva, end) = gap;
        let mut roots = Vec::new();
        while rva < end {
            let Some(bytes) = self.image.bytes(rva, (end - rva) as usize) else {
                return (roots, Some(rva));
            };
            let filler = filler_run(bytes);
            if filler > 0 {
                rva += filler as u32;
                continue;
            }
            let start = rva;
            loop {
                let Some(decoded) = x64::decode(&bytes[(rva - start) as usize..], rva) else {
                    return (roots, Some(start));
                };
                rva += u32::from(decoded.length);
                if !decoded.flow.falls_through() || rva >= end {
                    break;
                }
            }
            roots.push(start);
        }
        (roots, None)
    }

    /// Puts the instructions in order of RVA. Nothing may be decoded afterwards.
    pub(super) fn sort(&mut self) {
        if self.steps.is_sorted_by_key(|s| s.rva) {
            return;
        }
        self.steps.sort_by_key(|s| s.rva);
        let starts: Vec<u32> = self.steps.iter().map(|s| s.rva).collect();
        for (n, rva) in starts.into_iter().enumerate() {
            if let Some(i) = self.area(rva) {
                let area = &mut self.areas[i];
                area.bytes[(rva - area.range.rva) as usize] = n as u32 + 1;
            }
        }
    }
}

/// Filler at the start of a gap. Zero bytes count only if they reach the end: `00 00` is an instruction too.
fn filler_run(bytes: &[u8]) -> usize {
    let n = x64::filler_length(bytes);
    if bytes.first() == Some(&0) && n < bytes.len() { 0 } else { n }
}
