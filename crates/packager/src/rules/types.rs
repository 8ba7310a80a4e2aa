//! Rules about types: layouts that old code and live data share with new code.

use crate::closure::Closure;
use crate::context::Context;
use crate::frames::{self, Users};
use crate::verdict::Outcome;
use hotgraft_diff::comparison::{FunctionPair, Status};
use hotgraft_program::{FunctionId, Member, Program, Udt, UdtId, UdtKind};
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
    closure: &'a Closure,
    /// Functions of the old image whose code goes on to run after patching.
    kept: BTreeSet<FunctionId>,
}

impl<'a> Layouts<'a> {
    /// Prepares the look-ups.
    pub fn new(ctx: &'a Context<'a>, closure: &'a Closure) -> Self {
        let goes_on = |pair: &&FunctionPair| {
            pair.status != Status::Removed && !pair.new.is_some_and(|new| closure.functions.contains_key(&new))
        };
        let kept = ctx.cmp.functions.iter().filter(goes_on).filter_map(|pair| pair.old).collect();
        Self { ctx, closure, kept }
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
                Some(which) if !matches!(self.used(name, &old), Used::Nowhere) => {
                    ("type.enum.renumbered", Outcome::Refuse, format!("{which} {text}"))
                }
                Some(which) => {
                    ("type.local.changed", Outcome::Harmless, format!("{which} {text} Nothing in the base uses it."))
                }
            };
        }
        match self.used(name, &old) {
            Used::Shared(user) => ("type.layout.changed", Outcome::Refuse, format!("{text} {user}")),
            Used::Nowhere => ("type.local.changed", Outcome::Harmless, text),
            Used::ByPointers(types) => match self.in_frames(&types) {
                Ok(users) => {
                    let names: Vec<String> =
                        users.iter().map(|&id| hotgraft_diff::comparison::function_label(ctx.new, id)).collect();
                    ("type.frames.changed", Outcome::Patch, format!("{text} Only {} use it.", names.join(", ")))
                }
                Err(why) => {
                    ("type.layout.changed", Outcome::Refuse, format!("{text} It is used through pointers. {why}"))
                }
            },
        }
    }

    /// The functions that use the types, all replaced, if objects of them live in their frames alone.
    fn in_frames(&self, types: &BTreeSet<UdtId>) -> Result<BTreeSet<FunctionId>, String> {
        let ctx = self.ctx;
        let mut prefix = u64::MAX;
        let mut news = BTreeSet::new();
        for &id in types {
            let a = ctx.old.types.udt(id);
            let versions: Vec<(UdtId, &Udt)> = ctx.new.types.by_name(&a.name).collect();
            let [(new, b)] = versions.as_slice() else {
                return Err(format!("There is not exactly one {} in the new image.", a.name));
            };
            if ctx.old.types.by_name(&a.name).count() != 1 || a.kind != b.kind || a.kind == UdtKind::Enum {
                return Err(format!("{} is not one structure in both images.", a.name));
            }
            // Else a copy of the old layout could be taken for one of the new.
            if a.size == b.size {
                return Err(format!("{} has another layout and the same size.", a.name));
            }
            prefix = prefix.min(self.common_prefix(a, b));
            news.insert(*new);
        }
        let users = |program: &Program, types: &BTreeSet<UdtId>| -> BTreeSet<FunctionId> {
            let all = program.functions.iter().enumerate();
            all.filter(|(_, f)| f.udts.iter().any(|id| types.contains(id))).map(|(i, _)| FunctionId::from(i)).collect()
        };
        let mut users = Users { old: users(ctx.old, types), new: users(ctx.new, &news) };
        // Who reaches an object through a cast needs no name for its type. But sizes and distances stand in the code, so such
        // code differs, or is new.
        let differs =
            ctx.cmp.functions.iter().filter(|pair| pair.status != Status::Identical).filter_map(|pair| pair.new);
        users.new.extend(differs.filter(|id| self.closure.functions.contains_key(id)));
        frames::prove(ctx, self.closure, &users, prefix)
    }

    /// Bytes at the start that mean the same in both layouts.
    fn common_prefix(&self, a: &Udt, b: &Udt) -> u64 {
        let changed = |m: &Member| {
            m.by_value.is_some_and(|id| {
                let name = &self.ctx.old.types.udt(id).name;
                self.ctx.cmp.image.iter().any(|c| c.key == CHANGED && c.subject == *name)
            })
        };
        fn sorted(udt: &Udt) -> Vec<&Member> {
            let mut members: Vec<&Member> = udt.members.iter().collect();
            members.sort_by_key(|m| (m.offset, m.bits, &m.name));
            members
        }
        let (x, y) = (sorted(a), sorted(b));
        let same = x.iter().zip(&y).take_while(|(m, n)| same_member(m, n) && !changed(m)).count();
        let next = [x.get(same), y.get(same)].into_iter().flatten().map(|m| u64::try_from(m.offset).unwrap_or(0)).min();
        next.unwrap_or(u64::MAX).min(a.size).min(b.size)
    }

    /// Who of the base shares values of the type with new code, or with data that lives on.
    fn used(&self, name: &str, ids: &[UdtId]) -> Used {
        let ctx = self.ctx;
        let mut by_pointers = false;
        let mut seen = BTreeSet::from_iter(ids.iter().copied());
        let mut work: Vec<(UdtId, String)> = ids.iter().map(|&id| (id, name.to_owned())).collect();
        while let Some((id, name)) = work.pop() {
            if let Some(o) =
                ctx.old.objects.iter().position(|o| o.udt == Some(id) || mentions(o.type_name.as_deref(), &name))
            {
                return Used::Shared(format!(
                    "The variable {} has it.",
                    crate::context::object_label(ctx.old, o.into())
                ));
            }
            let user = |f: &&FunctionId| ctx.old.functions[f.index()].udts.binary_search(&id).is_ok();
            if let Some(f) = self.kept.iter().find(user) {
                let label = hotgraft_diff::comparison::function_label(ctx.old, *f);
                return Used::Shared(format!("{label}, which is not replaced, uses it."));
            }
            // A pointer can lead to an object that was made before the patch came.
            let used = ctx.old.functions.iter().any(|f| f.udts.binary_search(&id).is_ok());
            by_pointers |= used && ctx.old.types.pointed.as_ref().is_none_or(|p| p.binary_search(&id).is_ok());
            for (i, udt) in ctx.old.types.udts.iter().enumerate() {
                let holder = UdtId::from(i);
                if let Some(member) = udt.members.iter().find(|m| m.by_pointer == Some(id)) {
                    return Used::Shared(format!("{}::{} points to it.", udt.name, member.name));
                }
                if udt.members.iter().any(|m| m.by_value == Some(id)) && seen.insert(holder) {
                    work.push((holder, udt.name.clone()));
                }
            }
        }
        if by_pointers { Used::ByPointers(seen) } else { Used::Nowhere }
    }
}

/// How the base uses a type.
enum Used {
    /// Not at all, or by value in functions that are replaced.
    Nowhere,
    /// In functions that are replaced, through pointers; the types are it and what contains it.
    ByPointers(BTreeSet<UdtId>),
    /// By something that goes on to be there.
    Shared(String),
}

/// The key under which the comparison tells another layout of a type.
const CHANGED: &str = "image.type.layout.changed";

/// New versions of the functions that must not be on a stack when the patch comes or goes, for the objects in their frames
/// have another layout.
pub fn quiet(ctx: &Context, closure: &Closure) -> BTreeSet<FunctionId> {
    let layouts = Layouts::new(ctx, closure);
    let mut out = BTreeSet::new();
    for change in ctx.cmp.image.iter().filter(|change| change.key == CHANGED) {
        let ids: Vec<UdtId> = ctx.old.types.by_name(&change.subject).map(|(id, _)| id).collect();
        if let Used::ByPointers(types) = layouts.used(&change.subject, &ids) {
            out.extend(layouts.in_frames(&types).into_iter().flatten());
        }
    }
    out
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
        && a.members.iter().zip(&b.members).all(|(m, n)| same_member(m, n))
}

fn same_member(m: &Member, n: &Member) -> bool {
    m.name == n.name && m.offset == n.offset && m.bits == n.bits && same_representation(&m.type_name, &n.type_name)
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
