//! Rules about data: constants, variables, tables.

use crate::closure::{Closure, is_derived};
use crate::context::{Context, finding};
use crate::rules::hooks;
use crate::rules::types::same_representation;
use crate::uses::User;
use crate::verdict::{Difference, Finding, Outcome};
use hotgraft_diff::comparison::{ObjectPair, Status};
use hotgraft_program::{Entity, Evidence, Form, Object, ObjectId, ObjectKind};

/// A finding for every object pair that is not identical.
pub fn pairs(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let mut out = Vec::new();
    for (i, pair) in ctx.cmp.objects.iter().enumerate() {
        let about = Difference::Object(u32::try_from(i).unwrap_or(u32::MAX));
        let (key, outcome, text) = match (pair.status, pair.old, pair.new) {
            (Status::Identical, ..) => continue,
            (Status::Changed, Some(old), Some(new)) => changed(ctx, closure, pair, old, new),
            (Status::Added, None, Some(new)) => added(ctx, closure, new),
            (Status::Removed, Some(old), None) => removed(ctx, closure, old),
            _ => ("code.unattributed", Outcome::Refuse, String::from("The comparison contradicts itself here.")),
        };
        let subject = ctx.object_subject(pair.old, pair.new);
        out.push(finding(key, outcome, Some(about), subject, &text, None));
    }
    out
}

type Judged = (&'static str, Outcome, String);

fn changed(ctx: &Context, closure: &Closure, pair: &ObjectPair, old: ObjectId, new: ObjectId) -> Judged {
    let a = &ctx.old.objects[old.index()];
    let b = &ctx.new.objects[new.index()];
    let first = pair.changes.first().map_or_else(|| String::from("It differs."), |c| c.text.clone());
    let unknown = pair.changes.iter().find(|c| !is_known_object_change(c.key));
    if let Some(c) = unknown {
        return ("code.unattributed", Outcome::Refuse, format!("{} ({})", c.text, c.key));
    }
    match b.kind {
        ObjectKind::JumpTable(_) => return ("code.jump_table.changed", Outcome::Patch, first),
        ObjectKind::Unwind => return unwind(ctx, closure, new, first),
        kind if is_derived(kind) => return derived(kind, first),
        _ => {}
    }
    let has = |key: &str| pair.changes.iter().any(|c| c.key == key);
    if a.writable != b.writable || has("object.section.changed") {
        return ("data.section.changed", Outcome::Refuse, first);
    }
    let contents = has("object.content.changed") || has("object.pointer.changed");
    let resized = has("object.size.changed");
    if !contents && !resized && has("object.type.changed") {
        let (x, y) = (a.type_name.as_deref().unwrap_or_default(), b.type_name.as_deref().unwrap_or_default());
        // What a constant means is decided by the code that reads it.
        return if !b.writable || same_representation(x, y) {
            ("data.type.renamed", Outcome::Harmless, first)
        } else {
            ("data.type.changed", Outcome::Refuse, first)
        };
    }
    if b.writable {
        return if resized {
            ("data.object.resized", Outcome::Refuse, first)
        } else {
            let repaired = hooks::can_repair(ctx, closure);
            let outcome = if repaired { Outcome::Condition } else { Outcome::Refuse };
            ("data.initialiser.changed", outcome, first)
        };
    }
    if (a.evidence | b.evidence).contains(Evidence::EXPORT) {
        return ("data.exported.changed", Outcome::Refuse, first);
    }
    if b.kind == ObjectKind::VTable || a.kind == ObjectKind::VTable {
        return ("type.vtable.changed", Outcome::Refuse, first);
    }
    if points_to_code(ctx, new) || old_points_to_code(ctx, old) {
        return ("data.pointer_table.changed", Outcome::Refuse, first);
    }
    if !closure.objects.contains_key(&new) {
        return ("data.object.added_unreachable", Outcome::Harmless, format!("{first} No code reads it."));
    }
    let key = if matches!(b.kind, ObjectKind::String | ObjectKind::WideString) {
        "data.string.changed"
    } else {
        "data.constant.changed"
    };
    (key, Outcome::Patch, first)
}

fn is_known_object_change(key: &str) -> bool {
    matches!(
        key,
        "object.content.changed"
            | "object.pointer.changed"
            | "object.section.changed"
            | "object.type.changed"
            | "object.size.changed"
    )
}

fn points_to_code(ctx: &Context, new: ObjectId) -> bool {
    let o = &ctx.new.objects[new.index()];
    ctx.new.references_in(o.rva, o.end()).iter().any(|r| is_code(r.target.entity))
}

fn old_points_to_code(ctx: &Context, old: ObjectId) -> bool {
    let o = &ctx.old.objects[old.index()];
    ctx.old.references_in(o.rva, o.end()).iter().any(|r| is_code(r.target.entity))
}

fn is_code(entity: Entity) -> bool {
    matches!(entity, Entity::Function(_) | Entity::Fragment(..))
}

fn unwind(ctx: &Context, closure: &Closure, new: ObjectId, text: String) -> Judged {
    let o = &ctx.new.objects[new.index()];
    let in_patch = closure.objects.contains_key(&new)
        || closure.functions.keys().any(|f| {
            ctx.new.functions[f.index()]
                .unwind
                .iter()
                .filter_map(|&u| ctx.new.unwind.get(u as usize))
                .any(|u| o.contains(u.info))
        });
    if in_patch { ("code.unwind.changed", Outcome::Patch, text) } else { ("noise.layout", Outcome::Harmless, text) }
}

/// Tables that follow from other things. What they say is compared as functions, references, imports, exports, and
/// by the rules about the image.
fn derived(kind: ObjectKind, text: String) -> Judged {
    match kind {
        ObjectKind::TlsDirectory | ObjectKind::TlsTemplate => ("image.tls.changed", Outcome::Refuse, text),
        ObjectKind::InitializerTable => ("image.initialisers.changed", Outcome::Refuse, text),
        ObjectKind::PseudoRelocations => ("image.pseudo_relocations.changed", Outcome::Refuse, text),
        ObjectKind::Debug => ("noise.debug", Outcome::Harmless, text),
        _ => ("noise.layout", Outcome::Harmless, text),
    }
}

fn added(ctx: &Context, closure: &Closure, new: ObjectId) -> Judged {
    let o = &ctx.new.objects[new.index()];
    match o.kind {
        ObjectKind::JumpTable(owner) if closure.functions.contains_key(&owner) => {
            return ("code.jump_table.changed", Outcome::Patch, String::new());
        }
        ObjectKind::JumpTable(_) => {
            return ("noise.layout", Outcome::Harmless, String::from("Its function is not in the patch."));
        }
        ObjectKind::Unwind => return unwind(ctx, closure, new, String::new()),
        kind if is_derived(kind) => return derived(kind, String::from("It is new.")),
        _ => {}
    }
    if let Some(target) = slot_of(o).filter(|_| closure.objects.contains_key(&new)) {
        return slot(ctx, new, target);
    }
    if closure.objects.contains_key(&new) {
        return if o.writable && o.kind != ObjectKind::Rtti {
            ("data.global.added", Outcome::Patch, String::new())
        } else {
            ("data.constant.added", Outcome::Patch, String::new())
        };
    }
    // What is equal in both images cannot depend on a variable that only one of them has.
    let user = ctx.new_uses.of_object(new).iter().find(|u| match u.user {
        User::Function(f) => ctx.function_pair(f).0.status == Status::Identical,
        User::Object(x) => ctx.object_pair(x).0.status == Status::Identical,
        User::Nobody => true,
    });
    match user {
        Some(used) if o.writable => (
            "code.match.ambiguous",
            Outcome::Refuse,
            format!(
                "It has no counterpart, but {} uses it and is said to be equal.",
                Context::user_label(ctx.new, used.user)
            ),
        ),
        _ => ("data.object.added_unreachable", Outcome::Harmless, String::new()),
    }
}

/// What a variable of secure hot-patching stands for: the compiler reaches `x` through the constant `__ref_x` in functions
/// that a patch replaces. Weak ones are known to linkers of COFF as `.weak.__ref_x.default.F`.
fn slot_of(object: &Object) -> Option<&str> {
    let name = object.decorated.as_deref().or(object.name.as_deref())?;
    let name = name.strip_prefix(".weak.").and_then(|rest| Some(rest.split_once(".default.")?.0)).unwrap_or(name);
    name.strip_prefix("__ref_").filter(|target| !target.is_empty())
}

/// Such a constant leads to what its name says, and nowhere else.
fn slot(ctx: &Context, new: ObjectId, target: &str) -> Judged {
    let o = &ctx.new.objects[new.index()];
    let is_named = |entity: Entity| match entity {
        Entity::Object(id) => {
            let o = &ctx.new.objects[id.index()];
            o.decorated.as_deref() == Some(target) || o.name.as_deref() == Some(target)
        }
        Entity::Function(id) => {
            let f = &ctx.new.functions[id.index()];
            f.decorated.as_deref() == Some(target) || f.name.as_deref() == Some(target)
        }
        _ => false,
    };
    match ctx.new.references_in(o.rva, o.end()) {
        [one] if !o.writable && one.form == Form::Absolute && one.target.addend == 0 && is_named(one.target.entity) => {
            let text = format!("Code that is marked for hot patches reaches {target} through it.");
            ("data.slot.added", Outcome::Patch, text)
        }
        _ => ("data.slot.added", Outcome::Refuse, format!("It does not lead to {target}.")),
    }
}

fn removed(ctx: &Context, closure: &Closure, old: ObjectId) -> Judged {
    let o = &ctx.old.objects[old.index()];
    if is_derived(o.kind) {
        return derived(o.kind, String::from("It is gone."));
    }
    if o.writable {
        let user = ctx.old_uses.of_object(old).iter().find_map(|u| match u.user {
            User::Function(f) => {
                let kept = ctx.cmp.new_function(f)?;
                (!closure.functions.contains_key(&kept)).then_some(u.user)
            }
            User::Object(_) | User::Nobody => None,
        });
        if let Some(user) = user {
            return (
                "code.match.ambiguous",
                Outcome::Refuse,
                format!(
                    "It has no counterpart, but {} uses it and is not replaced.",
                    Context::user_label(ctx.old, user)
                ),
            );
        }
    }
    ("data.object.removed", Outcome::Harmless, String::new())
}
