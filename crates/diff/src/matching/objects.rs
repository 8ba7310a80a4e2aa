//! Matches of data that has no name.

use super::bodies::Labels;
use super::{Index, Matches, Which, unique_pairs};
use crate::comparison::Rung;
use crate::side::is_loader_table;
use hotgraft_program::{ObjectId, ObjectKind, Program};

/// Tables that the loader knows, kind by kind in the order of their addresses where both sides have as many.
pub(super) fn directories(m: &mut Matches<'_>) {
    let ordered = |p: &Program| {
        let mut all: Vec<(u8, ObjectId)> = Vec::new();
        for (i, o) in p.objects.iter().enumerate() {
            let anchored = is_loader_table(o.kind) && o.kind != ObjectKind::Unwind;
            let unnamed = o.name.is_none()
                && matches!(
                    o.kind,
                    ObjectKind::InitializerTable | ObjectKind::PseudoRelocations | ObjectKind::TlsTemplate
                );
            if anchored || unnamed {
                all.push((order(o.kind), ObjectId::from(i)));
            }
        }
        all.sort();
        all
    };
    let (old, new) = (ordered(m.old.program), ordered(m.new.program));
    for kind in 0..=u8::MAX {
        let of =
            |all: &[(u8, ObjectId)]| -> Vec<ObjectId> { all.iter().filter(|o| o.0 == kind).map(|o| o.1).collect() };
        let (a, b) = (of(&old), of(&new));
        if a.len() == b.len() {
            for (a, b) in a.into_iter().zip(b) {
                m.objects.join(a, b, Rung::Anchor, 1.0);
            }
        }
    }
}

fn order(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Data => 0,
        ObjectKind::String => 1,
        ObjectKind::WideString => 2,
        ObjectKind::JumpTable(_) => 3,
        ObjectKind::VTable => 4,
        ObjectKind::Rtti => 5,
        ObjectKind::Unwind => 6,
        ObjectKind::RuntimeFunctions => 7,
        ObjectKind::ImportTable => 8,
        ObjectKind::ImportAddressTable => 9,
        ObjectKind::ExportTable => 10,
        ObjectKind::TlsDirectory => 11,
        ObjectKind::TlsTemplate => 12,
        ObjectKind::LoadConfig => 13,
        ObjectKind::Debug => 14,
        ObjectKind::Resource => 15,
        ObjectKind::BaseRelocations => 16,
        ObjectKind::InitializerTable => 17,
        ObjectKind::PseudoRelocations => 18,
    }
}

fn free(m: &Matches<'_>, which: Which) -> Vec<ObjectId> {
    match which {
        Which::Old => m.objects.free_old().collect(),
        Which::New => m.objects.free_new().collect(),
    }
}

/// Strings whose text occurs once on either side.
pub(super) fn texts(m: &mut Matches<'_>) {
    let keys = |which: Which| -> Vec<_> {
        let side = m.side(which);
        let object = |id: ObjectId| &side.program.objects[id.index()];
        free(m, which)
            .into_iter()
            .filter(|id| !side.has_identity(*id))
            .filter_map(|id| Some(((order(object(id).kind), object(id).writable, side.text_of(id, 0)?), id)))
            .collect()
    };
    for (a, b) in unique_pairs(keys(Which::Old).into_iter(), keys(Which::New).into_iter()) {
        m.objects.join(a, b, Rung::Content, 1.0);
    }
}

/// True if the object says enough to be known by its content.
fn is_telling(m: &Matches<'_>, which: Which, id: ObjectId) -> bool {
    let side = m.side(which);
    let o = &side.program.objects[id.index()];
    let size = crate::side::significant_size(side.program, o);
    !side.has_identity(id)
        && !is_loader_table(o.kind)
        && !matches!(o.kind, ObjectKind::JumpTable(_))
        && !o.zero_fill
        && size >= if o.writable { 8 } else { 4 }
}

/// Objects whose content, with what it refers to, occurs once on either side.
pub(super) fn content(m: &mut Matches<'_>) -> bool {
    let mut found = false;
    for depth in [2, 0] {
        let (old, new) = Labels::at_depth(m, depth);
        let keys = |which: Which, labels: &Labels| -> Vec<_> {
            let ids = free(m, which).into_iter().filter(|id| is_telling(m, which, *id));
            ids.map(|id| (labels.objects[id.index()], id)).collect()
        };
        for (a, b) in unique_pairs(keys(Which::Old, &old).into_iter(), keys(Which::New, &new).into_iter()) {
            found |= m.objects.join(a, b, Rung::Content, if depth == 0 { 0.8 } else { 0.95 });
        }
    }
    found
}

/// Constants without identity that are equal are the same, however many there are: paired in the order of their
/// addresses, so that merged or repeated literals do not look like additions.
pub(super) fn interchangeable(m: &mut Matches<'_>) {
    let (old, new) = Labels::at_depth(m, 2);
    let keys = |which: Which, labels: &Labels| -> Vec<(u64, ObjectId)> {
        let side = m.side(which);
        let mut all: Vec<_> = free(m, which)
            .into_iter()
            .filter(|id| {
                let o = &side.program.objects[id.index()];
                !o.writable && !side.has_identity(*id) && (!is_loader_table(o.kind) || o.kind == ObjectKind::Unwind)
            })
            .map(|id| (labels.objects[id.index()], id))
            .collect();
        all.sort_unstable();
        all
    };
    let (old, new) = (keys(Which::Old, &old), keys(Which::New, &new));
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < new.len() {
        match old[i].0.cmp(&new[j].0) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                m.objects.join(old[i].1, new[j].1, Rung::Content, 0.5);
                i += 1;
                j += 1;
            }
        }
    }
}

/// Data that nothing refers to and that follows a matched object with the same bytes: the unreferenced rest of it.
pub(super) fn followers(m: &mut Matches<'_>) {
    for i in 1..m.old.program.objects.len() {
        let a = ObjectId::from(i);
        let Some(before) = m.objects.new_of(ObjectId::from(i - 1)) else { continue };
        let j = before.position() + 1;
        if j >= m.new.program.objects.len() {
            continue;
        }
        let b = ObjectId::from(j);
        let (o, p) = (&m.old.program.objects[i], &m.new.program.objects[j]);
        let alike = !m.old.referenced[i]
            && !m.new.referenced[j]
            && !m.old.has_identity(a)
            && !m.new.has_identity(b)
            && o.writable == p.writable
            && o.zero_fill == p.zero_fill
            && std::mem::discriminant(&o.kind) == std::mem::discriminant(&p.kind)
            && o.size == p.size
            && m.old.content[i] == m.new.content[j];
        if alike {
            m.objects.join(a, b, Rung::Content, 0.5);
        }
    }
}
