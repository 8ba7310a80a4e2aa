//! Provenance envelopes: what is accepted, and everything around it that is not.

mod common;

use common::pe::Shape;
use common::pki::{Entity, Key, Template};
use hotgraft_signer::*;
use std::collections::BTreeMap;

/// 2026-11-24
const NOW: UnixTime = UnixTime(1_795_500_000);

fn provenance(patch: Artifact) -> Provenance {
    Provenance {
        patch,
        old: Artifact::of_file("demo.dll", b"old"),
        new: Artifact::of_file("demo.dll", b"new"),
        tool: "urn:hotgraft:0.1.0".to_owned(),
        options: BTreeMap::from([("sequence".to_owned(), "3".to_owned())]),
        verdict: "conditional".to_owned(),
        accepted: vec!["runtime.loop.endless".to_owned()],
    }
}

#[test]
fn a_statement_is_the_signers_about_this_patch() {
    let root = Entity::issue(Template::root("Root"), Key::p256(1), None);
    let trust = TrustPolicy::from_pem_roots(root.pem().as_bytes()).unwrap();
    for key in [Key::rsa(2048, 0), Key::p256(2), Key::p384(2)] {
        let leaf = Entity::issue(Template::leaf("Publisher"), key, Some(&root));
        let read = |e: &Entity| SigningKey::from_pem(e.key.pem().as_bytes(), e.pem().as_bytes(), None).unwrap();
        let key = read(&leaf);
        let pe = Shape { overlay: 3, ..Shape::default() }.build();
        let signed = sign(&pe, &key, &SignOptions::default()).unwrap();
        let verify = |file: &[u8], envelope: &[u8]| verify_provenance(file, envelope, &trust, NOW);

        // Made before signing or after: the same patch.
        for stated in [Artifact::of_image("demo.hotpatch.dll", &pe).unwrap(), Artifact::of_file("x", &signed)] {
            let wanted = provenance(stated);
            let envelope = wanted.sign(&key).unwrap();
            assert_eq!(envelope, wanted.sign(&key).unwrap());
            let found = verify(&signed, &envelope).unwrap();
            assert_eq!(found, wanted);
            found.check_images(Some(b"old"), Some(b"new")).unwrap();
            found.check_images(None, None).unwrap();
            for (old, new) in [(Some(&b"older"[..]), None), (None, Some(&b"newer"[..]))] {
                assert_eq!(found.check_images(old, new).unwrap_err().reason(), "provenance_mismatch");
            }
        }

        let good = provenance(Artifact::of_image("p", &signed).unwrap());
        let envelope = good.sign(&key).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&envelope).unwrap();
        assert_eq!(json["payloadType"], "application/vnd.in-toto+json");
        let reason = |file: &[u8], envelope: &[u8]| verify(file, envelope).unwrap_err().reason();
        let changed = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut copy = json.clone();
            change(&mut copy);
            serde_json::to_vec(&copy).unwrap()
        };
        let other_pe = sign(&Shape::default().build(), &key, &SignOptions::default()).unwrap();
        assert_eq!(reason(&other_pe, &envelope), "provenance_mismatch");
        assert_eq!(reason(&pe, &envelope), "unsigned");
        let stranger = Entity::issue(Template::leaf("Stranger"), Key::p256(9), Some(&root));
        assert_eq!(reason(&signed, &good.sign(&read(&stranger)).unwrap()), "provenance_mismatch");
        let claimed = changed(&|j| j["signatures"][0]["sig"] = "AAAA".into());
        assert_eq!(reason(&signed, &claimed), "bad_signature");
        let another =
            serde_json::from_slice::<serde_json::Value>(&provenance(Artifact::of_file("q", b"q")).sign(&key).unwrap())
                .unwrap();
        assert_eq!(reason(&signed, &changed(&|j| j["payload"] = another["payload"].clone())), "bad_signature");
        assert_eq!(reason(&signed, &changed(&|j| j["signatures"] = serde_json::json!([]))), "provenance_mismatch");
        assert_eq!(reason(&signed, &changed(&|j| j["payloadType"] = "text/plain".into())), "unsupported");
        assert_eq!(reason(&signed, &changed(&|j| j["payload"] = "%%%".into())), "malformed");
        assert_eq!(reason(&signed, &changed(&|j| j["signatures"][0]["sig"] = "%%%".into())), "malformed");
        verify(&signed, &changed(&|j| j["signatures"][0]["keyid"] = "".into())).unwrap();
        verify(&signed, &changed(&|j| j["extra"] = 1.into())).unwrap();
        for bad in [&b""[..], b"{}", b"[]", b"null", &[b'['; 100_000], &envelope[..envelope.len() - 1]] {
            assert_eq!(reason(&signed, bad), "malformed");
        }
    }
}

#[test]
fn the_statement_has_the_form_of_in_toto_and_slsa() {
    let statement: serde_json::Value =
        serde_json::from_slice(&provenance(Artifact::of_file("p", b"p")).statement()).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(statement["subject"][0]["digest"]["sha256"].as_str().unwrap().len(), 64);
    let build = &statement["predicate"]["buildDefinition"];
    assert_eq!(build["resolvedDependencies"].as_array().unwrap().len(), 2);
    assert_eq!(build["externalParameters"]["accepted"][0], "runtime.loop.endless");
    assert!(statement["predicate"]["runDetails"]["builder"]["id"].is_string());
}
