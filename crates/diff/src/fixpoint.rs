//! The greatest fixed point: everything matched is equal until shown otherwise.

use crate::equal::{Judge, Node};
use crate::matching::Matches;
use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

/// The pairs that are not equal. A pair is looked at again when one that it relied on turns out to be unequal; as
/// that can only take away, the result does not depend on the order.
pub(crate) fn unequal(m: &Matches<'_>) -> FxHashSet<Node> {
    let mut unequal: FxHashSet<Node> = FxHashSet::default();
    let mut known: FxHashSet<Node> = FxHashSet::default();
    let mut dependents: FxHashMap<Node, Vec<Node>> = FxHashMap::default();
    let mut dirty: Vec<Node> = m
        .functions
        .iter()
        .map(|(a, b)| Node::Function(a, b))
        .chain(m.objects.iter().map(|(a, b)| Node::Object(a, b)))
        .collect();
    known.extend(&dirty);
    while !dirty.is_empty() {
        let judge = Judge { m, unequal: &unequal };
        let answers: Vec<(Node, Option<Vec<Node>>)> = dirty
            .par_iter()
            .map(|node| {
                let mut relied = Vec::new();
                let equal = judge.node(*node, &mut relied);
                relied.sort_unstable();
                relied.dedup();
                (*node, equal.then_some(relied))
            })
            .collect();
        let mut next = Vec::new();
        for (node, relied) in answers {
            match relied {
                Some(relied) => {
                    for other in relied {
                        if known.insert(other) {
                            next.push(other);
                        }
                        dependents.entry(other).or_default().push(node);
                        // It may have fallen in this very round.
                        if unequal.contains(&other) {
                            next.push(node);
                        }
                    }
                }
                None => {
                    unequal.insert(node);
                    next.extend(dependents.remove(&node).unwrap_or_default());
                }
            }
        }
        next.sort_unstable();
        next.dedup();
        next.retain(|node| !unequal.contains(node));
        dirty = next;
    }
    unequal
}
