//! Matches by the names of the PDB.

use super::{Matches, Which, unique_pairs};
use crate::comparison::Rung;
use crate::names::canonical;
use hotgraft_program::{FunctionId, Linkage, ObjectId, Program};
use std::borrow::Cow;

/// Name and module; the name alone; the canonical name in its module, then alone. Functions folded into one have
/// several names: their own name goes first.
pub(super) fn functions(m: &mut Matches<'_>) {
    let module = |m: &Matches<'_>, which: Which, id: FunctionId| -> Option<u32> {
        let numbers = if which == Which::Old { &m.modules.old } else { &m.modules.new };
        Some(numbers[m.side(which).program.functions[id.index()].module?.index()])
    };
    // Module numbers may be learned from matches by name alone, so the first rungs run twice.
    for _ in 0..2 {
        step(m, Rung::NameAndModule, 1.0, |m, which, id, out| {
            if let Some(module) = module(m, which, id) {
                out.extend(m.side(which).function_names(id).map(|name| (module, Cow::Borrowed(name))));
            }
        });
        step(m, Rung::Name, 1.0, |m, which, id, out| {
            out.extend(m.side(which).function_names(id).map(|name| (0, Cow::Borrowed(name))));
        });
        let pairs: Vec<_> = m.functions.iter().collect();
        if !m.modules.learn(m.old.program, m.new.program, pairs.into_iter()) {
            break;
        }
    }
    step(m, Rung::CanonicalName, 0.98, |m, which, id, out| {
        if let Some(module) = module(m, which, id) {
            out.extend(m.side(which).function_names(id).map(|name| (module, canonical(name))));
        }
    });
    step(m, Rung::CanonicalName, 0.95, |m, which, id, out| {
        out.extend(m.side(which).function_names(id).map(|name| (0, canonical(name))));
    });
}

type Key<'a> = (u32, Cow<'a, str>);

fn step<'a>(
    m: &mut Matches<'a>,
    rung: Rung,
    score: f32,
    keys: impl Fn(&Matches<'a>, Which, FunctionId, &mut Vec<Key<'a>>),
) {
    // All names first among all functions, so that a name that is ambiguous does not become unique by a match.
    for own_only in [true, false] {
        let collect = |which: Which| {
            let mut all = Vec::new();
            let mut some = Vec::new();
            for i in 0..m.side(which).program.functions.len() {
                let id = FunctionId::from(i);
                some.clear();
                keys(m, which, id, &mut some);
                let take = if own_only { some.len().min(1) } else { some.len() };
                all.extend(some.drain(..).take(take).map(|key| (key, id)));
            }
            all
        };
        for (a, b) in unique_pairs(collect(Which::Old).into_iter(), collect(Which::New).into_iter()) {
            m.functions.join(a, b, rung, score);
        }
    }
}

/// Named objects: static locals by function and name, others by name and module, by name alone, by canonical name.
pub(super) fn objects(m: &mut Matches<'_>) {
    fn name(p: &Program, id: ObjectId) -> Option<&str> {
        let o = &p.objects[id.index()];
        let name = o.decorated.as_deref().or(o.name.as_deref())?;
        (!crate::names::is_derived_from_content(name)).then_some(name)
    }
    fn plain(p: &Program, id: ObjectId) -> Option<&str> {
        let o = &p.objects[id.index()];
        o.name.as_deref().filter(|name| !crate::names::is_derived_from_content(name))
    }
    /// The scope on both sides alike: the old function, if it is matched.
    fn scope(m: &Matches<'_>, which: Which, id: ObjectId) -> Option<FunctionId> {
        let scope = m.side(which).program.objects[id.index()].scope?;
        match which {
            Which::Old => m.functions.new_of(scope).map(|_| scope),
            Which::New => m.functions.old_of(scope),
        }
    }
    fn module(m: &Matches<'_>, which: Which, id: ObjectId) -> Option<u32> {
        let numbers = if which == Which::Old { &m.modules.old } else { &m.modules.new };
        Some(numbers[m.side(which).program.objects[id.index()].module?.index()])
    }
    type Keys<'k> = &'k dyn Fn(&Matches<'_>, Which, ObjectId) -> Option<(u64, String)>;
    let local = |p: &Program, id: ObjectId| p.objects[id.index()].scope.is_some();
    let steps: [(Rung, f32, Keys<'_>); 7] = [
        (Rung::NameAndModule, 1.0, &|m, w, id| {
            Some((u64::from(scope(m, w, id)?.0), name(m.side(w).program, id)?.to_owned()))
        }),
        (Rung::NameAndModule, 1.0, &|m, w, id| {
            let p = m.side(w).program;
            if local(p, id) { None } else { Some((u64::from(module(m, w, id)?), name(p, id)?.to_owned())) }
        }),
        (Rung::Name, 1.0, &|m, w, id| {
            let p = m.side(w).program;
            if local(p, id) { None } else { Some((0, name(p, id)?.to_owned())) }
        }),
        (Rung::CanonicalName, 0.98, &|m, w, id| {
            Some((u64::from(scope(m, w, id)?.0), canonical(plain(m.side(w).program, id)?).into_owned()))
        }),
        (Rung::CanonicalName, 0.98, &|m, w, id| {
            let p = m.side(w).program;
            if local(p, id) {
                None
            } else {
                Some((u64::from(module(m, w, id)?), canonical(plain(p, id)?).into_owned()))
            }
        }),
        // A static local whose function is not matched, or is inlined under another one.
        (Rung::CanonicalName, 0.95, &|m, w, id| {
            let p = m.side(w).program;
            Some((u64::from(module(m, w, id)?), canonical(name(p, id)?).into_owned()))
        }),
        (Rung::CanonicalName, 0.9, &|m, w, id| Some((0, canonical(name(m.side(w).program, id)?).into_owned()))),
    ];
    for (rung, score, key) in steps {
        let collect = |which: Which| {
            let p = m.side(which).program;
            // Only what is free: static locals that an earlier step told apart must not make the rest ambiguous.
            let free: Vec<ObjectId> =
                if which == Which::Old { m.objects.free_old().collect() } else { m.objects.free_new().collect() };
            let keyed = free.into_iter().filter_map(|id| {
                let o = &p.objects[id.index()];
                Some(((key(m, which, id)?, o.writable && !matches!(rung, Rung::NameAndModule | Rung::Name)), id))
            });
            keyed.collect::<Vec<_>>()
        };
        for (a, b) in unique_pairs(collect(Which::Old).into_iter(), collect(Which::New).into_iter()) {
            if same_home(m, a, b) {
                m.objects.join(a, b, rung, score);
            }
        }
    }
}

/// False for static data of modules that are known to be two different ones: the same name there is another variable.
fn same_home(m: &Matches<'_>, a: ObjectId, b: ObjectId) -> bool {
    let (a, b) = (&m.old.program.objects[a.index()], &m.new.program.objects[b.index()]);
    let (Some(x), Some(y)) = (a.module, b.module) else { return true };
    let (x, y) = (m.modules.old[x.index()], m.modules.new[y.index()]);
    let global = a.linkage == Linkage::Global && b.linkage == Linkage::Global;
    x == y || global || !(m.modules.new.contains(&x) || m.modules.old.contains(&y))
}
