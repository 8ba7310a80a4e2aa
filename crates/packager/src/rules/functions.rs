//! Rules about functions: what changed, what comes along, what cannot be moved or redirected.

use crate::closure::{Closure, Why, is_derived, signature_changed};
use crate::context::{Context, finding};
use crate::rules::explain;
use crate::uses::{Use, User, Uses};
use crate::verdict::{Difference, Finding, Outcome};
use hotgraft_diff::comparison::{Change, FunctionPair, Status, function_label};
use hotgraft_program::{Entity, EntryKind, FunctionId, HandlerData, Program};

/// A finding for every function pair that is not identical.
pub fn pairs(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let mut out = Vec::new();
    for (i, pair) in ctx.cmp.functions.iter().enumerate() {
        let about = Difference::Function(u32::try_from(i).unwrap_or(u32::MAX));
        match (pair.status, pair.old, pair.new) {
            (Status::Identical, ..) => {}
            (Status::Changed, Some(_), Some(new)) if ctx.counterpart(new).is_none() => {
                out.push(added(ctx, closure, pair, about, new));
            }
            (Status::Changed, ..) if is_unused_funclet(ctx, pair) => {
                let subject = ctx.function_subject(pair.old, pair.new);
                out.push(finding("code.funclet.unused", Outcome::Harmless, Some(about), subject, "", None));
            }
            (Status::Changed, Some(_), Some(new)) => {
                out.push(changed(ctx, closure, pair, about, new));
                out.extend(unattributed(ctx, pair, about));
            }
            (Status::Added, None, Some(new)) => out.push(added(ctx, closure, pair, about, new)),
            (Status::Removed, Some(old), None) => out.push(removed(ctx, pair, about, old)),
            _ => out.push(finding(
                "code.unattributed",
                Outcome::Refuse,
                Some(about),
                ctx.function_subject(pair.old, pair.new),
                "The comparison contradicts itself here.",
                None,
            )),
        }
    }
    out
}

/// True for what compilers leave behind: a part of a function that runs on its frame by its name, and that neither
/// unwind data nor anything else leads to, on both sides.
pub fn is_unused_funclet(ctx: &Context, pair: &FunctionPair) -> bool {
    let unused = |program: &Program, uses: &Uses, id: FunctionId| {
        let f = &program.functions[id.index()];
        let derived = |used: &Use| matches!(used.user, User::Object(o) if is_derived(program.objects[o.index()].kind));
        f.is_named_as_funclet()
            && f.funclet_of.is_empty()
            && !Context::is_reachable_from_outside(program, id)
            && uses.handler_of(id).next().is_none()
            && uses.of_function(id).iter().all(|used| used.user == User::Function(id) || derived(used))
    };
    let old = pair.old.is_none_or(|id| unused(ctx.old, &ctx.old_uses, id));
    let new = pair.new.is_none_or(|id| unused(ctx.new, &ctx.new_uses, id));
    old && new
}

fn evidence(changes: &[Change]) -> String {
    match changes {
        [] => String::from("It differs."),
        [one] => one.text.clone(),
        [first, rest @ ..] => format!("First difference: {} ({} more.)", first.text, rest.len()),
    }
}

fn changed(ctx: &Context, closure: &Closure, pair: &FunctionPair, about: Difference, new: FunctionId) -> Finding {
    let mut text = evidence(&pair.changes);
    let inlined = inlined_changes(ctx, new);
    if !inlined.is_empty() {
        text.push_str(&format!(" Changed functions inlined into it: {}.", inlined.join(", ")));
    }
    if closure.direct_only.contains(&new) {
        text.push_str(if ctx.is_funclet(new) {
            " Its old entry stays, for frames of the old version of the function that it is a part of."
        } else {
            " Its old entry stays: every caller is replaced and calls the new version directly."
        });
    }
    let subject = ctx.function_subject(pair.old, pair.new);
    let source = change_source(ctx, pair).or_else(|| ctx.function_source(pair.old, pair.new));
    finding("code.function.changed", Outcome::Patch, Some(about), subject, &text, source)
}

fn change_source(ctx: &Context, pair: &FunctionPair) -> Option<String> {
    let first = pair.changes.first()?;
    let line =
        first.new_rva.and_then(|rva| ctx.new.source_line(rva)).or_else(|| ctx.old.source_line(first.old_rva?))?;
    Some(format!("{}:{}", line.file, line.line))
}

/// Names of changed functions that were inlined into this one: the cause that users ask for.
fn inlined_changes(ctx: &Context, new: FunctionId) -> Vec<String> {
    let mut names: Vec<String> = ctx.new.functions[new.index()]
        .inlined
        .iter()
        .filter(|site| {
            ctx.cmp.functions.iter().any(|p| {
                p.status == Status::Changed
                    && p.new.is_some_and(|id| ctx.new.functions[id.index()].name.as_deref() == Some(site.name.as_str()))
            })
        })
        .map(|site| site.name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Differences inside of a function that no rule knows.
fn unattributed(ctx: &Context, pair: &FunctionPair, about: Difference) -> Vec<Finding> {
    pair.changes
        .iter()
        .filter(|c| !is_known_function_change(c.key))
        .map(|c| {
            let subject = ctx.function_subject(pair.old, pair.new);
            let text = format!("{} ({})", c.text, c.key);
            finding("code.unattributed", Outcome::Refuse, Some(about), subject, &text, None)
        })
        .collect()
}

/// Kinds of change of a function that are carried by taking the whole function over, code, tables and unwind data.
/// What needs more than that (prototype, entry, types) is judged by rules of its own, from both programs.
fn is_known_function_change(key: &str) -> bool {
    matches!(
        key,
        "function.instruction.changed"
            | "function.instruction.removed"
            | "function.instruction.inserted"
            | "function.line_only"
            | "function.string.changed"
            | "function.constant.changed"
            | "function.reference.changed"
            | "function.jump_table.changed"
            | "function.layout.changed"
            | "function.unwind.changed"
            | "function.prototype.changed"
            | "function.inlined.changed"
    )
}

/// Where the new build says which functions a hot patch replaces, no other may have changed.
pub fn unmarked(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    if !ctx.new.functions.iter().any(|f| f.hotpatched) {
        return Vec::new();
    }
    let changed = closure.functions.keys().filter(|&&new| {
        let pair = ctx.function_pair(new).0;
        pair.status == Status::Changed && pair.old.is_some() && !ctx.new.functions[new.index()].hotpatched
    });
    changed
        .map(|&new| {
            let (pair, about) = ctx.function_pair(new);
            let subject = ctx.function_subject(pair.old, pair.new);
            let source = change_source(ctx, pair).or_else(|| ctx.function_source(pair.old, pair.new));
            let text = evidence(&pair.changes);
            finding("code.hotpatch.unmarked", Outcome::Refuse, Some(about), subject, &text, source)
        })
        .collect()
}

fn added(ctx: &Context, closure: &Closure, pair: &FunctionPair, about: Difference, new: FunctionId) -> Finding {
    let subject = ctx.function_subject(None, Some(new));
    let source = ctx.function_source(None, Some(new));
    if let Some(why) = closure.functions.get(&new) {
        let text = match why {
            Why::Needed(user) => format!("{user} uses it."),
            Why::Frame(owner) => format!("It runs on the frame of {owner}."),
            _ => evidence(&pair.changes),
        };
        return finding("code.function.added", Outcome::Patch, Some(about), subject, &text, source);
    }
    // Folding of equal code can make one function of two or two of one: what refers to it is then equal all the same.
    finding("code.function.added_unreachable", Outcome::Harmless, Some(about), subject, "", source)
}

fn removed(ctx: &Context, pair: &FunctionPair, about: Difference, old: FunctionId) -> Finding {
    let subject = ctx.function_subject(Some(old), None);
    let source = ctx.function_source(Some(old), None);
    finding("code.function.removed", Outcome::Harmless, Some(about), subject, &evidence_or_empty(pair), source)
}

fn evidence_or_empty(pair: &FunctionPair) -> String {
    pair.changes.first().map(|c| c.text.clone()).unwrap_or_default()
}

/// Functions that are equal and are replaced all the same.
pub fn included(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let mut out = Vec::new();
    for (&new, why) in &closure.functions {
        let pair = ctx.function_pair(new).0;
        if pair.status != Status::Identical {
            continue;
        }
        let text = match why {
            Why::Reads(name) => format!("It reads {name}, whose contents changed."),
            Why::Calls(name) => format!("It calls {name}, whose old entry cannot be redirected."),
            Why::Frame(name) => format!("It and {name} run on one frame."),
            Why::Retargeted(name) => format!("It refers to {name}, of which the base has no certain counterpart."),
            _ => String::from("It is needed."),
        };
        let subject = ctx.function_subject(pair.old, pair.new);
        out.push(finding(
            "code.function.included",
            Outcome::Patch,
            None,
            subject,
            &text,
            ctx.function_source(pair.old, pair.new),
        ));
    }
    out
}

/// Functions of the closure that must not be moved.
pub fn unmovable(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let mut out = Vec::new();
    for &new in closure.functions.keys() {
        let (pair, about) = ctx.function_pair(new);
        let f = &ctx.new.functions[new.index()];
        let subject = ctx.function_subject(pair.old, pair.new);
        let source = ctx.function_source(pair.old, pair.new);
        let mut refuse = |key: &'static str, text: &str| {
            out.push(finding(key, Outcome::Refuse, Some(about), subject.clone(), text, source.clone()));
        };
        for problem in &f.problems {
            let key = problem_key(problem.key);
            refuse(key, &format!("{} ({}, at {:#x} of the new image)", problem.text, problem.key, problem.rva));
        }
        for table in f.jump_tables.iter().filter(|t| !t.bound_proven) {
            refuse("code.jump_table.unbounded", &format!("The jump at {:#x} of the new image.", table.jump));
        }
        for &u in &f.unwind {
            if let Some(info) = ctx.new.unwind.get(u as usize)
                && info.handler_data == HandlerData::Unknown
            {
                refuse("code.unwind.unknown", &format!("Unwind information at {:#x} of the new image.", info.info));
            }
        }
        let language = f.module.and_then(|m| ctx.new.modules.get(m.index())).and_then(|m| m.language.as_deref());
        if language == Some("masm") {
            refuse("code.assembly", "It comes from an assembler.");
        }
    }
    out
}

/// The rule for a problem that the program model names.
fn problem_key(key: &'static str) -> &'static str {
    match key {
        "data.relative_table.unbounded" => "code.jump_table.unbounded",
        "code.image_base.untracked" => "code.reference.image_relative",
        key if key.starts_with("code.unwind.") => "code.unwind.unknown",
        key => explain(key).map_or("code.undecodable", |rule| rule.key),
    }
}

/// A calling contract that changed and is kept inside of the patch.
pub fn contracts(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let mut out = Vec::new();
    for &new in &closure.direct_only {
        let (pair, about) = ctx.function_pair(new);
        let Some(old) = pair.old else { continue };
        if signature_changed(ctx, old, new) {
            let text = format!(
                "The prototype was `{}` and is `{}`; it is private and every caller is replaced.",
                ctx.old.functions[old.index()].prototype.as_deref().unwrap_or("?"),
                ctx.new.functions[new.index()].prototype.as_deref().unwrap_or("?")
            );
            let subject = ctx.function_subject(pair.old, pair.new);
            let mut f = finding(
                "code.signature.changed",
                Outcome::Patch,
                Some(about),
                subject,
                "",
                ctx.function_source(pair.old, pair.new),
            );
            f.text = text;
            out.push(f);
        }
    }
    out
}

/// A calling contract that changed under an unchanged type, and is kept inside of the patch.
pub fn drifts(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    closure
        .drifts
        .iter()
        .map(|(&new, text)| {
            let pair = ctx.function_pair(new).0;
            let subject = ctx.function_subject(pair.old, pair.new);
            let source = ctx.function_source(pair.old, pair.new);
            finding("code.contract.changed", Outcome::Patch, None, subject, text, source)
        })
        .collect()
}

/// Bytes that a redirect of `old` touches: (first RVA, bytes). `None` if it cannot be redirected.
pub fn site(ctx: &Context, old: FunctionId) -> Option<(u32, u32)> {
    let f = &ctx.old.functions[old.index()];
    match f.entry_kind {
        EntryKind::PaddedShortJump => Some((f.rva().checked_sub(5)?, 7)),
        EntryKind::NearJump => Some((f.rva(), 5)),
        EntryKind::None => None,
    }
}

/// Bytes of a cache line: the least that any x64 or ARM64 machine has.
const CACHE_LINE: u32 = 64;

/// Places where redirects would be written.
pub fn sites(ctx: &Context, closure: &Closure) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut last: Option<(u32, FunctionId)> = None;
    let mut replaced: Vec<(FunctionId, FunctionId)> = closure
        .functions
        .keys()
        .filter(|new| !closure.direct_only.contains(new))
        .filter_map(|&new| Some((ctx.counterpart(new)?, new)))
        .collect();
    replaced.sort_unstable();
    for (old, new) in replaced {
        let about = ctx.function_pair(new).1;
        let subject = ctx.function_subject(Some(old), Some(new));
        let source = ctx.function_source(Some(old), Some(new));
        let Some((start, size)) = site(ctx, old) else { continue };
        let end = start.saturating_add(size);
        let entry = ctx.old.functions[old.index()].rva();
        let mut refuse = |key: &'static str, text: String| {
            out.push(finding(key, Outcome::Refuse, Some(about), subject.clone(), &text, source.clone()));
        };
        if let Some((before, other)) = last
            && start < before
        {
            refuse("entry.site.overlap", format!("The other one is {}.", function_label(ctx.old, other)));
        }
        last = Some((end, old));
        if ctx.old.functions[old.index()].entry_kind == EntryKind::PaddedShortJump
            && entry % CACHE_LINE == CACHE_LINE - 1
        {
            refuse("entry.site.split", format!("The entry {entry:#x} is the last byte of its line."));
        }
        let relocated = ctx.old.image.base_relocations.iter().find(|&&r| r < end && r.saturating_add(8) > start);
        if let Some(r) = relocated {
            refuse("entry.site.relocated", format!("A base relocation lies at {r:#x}."));
        }
        let into = ctx.old_uses.of_function(old).iter().find(|u| {
            let r = &ctx.old.references[u.reference as usize];
            matches!(r.target.entity, Entity::Function(_)) && r.rva > entry && r.rva < end
        });
        if let Some(used) = into {
            refuse(
                "entry.site.aliased",
                format!("{} refers to a byte behind the entry.", Context::user_label(ctx.old, used.user)),
            );
        }
    }
    out
}
