//! Rules about the image as a whole.

use crate::closure::Closure;
use crate::context::{Context, finding};
use crate::rules::types;
use crate::uses::User;
use crate::verdict::{Difference, Finding, Outcome};
use hotgraft_diff::comparison::{ImageChange, Status};
use hotgraft_program::{Entity, Evidence, ExportTarget, HandlerData, ObjectKind, Program};
use std::collections::BTreeMap;

/// IMAGE_DLLCHARACTERISTICS_GUARD_CF.
const GUARD_CF: u16 = 0x4000;

/// More differences of one kind than this are told in one finding.
const LISTED: usize = 32;

/// Findings for all differences of the image as a whole: one for each, and one for many of a kind.
pub fn changes(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let layouts = types::Layouts::new(ctx, closure);
    let mut by_key: BTreeMap<(&'static str, u8), Vec<Finding>> = BTreeMap::new();
    for (i, change) in ctx.cmp.image.iter().enumerate() {
        let about = Difference::Image(u32::try_from(i).unwrap_or(u32::MAX));
        let (key, outcome, text) = judge(ctx, closure, &layouts, change);
        let mut f = finding(key, outcome, Some(about), change.subject.clone(), &text, None);
        f.covers.push(about);
        by_key.entry((key, outcome as u8)).or_default().push(f);
    }
    let mut out = Vec::new();
    for (_, mut list) in by_key {
        if list.len() > LISTED {
            let rest = list.split_off(LISTED);
            let last = &mut list[LISTED - 1];
            last.subject = format!("{} and {} more", last.subject, rest.len());
            last.covers.extend(rest.into_iter().flat_map(|f| f.covers));
        }
        out.extend(list);
    }
    out
}

/// A refusal where an added export is all that differs: to accept it would lead to no patch, and to say that nothing
/// differs would be false.
pub fn export_alone(findings: &[Finding]) -> Option<Finding> {
    if findings.iter().any(|f| matches!(f.outcome, Outcome::Patch | Outcome::Refuse)) {
        return None;
    }
    let added = findings.iter().find(|f| f.key == "image.export.added")?;
    Some(finding("image.export.alone", Outcome::Refuse, None, added.subject.clone(), "", None))
}

fn judge(
    ctx: &Context,
    closure: &Closure,
    layouts: &types::Layouts,
    change: &ImageChange,
) -> (&'static str, Outcome, String) {
    use Outcome::{Condition, Harmless, Patch, Refuse};
    let text = sentence(&change.text);
    match change.key {
        "image.timestamp" => ("noise.timestamp", Harmless, text),
        "image.checksum" => ("noise.checksum", Harmless, text),
        "image.pdb" => ("noise.build_id", Harmless, text),
        "image.pdb.path" => ("noise.path", Harmless, text),
        "image.header.image_base" => ("noise.layout", Harmless, text),
        "image.header.machine"
        | "image.header.subsystem"
        | "image.header.characteristics"
        | "image.header.dll_characteristics"
        | "image.header.extended_dll_characteristics"
        | "image.header.section_alignment" => ("image.header.changed", Refuse, text),
        "image.section.added" | "image.section.removed" | "image.section.flags" => {
            ("image.section.changed", Refuse, text)
        }
        "image.import.removed" | "image.import.dll.removed" => ("image.import.removed", Harmless, text),
        "image.import.added" => match imported(ctx, closure, &change.subject) {
            Some(true) => ("image.import.added", Patch, text),
            Some(false) => ("image.import.new_dll", Condition, text),
            None => ("image.import.unused", Harmless, text),
        },
        "image.import.dll.added" => {
            let used =
                closure.imports.iter().any(|id| ctx.new.imports[id.index()].dll.eq_ignore_ascii_case(&change.subject));
            if used { ("image.import.new_dll", Condition, text) } else { ("image.import.unused", Harmless, text) }
        }
        // No module of the process can depend on it: with the base it would not have loaded.
        "image.export.added" => ("image.export.added", Condition, text),
        "image.export.removed" => ("image.export.removed", Refuse, text),
        // Importers by name do not see the number, and the base keeps the numbers it has.
        "image.export.changed" if change.subject == "ordinals" || only_renumbered(ctx, &change.subject) => {
            ("noise.layout", Harmless, text)
        }
        "image.export.changed" => ("image.export.changed", Refuse, text),
        "image.entry_point.changed" => ("image.entry_point.changed", Refuse, text),
        "image.tls.changed" => ("image.tls.changed", Refuse, text),
        "image.load_config.changed" => ("image.load_config.changed", Refuse, text),
        "image.initialisers.changed" => ("image.initialisers.changed", Refuse, text),
        "image.resource.version" => ("noise.resource.version", Harmless, text),
        "image.resource.message_table" => ("image.resource.message_table", Refuse, text),
        "image.resource.changed" => ("image.resource.changed", Refuse, text),
        "image.compiler.changed" => ("identity.compiler.changed", Condition, text),
        // The code is the same, so callers old and new see the same convention.
        "image.prototype.changed" => ("noise.debug", Harmless, text),
        // Judged by `guard`, function by function; here only the loss of a call target is left.
        "image.guard.changed" => ("noise.layout", Harmless, text),
        "image.type.added" => ("type.added", Harmless, text),
        "image.type.removed" => ("type.removed", Harmless, text),
        "image.type.layout.changed" => layouts.judge(&change.subject, text),
        _ => ("code.unattributed", Refuse, format!("{text} ({})", change.key)),
    }
}

fn sentence(text: &str) -> String {
    let mut out = text.trim().to_owned();
    if !out.is_empty() && !out.ends_with('.') {
        out.push('.');
    }
    out
}

/// Does the patch import it (`dll!name`), and if so, from a DLL that the base depends on?
fn imported(ctx: &Context, closure: &Closure, subject: &str) -> Option<bool> {
    let import = closure.imports.iter().map(|id| &ctx.new.imports[id.index()]).find(|import| {
        format!("{}!{}", import.dll.to_ascii_lowercase(), import.name) == subject
            || format!("{}!{}", import.dll, import.name) == subject
    })?;
    Some(base_depends_on(ctx, &import.dll))
}

/// True if the export is found by name on both sides and leads to functions or objects that are each other's counterpart.
fn only_renumbered(ctx: &Context, name: &str) -> bool {
    let find = |p: &'_ Program| p.exports.iter().find(|e| e.name.as_deref() == Some(name)).map(|e| e.target.clone());
    match (find(ctx.old), find(ctx.new)) {
        (Some(ExportTarget::Rva(a)), Some(ExportTarget::Rva(b))) => {
            let target = ctx.new.resolve(b);
            !matches!(target.entity, Entity::Unknown) && ctx.cmp.to_old(target) == Some(ctx.old.resolve(a))
        }
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

fn base_depends_on(ctx: &Context, dll: &str) -> bool {
    ctx.old.imports.iter().any(|old| !old.delayed && old.dll.eq_ignore_ascii_case(dll))
}

/// Imports of the patch that the base has not, said for each whatever the comparison says.
pub fn imports(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let said = |subject: &str| {
        ctx.cmp.image.iter().any(|c| c.key == "image.import.added" && c.subject.eq_ignore_ascii_case(subject))
    };
    let mut out = Vec::new();
    for &id in &closure.imports {
        let import = &ctx.new.imports[id.index()];
        let subject = format!("{}!{}", import.dll, import.name);
        if import.delayed || said(&subject) {
            continue;
        }
        out.push(if base_depends_on(ctx, &import.dll) {
            finding("image.import.added", Outcome::Patch, None, subject, "", None)
        } else {
            finding("image.import.new_dll", Outcome::Condition, None, subject, "", None)
        });
    }
    out
}

/// Base functions that became call targets, where the process checks that.
pub fn guard(ctx: &Context) -> Vec<Finding> {
    if ctx.old.image.dll_characteristics & GUARD_CF == 0 {
        return Vec::new();
    }
    let mut out = Vec::new();
    for pair in &ctx.cmp.functions {
        let (Some(old), Some(new)) = (pair.old, pair.new) else { continue };
        let target = |p: &Program, i: usize| p.functions[i].evidence.contains(Evidence::GUARD_TABLE);
        if !target(ctx.old, old.index()) && target(ctx.new, new.index()) {
            let subject = ctx.function_subject(pair.old, pair.new);
            let source = ctx.function_source(pair.old, pair.new);
            out.push(finding(
                "image.guard.changed",
                Outcome::Refuse,
                None,
                subject,
                "It is now a target of indirect calls.",
                source,
            ));
        }
    }
    out
}

/// GuardFlags in the load configuration, and IMAGE_GUARD_EH_CONTINUATION_TABLE_PRESENT in it.
const GUARD_FLAGS: u32 = 0x90;
const GUARD_CONTINUATIONS: u64 = 0x0040_0000;

/// Functions of the patch with exception handlers, where the process checks the places that handlers go on at.
pub fn continuations(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let flags = ctx.old.image.load_config_field(GUARD_FLAGS, 4).unwrap_or(0);
    if flags & GUARD_CONTINUATIONS == 0 {
        return Vec::new();
    }
    let handles = |unwind: &[u32]| {
        let handled = |&u: &u32| ctx.new.unwind.get(u as usize).is_some_and(|i| i.handler_data != HandlerData::None);
        unwind.iter().any(handled)
    };
    let handlers = closure.functions.keys().filter(|id| handles(&ctx.new.functions[id.index()].unwind));
    handlers
        .map(|&id| {
            let old = ctx.function_pair(id).0.old;
            let subject = ctx.function_subject(old, Some(id));
            let source = ctx.function_source(old, Some(id));
            finding(
                "image.guard.continuations",
                Outcome::Refuse,
                ctx.about_new(User::Function(id)),
                subject,
                "",
                source,
            )
        })
        .collect()
}

/// The function that the loader starts has run already.
pub fn entry_point(ctx: &Context) -> Vec<Finding> {
    let entry = ctx.old.image.entry_point;
    let mut out = Vec::new();
    if entry != 0
        && let Some(id) = ctx.old.function_entry(entry)
    {
        let i = ctx.cmp.function_of_old[id.index()];
        let pair = &ctx.cmp.functions[i as usize];
        if pair.status == Status::Changed {
            let subject = ctx.function_subject(pair.old, pair.new);
            let source = ctx.function_source(pair.old, pair.new);
            out.push(finding(
                "image.entry_point.changed",
                Outcome::Refuse,
                Some(Difference::Function(i)),
                subject,
                "Its code differs.",
                source,
            ));
        }
    }
    out
}

/// Code holds the offset of a thread-local variable in its template as a plain number: the offsets must be the same.
pub fn thread_locals(ctx: &Context) -> Vec<Finding> {
    let template = |p: &Program| p.objects.iter().filter(|o| o.kind == ObjectKind::TlsTemplate).map(|o| o.rva).min();
    let (Some(a), Some(b)) = (template(ctx.old), template(ctx.new)) else { return Vec::new() };
    let mut out = Vec::new();
    for (i, pair) in ctx.cmp.objects.iter().enumerate() {
        let (Some(old), Some(new)) = (pair.old, pair.new) else { continue };
        let (o, n) = (&ctx.old.objects[old.index()], &ctx.new.objects[new.index()]);
        if o.kind != ObjectKind::TlsTemplate || n.kind != ObjectKind::TlsTemplate {
            continue;
        }
        let (x, y) = (o.rva.wrapping_sub(a), n.rva.wrapping_sub(b));
        if x != y {
            let about =
                (pair.status != Status::Identical).then(|| Difference::Object(u32::try_from(i).unwrap_or(u32::MAX)));
            let subject = ctx.object_subject(pair.old, pair.new);
            let text = format!("It was at offset {x:#x} of the thread's block and is at {y:#x}.");
            out.push(finding("image.tls.changed", Outcome::Refuse, about, subject, &text, None));
        }
    }
    out
}
