//! One flipped bit anywhere in a signed file: refused, unless nothing in it depends on the bit.

mod common;

use common::der::parts;
use common::pe::{CHECKSUM, Shape, get32};
use common::pki::{Entity, Key, Template};
use hotgraft_signer::*;
use proptest::prelude::*;
use std::sync::OnceLock;

/// 2026-11-24
const NOW: UnixTime = UnixTime(1_795_500_000);

fn signed() -> &'static (Vec<u8>, TrustPolicy) {
    static FILE: OnceLock<(Vec<u8>, TrustPolicy)> = OnceLock::new();
    FILE.get_or_init(|| {
        let root = Entity::issue(Template::root("Root"), Key::p256(1), None);
        let leaf = Entity::issue(Template::leaf("Publisher"), Key::p256(2), Some(&root));
        // The root is not put into the file: bits of certificates that no path needs would be free.
        let key = SigningKey::from_pem(leaf.key.pem().as_bytes(), leaf.pem().as_bytes(), None).unwrap();
        let pe = Shape { sections: vec![0x200, 0x200], overlay: 3, ..Shape::default() }.build();
        let options = SignOptions { page_hashes: true, ..SignOptions::default() };
        (sign(&pe, &key, &options).unwrap(), TrustPolicy::from_pem_roots(root.pem().as_bytes()).unwrap())
    })
}

#[test]
fn every_byte_is_signed_but_the_checksum() {
    let (file, trust) = signed();
    verify(file, trust, NOW).unwrap();
    let mut free = vec![];
    for at in 0..file.len() {
        let mut copy = file.clone();
        copy[at] ^= 1 << (at % 8);
        if verify(&copy, trust, NOW).is_ok() {
            free.push(at);
        }
    }
    assert_eq!(free, [CHECKSUM, CHECKSUM + 1, CHECKSUM + 2, CHECKSUM + 3], "only these may change");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_files_give_an_answer(
        changes in proptest::collection::vec((0usize..6000, any::<u8>()), 1..12),
        cut in proptest::option::of(0usize..6000),
        grow in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let (file, trust) = signed();
        let mut copy = file.clone();
        for (at, value) in changes {
            let at = at % copy.len();
            copy[at] = value;
        }
        if let Some(cut) = cut {
            copy.truncate(cut % copy.len());
        }
        copy.extend(grow);
        let same = copy.len() == file.len()
            && copy.iter().zip(file).enumerate().all(|(i, (a, b))| a == b || (CHECKSUM..CHECKSUM + 4).contains(&i));
        prop_assert_eq!(verify(&copy, trust, NOW).is_ok(), same);
        fuzz::file(&copy);
    }

    #[test]
    fn damaged_signatures_give_an_answer(changes in proptest::collection::vec((0usize..4000, any::<u8>()), 1..6)) {
        let (file, _) = signed();
        let at = get32(file, Shape::default().security()) as usize;
        let mut der = parts(&file[at + 8..at + 8 + extract(file).unwrap().len()])[0].2.clone();
        for (at, value) in changes {
            let at = at % der.len();
            der[at] = value;
        }
        fuzz::signed_data(&der);
        fuzz::certificate(&der);
        fuzz::revocation_list(&der);
        fuzz::timestamp_response(&der);
    }

    #[test]
    fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        fuzz::file(&bytes);
        fuzz::signed_data(&bytes);
        fuzz::certificate(&bytes);
        fuzz::revocation_list(&bytes);
        fuzz::timestamp_response(&bytes);
        prop_assert!(fuzz::pfx(&bytes).is_some());
    }
}
