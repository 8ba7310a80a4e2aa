//! Differences of the layout of user-defined types.

use crate::comparison::ImageChange;
use hotgraft_program::{Program, Udt, UdtKind};
use std::collections::BTreeMap;

/// Types by name. Where compilands disagree on a type, all its layouts are compared as a set.
pub(crate) fn changes(old: &Program, new: &Program) -> Vec<ImageChange> {
    if !old.has_pdb || !new.has_pdb {
        return Vec::new();
    }
    let mut all: BTreeMap<&str, (Vec<&Udt>, Vec<&Udt>)> = BTreeMap::new();
    for udt in &old.types.udts {
        all.entry(key(udt)).or_default().0.push(udt);
    }
    for udt in &new.types.udts {
        all.entry(key(udt)).or_default().1.push(udt);
    }
    let mut changes = Vec::new();
    for (_, (before, after)) in all {
        match (before.as_slice(), after.as_slice()) {
            ([], []) => {}
            ([], [t, ..]) => changes.push(ImageChange {
                key: "image.type.added",
                subject: t.name.clone(),
                text: format!("{} of {} bytes", kind(t), t.size),
            }),
            ([t, ..], []) => changes.push(ImageChange {
                key: "image.type.removed",
                subject: t.name.clone(),
                text: format!("{} of {} bytes", kind(t), t.size),
            }),
            (before, after) => {
                let gone: Vec<_> = before.iter().filter(|t| !after.iter().any(|u| same(t, u))).collect();
                let come: Vec<_> = after.iter().filter(|t| !before.iter().any(|u| same(t, u))).collect();
                let text = match (gone.as_slice(), come.as_slice()) {
                    ([], []) => continue,
                    ([t, ..], [u, ..]) => difference(t, u),
                    ([t, ..], []) => format!("one of {} layouts ({} bytes) is gone", before.len(), t.size),
                    ([], [u, ..]) => format!("one more layout, of {} bytes", u.size),
                };
                changes.push(ImageChange { key: "image.type.layout.changed", subject: before[0].name.clone(), text });
            }
        }
    }
    changes
}

fn key(udt: &Udt) -> &str {
    udt.unique_name.as_deref().unwrap_or(&udt.name)
}

fn kind(udt: &Udt) -> &'static str {
    match udt.kind {
        UdtKind::Struct => "structure",
        UdtKind::Union => "union",
        UdtKind::Enum => "enumeration",
    }
}

/// The same layout. Indices of other types differ between programs and are left out; those types are compared on their
/// own.
fn same(a: &Udt, b: &Udt) -> bool {
    a.kind == b.kind
        && a.size == b.size
        && a.members.len() == b.members.len()
        && a.members
            .iter()
            .zip(&b.members)
            .all(|(m, n)| m.name == n.name && m.offset == n.offset && m.type_name == n.type_name && m.bits == n.bits)
}

/// Member by member, what is different.
fn difference(a: &Udt, b: &Udt) -> String {
    let mut parts = Vec::new();
    if a.kind != b.kind {
        parts.push(format!("{} became {}", kind(a), kind(b)));
    }
    if a.size != b.size {
        parts.push(format!("{} bytes became {}", a.size, b.size));
    }
    let place = if a.kind == UdtKind::Enum { "value" } else { "offset" };
    for m in &a.members {
        match b.members.iter().find(|n| n.name == m.name) {
            None => parts.push(format!("{} ({place} {}) removed", m.name, m.offset)),
            Some(n) => {
                if n.offset != m.offset {
                    parts.push(format!("{} moved from {place} {} to {}", m.name, m.offset, n.offset));
                }
                if n.type_name != m.type_name {
                    parts.push(format!("{}: type `{}` became `{}`", m.name, m.type_name, n.type_name));
                }
                if n.bits != m.bits {
                    parts.push(format!("{}: bits {:?} became {:?}", m.name, m.bits, n.bits));
                }
            }
        }
    }
    for n in b.members.iter().filter(|n| !a.members.iter().any(|m| m.name == n.name)) {
        parts.push(format!("{}: `{}` added at {place} {}", n.name, n.type_name, n.offset));
    }
    if parts.is_empty() {
        parts.push("the order of members differs".to_owned());
    }
    const LISTED: usize = 12;
    let left = parts.len().saturating_sub(LISTED);
    parts.truncate(LISTED);
    if left > 0 {
        parts.push(format!("{left} more"));
    }
    parts.join("; ")
}
