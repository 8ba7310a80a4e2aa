//! The differences of two matched functions.

use crate::align::{self, Row};
use crate::code::{Printer, Step};
use crate::comparison::Change;
use crate::equal::{Apart, Context, Judge, Node};
use crate::label;
use crate::matching::Matches;
use hotgraft_program::{Entity, FunctionId, InlineSite, ObjectId, ObjectKind, Program, Reference};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// Differences of one kind that are listed one by one; more are counted in one last line.
const LISTED: usize = 64;

/// How far a line constant may be from the line that the PDB gives for its instruction (a call over several lines).
const LINE_SPREAD: i64 = 40;

/// All differences of a pair that the fixed point found unequal.
pub(crate) fn changes(
    judge: &Judge<'_, '_>,
    a: FunctionId,
    b: FunctionId,
    changed_names: &dyn Fn(&str) -> bool,
) -> Vec<Change> {
    let m = judge.m;
    let (old, new) = (m.old.program, m.new.program);
    let (f, g) = (&old.functions[a.index()], &new.functions[b.index()]);
    let (x, y) = (&m.old.code(a).steps, &m.new.code(b).steps);
    let mut p = Printer::new(old, a);
    let mut q = Printer::new(new, b);
    let rows = align::rows(x, y);
    let context = Context { home: Some((a, b)), owner: Node::Function(a, b), end_of_home: false };

    let mut instructions: Vec<(usize, usize)> = Vec::new();
    let (mut removed, mut inserted): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut references: Vec<(Apart, &Reference, &Reference)> = Vec::new();
    let moved: FxHashMap<u32, u32> = rows
        .iter()
        .filter_map(|row| match row {
            Row::Same(i, j) | Row::Alike(i, j) => Some((x[*i].rva, y[*j].rva)),
            _ => None,
        })
        .collect();
    let mut lines_only = true;
    let mut line_sites: Vec<(usize, usize)> = Vec::new();
    // Last instruction seen on either side: where an insertion or removal stands in the other function.
    let (mut at_old, mut at_new) = (f.rva(), g.rva());
    let mut first_removed: Option<(u32, u32)> = None;
    let mut first_inserted: Option<(u32, u32)> = None;
    for row in rows {
        match row {
            Row::Removed(i) => {
                first_removed.get_or_insert((x[i].rva, at_new));
                removed.push(i);
                lines_only = false;
                at_old = x[i].rva;
            }
            Row::Inserted(j) => {
                first_inserted.get_or_insert((at_old, y[j].rva));
                inserted.push(j);
                lines_only = false;
                at_new = y[j].rva;
            }
            Row::Same(i, j) | Row::Alike(i, j) => {
                (at_old, at_new) = (x[i].rva, y[j].rva);
                let (r, s) = (align::references_of(old, &x[i]), align::references_of(new, &y[j]));
                if matches!(row, Row::Alike(..)) {
                    if line_constant(old, &x[i], new, &y[j]) {
                        line_sites.push((i, j));
                    } else {
                        lines_only = false;
                    }
                    instructions.push((i, j));
                }
                if r.len() != s.len() {
                    if matches!(row, Row::Same(..)) {
                        instructions.push((i, j));
                        lines_only = false;
                    }
                    continue;
                }
                for (r, s) in r.iter().zip(s) {
                    // Places inside a function that changed correspond by alignment, not by offset.
                    if let Err(apart) = judge.targets(r, s, context, &mut Vec::new())
                        && !follows(m, r, s, &moved)
                    {
                        references.push((apart, r, s));
                        lines_only = false;
                    }
                }
            }
        }
    }

    let mut changes = Vec::new();
    if !line_sites.is_empty() && lines_only {
        for (i, j) in line_sites.iter().take(LISTED) {
            changes.push(Change {
                key: "function.line_only",
                old_rva: Some(x[*i].rva),
                new_rva: Some(y[*j].rva),
                text: format!("`{}` became `{}`: the constant follows the source line", p.text(&x[*i]), q.text(&y[*j])),
            });
        }
    } else if let Some((i, j)) = instructions.first() {
        let (s, t) = (&x[*i], &y[*j]);
        changes.push(Change {
            key: "function.instruction.changed",
            old_rva: Some(s.rva),
            new_rva: Some(t.rva),
            text: format!("`{}` became `{}`{}", p.text(s), q.text(t), more(instructions.len() - 1, "instruction")),
        });
    }
    if let (Some((old_rva, new_rva)), Some(i)) = (first_removed, removed.first()) {
        changes.push(Change {
            key: "function.instruction.removed",
            old_rva: Some(old_rva),
            new_rva: Some(new_rva),
            text: format!("`{}` was removed{}", p.text(&x[*i]), more(removed.len() - 1, "instruction")),
        });
    }
    if let (Some((old_rva, new_rva)), Some(j)) = (first_inserted, inserted.first()) {
        changes.push(Change {
            key: "function.instruction.inserted",
            old_rva: Some(old_rva),
            new_rva: Some(new_rva),
            text: format!("`{}` was inserted{}", q.text(&y[*j]), more(inserted.len() - 1, "instruction")),
        });
    }
    reference_changes(old, new, &references, &mut changes);
    layout(judge, a, b, &mut changes);
    if !judge.unwinds(a, b, &mut Vec::new(), |x, y| moved.get(&x) == Some(&y)) {
        changes.push(unwind(old, new, a, b));
    }
    if let (Some(s), Some(t)) = (&f.prototype, &g.prototype)
        && s != t
    {
        changes.push(Change {
            key: "function.prototype.changed",
            old_rva: Some(f.rva()),
            new_rva: Some(g.rva()),
            text: format!("prototype `{s}` became `{t}`"),
        });
    }
    if let Some(text) = inlined(&f.inlined, &g.inlined, changed_names) {
        changes.push(Change { key: "function.inlined.changed", old_rva: Some(f.rva()), new_rva: Some(g.rva()), text });
    }
    // The first differing place first, whatever kind of difference it is.
    changes.sort_by_key(|c| (rank(c.key), c.old_rva, c.new_rva));
    changes
}

/// True if the references lead to instructions of the function, or to jump tables of such, that became each other: in a
/// function that changed they follow from its layout and are no difference of their own.
fn follows(m: &Matches<'_>, r: &Reference, s: &Reference, moved: &FxHashMap<u32, u32>) -> bool {
    if moved.get(&r.rva) == Some(&s.rva) {
        return true;
    }
    let (Entity::Object(p), Entity::Object(q)) = (r.target.entity, s.target.entity) else { return false };
    let is_table =
        |program: &Program, id: ObjectId| matches!(program.objects[id.index()].kind, ObjectKind::JumpTable(_));
    if !is_table(m.old.program, p) || !is_table(m.new.program, q) || r.target.addend != s.target.addend {
        return false;
    }
    let (x, y) = (m.old.references_in_object(p), m.new.references_in_object(q));
    x.len() == y.len() && x.iter().zip(y).all(|(x, y)| moved.get(&x.rva) == Some(&y.rva))
}

/// Order of the kinds: what stands at an instruction first.
fn rank(key: &str) -> u8 {
    match key {
        "function.line_only" | "function.instruction.changed" => 0,
        "function.instruction.removed" | "function.instruction.inserted" => 0,
        "function.string.changed" | "function.constant.changed" | "function.reference.changed" => 0,
        "function.jump_table.changed" => 1,
        "function.layout.changed" => 2,
        "function.unwind.changed" => 3,
        _ => 4,
    }
}

fn more(count: usize, what: &str) -> String {
    match count {
        0 => String::new(),
        1 => format!(", and 1 more {what}"),
        n => format!(", and {n} more {what}s"),
    }
}

/// True if the instructions differ in one immediate alone, and that by as much as their source lines.
fn line_constant(old: &Program, x: &Step, new: &Program, y: &Step) -> bool {
    let (Some(a), Some(b)) = (x.immediate, y.immediate) else { return false };
    if x.exact_but_immediate != y.exact_but_immediate || x.len != y.len || a == b {
        return false;
    }
    let (Some(l), Some(k)) = (old.source_line(x.rva), new.source_line(y.rva)) else { return false };
    let (l, k) = (i64::from(l.line), i64::from(k.line));
    b - a == k - l && (a - l).abs() <= LINE_SPREAD
}

fn reference_changes(old: &Program, new: &Program, all: &[(Apart, &Reference, &Reference)], changes: &mut Vec<Change>) {
    let mut counts: BTreeMap<Apart, usize> = BTreeMap::new();
    for (apart, r, s) in all {
        let count = counts.entry(*apart).or_default();
        *count += 1;
        if *count > LISTED {
            continue;
        }
        let (key, what) = match apart {
            Apart::Reference => ("function.reference.changed", "reference to"),
            Apart::Text => ("function.string.changed", "string"),
            Apart::Constant => ("function.constant.changed", "constant"),
            Apart::JumpTable => ("function.jump_table.changed", "jump table"),
            Apart::Unknown => ("function.reference.changed", "reference that is not explained:"),
        };
        let (from, to) = (label::target(old, r.target), label::target(new, s.target));
        let text = if from == to && *apart == Apart::Reference {
            format!("{what} {from} leads to another one of that name")
        } else if *apart == Apart::Constant || *apart == Apart::JumpTable {
            format!("{what} {from} became {to}{}", content(old, r, new, s))
        } else {
            format!("{what} {from} became {to}")
        };
        changes.push(Change { key, old_rva: Some(r.site), new_rva: Some(s.site), text });
    }
    for (apart, count) in counts {
        if count > LISTED {
            changes.push(Change {
                key: "function.reference.changed",
                old_rva: None,
                new_rva: None,
                text: format!("{} more references differ ({apart:?})", count - LISTED),
            });
        }
    }
}

/// The bytes of two small constants where they first differ.
fn content(old: &Program, r: &Reference, new: &Program, s: &Reference) -> String {
    let read = |p: &Program, r: &Reference| -> Vec<u8> {
        let left = p.object_at(r.rva).map_or(0, |o| p.objects[o.index()].end() - r.rva);
        p.image.bytes(r.rva, left as usize).unwrap_or(&[]).to_vec()
    };
    let (x, y) = (read(old, r), read(new, s));
    let Some(at) = (0..x.len().max(y.len())).find(|i| x.get(*i) != y.get(*i)) else { return String::new() };
    let at = at & !7;
    let hex = |b: &[u8]| b.iter().skip(at).take(16).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    format!(" (from byte {at}: {} became {})", hex(&x), hex(&y))
}

/// The same instructions may be encoded or laid out otherwise; that is a difference of machine code, too.
fn layout(judge: &Judge<'_, '_>, a: FunctionId, b: FunctionId, changes: &mut Vec<Change>) {
    let m = judge.m;
    let (old, new) = (m.old.program, m.new.program);
    let (f, g) = (&old.functions[a.index()], &new.functions[b.index()]);
    if m.old.body[a.index()] == m.new.body[b.index()] {
        return;
    }
    if f.ranges.len() != g.ranges.len() {
        changes.push(Change {
            key: "function.layout.changed",
            old_rva: Some(f.rva()),
            new_rva: Some(g.rva()),
            text: format!("{} parts became {}", f.ranges.len(), g.ranges.len()),
        });
    } else if changes.is_empty() {
        changes.push(Change {
            key: "function.layout.changed",
            old_rva: Some(f.rva()),
            new_rva: Some(g.rva()),
            text: "the same instructions with other branches, encodings or order of parts".to_owned(),
        });
    }
}

fn unwind(old: &Program, new: &Program, a: FunctionId, b: FunctionId) -> Change {
    let (f, g) = (&old.functions[a.index()], &new.functions[b.index()]);
    let text = if f.unwind.len() == g.unwind.len() {
        let differs = f.unwind.iter().zip(&g.unwind).find(|(u, v)| {
            let (u, v) = (&old.unwind[**u as usize], &new.unwind[**v as usize]);
            u.handler_data != v.handler_data || u.size != v.size
        });
        match differs {
            Some((u, v)) => {
                let (u, v) = (&old.unwind[*u as usize], &new.unwind[*v as usize]);
                format!(
                    "unwind information of {} bytes ({:?}) became {} bytes ({:?})",
                    u.size, u.handler_data, v.size, v.handler_data
                )
            }
            None => "unwind codes or handler data differ".to_owned(),
        }
    } else {
        format!("{} unwind entries became {}", f.unwind.len(), g.unwind.len())
    };
    Change { key: "function.unwind.changed", old_rva: Some(f.rva()), new_rva: Some(g.rva()), text }
}

/// Inlined functions that came, went, or changed where they also stand alone.
fn inlined(old: &[InlineSite], new: &[InlineSite], changed: &dyn Fn(&str) -> bool) -> Option<String> {
    let mut counts: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for site in old {
        counts.entry(&site.name).or_default().0 += 1;
    }
    for site in new {
        counts.entry(&site.name).or_default().1 += 1;
    }
    let mut parts = Vec::new();
    for (name, (before, after)) in counts {
        if before != after {
            parts.push(format!("{name} inlined {after} times instead of {before}"));
        } else if changed(name) {
            parts.push(format!("inlines {name}, which changed"));
        }
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}
