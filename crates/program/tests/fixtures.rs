//! What must hold for every committed image.

mod support;

use hotgraft_program::{Entity, Error, Evidence, ObjectKind, PdbChoice, Program, SpanKind, UdtKind};
use std::path::Path;
use std::sync::LazyLock;

/// All images, read once.
static ALL: LazyLock<Vec<(String, Program)>> = LazyLock::new(|| {
    support::fixtures()
        .into_iter()
        .map(|(name, path)| {
            // One pair has its PDBs swapped; it must be refused, which another test asserts.
            let choice = if name.starts_with("swapped-pdbs") { PdbChoice::None } else { PdbChoice::Auto };
            let program = Program::load(&path, choice).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, program)
        })
        .collect()
});

fn one(name: &str) -> Program {
    let (_, path) = support::fixtures().into_iter().find(|(n, _)| n == name).expect("a committed image");
    Program::load(&path, PdbChoice::Auto).expect("a readable image")
}

#[test]
fn every_byte_is_explained_where_there_is_a_pdb() {
    for (name, p) in ALL.iter().filter(|(_, p)| p.has_pdb) {
        for s in p.coverage() {
            assert_eq!(s.code + s.object + s.padding + s.unknown, s.size, "{name} {}", s.section);
            let allowed = if s.executable { s.size / 1000 } else { s.size / 100 };
            assert!(s.unknown <= allowed, "{name} {}: {} bytes unknown: {:x?}", s.section, s.unknown, s.unknown_ranges);
        }
        let unknown: Vec<_> = p.references.iter().filter(|r| r.target.entity == Entity::Unknown).collect();
        assert!(unknown.is_empty(), "{name}: {unknown:x?}");
        assert!(p.conflicts.is_empty(), "{name}: {:x?}", p.conflicts);
    }
}

/// A border between functions that is guessed cuts code in two; with a PDB something must name each function.
#[test]
fn no_function_is_guessed_where_there_is_a_pdb() {
    for (name, p) in ALL.iter().filter(|(_, p)| p.has_pdb) {
        for f in &p.functions {
            assert!(!Evidence::DIRECTORY.contains(f.evidence), "{name}: {:#x} {:?}", f.rva(), f.name);
        }
    }
}

#[test]
fn tables_are_sorted_and_disjoint() {
    for (name, p) in ALL.iter() {
        assert!(p.functions.windows(2).all(|w| w[0].rva() < w[1].rva()), "{name}: functions");
        assert!(p.objects.windows(2).all(|w| w[0].end() <= w[1].rva), "{name}: objects");
        assert!(p.objects.iter().all(|o| o.size != 0), "{name}: empty objects");
        assert!(p.references.windows(2).all(|w| w[0].site < w[1].site), "{name}: references");
        assert!(p.imports.windows(2).all(|w| w[0].slot < w[1].slot), "{name}: imports");
        assert!(p.lines.windows(2).all(|w| w[0].0 < w[1].0), "{name}: lines");
        assert!(p.lines.iter().all(|l| l.2 == 0 || (l.1 as usize) < p.files.len()), "{name}: files");
        assert!(p.unwind.windows(2).all(|w| w[0].begin <= w[1].begin), "{name}: unwind");
        let ranges: Vec<_> = p.ranges.iter().map(|&(_, id, n)| p.functions[id.index()].ranges[n as usize]).collect();
        assert!(ranges.windows(2).all(|w| w[0].end() <= w[1].rva), "{name}: ranges");
        assert!(p.types.udts.windows(2).all(|w| w[0].name <= w[1].name), "{name}: types");
        let mut at = None;
        for s in &p.spans {
            let start = p.image.sections.iter().any(|section| section.rva == s.rva);
            assert!(start || at == Some(s.rva), "{name}: gap before {:#x}", s.rva);
            at = Some(s.rva + s.size);
        }
    }
}

#[test]
fn targets_lead_back_to_the_addresses_they_were_made_from() {
    for (name, p) in ALL.iter() {
        for r in &p.references {
            assert_eq!(p.rva_of(r.target), i64::from(r.rva), "{name}: {r:x?}");
            // The value in the file is what the form says.
            let stored = match r.width {
                4 => p.image.u32(r.site).map(|v| i64::from(v as i32)),
                8 => p.image.u64(r.site).map(|v| v as i64),
                _ => continue,
            };
            let origin = match r.form {
                hotgraft_program::Form::Absolute => -(p.image.image_base as i64),
                _ => i64::from(r.origin),
            };
            assert_eq!(stored, Some(i64::from(r.rva) - origin), "{name}: {r:x?}");
        }
    }
}

#[test]
fn base_relocations_are_all_references() {
    for (name, p) in ALL.iter() {
        for &site in &p.image.base_relocations {
            let found = p.references.binary_search_by_key(&site, |r| r.site);
            assert!(found.is_ok(), "{name}: no reference at {site:#x}");
        }
    }
}

#[test]
fn padding_is_filler_that_nothing_refers_to() {
    for (name, p) in ALL.iter() {
        for s in p.spans.iter().filter(|s| s.kind == SpanKind::Padding) {
            let bytes = p.image.bytes(s.rva, s.size as usize).expect("inside the image");
            let executable = p.image.section_at(s.rva).is_some_and(|s| s.is_executable());
            let filler = if executable {
                hotgraft_program::code::filler_length(bytes)
            } else {
                bytes.iter().take_while(|&&b| b == 0).count()
            };
            assert_eq!(filler, bytes.len(), "{name}: padding at {:#x}", s.rva);
            let end_of_table = |site: u32| {
                let (start, size) = p.image.directories[3];
                site.checked_sub(start).is_some_and(|d| d < size && d % 12 == 4)
            };
            let inside = p.references.iter().find(|r| r.rva > s.rva && r.rva < s.rva + s.size && !end_of_table(r.site));
            assert!(inside.is_none(), "{name}: {inside:x?} points into padding");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for name in ["switch/old/switch.exe", "catch/old/catch.exe", "vtable/new/vtable.exe"] {
        let text = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            format!("{:?}", pool.install(|| one(name)))
        };
        assert!(text(1) == text(4), "{name}");
    }
}

#[test]
fn a_pdb_of_another_build_is_refused() {
    let (_, path) =
        support::fixtures().into_iter().find(|(n, _)| n == "swapped-pdbs/old/swapped-pdbs.exe").expect("there");
    assert!(matches!(Program::load(&path, PdbChoice::Auto), Err(Error::PdbMismatch { .. })));
    let pdb = path.with_extension("pdb");
    assert!(matches!(Program::load(&path, PdbChoice::Path(pdb)), Err(Error::PdbMismatch { .. })));
    assert!(matches!(Program::load(&path, PdbChoice::Path("missing.pdb".into())), Err(Error::Io { .. })));
    assert!(matches!(Program::load(Path::new("missing.dll"), PdbChoice::None), Err(Error::Io { .. })));
    assert!(!Program::load(&path, PdbChoice::None).expect("readable without").has_pdb);
}

#[test]
fn folded_functions_keep_all_names() {
    let p = one("folded/old/folded.exe");
    let f = p.functions.iter().find(|f| f.name.as_deref() == Some("read_limit")).expect("a function");
    assert_eq!(f.aliases, ["_Z11write_limiti", "write_limit"]);
    assert_eq!(f.decorated.as_deref(), Some("_Z10read_limiti"));
    assert_eq!(f.prototype.as_deref(), Some("int (int)"));
}

#[test]
fn static_locals_know_their_function_and_vtables_are_whole() {
    let p = one("vtable/old/vtable.exe");
    let wide = p.objects.iter().find(|o| o.name.as_deref() == Some("wide")).expect("a static local");
    let scope = wide.scope.expect("its function");
    assert_eq!(p.functions[scope.index()].name.as_deref(), Some("pick"));
    assert_eq!(wide.type_name.as_deref(), Some("rectangle"));
    assert_eq!(wide.udt.map(|u| p.types.udt(u).size), Some(16));
    let table = p.objects.iter().find(|o| o.name.as_deref() == Some("_ZTV6square")).expect("a vtable");
    assert_eq!((table.kind, table.size), (ObjectKind::VTable, 32));
    let (_, rectangle) = p.types.by_name("rectangle").next().expect("a type");
    assert_eq!(rectangle.kind, UdtKind::Struct);
    assert_eq!(rectangle.members[0].name, ": shape");
    assert_eq!(rectangle.members[0].by_value, p.types.by_name("shape").next().map(|u| u.0));
    let offsets: Vec<_> = rectangle.members.iter().map(|m| (m.name.as_str(), m.offset)).collect();
    assert!(offsets.contains(&("width", 8)) && offsets.contains(&("height", 12)), "{offsets:?}");
    let pick = &p.functions[scope.index()];
    assert!(pick.inlined.iter().any(|i| i.name.contains("rectangle")), "{:?}", pick.inlined);
    assert!(p.functions.iter().any(|f| f.no_return && f.name.as_deref() == Some("start")));
}

#[test]
fn lines_name_the_source() {
    let p = one("plain/old/plain.exe");
    let f = p.functions.iter().find(|f| f.name.as_deref() == Some("start")).expect("a function");
    let line = p.source_line(f.rva()).expect("a line");
    assert!(line.file.ends_with(".c") || line.file.ends_with(".h"), "{line:?}");
    assert!(line.line > 0);
    assert_eq!(p.source_line(p.image.sections[0].rva + p.image.sections[0].size), None);
}

#[test]
fn jump_tables_belong_to_their_functions() {
    let p = one("switch/old/switch.exe");
    let with: Vec<_> = p.functions.iter().filter(|f| !f.jump_tables.is_empty()).collect();
    assert!(!with.is_empty());
    for f in with {
        for t in &f.jump_tables {
            let object = &p.objects[t.object.index()];
            assert!(matches!(object.kind, ObjectKind::JumpTable(id) if p.functions[id.index()].rva() == f.rva()));
            assert_eq!(object.size, t.entries * u32::from(t.width));
            let entries = p.references_in(object.rva, object.end());
            assert_eq!(entries.len(), t.entries as usize);
            assert!(entries.iter().all(|r| f.ranges.iter().any(|range| range.contains(r.rva))));
        }
    }
}
