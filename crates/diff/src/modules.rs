//! Which compiland of the old image is which of the new one, although they were built in different folders.

use hotgraft_program::{FunctionId, ModuleId, Program};
use rustc_hash::FxHashMap;

/// Pairs of compilands, as one number per module: paired modules have the same number, others one of their own.
pub(crate) struct ModuleNumbers {
    pub(crate) old: Vec<u32>,
    pub(crate) new: Vec<u32>,
}

impl ModuleNumbers {
    pub(crate) fn paths(old: &Program, new: &Program) -> Self {
        let count = old.modules.len() as u32;
        let mut numbers =
            ModuleNumbers { old: (0..count).collect(), new: (count..count + new.modules.len() as u32).collect() };
        for (a, b) in pair_by_tail(
            &old.modules.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(),
            &new.modules.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(),
        ) {
            numbers.new[b] = numbers.old[a];
        }
        numbers
    }

    /// Pairs modules that have no counterpart by path (temporary object names) by the functions already matched: all
    /// matched functions of the one lie in the other.
    pub(crate) fn learn(
        &mut self,
        old: &Program,
        new: &Program,
        pairs: impl Iterator<Item = (FunctionId, FunctionId)>,
    ) -> bool {
        let count = old.modules.len() as u32;
        let taken: rustc_hash::FxHashSet<u32> = self.new.iter().copied().filter(|n| *n < count).collect();
        let mut forward: FxHashMap<ModuleId, Option<ModuleId>> = FxHashMap::default();
        let mut backward: FxHashMap<ModuleId, Option<ModuleId>> = FxHashMap::default();
        for (a, b) in pairs {
            let (Some(a), Some(b)) = (old.functions[a.index()].module, new.functions[b.index()].module) else {
                continue;
            };
            if taken.contains(&self.old[a.index()]) || self.new[b.index()] < count {
                continue;
            }
            forward.entry(a).and_modify(|v| *v = v.filter(|v| *v == b)).or_insert(Some(b));
            backward.entry(b).and_modify(|v| *v = v.filter(|v| *v == a)).or_insert(Some(a));
        }
        let mut changed = false;
        // The order of this loop does not matter: each pair is independent of the others.
        for (a, b) in forward {
            if let Some(b) = b
                && backward.get(&b) == Some(&Some(a))
            {
                self.new[b.index()] = self.old[a.index()];
                changed = true;
            }
        }
        changed
    }
}

/// Path components from the last to the first, lower case, both separators; `a.lib(b.obj)` counts as `a.lib/b.obj`.
fn components(path: &str) -> Vec<String> {
    path.to_ascii_lowercase()
        .trim_end_matches(')')
        .split(['/', '\\', '('])
        .filter(|c| !c.is_empty() && *c != ".")
        .rev()
        .map(str::to_owned)
        .collect()
}

/// Pairs of paths with the longest common tail, each the other's only best.
fn pair_by_tail(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    let old: Vec<_> = old.iter().map(|p| components(p)).collect();
    let new: Vec<_> = new.iter().map(|p| components(p)).collect();
    let mut by_name: FxHashMap<&str, (Vec<usize>, Vec<usize>)> = FxHashMap::default();
    for (i, c) in old.iter().enumerate() {
        if let Some(name) = c.first() {
            by_name.entry(name).or_default().0.push(i);
        }
    }
    for (i, c) in new.iter().enumerate() {
        if let Some(name) = c.first() {
            by_name.entry(name).or_default().1.push(i);
        }
    }
    let common = |a: &[String], b: &[String]| a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let mut pairs = Vec::new();
    for (olds, news) in by_name.into_values() {
        let best = |from: &[String], among: &[usize], side: &[Vec<String>]| -> Option<usize> {
            let top = among.iter().map(|i| common(from, &side[*i])).max()?;
            let mut hits = among.iter().filter(|i| common(from, &side[**i]) == top);
            let hit = *hits.next()?;
            hits.next().is_none().then_some(hit)
        };
        for a in &olds {
            if let Some(b) = best(&old[*a], &news, &new)
                && best(&new[b], &olds, &old) == Some(*a)
            {
                pairs.push((*a, b));
            }
        }
    }
    pairs.sort_unstable();
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_folders_same_tails() {
        let old = ["/b/old/lib/a.obj", "/b/old/tools/a.obj", "c:\\crt\\libcmt.lib(x.obj)", "/b/old/gone.obj"];
        let new = ["D:\\new\\tools\\a.obj", "D:\\new\\lib\\a.obj", "/sdk/LIBCMT.lib/x.obj"];
        assert_eq!(pair_by_tail(&old, &new), [(0, 1), (1, 0), (2, 2)]);
    }

    #[test]
    fn ambiguous_tails_stay_apart() {
        assert_eq!(pair_by_tail(&["/p/a.obj", "/q/a.obj"], &["/r/a.obj"]), []);
    }
}
