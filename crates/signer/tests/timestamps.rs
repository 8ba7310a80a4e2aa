//! Timestamps from `openssl ts` behind a loopback HTTP server, and what servers may do wrong.

mod common;

use common::der::*;
use common::forge::{Token, granted};
use common::pe::Shape;
use common::pki::{Entity, Key, Template};
use common::tools::{raw, run, text};
use common::tsa::{self, ok, reply, serve};
use hotgraft_signer::*;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

struct Desk {
    folder: tempfile::TempDir,
    root: Entity,
    leaf: Entity,
    tsa_root: Entity,
    tsa: Entity,
}

impl Desk {
    fn new() -> Desk {
        let root = Entity::issue(Template::root("Root"), Key::p256(1), None);
        let leaf = Entity::issue(Template::leaf("Publisher"), Key::p256(2), Some(&root));
        let tsa_root = Entity::issue(Template::root("TSA Root"), Key::rsa(2048, 1), None);
        let tsa = Entity::issue(Template::tsa("TSA"), Key::rsa(2048, 2), Some(&tsa_root));
        let desk = Desk { folder: tempfile::tempdir().unwrap(), root, leaf, tsa_root, tsa };
        desk.write("root.pem", desk.root.pem());
        tsa::set_up(desk.folder.path(), &desk.tsa, &desk.tsa_root);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn key(&self) -> SigningKey {
        let chain = self.leaf.pem() + &self.root.pem();
        SigningKey::from_pem(self.leaf.key.pem().as_bytes(), chain.as_bytes(), None).unwrap()
    }

    fn trust(&self) -> TrustPolicy {
        let mut trust = TrustPolicy::from_pem_roots(self.root.pem().as_bytes()).unwrap();
        trust.timestamp_roots = read_pem_certificates(self.tsa_root.pem().as_bytes()).unwrap();
        trust.timestamp_required = true;
        trust
    }
}

#[test]
fn openssl_stamps_and_osslsigncode_agrees() {
    let desk = Desk::new();
    let folder = desk.folder.path().to_owned();
    let (url, _) = serve(move |_, query| ok(&reply(&folder, &query)));
    let transport = http_transport(vec![url], 1);
    let pe = Shape { overlay: 3, ..Shape::default() }.build();
    let now = UnixTime::now();
    for digest in DigestAlgorithm::ALL {
        let timestamp = Some(Timestamping { transport: &transport, digest });
        let options = SignOptions { digest, timestamp, page_hashes: true, ..SignOptions::default() };
        let signed = sign(&pe, &desk.key(), &options).unwrap();
        // Added later, it is the same but for the token.
        let plain = sign(&pe, &desk.key(), &SignOptions { timestamp: None, ..options.clone() }).unwrap();
        let mut later = vec![];
        add_timestamp(plain.as_slice(), &options.timestamp.clone().unwrap(), &mut later).unwrap();
        for file in [&signed, &later] {
            let report = verify(file, &desk.trust(), now).unwrap();
            let stamp = report.signer().unwrap().timestamp.clone().unwrap();
            assert_eq!(stamp.fault, None);
            assert_eq!(stamp.signer.subject, "CN=TSA,O=Example Org");
            assert!(stamp.time.0.abs_diff(now.0) < 600, "{}", stamp.time);
            // Long after the leaf has expired.
            verify(file, &desk.trust(), UnixTime(4_000_000_000)).unwrap();
            let unstamped = TrustPolicy { timestamp_required: false, ..desk.trust() };
            assert_eq!(verify(&plain, &unstamped, UnixTime(4_000_000_000)).unwrap_err().reason(), "expired");

            desk.write("signed.exe", file);
            let (good, log) = run(
                "osslsigncode",
                &[
                    "verify",
                    "-CAfile",
                    text(&desk.path("root.pem")),
                    "-TSA-CAfile",
                    text(&desk.path("tsaroot.pem")),
                    "-ignore-cdp",
                    "-in",
                    text(&desk.path("signed.exe")),
                ],
            );
            // It succeeds with a timestamp that fails: the text tells.
            assert!(good && log.contains("Timestamp Server Signature verification: ok"), "{log}");
        }
        assert!(matches!(
            add_timestamp(signed.as_slice(), &options.timestamp.clone().unwrap(), &mut vec![]),
            Err(SignError::Timestamp(_))
        ));
    }
}

#[test]
fn osslsigncode_stamps_and_we_agree() {
    let desk = Desk::new();
    let folder = desk.folder.path().to_owned();
    let (url, _) = serve(move |_, query| ok(&reply(&folder, &query)));
    desk.write("leaf.pem", desk.leaf.pem());
    desk.write("leaf.key", desk.leaf.key.pem());
    desk.write("in.exe", Shape::default().build());
    for digest in ["sha256", "sha384", "sha512"] {
        let _ = std::fs::remove_file(desk.path("out.exe"));
        let output = raw(
            "osslsigncode",
            &[
                "sign", "-certs", "leaf.pem", "-ac", "root.pem", "-key", "leaf.key", "-h", digest, "-ts", &url, "-in",
                "in.exe", "-out", "out.exe",
            ],
            Some(desk.folder.path()),
        );
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report = verify(&std::fs::read(desk.path("out.exe")).unwrap(), &desk.trust(), UnixTime::now()).unwrap();
        assert!(report.signer().unwrap().timestamp.is_some());
    }
}

#[test]
fn servers_in_turn_and_again() {
    let desk = Desk::new();
    let folder = desk.folder.path().to_owned();
    let (down, down_count) = serve(|_, _| b"HTTP/1.0 503 no\r\n\r\n".to_vec());
    let (shaky, shaky_count) =
        serve(move |number, query| if number == 0 { vec![] } else { ok(&reply(&folder, &query)) });
    let transport = http_transport(vec![down.clone(), shaky], 3);
    let timestamp = Some(Timestamping { transport: &transport, digest: DigestAlgorithm::Sha256 });
    let options = SignOptions { timestamp, ..SignOptions::default() };
    let signed = sign(&Shape::default().build(), &desk.key(), &options).unwrap();
    verify(&signed, &desk.trust(), UnixTime::now()).unwrap();
    assert_eq!((down_count.load(Ordering::SeqCst), shaky_count.load(Ordering::SeqCst)), (2, 2));

    let transport = http_transport(vec![down, "http://127.0.0.1:1/".to_owned(), "https://x/".to_owned()], 1);
    let timestamp = Some(Timestamping { transport: &transport, digest: DigestAlgorithm::Sha256 });
    let result = sign(&Shape::default().build(), &desk.key(), &SignOptions { timestamp, ..SignOptions::default() });
    let Err(SignError::Timestamp(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("503") && text.contains("cannot connect") && text.contains("only http"), "{text}");
}

#[test]
fn a_wrong_answer_is_no_timestamp() {
    let desk = Desk::new();
    let pe = Shape::default().build();
    // The signature is deterministic, so a token can be made ahead for exactly this file.
    let unstamped = sign(&pe, &desk.key(), &SignOptions::default()).unwrap();
    let pkcs7 = extract(&unstamped).unwrap();
    let signature = parts(&parts(&parts(&parts(&parts(&parts(&pkcs7)[0].1)[1].1)[0].1).last().unwrap().1)[0].1)
        .last()
        .unwrap()
        .1
        .clone();
    let query_nonce = std::cell::RefCell::new(vec![]);
    let attempt = |answer: &dyn Fn(Vec<u8>) -> Result<Vec<u8>, String>| {
        let transport = |query: &[u8]| {
            let nonce = parts(&parts(query)[0].1)[2].1.clone();
            *query_nonce.borrow_mut() = nonce.clone();
            answer(nonce)
        };
        let timestamp = Some(Timestamping { transport: &transport, digest: DigestAlgorithm::Sha256 });
        sign(&pe, &desk.key(), &SignOptions { timestamp, ..SignOptions::default() })
    };
    let token = |nonce: Option<Vec<u8>>, over: &[u8]| {
        Token { nonce, ..Token::over(over, &desk.tsa) }.forge(&desk.tsa, &[&desk.tsa_root]).finish()
    };
    let good = attempt(&|nonce| Ok(granted(&token(Some(nonce), &signature)))).unwrap();
    verify(&good, &desk.trust(), UnixTime::now()).unwrap();
    for (name, answer) in [
        ("no answer", &(|_| Err("down".to_owned())) as &dyn Fn(Vec<u8>) -> Result<Vec<u8>, String>),
        ("nothing", &|_| Ok(vec![])),
        ("HTML", &|_| Ok(b"<html>sign in first</html>".to_vec())),
        ("no nonce", &|_| Ok(granted(&token(None, &signature)))),
        ("another nonce", &|_| Ok(granted(&token(Some(vec![1]), &signature)))),
        ("another signature", &|nonce| Ok(granted(&token(Some(nonce), b"other")))),
        ("status without token", &|_| Ok(seq(&[seq(&[int(0)])]))),
        ("refused", &|_| Ok(seq(&[seq(&[int(2), seq(&[tlv(0x0c, b"closed\x1b[31m")])])]))),
        ("refused with token", &|nonce| Ok(seq(&[seq(&[int(2)]), token(Some(nonce), &signature)]))),
        ("trailing bytes", &|nonce| Ok([granted(&token(Some(nonce), &signature)), vec![0]].concat())),
        ("two MiB", &|_| Ok(vec![0x30; 2 << 20])),
    ] {
        let result = attempt(answer);
        let Err(SignError::Timestamp(text)) = result else { panic!("{name}: {result:?}") };
        assert!(!text.contains('\u{1b}'), "{name}: {text:?}");
    }
}
