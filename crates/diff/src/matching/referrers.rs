//! Matches by who refers: the k-th reference of a matched function or object leads to the same thing on both sides.
//! This tells apart what has no name of its own: literals, jump tables, static data, and functions with twins.

use super::{Matches, Which, similar};
use crate::align;
use crate::comparison::Rung;
use hotgraft_program::{Entity, FunctionId, ObjectId, Reference};
use rayon::prelude::*;

/// Instructions of a function that its position among the references of equal code identifies, whatever it does.
const SHORT: usize = 12;

/// How far the position of a reference is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Only functions and objects whose bytes are equal but for the addresses.
    EqualBodies,
    /// Also functions that differ, where their instructions align.
    Aligned,
}

/// One vote that the two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Vote {
    Function(FunctionId, FunctionId),
    Object(ObjectId, ObjectId),
}

/// Collects votes from everything that is matched and matches what all voters agree on.
pub(super) fn same_position(m: &mut Matches<'_>, trust: Trust) -> bool {
    let functions: Vec<_> = m.functions.iter().collect();
    let objects: Vec<_> = m.objects.iter().collect();
    let shared: &Matches<'_> = m;
    let from_functions = functions.par_iter().flat_map_iter(|(a, b)| function_votes(shared, *a, *b, trust));
    let from_objects = objects.par_iter().flat_map_iter(|(a, b)| object_votes(shared, *a, *b));
    let mut votes: Vec<Vote> = from_functions.chain(from_objects).collect();
    votes.par_sort_unstable();
    let mut functions = Vec::new();
    let mut objects = Vec::new();
    let mut rest = votes.into_iter().peekable();
    while let Some(vote) = rest.next() {
        let mut count = 1u32;
        while rest.next_if_eq(&vote).is_some() {
            count += 1;
        }
        match vote {
            Vote::Function(a, b) => functions.push((a, b, count)),
            Vote::Object(a, b) => objects.push((a, b, count)),
        }
    }
    let mut found = false;
    for (a, b, share, count) in elect(&functions) {
        let equal = m.old.body[a.index()] == m.new.body[b.index()];
        let score = if equal { 1.0 } else { similar::similarity(m, a, b) };
        let convinced = match trust {
            // A short function may be rewritten whole; a long one that has nothing in common is another one.
            Trust::EqualBodies => score >= 0.3 || m.old.code(a).steps.len().min(m.new.code(b).steps.len()) <= SHORT,
            Trust::Aligned => score >= if count >= 2 { 0.4 } else { 0.5 },
        };
        if convinced && !similar::are_other_thunks(m, a, b) && (equal || similar::names_allow(m, a, b, score)) {
            found |= m.functions.join(a, b, Rung::Referrer, share * (0.6 + 0.4 * score));
        }
    }
    for (a, b, share, _) in elect(&objects) {
        if objects_may_match(m, a, b) {
            found |= m.objects.join(a, b, Rung::Referrer, share);
        }
    }
    found
}

/// Pairs that are each other's clear majority: (old, new, share of the votes, votes).
fn elect<Id: Copy + Ord>(votes: &[(Id, Id, u32)]) -> Vec<(Id, Id, f32, u32)> {
    let mut totals_new: Vec<(Id, u32)> = votes.iter().map(|v| (v.1, v.2)).collect();
    totals_new.sort_unstable();
    let total = |list: &[(Id, u32)], id: Id| -> u32 {
        let start = list.partition_point(|v| v.0 < id);
        list[start..].iter().take_while(|v| v.0 == id).map(|v| v.1).sum()
    };
    let totals_old: Vec<(Id, u32)> = votes.iter().map(|v| (v.0, v.2)).collect();
    let mut elected = Vec::new();
    for (a, b, count) in votes {
        let all = total(&totals_old, *a).max(total(&totals_new, *b));
        let share = *count as f32 / all as f32;
        if share > 0.66 {
            elected.push((*a, *b, share, *count));
        }
    }
    elected
}

fn function_votes(m: &Matches<'_>, a: FunctionId, b: FunctionId, trust: Trust) -> Vec<Vote> {
    let mut votes = Vec::new();
    let equal = m.old.body[a.index()] == m.new.body[b.index()];
    if equal {
        for (x, y) in m.old.references_of(a).zip(m.new.references_of(b)) {
            vote(m, x, y, &mut votes);
        }
    } else if trust == Trust::Aligned {
        for (x, y) in m.aligned(a, b) {
            vote(m, x, y, &mut votes);
        }
    } else {
        return votes;
    }
    let (f, g) = (&m.old.program.functions[a.index()], &m.new.program.functions[b.index()]);
    if f.jump_tables.len() == g.jump_tables.len() {
        for (x, y) in f.jump_tables.iter().zip(&g.jump_tables) {
            push_object(m, x.object, y.object, &mut votes);
        }
    }
    if f.unwind.len() == g.unwind.len() {
        for (x, y) in f.unwind.iter().zip(&g.unwind) {
            unwind_votes(m, *x as usize, *y as usize, &mut votes);
        }
    }
    votes
}

fn unwind_votes(m: &Matches<'_>, x: usize, y: usize, votes: &mut Vec<Vote>) {
    if let (Some(p), Some(q)) = (m.old.unwind_object[x], m.new.unwind_object[y]) {
        push_object(m, p, q, votes);
    }
    let (x, y) = (&m.old.program.unwind[x], &m.new.program.unwind[y]);
    if x.references.len() == y.references.len() {
        for (r, s) in x.references.iter().zip(&y.references) {
            if r.site.wrapping_sub(x.info) == s.site.wrapping_sub(y.info) {
                vote(m, r, s, votes);
            }
        }
    }
}

fn object_votes(m: &Matches<'_>, a: ObjectId, b: ObjectId) -> Vec<Vote> {
    let (o, p) = (&m.old.program.objects[a.index()], &m.new.program.objects[b.index()]);
    let mut votes = Vec::new();
    if crate::side::is_loader_table(o.kind) && !matches!(o.kind, hotgraft_program::ObjectKind::Unwind) {
        return votes;
    }
    let (xs, ys) = (m.old.references_in_object(a), m.new.references_in_object(b));
    // Records of a table may have been added, removed or sorted otherwise: what is known on both sides holds the rest in
    // place. A pointer between two such fixed points is paired if its distance to both says the same.
    let known = |references: &[Reference], which| -> Vec<Option<u64>> {
        references.iter().map(|r| m.shared_label(r.target, which)).collect()
    };
    let fixed = align::common(&known(xs, Which::Old), &known(ys, Which::New));
    let place = |list: &[Reference], start: u32, i: usize| i64::from(list[i].site) - i64::from(start);
    let first = (-1, 0, -1, 0);
    let last = (xs.len() as i64, i64::from(o.size), ys.len() as i64, i64::from(p.size));
    let inner = fixed.iter().map(|(i, j)| (*i as i64, place(xs, o.rva, *i), *j as i64, place(ys, p.rva, *j)));
    let points: Vec<(i64, i64, i64, i64)> = std::iter::once(first).chain(inner).chain([last]).collect();
    for pair in points.windows(2) {
        let ((i0, x0, j0, y0), (i1, x1, j1, y1)) = (pair[0], pair[1]);
        let theirs = &ys[(j0 + 1) as usize..j1 as usize];
        let at = |offset: i64| {
            theirs.binary_search_by_key(&(offset + i64::from(p.rva)), |r| i64::from(r.site)).ok().map(|n| &theirs[n])
        };
        for x in &xs[(i0 + 1) as usize..i1 as usize] {
            let offset = i64::from(x.site) - i64::from(o.rva);
            let (forward, backward) = (at(offset - x0 + y0), at(offset - x1 + y1));
            // The end of the object is no fixed point unless both are equally large.
            let backward = if pair[1] == last && o.size != p.size { forward } else { backward };
            if let (Some(y), Some(z)) = (forward, backward)
                && y.site == z.site
            {
                vote(m, x, y, &mut votes);
            }
        }
    }
    votes
}

fn vote(m: &Matches<'_>, x: &Reference, y: &Reference, votes: &mut Vec<Vote>) {
    if x.target.addend != y.target.addend {
        return;
    }
    match (x.target.entity, y.target.entity) {
        (Entity::Function(a), Entity::Function(b)) if x.target.addend == 0 && m.functions.are_free(a, b) => {
            votes.push(Vote::Function(a, b));
        }
        (Entity::Object(a), Entity::Object(b)) => push_object(m, a, b, votes),
        _ => {}
    }
}

fn push_object(m: &Matches<'_>, a: ObjectId, b: ObjectId, votes: &mut Vec<Vote>) {
    if m.objects.are_free(a, b) {
        votes.push(Vote::Object(a, b));
    }
}

/// What two objects must have in common whatever their referrers say. Two different names mean a renamed variable only
/// if nothing else differs.
fn objects_may_match(m: &Matches<'_>, a: ObjectId, b: ObjectId) -> bool {
    let (o, p) = (&m.old.program.objects[a.index()], &m.new.program.objects[b.index()]);
    if std::mem::discriminant(&o.kind) != std::mem::discriminant(&p.kind) {
        // A literal may stop being text by a change of its bytes; variables and tables keep their kind.
        return !o.writable && !p.writable && !m.old.has_identity(a) && !m.new.has_identity(b);
    }
    if m.old.has_identity(a) && m.new.has_identity(b) {
        return o.size == p.size && o.writable == p.writable && m.old.content[a.index()] == m.new.content[b.index()];
    }
    m.old.has_identity(a) == m.new.has_identity(b)
}
