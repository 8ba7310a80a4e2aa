//! Instruction by instruction: which instruction of the old function became which one of the new.
//!
//! Common heads and tails first, then instructions that occur once on both sides as fixed points (patience), then the
//! cheapest edit script of what is left between them.

use crate::code::{Code, Step};
use crate::side::Side;
use hotgraft_program::{FunctionId, Program, Reference};
use serde::Serialize;

/// One row of an alignment; numbers are positions in the two instruction lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// The same but for addresses.
    Same(usize, usize),
    /// The same mnemonic and operand kinds.
    Alike(usize, usize),
    /// Only in the old function.
    Removed(usize),
    /// Only in the new function.
    Inserted(usize),
}

/// Cells of the table of an edit script, at most; larger gaps are aligned greedily.
const CELLS: usize = 1 << 22;

/// Aligns two instruction lists.
pub(crate) fn rows(old: &[Step], new: &[Step]) -> Vec<Row> {
    let mut out = Vec::with_capacity(old.len().max(new.len()));
    let mut work = vec![(0..old.len(), 0..new.len())];
    // Ranges are taken from the top of the stack in order, so rows come out in order.
    while let Some((a, b)) = work.pop() {
        let (mut i, mut j) = (a.start, b.start);
        while i < a.end && j < b.end && old[i].exact == new[j].exact {
            out.push(Row::Same(i, j));
            i += 1;
            j += 1;
        }
        let mut tail = 0;
        while i + tail < a.end && j + tail < b.end && old[a.end - 1 - tail].exact == new[b.end - 1 - tail].exact {
            tail += 1;
        }
        let (ae, be) = (a.end - tail, b.end - tail);
        if tail > 0 {
            work.push((ae..a.end, be..b.end));
        }
        if i == ae || j == be {
            out.extend((i..ae).map(Row::Removed));
            out.extend((j..be).map(Row::Inserted));
            continue;
        }
        let anchors = patience(old, new, i..ae, j..be);
        if anchors.is_empty() {
            script(old, new, i..ae, j..be, &mut out);
            continue;
        }
        let mut ends = (ae, be);
        for (x, y) in anchors.iter().rev() {
            work.push((*x..ends.0, *y..ends.1));
            ends = (*x, *y);
        }
        work.push((i..ends.0, j..ends.1));
    }
    out
}

type Span = std::ops::Range<usize>;

/// Instructions that occur once in both spans, as the longest increasing chain.
fn patience(old: &[Step], new: &[Step], a: Span, b: Span) -> Vec<(usize, usize)> {
    chain(a.map(|i| (old[i].exact, i)).collect(), b.map(|j| (new[j].exact, j)).collect())
}

/// Positions of what occurs once in both lists, as the longest chain that goes forward in both.
pub(crate) fn common(old: &[Option<u64>], new: &[Option<u64>]) -> Vec<(usize, usize)> {
    let tokens = |list: &[Option<u64>]| list.iter().enumerate().filter_map(|(i, t)| Some(((*t)?, i))).collect();
    chain(tokens(old), tokens(new))
}

/// The longest increasing chain of pairs of tokens that occur once on both sides.
fn chain(old: Vec<(u64, usize)>, new: Vec<(u64, usize)>) -> Vec<(usize, usize)> {
    let once = |mut all: Vec<(u64, usize)>| -> Vec<(u64, usize)> {
        all.sort_unstable();
        let alone = |i: usize| (i == 0 || all[i - 1].0 != all[i].0) && (i + 1 == all.len() || all[i + 1].0 != all[i].0);
        (0..all.len()).filter(|i| alone(*i)).map(|i| all[i]).collect()
    };
    let (x, y) = (once(old), once(new));
    let mut pairs = Vec::new();
    let mut at = 0;
    for (token, i) in x {
        while at < y.len() && y[at].0 < token {
            at += 1;
        }
        if at < y.len() && y[at].0 == token {
            pairs.push((i, y[at].1));
        }
    }
    pairs.sort_unstable();
    // Longest increasing subsequence of the new positions.
    let mut piles: Vec<usize> = Vec::new();
    let mut previous = vec![usize::MAX; pairs.len()];
    for (n, (_, j)) in pairs.iter().enumerate() {
        let pile = piles.partition_point(|top| pairs[*top].1 < *j);
        if pile > 0 {
            previous[n] = piles[pile - 1];
        }
        if pile == piles.len() {
            piles.push(n);
        } else {
            piles[pile] = n;
        }
    }
    let mut chain = Vec::with_capacity(piles.len());
    let mut at = piles.last().copied().unwrap_or(usize::MAX);
    while at != usize::MAX {
        chain.push(pairs[at]);
        at = previous[at];
    }
    chain.reverse();
    chain
}

/// The best alignment of two spans without fixed points: equal instructions are worth more than alike ones, and both
/// more than a gap.
fn script(old: &[Step], new: &[Step], a: Span, b: Span, out: &mut Vec<Row>) {
    let (n, k) = (a.len(), b.len());
    if n.saturating_mul(k) > CELLS {
        greedy(old, new, a, b, out);
        return;
    }
    let worth = |i: usize, j: usize| -> u32 {
        let (x, y) = (&old[a.start + i], &new[b.start + j]);
        if x.exact == y.exact {
            5
        } else if x.exact_but_immediate == y.exact_but_immediate {
            4
        } else if x.shape == y.shape {
            2
        } else {
            0
        }
    };
    let width = k + 1;
    let mut best = vec![0u32; (n + 1) * width];
    for i in (0..n).rev() {
        for j in (0..k).rev() {
            let w = worth(i, j);
            let diagonal = if w > 0 { best[(i + 1) * width + j + 1] + w } else { 0 };
            best[i * width + j] = diagonal.max(best[(i + 1) * width + j]).max(best[i * width + j + 1]);
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < n && j < k {
        let here = best[i * width + j];
        let w = worth(i, j);
        if w > 0 && here == best[(i + 1) * width + j + 1] + w {
            out.push(pair(old, new, a.start + i, b.start + j));
            i += 1;
            j += 1;
        } else if here == best[(i + 1) * width + j] {
            out.push(Row::Removed(a.start + i));
            i += 1;
        } else {
            out.push(Row::Inserted(b.start + j));
            j += 1;
        }
    }
    out.extend((i..n).map(|i| Row::Removed(a.start + i)));
    out.extend((j..k).map(|j| Row::Inserted(b.start + j)));
}

/// For spans too large for a table: each old instruction takes the next equal one close by.
fn greedy(old: &[Step], new: &[Step], a: Span, b: Span, out: &mut Vec<Row>) {
    const WINDOW: usize = 256;
    let mut j = b.start;
    for i in a {
        match (j..b.end.min(j + WINDOW)).find(|j| old[i].exact == new[*j].exact) {
            Some(hit) => {
                out.extend((j..hit).map(Row::Inserted));
                out.push(Row::Same(i, hit));
                j = hit + 1;
            }
            None => out.push(Row::Removed(i)),
        }
    }
    out.extend((j..b.end).map(Row::Inserted));
}

fn pair(old: &[Step], new: &[Step], i: usize, j: usize) -> Row {
    if old[i].exact == new[j].exact { Row::Same(i, j) } else { Row::Alike(i, j) }
}

/// References inside an instruction.
pub(crate) fn references_of<'p>(program: &'p Program, step: &Step) -> &'p [Reference] {
    program.references_in(step.rva, step.rva + u32::from(step.len))
}

/// The references that stand at the same place of aligned instructions.
pub(crate) fn reference_pairs<'p>(
    old: &Side<'p>,
    a: FunctionId,
    new: &Side<'p>,
    b: FunctionId,
) -> Vec<(&'p Reference, &'p Reference)> {
    let (x, y) = (&old.code(a).steps, &new.code(b).steps);
    let mut pairs = Vec::new();
    for row in rows(x, y) {
        let (Row::Same(i, j) | Row::Alike(i, j)) = row else { continue };
        let (r, s) = (references_of(old.program, &x[i]), references_of(new.program, &y[j]));
        if r.len() == s.len() {
            pairs.extend(r.iter().zip(s).filter(|(r, s)| r.form == s.form));
        }
    }
    pairs
}

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    /// The same, addresses apart.
    Same,
    /// Became another instruction.
    Changed,
    /// Only in the old function.
    Removed,
    /// Only in the new function.
    Inserted,
}

/// One line of two listings side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What became of it. `Same` says nothing of addresses: compare the texts, which name what they lead to.
    pub kind: LineKind,
    /// RVA and text of the old instruction.
    pub old: Option<(u32, String)>,
    /// RVA and text of the new instruction.
    pub new: Option<(u32, String)>,
}

/// Two functions side by side, addresses named.
pub fn listing(old: &Program, a: FunctionId, new: &Program, b: FunctionId) -> Vec<Line> {
    let (x, y) = (Code::decode(old, a), Code::decode(new, b));
    let (mut p, mut q) = (crate::code::Printer::new(old, a), crate::code::Printer::new(new, b));
    rows(&x.steps, &y.steps)
        .into_iter()
        .map(|row| {
            let (kind, i, j) = match row {
                Row::Same(i, j) => (LineKind::Same, Some(i), Some(j)),
                Row::Alike(i, j) => (LineKind::Changed, Some(i), Some(j)),
                Row::Removed(i) => (LineKind::Removed, Some(i), None),
                Row::Inserted(j) => (LineKind::Inserted, None, Some(j)),
            };
            Line {
                kind,
                old: i.map(|i| (x.steps[i].rva, p.text(&x.steps[i]))),
                new: j.map(|j| (y.steps[j].rva, q.text(&y.steps[j]))),
            }
        })
        .collect()
}

/// One function as text: RVA and instruction, addresses named, range by range.
pub fn disassembly(program: &Program, id: FunctionId) -> Vec<(u32, String)> {
    let code = Code::decode(program, id);
    let mut printer = crate::code::Printer::new(program, id);
    code.steps.iter().map(|step| (step.rva, printer.text(step))).collect()
}
