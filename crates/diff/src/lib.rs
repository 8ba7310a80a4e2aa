//! Compare two programs: which function and object of the old image is which of the new one, and what changed.
//!
//! The comparison is the greatest fixed point: every matched pair is assumed equal, pairs whose bodies differ once
//! references are read through the correspondence are dropped, and what that affects is looked at again until nothing
//! changes. A call to a changed function is not a change.
//!
//! # What counts against whom
//! Every difference is reported once, with the thing that has it:
//! - A **function** is changed if its machine code differs once addresses are read through the correspondence, if its
//!   unwind information or jump tables do, or if it reads a constant *without identity* (a string, literal, unnamed
//!   table) whose content differs: such a constant is nothing but its content.
//! - A **named constant** that changed is a changed object; the functions that read it stay identical, as callers of a
//!   changed function do. Whoever makes a patch follows the references to it.
//! - A **variable** whose initial bytes changed is a changed object; functions that use it stay identical.
//! - What belongs to neither (headers, imports, exports, types, resources, compilers) is in [`Comparison::image`].
//! - Tables of the loader are not compared as bytes but by what they say: imports by DLL and name, exports by name and
//!   target, unwind information with its function. The objects that hold them are matched by kind and always
//!   identical.

pub mod align;
mod classify;
mod code;
pub mod comparison;
mod equal;
mod fixpoint;
pub mod graph;
pub mod label;
mod matching;
mod modules;
mod names;
mod options;
pub mod report;
mod side;

pub use comparison::{Change, Comparison, FunctionPair, ImageChange, Match, ObjectPair, Rung, Status};
pub use options::Options;

use equal::{Judge, Node};
use hotgraft_program::{FunctionId, ObjectId, Program};
use matching::Matches;
use rayon::prelude::*;
use rustc_hash::FxHashSet;

/// Compares two images. The result depends on nothing but its arguments.
pub fn compare(old: &Program, new: &Program, options: &Options) -> Comparison {
    let matches = Matches::find(old, new, options);
    let unequal = fixpoint::unequal(&matches);
    let judge = Judge { m: &matches, unequal: &unequal };
    let functions = function_pairs(&judge);
    let objects = object_pairs(&judge);
    let mut image = classify::image::changes(&matches, &functions, &objects);
    image.extend(classify::types::changes(old, new));
    image.sort_by(|a, b| (a.key, &a.subject, &a.text).cmp(&(b.key, &b.subject, &b.text)));
    image.dedup();
    let import_of_new = (0..new.imports.len()).map(|i| matches.imports.old_of(i.into())).collect();
    let mut comparison = Comparison { functions, objects, image, import_of_new, ..Comparison::default() };
    index(&mut comparison, old, new);
    comparison
}

fn function_pairs(judge: &Judge<'_, '_>) -> Vec<FunctionPair> {
    let m = judge.m;
    let is_changed = |a: FunctionId, b: FunctionId| judge.unequal.contains(&Node::Function(a, b));
    let changed_names: FxHashSet<&str> =
        m.functions.iter().filter(|(a, b)| is_changed(*a, *b)).flat_map(|(a, _)| m.old.function_names(a)).collect();
    let named = |name: &str| changed_names.contains(name);
    let mut pairs: Vec<FunctionPair> = (0..m.old.program.functions.len())
        .into_par_iter()
        .map(|i| {
            let a = FunctionId::from(i);
            let Some(b) = m.functions.new_of(a) else {
                return FunctionPair {
                    old: Some(a),
                    new: None,
                    status: Status::Removed,
                    matched: None,
                    changes: Vec::new(),
                };
            };
            let matched = m.functions.evidence(a);
            let (status, changes) = if is_changed(a, b) {
                (Status::Changed, classify::function::changes(judge, a, b, &named))
            } else {
                (Status::Identical, Vec::new())
            };
            FunctionPair { old: Some(a), new: Some(b), status, matched, changes }
        })
        .collect();
    pairs.extend(m.functions.free_new().map(|b| FunctionPair {
        old: None,
        new: Some(b),
        status: Status::Added,
        matched: None,
        changes: Vec::new(),
    }));
    pairs
}

fn object_pairs(judge: &Judge<'_, '_>) -> Vec<ObjectPair> {
    let m = judge.m;
    let mut pairs: Vec<ObjectPair> = (0..m.old.program.objects.len())
        .into_par_iter()
        .map(|i| {
            let a = ObjectId::from(i);
            let Some(b) = m.objects.new_of(a) else {
                return ObjectPair {
                    old: Some(a),
                    new: None,
                    status: Status::Removed,
                    matched: None,
                    changes: Vec::new(),
                };
            };
            let matched = m.objects.evidence(a);
            let mut changes = Vec::new();
            if !side::is_loader_table(m.old.program.objects[i].kind) {
                changes = classify::object::attributes(m.old.program, a, m.new.program, b);
                if judge.unequal.contains(&Node::Object(a, b)) {
                    changes.extend(classify::object::contents(judge, a, b));
                }
            }
            let unequal = judge.unequal.contains(&Node::Object(a, b));
            let status = if unequal || !changes.is_empty() { Status::Changed } else { Status::Identical };
            ObjectPair { old: Some(a), new: Some(b), status, matched, changes }
        })
        .collect();
    pairs.extend(m.objects.free_new().map(|b| ObjectPair {
        old: None,
        new: Some(b),
        status: Status::Added,
        matched: None,
        changes: Vec::new(),
    }));
    pairs
}

/// Fills the look-up tables; every function and object of either side must be in exactly one pair.
fn index(c: &mut Comparison, old: &Program, new: &Program) {
    fn table<T>(count: usize, pairs: &[T], of: impl Fn(&T) -> Option<usize>) -> Vec<u32> {
        let mut table = vec![u32::MAX; count];
        for (n, pair) in pairs.iter().enumerate() {
            if let Some(i) = of(pair) {
                assert_eq!(table[i], u32::MAX, "in two pairs");
                table[i] = n as u32;
            }
        }
        assert!(!table.contains(&u32::MAX), "in no pair");
        table
    }
    c.function_of_old = table(old.functions.len(), &c.functions, |p| p.old.map(FunctionId::index));
    c.function_of_new = table(new.functions.len(), &c.functions, |p| p.new.map(FunctionId::index));
    c.object_of_old = table(old.objects.len(), &c.objects, |p| p.old.map(ObjectId::index));
    c.object_of_new = table(new.objects.len(), &c.objects, |p| p.new.map(ObjectId::index));
}
