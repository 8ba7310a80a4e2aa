//! The differences of two matched objects.

use crate::comparison::Change;
use crate::equal::{Judge, common_size, object_context};
use crate::label;
use hotgraft_program::{Object, ObjectId, ObjectKind, Program};

/// What two matched objects differ in beside their content: section, kind, type. These count even if the bytes agree.
pub(crate) fn attributes(old: &Program, a: ObjectId, new: &Program, b: ObjectId) -> Vec<Change> {
    let (o, p) = (&old.objects[a.index()], &new.objects[b.index()]);
    let mut changes = Vec::new();
    let mut push = |key, text| changes.push(Change { key, old_rva: Some(o.rva), new_rva: Some(p.rva), text });
    let place = |p: &Program, o: &Object| -> String {
        let section = p.image.section_at(o.rva).map_or("no section", |s| s.name.as_str());
        format!("{section} ({})", if o.writable { "writable" } else { "read-only" })
    };
    let tls = |o: &Object| o.kind == ObjectKind::TlsTemplate;
    if o.writable != p.writable || tls(o) != tls(p) {
        push("object.section.changed", format!("moved from {} to {}", place(old, o), place(new, p)));
    }
    if let (Some(s), Some(t)) = (&o.type_name, &p.type_name)
        && s != t
    {
        push("object.type.changed", format!("type `{s}` became `{t}`"));
    }
    if is_resized(old, o, new, p) {
        push("object.size.changed", format!("{} bytes became {}", o.size, p.size));
    }
    changes
}

/// Sizes differ where both are known exactly, or by more than padding.
fn is_resized(old: &Program, o: &Object, new: &Program, p: &Object) -> bool {
    let text = |o: &Object| matches!(o.kind, ObjectKind::String | ObjectKind::WideString);
    !(crate::side::is_loader_table(o.kind) || text(o) && text(p) && o.name.is_none() && p.name.is_none())
        && common_size(old, o, new, p).is_none()
}

/// Differences of content of a pair that the fixed point found unequal.
pub(crate) fn contents(judge: &Judge<'_, '_>, a: ObjectId, b: ObjectId) -> Vec<Change> {
    let m = judge.m;
    let (old, new) = (m.old.program, m.new.program);
    let (o, p) = (&old.objects[a.index()], &new.objects[b.index()]);
    let mut changes = Vec::new();
    if let (Some(s), Some(t)) = (m.old.text_of(a, 0), m.new.text_of(b, 0))
        && s != t
    {
        changes.push(Change {
            key: "object.content.changed",
            old_rva: Some(o.rva),
            new_rva: Some(p.rva),
            text: format!("text {} became {}", quoted(old, a), quoted(new, b)),
        });
        return changes;
    }
    let context = object_context(m, a, b);
    let (mine, theirs) = (m.old.references_in_object(a), m.new.references_in_object(b));
    let mut rest = theirs.iter().peekable();
    let mut pointers = Vec::new();
    for r in mine {
        let offset = r.site - o.rva;
        while let Some(s) = rest.next_if(|s| s.site - p.rva < offset) {
            pointers.push((None, Some(s)));
        }
        match rest.next_if(|s| s.site - p.rva == offset) {
            Some(s) if s.form == r.form && judge.targets(r, s, context, &mut Vec::new()).is_ok() => {}
            Some(s) => pointers.push((Some(r), Some(s))),
            None => pointers.push((Some(r), None)),
        }
    }
    pointers.extend(rest.map(|s| (None, Some(s))));
    // The entries of a jump table follow the code of its function; one line says all.
    let table = matches!(o.kind, ObjectKind::JumpTable(_));
    let listed = if table { 1 } else { 32 };
    for (r, s) in pointers.iter().take(listed) {
        let name = |program: &Program, r: &Option<&hotgraft_program::Reference>| {
            r.map_or_else(|| "no pointer".to_owned(), |r| label::target(program, r.target))
        };
        let offset = r.map(|r| r.site - o.rva).or_else(|| s.map(|s| s.site - p.rva)).unwrap_or_default();
        changes.push(Change {
            key: "object.pointer.changed",
            old_rva: r.map(|r| r.site),
            new_rva: s.map(|s| s.site),
            text: format!("at offset {offset:#x}: {} became {}", name(old, r), name(new, s)),
        });
    }
    if pointers.len() > listed {
        changes.push(Change {
            key: "object.pointer.changed",
            old_rva: None,
            new_rva: None,
            text: format!("{} more pointers differ", pointers.len() - listed),
        });
    }
    let (x, y) = (masked(&m.old, a), masked(&m.new, b));
    let byte = |v: &[u8], i: usize| v.get(i).copied().unwrap_or(0);
    let differing: Vec<usize> = (0..x.len().max(y.len())).filter(|i| byte(&x, *i) != byte(&y, *i)).collect();
    if let Some(first) = differing.first() {
        let at = first & !7;
        let hex = |v: &[u8]| (at..at + 8).map(|i| format!("{:02x}", byte(v, i))).collect::<Vec<_>>().join(" ");
        changes.push(Change {
            key: "object.content.changed",
            old_rva: Some(o.rva.saturating_add(*first as u32)),
            new_rva: Some(p.rva.saturating_add(*first as u32)),
            text: format!(
                "{} of {} bytes differ, first at offset {first:#x}: {} became {}",
                differing.len(),
                x.len().max(y.len()),
                hex(&x),
                hex(&y)
            ),
        });
    }
    changes
}

/// The bytes with reference fields zeroed.
fn masked(side: &crate::side::Side<'_>, id: ObjectId) -> Vec<u8> {
    let o = &side.program.objects[id.index()];
    let mut bytes = side.bytes_of(o).to_vec();
    for r in side.references_in_object(id) {
        let at = (r.site - o.rva) as usize;
        let end = (at + usize::from(r.width)).min(bytes.len());
        if at < end {
            bytes[at..end].fill(0);
        }
    }
    bytes
}

fn quoted(program: &Program, id: ObjectId) -> String {
    label::target(program, hotgraft_program::Target { entity: hotgraft_program::Entity::Object(id), addend: 0 })
}
