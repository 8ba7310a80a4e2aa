//! Matches by what a function is made of: its normalised body with what its references lead to, and the set of named
//! things it refers to.

use super::{Matches, Which, unique_pairs};
use crate::comparison::Rung;
use crate::side::{Side, hash_of};
use hotgraft_program::{Entity, FunctionId, ObjectId, Reference};
use rayon::prelude::*;

/// Below this many bytes an equal body says nothing where names speak against it.
const TELLING_SIZE: u32 = 16;

/// Labels of functions and objects of one side; equal labels mean equal as far as references were followed.
pub(super) struct Labels {
    pub(super) functions: Vec<u64>,
    pub(super) objects: Vec<u64>,
}

impl Labels {
    /// What is matched is labelled by its match, strings by their text, everything else by its own bytes.
    fn own(m: &Matches<'_>, which: Which) -> Self {
        let side = m.side(which);
        let functions = (0..side.program.functions.len()).map(FunctionId::from);
        let objects = (0..side.program.objects.len()).map(ObjectId::from);
        Labels {
            functions: functions.map(|id| fixed_function(m, which, id).unwrap_or(side.body[id.index()])).collect(),
            objects: objects
                .map(|id| {
                    let o = &side.program.objects[id.index()];
                    let kind = std::mem::discriminant(&o.kind);
                    let own = || hash_of((kind, o.writable, side.content[id.index()], o.writable.then_some(o.size)));
                    fixed_object(m, which, id).unwrap_or_else(own)
                })
                .collect(),
        }
    }

    /// The labels with references followed one step further.
    fn deeper(&self, m: &Matches<'_>, which: Which) -> Self {
        let side = m.side(which);
        let functions = (0..side.program.functions.len()).into_par_iter().map(|i| {
            let id = FunctionId::from(i);
            fixed_function(m, which, id).unwrap_or_else(|| {
                let references = side.references_of(id).map(|r| self.of(m, which, r));
                hash_of((side.body[i], references.collect::<Vec<_>>()))
            })
        });
        let objects = (0..side.program.objects.len()).into_par_iter().map(|i| {
            let id = ObjectId::from(i);
            fixed_object(m, which, id).unwrap_or_else(|| {
                let references = side.references_in_object(id).iter().map(|r| self.of(m, which, r));
                hash_of((self.objects[i], references.collect::<Vec<_>>()))
            })
        });
        Labels { functions: functions.collect(), objects: objects.collect() }
    }

    fn of(&self, m: &Matches<'_>, which: Which, reference: &Reference) -> u64 {
        let addend = reference.target.addend;
        match reference.target.entity {
            Entity::Function(id) | Entity::Fragment(id, _) => hash_of((self.functions[id.index()], addend)),
            Entity::Object(id) => m
                .side(which)
                .text_of(id, addend)
                .map_or_else(|| hash_of((self.objects[id.index()], addend)), |text| hash_of((5u8, text))),
            _ => m.shared_label(reference.target, which).unwrap_or(0),
        }
    }

    /// Labels of both sides with references followed no step, one step, and so on up to `depth` steps.
    fn up_to_depth(m: &Matches<'_>, depth: usize) -> (Vec<Self>, Vec<Self>) {
        let run = |which| {
            let mut all = vec![Labels::own(m, which)];
            for n in 0..depth {
                all.push(all[n].deeper(m, which));
            }
            all
        };
        rayon::join(|| run(Which::Old), || run(Which::New))
    }

    /// Labels of both sides with references followed `depth` steps.
    pub(super) fn at_depth(m: &Matches<'_>, depth: usize) -> (Self, Self) {
        let run = |which| (0..depth).fold(Labels::own(m, which), |labels, _| labels.deeper(m, which));
        rayon::join(|| run(Which::Old), || run(Which::New))
    }
}

fn fixed_function(m: &Matches<'_>, which: Which, id: FunctionId) -> Option<u64> {
    match which {
        Which::Old => m.functions.new_of(id).map(|_| hash_of((1u8, id))),
        Which::New => m.functions.old_of(id).map(|id| hash_of((1u8, id))),
    }
}

fn fixed_object(m: &Matches<'_>, which: Which, id: ObjectId) -> Option<u64> {
    match which {
        Which::Old => m.objects.new_of(id).map(|_| hash_of((4u8, id))),
        Which::New => m.objects.old_of(id).map(|id| hash_of((4u8, id))),
    }
}

/// The ids without a match.
pub(super) fn free_functions(m: &Matches<'_>, which: Which) -> Vec<FunctionId> {
    match which {
        Which::Old => m.functions.free_old().collect(),
        Which::New => m.functions.free_new().collect(),
    }
}

/// Equal bodies whose references lead to the same things, followed three, two and one steps; unique on both sides.
pub(super) fn exact(m: &mut Matches<'_>) -> bool {
    let mut found = false;
    // Labels of fewer steps are what those of more are made of, as long as no match changes them.
    let mut known = None;
    for depth in [3, 2, 1] {
        if free_functions(m, Which::Old).is_empty() || free_functions(m, Which::New).is_empty() {
            break;
        }
        let (old, new) = known.get_or_insert_with(|| Labels::up_to_depth(m, depth));
        let (old, new) = (&old[depth], &new[depth]);
        let keys = |which: Which, labels: &Labels| -> Vec<(u64, FunctionId)> {
            let side = m.side(which);
            let telling = |id: &FunctionId| {
                let size = side.program.functions[id.index()].size();
                size >= TELLING_SIZE || (!side.named && side.references_of(*id).next().is_some())
            };
            free_functions(m, which).into_iter().filter(telling).map(|id| (labels.functions[id.index()], id)).collect()
        };
        let mut here = false;
        for (a, b) in unique_pairs(keys(Which::Old, old).into_iter(), keys(Which::New, new).into_iter()) {
            if !super::similar::are_other_thunks(m, a, b) {
                here |= m.functions.join(a, b, Rung::ExactBody, 1.0);
            }
        }
        if here {
            known = None;
        }
        found |= here;
    }
    found
}

/// Equal bodies, wherever their references lead; unique on both sides.
pub(super) fn masked(m: &mut Matches<'_>) -> bool {
    let keys = |which: Which| -> Vec<(u64, FunctionId)> {
        let side = m.side(which);
        let telling = |id: &FunctionId| side.program.functions[id.index()].size() >= TELLING_SIZE;
        free_functions(m, which).into_iter().filter(telling).map(|id| (side.body[id.index()], id)).collect()
    };
    let mut found = false;
    for (a, b) in unique_pairs(keys(Which::Old).into_iter(), keys(Which::New).into_iter()) {
        found |= m.functions.join(a, b, Rung::ExactBody, 0.95);
    }
    found
}

/// Labels of the named things a function refers to: strings, imports, whatever is matched; sorted, each once.
pub(super) fn named_set(m: &Matches<'_>, side: &Side<'_>, which: Which, id: FunctionId) -> Vec<u64> {
    let mut set: Vec<_> = side.references_of(id).filter_map(|r| m.shared_label(r.target, which)).collect();
    set.sort_unstable();
    set.dedup();
    set
}

/// The same set of at least two references to named things, or one that only these two functions have; unique on both
/// sides, and not contradicted by the bodies.
pub(super) fn named_references(m: &mut Matches<'_>) -> bool {
    let keys = |which: Which| -> Vec<(Vec<u64>, FunctionId)> {
        let side = m.side(which);
        let free = free_functions(m, which);
        free.par_iter().map(|id| (named_set(m, side, which, *id), *id)).filter(|(set, _)| set.len() >= 2).collect()
    };
    let (old, new) = (keys(Which::Old), keys(Which::New));
    let mut found = false;
    for (a, b) in unique_pairs(old.into_iter(), new.into_iter()) {
        let score = super::similar::similarity(m, a, b);
        if score >= 0.5 && super::similar::names_allow(m, a, b, score) {
            found |= m.functions.join(a, b, Rung::NamedReferences, 0.7 + 0.3 * score);
        }
    }
    found
}
