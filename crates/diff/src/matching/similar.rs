//! Similarity of functions, and matches of those that are each other's best candidate above the threshold.

use super::bodies::{free_functions, named_set};
use super::{Matches, Which};
use crate::comparison::Rung;
use crate::options::Options;
use crate::side::Side;
use hotgraft_program::{Entity, FunctionId};
use rayon::prelude::*;
use rustc_hash::FxHashMap;

/// With names on both sides that differ, only this much similarity makes a renamed function.
const RENAMED: f32 = 0.8;

/// With names on both sides that differ, a body of fewer instructions says nothing: every import thunk is one `jmp`.
const TELLING: usize = 4;

/// The words of a function: instructions without addresses, and pairs of mnemonics; sorted, with repetitions.
fn features(side: &Side<'_>, id: FunctionId) -> (Vec<u64>, Vec<u64>) {
    let steps = &side.code(id).steps;
    let mut exact: Vec<u64> = steps.iter().map(|s| s.exact).collect();
    let mut pairs: Vec<u64> =
        steps.windows(2).map(|w| u64::from(w[0].mnemonic) << 16 | u64::from(w[1].mnemonic)).collect();
    exact.sort_unstable();
    pairs.sort_unstable();
    (exact, pairs)
}

/// Share of the words that two sorted lists have in common (Dice), 1 for two empty lists.
fn overlap(a: &[u64], b: &[u64]) -> f32 {
    if a.is_empty() && b.is_empty() {
        return 1.0;
    }
    let (mut i, mut j, mut common) = (0, 0, 0u32);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                common += 1;
                i += 1;
                j += 1;
            }
        }
    }
    2.0 * common as f32 / (a.len() + b.len()) as f32
}

/// Resemblance of two functions, 0 to 1: their instructions, the order of their mnemonics, and the named things they
/// refer to.
pub(super) fn similarity(m: &Matches<'_>, a: FunctionId, b: FunctionId) -> f32 {
    let (old, new) = (features(&m.old, a), features(&m.new, b));
    let instructions = 0.5 * overlap(&old.0, &new.0) + 0.5 * overlap(&old.1, &new.1);
    let references = (named_set(m, &m.old, Which::Old, a), named_set(m, &m.new, Which::New, b));
    if references.0.is_empty() && references.1.is_empty() {
        return instructions;
    }
    0.65 * instructions + 0.35 * overlap(&references.0, &references.1)
}

/// True if both are jumps to imports, but to different ones: such are never the same function.
pub(super) fn are_other_thunks(m: &Matches<'_>, a: FunctionId, b: FunctionId) -> bool {
    /// Bytes of `jmp [import]` with filler, at most.
    const THUNK: u32 = 8;
    let import = |side: &Side<'_>, id: FunctionId| {
        let mut references = side.references_of(id);
        match (references.next().map(|r| r.target.entity), references.next()) {
            (Some(Entity::Import(import)), None) if side.program.functions[id.index()].size() <= THUNK => Some(import),
            _ => None,
        }
    };
    match (import(&m.old, a), import(&m.new, b)) {
        (Some(i), Some(k)) => !m.imports.are(i, k),
        _ => false,
    }
}

/// True unless both functions have names, which then differ, and the bodies do not speak for a renamed function.
pub(super) fn names_allow(m: &Matches<'_>, a: FunctionId, b: FunctionId, score: f32) -> bool {
    let named = m.old.function_names(a).next().is_some() && m.new.function_names(b).next().is_some();
    let steps = |side: &Side<'_>, id| side.code(id).steps.len();
    let telling = steps(&m.old, a).min(steps(&m.new, b)) >= TELLING;
    !are_other_thunks(m, a, b) && (!named || (telling && score >= RENAMED))
}

/// Functions that resemble each other above the threshold, each the other's best candidate by a clear margin.
pub(super) fn mutual_best(m: &mut Matches<'_>, options: &Options) -> bool {
    let (old, new) = (free_functions(m, Which::Old), free_functions(m, Which::New));
    if old.is_empty() || new.is_empty() {
        return false;
    }
    let shared: &Matches<'_> = m;
    // Candidates share rare words; common ones say nothing and would make this quadratic.
    let words = |which: Which, id: FunctionId| {
        let mut all = features(shared.side(which), id).0;
        all.extend(named_set(shared, shared.side(which), which, id));
        all.sort_unstable();
        all.dedup();
        all
    };
    let new_words: Vec<Vec<u64>> = new.par_iter().map(|id| words(Which::New, *id)).collect();
    let mut index: FxHashMap<u64, Vec<u32>> = FxHashMap::default();
    for (i, words) in new_words.iter().enumerate() {
        for word in words {
            index.entry(*word).or_default().push(i as u32);
        }
    }
    const RARE: usize = 64;
    let scored: Vec<(f32, FunctionId, FunctionId)> = old
        .par_iter()
        .flat_map_iter(|a| {
            let mut hits: FxHashMap<u32, u32> = FxHashMap::default();
            for word in words(Which::Old, *a) {
                for i in index.get(&word).filter(|list| list.len() <= RARE).into_iter().flatten() {
                    *hits.entry(*i).or_default() += 1;
                }
            }
            let mut best: Vec<(u32, u32)> = hits.into_iter().map(|(i, n)| (n, i)).collect();
            best.sort_unstable_by(|x, y| y.0.cmp(&x.0).then(x.1.cmp(&y.1)));
            best.truncate(12);
            best.into_iter()
                .map(|(_, i)| (similarity(shared, *a, new[i as usize]), *a, new[i as usize]))
                .filter(|s| s.0 >= options.similarity_threshold * 0.8)
                .collect::<Vec<_>>()
        })
        .collect();
    /// Best and second best candidate of one function.
    fn rank(
        map: &mut FxHashMap<FunctionId, [(f32, FunctionId); 2]>,
        of: FunctionId,
        score: f32,
        candidate: FunctionId,
    ) {
        let top = map.entry(of).or_insert([(-1.0, FunctionId(u32::MAX)); 2]);
        if score > top[0].0 {
            top[1] = top[0];
            top[0] = (score, candidate);
        } else if score > top[1].0 {
            top[1] = (score, candidate);
        }
    }
    let (mut of_old, mut of_new) = (FxHashMap::default(), FxHashMap::default());
    for (score, a, b) in &scored {
        rank(&mut of_old, *a, *score, *b);
        rank(&mut of_new, *b, *score, *a);
    }
    const MARGIN: f32 = 0.02;
    let mut chosen: Vec<(FunctionId, FunctionId, f32)> = Vec::new();
    for a in &old {
        let Some([(score, b), (second, _)]) = of_old.get(a) else { continue };
        let [(_, back), (rival, _)] = of_new[b];
        if back == *a && *score >= options.similarity_threshold && score - second.max(rival) >= MARGIN {
            chosen.push((*a, *b, *score));
        }
    }
    let mut found = false;
    for (a, b, score) in chosen {
        if names_allow(m, a, b, score) {
            found |= m.functions.join(a, b, Rung::Similarity, score * 0.9);
        }
    }
    found
}
