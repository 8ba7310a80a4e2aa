//! Rules about functions that the linker made one because their code was equal.
//!
//! Folding makes one entry of several names. When the fix changes one of them, the names part, and an entry that meant
//! all of them before can only be led to one. What refers to a folded function does not show it: not an export, not a
//! pointer in data. So the names are followed, on both sides.

use crate::closure::{Closure, is_derived};
use crate::context::{Context, finding};
use crate::uses::{User, Uses};
use crate::verdict::{Difference, Finding, Outcome};
use hotgraft_diff::comparison::{FunctionPair, Status};
use hotgraft_program::{Entity, Function, FunctionId, Linkage, ObjectKind, Program, Reference};
use std::collections::BTreeMap;

/// Entries whose names part, or come together, in the fix.
pub fn diverged(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let (old_names, new_names) = (by_name(ctx.old), by_name(ctx.new));
    let mut out = Vec::new();
    for (i, pair) in ctx.cmp.functions.iter().enumerate() {
        let about = Difference::Function(u32::try_from(i).unwrap_or(u32::MAX));
        let text = match (pair.status, pair.old, pair.new) {
            (_, Some(old), Some(new)) if closure.functions.contains_key(&new) => parted(ctx, &new_names, old, new),
            (Status::Added, _, Some(new)) => split_off(ctx, closure, &old_names, new),
            (Status::Removed, Some(old), _) => merged(ctx, closure, &new_names, old),
            _ => None,
        };
        if let Some(text) = text {
            out.push(refusal(ctx, pair, about, &text));
        }
    }
    out
}

fn refusal(ctx: &Context, pair: &FunctionPair, about: Difference, text: &str) -> Finding {
    let about = (pair.status != Status::Identical).then_some(about);
    let subject = ctx.function_subject(pair.old, pair.new);
    finding("code.fold.diverged", Outcome::Refuse, about, subject, text, ctx.function_source(pair.old, pair.new))
}

/// A replaced entry had several names, and one of them is another function now.
fn parted(ctx: &Context, new_names: &BTreeMap<&str, FunctionId>, old: FunctionId, new: FunctionId) -> Option<String> {
    let f = &ctx.old.functions[old.index()];
    if f.aliases.is_empty() {
        return None;
    }
    names(f).find_map(|name| {
        let &other = new_names.get(name).filter(|&&other| other != new)?;
        let now = ctx.function_subject(ctx.function_pair(other).0.old, Some(other));
        Some(format!("{name} had the same entry and is now {now}."))
    })
}

/// A name of an old entry has code of its own now, and whoever comes by the old entry does not get it.
fn split_off(
    ctx: &Context,
    closure: &Closure,
    old_names: &BTreeMap<&str, FunctionId>,
    new: FunctionId,
) -> Option<String> {
    let f = &ctx.new.functions[new.index()];
    let &shared = names(f).find_map(|name| old_names.get(name))?;
    if is_same(ctx, shared, new) {
        return None;
    }
    let reached = closure.functions.contains_key(&new) || is_reached(ctx.new, &ctx.new_uses, new, |_| true);
    let was = ctx.function_subject(Some(shared), ctx.cmp.new_function(shared));
    reached.then(|| format!("It had the same entry as {was}."))
}

/// The old entry is gone, its name belongs to another function now, and somebody goes on to come by the old one.
fn merged(ctx: &Context, closure: &Closure, new_names: &BTreeMap<&str, FunctionId>, old: FunctionId) -> Option<String> {
    let f = &ctx.old.functions[old.index()];
    let &now = names(f).find_map(|name| new_names.get(name))?;
    if is_same(ctx, old, now) {
        return None;
    }
    let kept = |user| match user {
        User::Function(user) => ctx.cmp.new_function(user).is_some_and(|new| !closure.functions.contains_key(&new)),
        User::Object(_) | User::Nobody => true,
    };
    let reached = is_reached(ctx.old, &ctx.old_uses, old, kept);
    let subject = ctx.function_subject(ctx.function_pair(now).0.old, Some(now));
    reached.then(|| format!("It is now one with {subject}, whose code is another."))
}

/// True if the function is reached from outside of the image, from data, or from code that `counts`.
fn is_reached(program: &Program, uses: &Uses, id: FunctionId, counts: impl Fn(User) -> bool) -> bool {
    Context::is_reachable_from_outside(program, id)
        || uses.handler_of(id).any(|user| counts(User::Function(user)))
        || uses.of_function(id).iter().any(|u| match u.user {
            User::Function(user) => user != id && counts(u.user),
            User::Object(o) => {
                let kind = program.objects[o.index()].kind;
                !is_derived(kind) && !matches!(kind, ObjectKind::Unwind | ObjectKind::JumpTable(_)) && counts(u.user)
            }
            User::Nobody => true,
        })
}

/// True if the code of both is equal through the correspondence. A doubt is a no.
fn is_same(ctx: &Context, old: FunctionId, new: FunctionId) -> bool {
    let (f, g) = (&ctx.old.functions[old.index()], &ctx.new.functions[new.index()]);
    f.ranges.len() == g.ranges.len()
        && f.ranges.iter().zip(&g.ranges).all(|(a, b)| {
            let (x, y) = (ctx.old.references_in(a.rva, a.end()), ctx.new.references_in(b.rva, b.end()));
            let bytes = (ctx.old.image.bytes(a.rva, a.size as usize), ctx.new.image.bytes(b.rva, b.size as usize));
            let (Some(p), Some(q)) = bytes else { return false };
            a.size == b.size
                && x.len() == y.len()
                && masked(p, a.rva, x) == masked(q, b.rva, y)
                && x.iter().zip(y).all(|(r, s)| {
                    r.site - a.rva == s.site - b.rva && r.form == s.form && is_same_target(ctx, old, new, r, s)
                })
        })
}

fn is_same_target(ctx: &Context, old: FunctionId, new: FunctionId, r: &Reference, s: &Reference) -> bool {
    match (r.target.entity, s.target.entity) {
        (Entity::Function(a), Entity::Function(b)) | (Entity::Fragment(a, _), Entity::Fragment(b, _))
            if (a, b) == (old, new) =>
        {
            r.target.addend == s.target.addend
        }
        (Entity::Object(_), Entity::Object(id)) => {
            ctx.cmp.to_old(s.target) == Some(r.target) && ctx.object_pair(id).0.status == Status::Identical
        }
        _ => ctx.cmp.to_old(s.target) == Some(r.target),
    }
}

fn masked(bytes: &[u8], start: u32, references: &[Reference]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for r in references {
        let at = ((r.site - start) as usize).min(out.len());
        let end = (at + usize::from(r.width)).min(out.len());
        out[at..end].fill(0);
    }
    out
}

fn by_name(program: &Program) -> BTreeMap<&str, FunctionId> {
    let mut out = BTreeMap::new();
    for (i, f) in program.functions.iter().enumerate() {
        for name in names(f) {
            out.entry(name).or_insert(FunctionId::from(i));
        }
    }
    out
}

fn names(f: &Function) -> impl Iterator<Item = &str> {
    // Decorated names are unique in an image; plain ones of static functions are not.
    let own = f.decorated.as_deref().or(if f.linkage == Linkage::Global { f.name.as_deref() } else { None });
    own.into_iter().chain(f.aliases.iter().map(String::as_str))
}
