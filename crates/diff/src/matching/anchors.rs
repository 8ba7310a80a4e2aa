//! Matches that the image itself names: imports, exports, entry point.

use super::{Matches, unique_pairs};
use crate::comparison::Rung;
use hotgraft_program::{ExportTarget, ImportId, Program};

/// Imports of the same DLL and name. A name imported twice is matched in the order of the slots.
pub(super) fn imports(m: &mut Matches<'_>) {
    let keys = |p: &Program| {
        let mut keys: Vec<_> = p
            .imports
            .iter()
            .enumerate()
            .map(|(i, import)| {
                ((import.dll.to_ascii_lowercase(), import.name.clone(), import.delayed), ImportId::from(i))
            })
            .collect();
        keys.sort();
        let mut count = 0;
        let mut numbered: Vec<((_, usize), ImportId)> = Vec::with_capacity(keys.len());
        for (key, id) in keys {
            count = if numbered.last().is_some_and(|(last, _)| last.0 == key) { count + 1 } else { 0 };
            numbered.push(((key, count), id));
        }
        numbered
    };
    for (a, b) in unique_pairs(keys(m.old.program).into_iter(), keys(m.new.program).into_iter()) {
        m.imports.join(a, b, Rung::Anchor, 1.0);
    }
}

/// RVAs that the image names, with that name: exports by name (by ordinal where there is none), the entry point.
fn anchors(p: &Program) -> Vec<(String, u32)> {
    let mut all = Vec::new();
    for export in &p.exports {
        if let ExportTarget::Rva(rva) = export.target {
            match &export.name {
                Some(name) => all.push((format!("n{name}"), rva)),
                None => all.push((format!("o{}", export.ordinal), rva)),
            }
        }
    }
    if p.image.entry_point != 0 {
        all.push((String::new(), p.image.entry_point));
    }
    all
}

/// Functions that are exported or are the entry point.
pub(super) fn functions(m: &mut Matches<'_>) {
    let keys = |p: &Program| -> Vec<_> {
        anchors(p).into_iter().filter_map(|(name, rva)| Some((name, p.function_entry(rva)?))).collect()
    };
    for (a, b) in unique_pairs(keys(m.old.program).into_iter(), keys(m.new.program).into_iter()) {
        m.functions.join(a, b, Rung::Anchor, 1.0);
    }
}

/// Exported data.
pub(super) fn objects(m: &mut Matches<'_>) {
    let keys = |p: &Program| -> Vec<_> {
        let start = |rva| p.object_at(rva).filter(|id| p.objects[id.index()].rva == rva);
        anchors(p).into_iter().filter_map(|(name, rva)| Some((name, start(rva)?))).collect()
    };
    for (a, b) in unique_pairs(keys(m.old.program).into_iter(), keys(m.new.program).into_iter()) {
        m.objects.join(a, b, Rung::Anchor, 1.0);
    }
}
