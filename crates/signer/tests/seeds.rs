//! What fuzzing starts from: one good example for each target at least, and each is read as what it is. With
//! `HOTGRAFT_FUZZ_SEEDS` they stay in that folder, one folder for each target.

mod common;

use common::der::{parts, tlv};
use common::forge::{Token, granted};
use common::pe::Shape;
use common::pki::{Entity, Key, Template};
use common::tools::{must, text};
use hotgraft_signer::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// 2026-11-24
const NOW: UnixTime = UnixTime(1_795_500_000);

struct Seeds {
    folder: PathBuf,
    count: usize,
}

impl Seeds {
    fn put(&mut self, target: &str, bytes: &[u8]) {
        let folder = self.folder.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("good-{:03}", self.count)), bytes).unwrap();
        self.count += 1;
    }
}

#[test]
fn every_target_has_seeds_that_are_read() {
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("HOTGRAFT_FUZZ_SEEDS").map(PathBuf::from);
    let mut seeds = Seeds { folder: kept.unwrap_or_else(|| temporary.path().to_owned()), count: 0 };
    let root = Entity::issue(Template::root("Root"), Key::p256(1), None);
    let tsa = Entity::issue(Template::tsa("TSA"), Key::p256(4), Some(&root));
    let trust = TrustPolicy::from_pem_roots(root.pem().as_bytes()).unwrap();
    let response = RefCell::new(vec![]);
    let transport = |request: &[u8]| -> Result<Vec<u8>, String> {
        let fields = parts(&parts(request)[0].1);
        let imprint = parts(&fields[1].1)[1].1.clone();
        let nonce = Some(fields[2].1.clone());
        let token = Token { imprint, nonce, ..Token::over(b"", &tsa) };
        *response.borrow_mut() = granted(&token.forge(&tsa, &[&root]).finish());
        Ok(response.borrow().clone())
    };

    for (name, key) in [("rsa", Key::rsa(2048, 0)), ("p256", Key::p256(2)), ("p384", Key::p384(2))] {
        let leaf = Entity::issue(Template::leaf(name), key, Some(&root));
        let chain = leaf.pem() + &root.pem();
        let key = SigningKey::from_pem(leaf.key.pem().as_bytes(), chain.as_bytes(), None).unwrap();
        let pe = Shape { sections: vec![0x200], ..Shape::default() }.build();
        for page_hashes in [false, true] {
            let options = SignOptions {
                page_hashes,
                description: Some("Demo".to_owned()),
                url: Some("https://example.test/".to_owned()),
                timestamp: Some(Timestamping { transport: &transport, digest: DigestAlgorithm::Sha256 }),
                ..SignOptions::default()
            };
            let signed = sign(&pe, &key, &options).unwrap();
            let again = SignOptions { existing: Existing::Append, timestamp: None, ..options.clone() };
            let nested = sign(&signed, &key, &again).unwrap();
            for file in [signed, nested] {
                let report = verify(&file, &trust, NOW).unwrap();
                assert!(report.signatures[0].timestamp.is_some());
                seeds.put("signer_file", &file);
                let pkcs7 = extract(&file).unwrap();
                attach_pkcs7(pe.as_slice(), &pkcs7, Existing::Refuse, &mut vec![]).unwrap();
                seeds.put("signer_signed_data", &pkcs7);
            }
        }
        // `sign` has taken it.
        seeds.put("signer_timestamp_response", &response.borrow());
        Certificate::from_der(&leaf.der).unwrap();
        seeds.put("signer_certificate", &leaf.der);
        seeds.put("signer_certificate", chain.as_bytes());
        let list =
            leaf.crl("261101000000Z", "271101000000Z", &[(7, "261001000000Z", Some(1)), (8, "261001000000Z", None)]);
        RevocationList::from_bytes(&list).unwrap();
        seeds.put("signer_revocation_list", &list);
        seeds.put("signer_revocation_list", common::der::pem("X509 CRL", &list).as_bytes());

        let path = |name: &str| temporary.path().join(name);
        std::fs::write(path("key.pem"), leaf.key.pem()).unwrap();
        std::fs::write(path("chain.pem"), &chain).unwrap();
        for scheme in [&["-keypbe", "AES-256-CBC"][..], &["-legacy"], &["-keypbe", "NONE", "-certpbe", "NONE"]] {
            let (key, chain, out) = (path("key.pem"), path("chain.pem"), path("key.pfx"));
            let files = ["-inkey", text(&key), "-in", text(&chain), "-out", text(&out)];
            // Few rounds: deriving a key is not what is fuzzed.
            must(
                "openssl",
                &[&["pkcs12", "-export", "-iter", "1", "-passout", "pass:pw"], &files[..], scheme].concat(),
            );
            let pfx = std::fs::read(out).unwrap();
            assert!(fuzz::pfx(&pfx).is_none());
            seeds.put("signer_pfx", &pfx);
        }

        let patch = Artifact::of_image("demo.dll", &pe).unwrap();
        let (old, new) = (Artifact::of_file("demo.dll", b"old"), Artifact::of_file("demo.dll", b"new"));
        let options = BTreeMap::from([("sequence".to_owned(), "3".to_owned())]);
        let (tool, verdict) = ("urn:hotgraft:0.1.0".to_owned(), "patch".to_owned());
        let provenance = Provenance { patch, old, new, tool, options, verdict, accepted: vec![] };
        let envelope = provenance.sign(&key).unwrap();
        let signed = sign(&pe, &key, &SignOptions::default()).unwrap();
        assert_eq!(verify_provenance(&signed, &envelope, &trust, NOW).unwrap(), provenance);
        seeds.put("signer_envelope", &envelope);
        seeds.put("signer_envelope", &provenance.statement());
    }
    // A chain of forms within each other.
    let deep = (0..64).fold(vec![5, 0], |inner, _| tlv(0x30, &inner));
    seeds.put("signer_signed_data", &deep);
    assert!(seeds.count >= 45, "{}", seeds.count);
}
