//! Both ways against independent tools: we sign and they check; they sign and we check.

mod common;

use common::pe::Shape;
use common::pki::{Entity, Key, Template};
use common::tools::{must, run, text};
use hotgraft_signer::*;
use std::path::PathBuf;

/// A folder with the files that tools want.
struct Desk {
    folder: tempfile::TempDir,
    root: Entity,
}

impl Desk {
    fn new() -> Desk {
        let root = Entity::issue(Template::root("Test Root"), Key::p256(1), None);
        let desk = Desk { folder: tempfile::tempdir().unwrap(), root };
        desk.write("root.pem", desk.root.pem().as_bytes());
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn leaf(&self, name: &str, key: Key) -> Entity {
        Entity::issue(Template::leaf(name), key, Some(&self.root))
    }

    fn signing_key(&self, leaf: &Entity) -> SigningKey {
        let chain = leaf.pem() + &self.root.pem();
        SigningKey::from_pem(leaf.key.pem().as_bytes(), chain.as_bytes(), None).unwrap()
    }

    fn osslsigncode(&self, file: &str) -> (bool, String) {
        run(
            "osslsigncode",
            &["verify", "-CAfile", text(&self.path("root.pem")), "-ignore-cdp", "-in", text(&self.path(file))],
        )
    }

    fn sbverify(&self, file: &str) -> (bool, String) {
        run("sbverify", &["--cert", text(&self.path("root.pem")), text(&self.path(file))])
    }
}

#[test]
fn our_signatures_are_theirs() {
    let desk = Desk::new();
    let keys = [("rsa2048", Key::rsa(2048, 0)), ("rsa3072", Key::rsa(3072, 0)), ("p256", Key::p256(2)), ("p384", Key::p384(2))];
    for (name, key) in keys {
        let leaf = desk.leaf(name, key);
        let key = desk.signing_key(&leaf);
        for digest in DigestAlgorithm::ALL {
            for shape in [
                Shape::default(),
                Shape { plus: false, ..Shape::default() },
                Shape { overlay: 5, checksum: false, ..Shape::default() },
            ] {
                for page_hashes in [false, true] {
                    let options = SignOptions {
                        digest,
                        page_hashes,
                        description: Some("Demo".to_owned()),
                        url: Some("https://example.test/".to_owned()),
                        ..SignOptions::default()
                    };
                    let signed = sign(&shape.build(), &key, &options).unwrap();
                    assert_eq!(common::pe::checksum(&signed), common::pe::get32(&signed, common::pe::CHECKSUM));
                    desk.write("signed.exe", &signed);
                    let (ok, log) = desk.osslsigncode("signed.exe");
                    assert!(ok && log.contains("Succeeded"), "{name} {digest:?} {shape:?} {page_hashes}\n{log}");
                    if page_hashes {
                        assert!(log.contains("Page hash algorithm"), "{log}");
                    }
                    if digest == DigestAlgorithm::Sha256 {
                        let (ok, log) = desk.sbverify("signed.exe");
                        assert!(ok, "{name} {digest:?} {shape:?} {page_hashes}\n{log}");
                    }
                }
            }
        }
    }
    let _ = must;
}
