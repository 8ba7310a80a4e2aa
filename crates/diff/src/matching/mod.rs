//! The matching ladder: the best evidence first, each match recording its rung, and no guess at the end.
//!
//! Each rung looks at what is still unmatched, finds pairs that are unique on both sides by its evidence, and leaves
//! the rest to the next one. Whenever a weaker rung finds something, the stronger ones run again with the new matches
//! as evidence. Nothing depends on the order of hash maps or on scheduling: rungs sort what they find.

mod anchors;
mod bodies;
mod flow;
mod names;
mod objects;
mod referrers;
mod similar;

use crate::comparison::{Match, Rung};
use crate::modules::ModuleNumbers;
use crate::options::Options;
use crate::side::{Side, hash_of};
use hotgraft_program::{Entity, FunctionId, ImportId, ObjectId, Program, Reference, Target};
use std::sync::OnceLock;

/// Both programs, what has been matched so far, and what the rungs share.
pub(crate) struct Matches<'a> {
    pub(crate) old: Side<'a>,
    pub(crate) new: Side<'a>,
    pub(crate) modules: ModuleNumbers,
    pub(crate) functions: Pairs<FunctionId>,
    pub(crate) objects: Pairs<ObjectId>,
    pub(crate) imports: Pairs<ImportId>,
    /// Per old function: what [`crate::align::reference_pairs`] says of it and its match, which stays the same.
    aligned: Vec<OnceLock<ReferencePairs<'a>>>,
}

/// References that stand at the same place of two functions.
type ReferencePairs<'a> = Vec<(&'a Reference, &'a Reference)>;

/// One-to-one pairs, looked up from either side.
pub(crate) struct Pairs<Id> {
    of_old: Vec<Option<(Id, Match)>>,
    of_new: Vec<Option<Id>>,
}

/// What [`Pairs`] needs of an index type.
pub(crate) trait Index: Copy + Ord + From<usize> {
    fn position(self) -> usize;
}

macro_rules! index {
    ($($id:ident),*) => {$(impl Index for $id {
        fn position(self) -> usize {
            self.index()
        }
    })*};
}
index!(FunctionId, ObjectId, ImportId);

impl<Id: Index> Pairs<Id> {
    fn new(old: usize, new: usize) -> Self {
        Pairs { of_old: vec![None; old], of_new: vec![None; new] }
    }

    /// The new one that `old` is matched with.
    pub(crate) fn new_of(&self, old: Id) -> Option<Id> {
        self.of_old[old.position()].map(|(id, _)| id)
    }

    /// The old one that `new` is matched with.
    pub(crate) fn old_of(&self, new: Id) -> Option<Id> {
        self.of_new[new.position()]
    }

    /// The evidence of the match of `old`.
    pub(crate) fn evidence(&self, old: Id) -> Option<Match> {
        self.of_old[old.position()].map(|(_, m)| m)
    }

    /// True if the two are matched with each other.
    pub(crate) fn are(&self, old: Id, new: Id) -> bool {
        self.new_of(old) == Some(new)
    }

    /// True if neither is matched.
    pub(crate) fn are_free(&self, old: Id, new: Id) -> bool {
        self.of_old[old.position()].is_none() && self.of_new[new.position()].is_none()
    }

    /// Matches two if both are free.
    pub(crate) fn join(&mut self, old: Id, new: Id, by: Rung, score: f32) -> bool {
        let free = self.are_free(old, new);
        if free {
            self.of_old[old.position()] = Some((new, Match { by, score }));
            self.of_new[new.position()] = Some(old);
        }
        free
    }

    /// All pairs, by old index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Id, Id)> + '_ {
        self.of_old.iter().enumerate().filter_map(|(i, m)| Some((Id::from(i), m.as_ref()?.0)))
    }

    /// The old ones without a match, by index.
    pub(crate) fn free_old(&self) -> impl Iterator<Item = Id> + '_ {
        self.of_old.iter().enumerate().filter(|(_, m)| m.is_none()).map(|(i, _)| Id::from(i))
    }

    /// The new ones without a match, by index.
    pub(crate) fn free_new(&self) -> impl Iterator<Item = Id> + '_ {
        self.of_new.iter().enumerate().filter(|(_, m)| m.is_none()).map(|(i, _)| Id::from(i))
    }
}

/// Pairs of those whose key occurs once on either side, sorted by key. An id may come with several keys.
pub(crate) fn unique_pairs<K: Ord, Id: Index>(
    old: impl Iterator<Item = (K, Id)>,
    new: impl Iterator<Item = (K, Id)>,
) -> Vec<(Id, Id)> {
    fn uniques<K: Ord, Id: Index>(all: impl Iterator<Item = (K, Id)>) -> Vec<(K, Id)> {
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        all.dedup();
        let mut kept = Vec::with_capacity(all.len());
        let mut rest = all.into_iter().peekable();
        while let Some(item) = rest.next() {
            let mut alone = true;
            while rest.next_if(|next| next.0 == item.0).is_some() {
                alone = false;
            }
            if alone {
                kept.push(item);
            }
        }
        kept
    }
    let (old, new) = (uniques(old), uniques(new));
    let mut pairs = Vec::new();
    let mut at = 0;
    for (key, a) in old {
        while at < new.len() && new[at].0 < key {
            at += 1;
        }
        if let Some((other, b)) = new.get(at)
            && *other == key
        {
            pairs.push((a, *b));
        }
    }
    pairs
}

impl<'a> Matches<'a> {
    /// Runs the whole ladder.
    pub(crate) fn find(old: &'a Program, new: &'a Program, options: &Options) -> Self {
        let named = !options.structure_only;
        let (a, b) = rayon::join(
            || Side::new(old, named && old.has_pdb && new.has_pdb),
            || Side::new(new, named && old.has_pdb && new.has_pdb),
        );
        let mut m = Matches {
            old: a,
            new: b,
            modules: ModuleNumbers::paths(old, new),
            functions: Pairs::new(old.functions.len(), new.functions.len()),
            objects: Pairs::new(old.objects.len(), new.objects.len()),
            imports: Pairs::new(old.imports.len(), new.imports.len()),
            aligned: old.functions.iter().map(|_| OnceLock::new()).collect(),
        };
        anchors::imports(&mut m);
        if m.old.named {
            names::functions(&mut m);
        }
        anchors::functions(&mut m);
        objects::directories(&mut m);
        if m.old.named {
            names::objects(&mut m);
        }
        anchors::objects(&mut m);
        objects::texts(&mut m);
        // Stronger evidence again after every step that found something.
        loop {
            if bodies::exact(&mut m)
                || referrers::same_position(&mut m, referrers::Trust::EqualBodies)
                || referrers::same_position(&mut m, referrers::Trust::Aligned)
                || objects::content(&mut m)
                || bodies::named_references(&mut m)
                || bodies::masked(&mut m)
                || flow::call_graph(&mut m)
                || flow::flow_graph(&mut m, options)
                || similar::mutual_best(&mut m, options)
            {
                continue;
            }
            break;
        }
        objects::interchangeable(&mut m);
        objects::followers(&mut m);
        m
    }

    /// What a target is called on both sides alike: the number of its match. `None` if it is not matched.
    pub(crate) fn shared_label(&self, target: Target, side: Which) -> Option<u64> {
        let addend = target.addend;
        match (target.entity, side) {
            (Entity::Function(id), Which::Old) => self.functions.new_of(id).map(|_| hash_of((1u8, id, addend))),
            (Entity::Function(id), Which::New) => self.functions.old_of(id).map(|id| hash_of((1u8, id, addend))),
            (Entity::Fragment(id, n), Which::Old) => self.functions.new_of(id).map(|_| hash_of((2u8, id, n, addend))),
            (Entity::Fragment(id, n), Which::New) => self.functions.old_of(id).map(|id| hash_of((2u8, id, n, addend))),
            (Entity::Import(id), Which::Old) => self.imports.new_of(id).map(|_| hash_of((3u8, id, addend))),
            (Entity::Import(id), Which::New) => self.imports.old_of(id).map(|id| hash_of((3u8, id, addend))),
            (Entity::Object(id), side) => {
                let program = self.side(side);
                if let Some(text) = program.text_of(id, addend) {
                    return Some(hash_of((5u8, text)));
                }
                let id = match side {
                    Which::Old => self.objects.new_of(id).map(|_| id),
                    Which::New => self.objects.old_of(id),
                };
                id.map(|id| hash_of((4u8, id, addend)))
            }
            (Entity::ImageBase, _) => Some(hash_of((6u8, addend))),
            (Entity::Unknown, _) => None,
        }
    }

    /// The references that stand at the same place of two functions that are matched.
    fn aligned(&self, a: FunctionId, b: FunctionId) -> &[(&'a Reference, &'a Reference)] {
        self.aligned[a.index()].get_or_init(|| crate::align::reference_pairs(&self.old, a, &self.new, b))
    }

    pub(crate) fn side(&self, which: Which) -> &Side<'a> {
        match which {
            Which::Old => &self.old,
            Which::New => &self.new,
        }
    }
}

/// One of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Old,
    New,
}
