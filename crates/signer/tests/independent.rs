//! Both ways against independent tools: we sign and they check; they sign and we check.

mod common;

use common::pe::Shape;
use common::pki::{Entity, Key, Template};
use common::tools::{must, run, text};
use hotgraft_signer::*;
use std::path::PathBuf;

/// 2026-11-24
const NOW: UnixTime = UnixTime(1_795_500_000);

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

/// Every kind of key that is signed with.
fn keys() -> [(&'static str, Key); 5] {
    [
        ("rsa2048", Key::rsa(2048, 0)),
        ("rsa3072", Key::rsa(3072, 0)),
        ("rsa4096", Key::rsa(4096, 0)),
        ("p256", Key::p256(2)),
        ("p384", Key::p384(2)),
    ]
}

#[test]
fn our_signatures_are_theirs() {
    let desk = Desk::new();
    let (mut combinations, mut read_by_sbverify) = (0, 0);
    for (name, key) in keys() {
        let leaf = desk.leaf(name, key);
        let key = desk.signing_key(&leaf);
        for digest in DigestAlgorithm::ALL {
            for shape in [
                Shape::default(),
                Shape { plus: false, ..Shape::default() },
                Shape { overlay: 5, checksum: false, ..Shape::default() },
                // A signature several times the size of the image.
                Shape { sections: vec![0x200], ..Shape::default() },
                Shape { plus: false, overlay: 4096, ..Shape::default() },
                Shape { sections: vec![1, 0x3001, 0x1fff, 0x200, 7], overlay: 1, ..Shape::default() },
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
                    combinations += 1;
                    // sbverify has a limit of its own: see the test after this one.
                    if digest == DigestAlgorithm::Sha256 && !(page_hashes && shape.sections.len() == 1) {
                        let (ok, log) = desk.sbverify("signed.exe");
                        assert!(ok, "{name} {digest:?} {shape:?} {page_hashes}\n{log}");
                        read_by_sbverify += 1;
                    }
                }
            }
        }
    }
    println!(
        "{combinations} combinations of key, digest, file and page hashes signed here: osslsigncode accepts all, \
         sbverify the {read_by_sbverify} that it reads"
    );
    assert_eq!((combinations, read_by_sbverify), (180, 55));
}

/// sbverify cannot read a signed content whose length takes the form of one octet (128 to 255 bytes): it refuses such
/// signatures of others as well, so its word does not count there.
#[test]
fn sbverify_refuses_contents_of_128_to_255_bytes_whoever_signed() {
    let desk = Desk::new();
    let leaf = desk.leaf("Publisher", Key::rsa(2048, 0));
    let input = desk.write("in.exe", &Shape { sections: vec![0x200], ..Shape::default() }.build());
    let (certificate, key) =
        (desk.write("leaf.pem", leaf.pem().as_bytes()), desk.write("leaf.key", leaf.key.pem().as_bytes()));
    let output = desk.path("theirs.exe");
    let files = ["-certs", text(&certificate), "-key", text(&key), "-in", text(&input), "-out", text(&output)];
    must("osslsigncode", &[&["sign", "-h", "sha256", "-ph"], &files[..]].concat());
    let options = SignOptions { page_hashes: true, ..SignOptions::default() };
    desk.write("ours.exe", &sign(&std::fs::read(&input).unwrap(), &desk.signing_key(&leaf), &options).unwrap());
    for name in ["theirs.exe", "ours.exe"] {
        let (ok, log) = desk.sbverify(name);
        assert!(!ok && log.contains("Unable to get IDC"), "{name}: {log}");
        assert!(desk.osslsigncode(name).0, "{name}");
    }
}

#[test]
fn we_accept_what_we_sign_and_nothing_changes_on_the_way() {
    let desk = Desk::new();
    let trust = TrustPolicy::from_pem_roots(desk.root.pem().as_bytes()).unwrap();
    for key in [Key::rsa(2048, 0), Key::p256(2), Key::p384(2)] {
        let leaf = desk.leaf("Publisher", key);
        let key = desk.signing_key(&leaf);
        for overlay in 0..9 {
            let pe = Shape { overlay, ..Shape::default() }.build();
            for page_hashes in [false, true] {
                let options =
                    SignOptions { page_hashes, description: Some("Ünïcode".into()), ..SignOptions::default() };
                let signed = sign(&pe, &key, &options).unwrap();
                assert_eq!(signed, sign(&pe, &key, &options).unwrap(), "same input, same bytes");
                let report = verify(&signed, &trust, NOW).unwrap();
                let signature = report.signer().unwrap();
                assert_eq!(signature.description.as_deref(), Some("Ünïcode"));
                assert_eq!(signature.page_hashes, page_hashes);
                assert_eq!(signature.chain.len(), 2);
                assert_eq!(report.publisher().unwrap().subject, "CN=Publisher,O=Example Org");
                let removed = remove(&signed).unwrap();
                if overlay % 8 == 0 {
                    assert_eq!(removed, pe, "an aligned file comes back byte for byte");
                }
                assert_eq!(sign(&removed, &key, &options).unwrap(), signed);
                assert_eq!(verify(&removed, &trust, NOW), Err(Fault::Unsigned));
                let replaced =
                    sign(&signed, &key, &SignOptions { existing: Existing::Replace, ..options.clone() }).unwrap();
                assert_eq!(replaced, signed);
                assert!(matches!(sign(&signed, &key, &options), Err(SignError::AlreadySigned)));
            }
        }
    }
}

#[test]
fn their_signatures_are_ours() {
    let desk = Desk::new();
    let trust = TrustPolicy::from_pem_roots(desk.root.pem().as_bytes()).unwrap();
    let mut combinations = 0;
    for (name, key) in keys() {
        let rsa = matches!(key, Key::Rsa(_));
        let leaf = desk.leaf(name, key);
        let certificate = desk.write("leaf.pem", leaf.pem().as_bytes());
        let key = desk.write("leaf.key", leaf.key.pem().as_bytes());
        for shape in [
            Shape::default(),
            Shape { plus: false, overlay: 3, ..Shape::default() },
            Shape { sections: vec![0x200], checksum: false, ..Shape::default() },
        ] {
            let input = desk.write("in.exe", &shape.build());
            let output = desk.path("out.exe");
            for digest in ["sha256", "sha384", "sha512"] {
                for extra in [&[][..], &["-ph"], &["-n", "Demo", "-i", "https://example.test/"]] {
                    let _ = std::fs::remove_file(&output);
                    let root = desk.path("root.pem");
                    let mut arguments = vec![
                        "sign",
                        "-certs",
                        text(&certificate),
                        "-ac",
                        text(&root),
                        "-key",
                        text(&key),
                        "-h",
                        digest,
                    ];
                    arguments.extend(extra);
                    arguments.extend(["-in", text(&input), "-out", text(&output)]);
                    must("osslsigncode", &arguments);
                    let signed = std::fs::read(&output).unwrap();
                    let report =
                        verify(&signed, &trust, NOW).unwrap_or_else(|e| panic!("{name} {digest} {extra:?}: {e}"));
                    let signature = report.signer().unwrap();
                    assert_eq!(signature.page_hashes, extra == ["-ph"]);
                    assert_eq!(signature.url.is_some(), extra.contains(&"-i"));
                    assert_eq!(signature.digest_algorithm.replace('-', "").to_lowercase(), digest);
                    let checksum = report.checksum.unwrap();
                    assert_eq!(checksum.stated, checksum.computed);
                    combinations += 1;
                }
            }
            // sbsign signs with RSA and SHA-256 alone.
            if rsa {
                let _ = std::fs::remove_file(&output);
                must(
                    "sbsign",
                    &["--key", text(&key), "--cert", text(&certificate), "--output", text(&output), text(&input)],
                );
                verify(&std::fs::read(&output).unwrap(), &trust, NOW).unwrap();
                combinations += 1;
            }
        }
    }
    println!(
        "{combinations} combinations of key, digest, file and option signed by osslsigncode and sbsign: all accepted here"
    );
    assert_eq!(combinations, 5 * 3 * 9 + 3 * 3);
}
