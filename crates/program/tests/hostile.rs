//! Any bytes give a result or an error.

mod support;

use hotgraft_program::{Error, Program};
use proptest::prelude::*;
use std::sync::LazyLock;

/// An image and its PDB, small enough to be read many times.
static PAIR: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| read("bounds/old/bounds.dll"));
static SWITCH: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| read("vtable/old/vtable.exe"));

fn read(name: &str) -> (Vec<u8>, Vec<u8>) {
    let (_, path) = support::fixtures().into_iter().find(|(n, _)| n == name).expect("a committed image");
    (std::fs::read(&path).expect("readable"), std::fs::read(path.with_extension("pdb")).expect("readable"))
}

fn mutate(original: &[u8], edits: &[(prop::sample::Index, u8)], cut: Option<&prop::sample::Index>) -> Vec<u8> {
    let mut out = original.to_vec();
    for (at, value) in edits {
        let at = at.index(out.len());
        out[at] = *value;
    }
    if let Some(cut) = cut {
        out.truncate(cut.index(out.len()));
    }
    out
}

/// Values that find off-by-one and overflow errors more often than random ones.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()]
}

fn edits(most: usize) -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), byte()), 0..most)
}

/// Whatever comes out must be consistent enough to be walked.
fn walk(result: Result<Program, Error>) {
    let Ok(p) = result else { return };
    for r in &p.references {
        let _ = p.rva_of(r.target);
    }
    let mut at = 0;
    for s in &p.spans {
        assert!(s.size > 0 && s.rva >= at, "spans overlap at {:#x}", s.rva);
        at = s.rva + s.size;
    }
    assert!(p.objects.windows(2).all(|w| w[0].end() <= w[1].rva), "objects overlap");
    assert!(p.functions.windows(2).all(|w| w[0].rva() < w[1].rva()), "functions are not sorted");
    for f in &p.functions {
        assert!(f.ranges.iter().all(|r| r.size > 0 && p.image.bytes(r.rva, r.size as usize).is_some()));
        assert!(f.udts.iter().all(|u| u.index() < p.types.udts.len()));
    }
    let _ = p.coverage();
}

proptest! {
    #[test]
    fn random_bytes_are_no_image(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        walk(Program::from_bytes("x", &bytes, None));
    }

    #[test]
    fn random_bytes_are_no_pdb(bytes in prop::collection::vec(any::<u8>(), 0..4096), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic {
            bytes.splice(0..0, b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0".iter().copied());
        }
        let result = Program::from_bytes("x", &PAIR.0, Some(("x.pdb", &bytes)));
        let refused = matches!(result, Err(Error::Pdb { .. } | Error::PdbMismatch { .. }));
        prop_assert!(refused, "read as a PDB");
    }

    #[test]
    fn a_damaged_header_never_panics(list in edits(8), cut in prop::option::weighted(0.2, any::<prop::sample::Index>())) {
        let mut file = PAIR.0.clone();
        let head = mutate(&file[..0x400], &list, None);
        file[..0x400].copy_from_slice(&head);
        walk(Program::from_bytes("x", &mutate(&file, &[], cut.as_ref()), None));
    }

    #[test]
    fn a_damaged_image_never_panics(list in edits(64), with_pdb in any::<bool>()) {
        let file = mutate(&SWITCH.0, &list, None);
        let pdb = with_pdb.then_some(("x.pdb", SWITCH.1.as_slice()));
        walk(Program::from_bytes("x", &file, pdb));
    }

    #[test]
    fn a_damaged_pdb_never_panics(list in edits(48), cut in prop::option::weighted(0.2, any::<prop::sample::Index>())) {
        let pdb = mutate(&SWITCH.1, &list, cut.as_ref());
        walk(Program::from_bytes("x", &SWITCH.0, Some(("x.pdb", &pdb))));
    }

    /// Most of a PDB is hash tables and free pages: aim at the pages that hold records.
    #[test]
    fn damaged_records_never_panic(page in any::<prop::sample::Index>(), list in edits(16)) {
        let mut pdb = SWITCH.1.clone();
        let pages: Vec<usize> = (0..pdb.len() / 4096).filter(|p| pdb[p * 4096..(p + 1) * 4096].iter().filter(|b| **b != 0).count() > 256).collect();
        let start = pages[page.index(pages.len())] * 4096;
        let part = mutate(&pdb[start..start + 4096], &list, None);
        pdb[start..start + 4096].copy_from_slice(&part);
        walk(Program::from_bytes("x", &SWITCH.0, Some(("x.pdb", &pdb))));
    }
}

/// The stated size of the type records is not what memory is taken by.
#[test]
fn a_pdb_that_claims_huge_streams_is_an_error() {
    let mut pdb = PAIR.1.clone();
    // Bytes of the stream directory.
    pdb[44..48].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    let result = Program::from_bytes("x", &PAIR.0, Some(("x.pdb", &pdb)));
    assert!(matches!(result, Err(Error::Pdb { .. })), "{result:?}");
}
