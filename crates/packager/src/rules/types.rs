//! Rules about types: layouts that old code and live data share with new code.

use crate::closure::Closure;
use crate::context::Context;
use crate::verdict::Outcome;
use hotgraft_diff::comparison::{FunctionPair, Status};
use hotgraft_program::{FunctionId, Program, Udt, UdtId, UdtKind};
use std::collections::BTreeSet;

/// A type's text without what may differ in name alone: spacing.
pub fn normalised(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Text of a type without qualifiers that do not change what its bytes mean.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text
        .split_whitespace()
        .filter(|w| !matches!(*w, "const" | "volatile" | "__restrict" | "__unaligned"))
        .collect();
    words.join(" ").replace(" *", "*")
}

/// True if both texts stand for the same representation: equal but for qualifiers, or both pointers.
pub fn same_representation(a: &str, b: &str) -> bool {
    let (a, b) = (plain(a), plain(b));
    a == b || a.ends_with('*') && b.ends_with('*')
}

/// Who uses which type, for the types whose layout changed.
pub struct Layouts<'a> {
    ctx: &'a Context<'a>,
    /// Functions of the old image whose code goes on to run after patching.
    kept: BTreeSet<FunctionId>,
}

impl<'a> Layouts<'a> {
    /// Prepares the look-ups.
    pub fn new(ctx: &'a Context<'a>, closure: &Closure) -> Self {
        let goes_on = |pair: &&FunctionPair| {
            pair.status != Status::Removed && !pair.new.is_some_and(|new| closure.functions.contains_key(&new))
        };
        let kept = ctx.cmp.functions.iter().filter(goes_on).filter_map(|pair| pair.old).collect();
        Self { ctx, kept }
    }

    /// The verdict over a type whose layout differs. `text` says which members moved.
    pub fn judge(&self, name: &str, text: String) -> (&'static str, Outcome, String) {
        let ctx = self.ctx;
        let old: Vec<UdtId> = ctx.old.types.by_name(name).map(|(id, _)| id).collect();
        let new: Vec<UdtId> = ctx.new.types.by_name(name).map(|(id, _)| id).collect();
        let of = |p: &'a Program, ids: &[UdtId]| -> Vec<&'a Udt> { ids.iter().map(|&id| p.types.udt(id)).collect() };
        let (before, after) = (of(ctx.old, &old), of(ctx.new, &new));
        // Every layout that live data can have must still be one that new code knows.
        let lost: Vec<&&Udt> = before.iter().filter(|a| !after.iter().any(|b| same_layout(a, b))).collect();
        let gained: Vec<&&Udt> = after.iter().filter(|b| !before.iter().any(|a| same_layout(a, b))).collect();
        if lost.is_empty() && gained.is_empty() {
            return ("type.renamed", Outcome::Harmless, text);
        }
        if let ([a], [b]) = (before.as_slice(), after.as_slice())
            && a.kind == UdtKind::Enum
            && b.kind == UdtKind::Enum
        {
            return match renumbered(a, b) {
                None => ("type.enum.appended", Outcome::Harmless, text),
                Some(which) if self.is_used(name, &old).is_some() => {
                    ("type.enum.renumbered", Outcome::Refuse, format!("{which} {text}"))
                }
                Some(which) => {
                    ("type.local.changed", Outcome::Harmless, format!("{which} {text} Nothing in the base uses it."))
                }
            };
        }
        match self.is_used(name, &old) {
            Some(user) => ("type.layout.changed", Outcome::Refuse, format!("{text} {user}")),
            None => ("type.local.changed", Outcome::Harmless, text),
        }
    }

    /// Who of the base shares values of the type with new code, or with data that lives on.
    fn is_used(&self, name: &str, ids: &[UdtId]) -> Option<String> {
        let ctx = self.ctx;
        let mut seen = BTreeSet::from_iter(ids.iter().copied());
        let mut work: Vec<(UdtId, String)> = ids.iter().map(|&id| (id, name.to_owned())).collect();
        while let Some((id, name)) = work.pop() {
            if let Some(o) =
                ctx.old.objects.iter().position(|o| o.udt == Some(id) || mentions(o.type_name.as_deref(), &name))
            {
                return Some(format!("The variable {} has it.", crate::context::object_label(ctx.old, o.into())));
            }
            let user = |f: &&FunctionId| ctx.old.functions[f.index()].udts.binary_search(&id).is_ok();
            if let Some(f) = self.kept.iter().find(user) {
                let label = hotgraft_diff::comparison::function_label(ctx.old, *f);
                return Some(format!("{label}, which is not replaced, uses it."));
            }
            // A pointer can lead to an object that was made before the patch came.
            let used = ctx.old.functions.iter().any(|f| f.udts.binary_search(&id).is_ok());
            if used && ctx.old.types.pointed.as_ref().is_none_or(|p| p.binary_search(&id).is_ok()) {
                return Some(String::from("It is used through pointers, so objects of it may live."));
            }
            for (i, udt) in ctx.old.types.udts.iter().enumerate() {
                let holder = UdtId::from(i);
                if let Some(member) = udt.members.iter().find(|m| m.by_pointer == Some(id)) {
                    return Some(format!("{}::{} points to it.", udt.name, member.name));
                }
                if udt.members.iter().any(|m| m.by_value == Some(id)) && seen.insert(holder) {
                    work.push((holder, udt.name.clone()));
                }
            }
        }
        None
    }
}

/// True if the type's text names the type as a word of its own.
fn mentions(text: Option<&str>, name: &str) -> bool {
    let Some(text) = text else { return false };
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The same bytes at the same places, under the same names.
fn same_layout(a: &Udt, b: &Udt) -> bool {
    a.kind == b.kind
        && a.size == b.size
        && a.members.len() == b.members.len()
        && a.members.iter().zip(&b.members).all(|(m, n)| {
            m.name == n.name
                && m.offset == n.offset
                && m.bits == n.bits
                && same_representation(&m.type_name, &n.type_name)
        })
}

/// The first enumerator of the old type that is gone or has another value.
fn renumbered(a: &Udt, b: &Udt) -> Option<String> {
    if a.size != b.size {
        return Some(format!("It had {} bytes and has {}.", a.size, b.size));
    }
    a.members.iter().find_map(|m| match b.members.iter().find(|n| n.name == m.name) {
        None => Some(format!("{} is gone.", m.name)),
        Some(n) if n.offset != m.offset => Some(format!("{} was {} and is {}.", m.name, m.offset, n.offset)),
        Some(_) => None,
    })
}
