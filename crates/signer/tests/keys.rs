//! Keys in every form that openssl writes: all sign the same bytes.

mod common;

use common::pe::Shape;
use common::pki::{Entity, Key, Template};
use common::tools::{must, text};
use hotgraft_signer::*;

#[test]
fn every_form_of_a_key_signs_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let root = Entity::issue(Template::root("Root"), Key::p256(1), None);
    let pe = Shape::default().build();
    for (name, key) in [("rsa", Key::rsa(2048, 0)), ("p256", Key::p256(2)), ("p384", Key::p384(2))] {
        let leaf = Entity::issue(Template::leaf(name), key, Some(&root));
        let chain = leaf.pem() + &root.pem();
        std::fs::write(path("key.pem"), leaf.key.pem()).unwrap();
        std::fs::write(path("leaf.pem"), leaf.pem()).unwrap();
        std::fs::write(path("root.pem"), root.pem()).unwrap();
        let reference = SigningKey::from_pem(leaf.key.pem().as_bytes(), chain.as_bytes(), None).unwrap();
        let reference = sign(&pe, &reference, &SignOptions::default()).unwrap();
        let check = |form: &str, key: Result<SigningKey, SignError>| {
            let key = key.unwrap_or_else(|e| panic!("{name} {form}: {e}"));
            assert_eq!(sign(&pe, &key, &SignOptions::default()).unwrap(), reference, "{name} {form}");
        };

        // Certificates in the wrong order, with text around them; key and certificates in one file.
        let shuffled = format!("some text: here\n{}\nmore\n{}", root.pem(), leaf.pem());
        check("shuffled", SigningKey::from_pem(leaf.key.pem().as_bytes(), shuffled.as_bytes(), None));
        let one = shuffled + &leaf.key.pem();
        check("one file", SigningKey::from_pem(one.as_bytes(), one.as_bytes(), None));

        let converted = |arguments: &[&str]| {
            let key = path("key.pem");
            let out = path("out.pem");
            must("openssl", &[arguments, &["-in", text(&key), "-out", text(&out)]].concat());
            std::fs::read(out).unwrap()
        };
        let (arguments, label): (&[&str], _) =
            if name == "rsa" { (&["rsa", "-traditional"], "RSA PRIVATE KEY") } else { (&["ec"], "EC PRIVATE KEY") };
        let traditional = converted(arguments);
        assert!(String::from_utf8_lossy(&traditional).contains(label));
        check("traditional", SigningKey::from_pem(&traditional, chain.as_bytes(), None));
        for scheme in [
            &["-v2", "aes-256-cbc"][..],
            &["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512"],
            &["-v2", "des3"],
            &["-scrypt"],
        ] {
            let encrypted = converted(&[&["pkcs8", "-topk8", "-passout", "pass:secret"], scheme].concat());
            check("encrypted", SigningKey::from_pem(&encrypted, chain.as_bytes(), Some("secret")));
            for wrong in [None, Some(""), Some("Secret")] {
                let result = SigningKey::from_pem(&encrypted, chain.as_bytes(), wrong);
                assert!(matches!(result, Err(SignError::Password)), "{name} {scheme:?} {wrong:?}: {result:?}");
            }
        }

        for (form, password, scheme) in [
            ("modern", "pässword", &[][..]),
            ("empty password", "", &[]),
            ("legacy RC2", "secret", &["-legacy"]),
            (
                "Triple-DES",
                "secret",
                &["-legacy", "-certpbe", "PBE-SHA1-3DES", "-keypbe", "PBE-SHA1-3DES", "-macalg", "sha1"],
            ),
            (
                "RC2-128, two-key DES",
                "secret",
                &["-legacy", "-certpbe", "PBE-SHA1-RC2-128", "-keypbe", "PBE-SHA1-2DES"],
            ),
            ("plain certificates", "secret", &["-certpbe", "NONE"]),
            ("plain key", "secret", &["-keypbe", "NONE"]),
            ("SHA-384 MAC", "secret", &["-macalg", "sha384"]),
            (
                "SHA-512 MAC, long password",
                "a password that is longer than a block of the digest, which is cycled",
                &["-macalg", "sha512"],
            ),
            ("many rounds", "secret", &["-iter", "20000"]),
            ("AES-128", "secret", &["-certpbe", "AES-128-CBC", "-keypbe", "AES-128-CBC"]),
        ] {
            let (key, leaf, root, out) = (path("key.pem"), path("leaf.pem"), path("root.pem"), path("out.pfx"));
            let pass = format!("pass:{password}");
            let arguments = [
                "pkcs12",
                "-export",
                "-inkey",
                text(&key),
                "-in",
                text(&leaf),
                "-certfile",
                text(&root),
                "-out",
                text(&out),
                "-passout",
                &pass,
            ];
            must("openssl", &[&arguments[..], scheme].concat());
            let pfx = std::fs::read(&out).unwrap();
            check(form, SigningKey::from_pfx(&pfx, password));
            for wrong in ["wrong", &format!("{password} ")] {
                let result = SigningKey::from_pfx(&pfx, wrong);
                assert!(matches!(result, Err(SignError::Password)), "{name} {form} {wrong:?}: {result:?}");
            }
        }
    }
}

#[test]
fn keys_that_cannot_sign_are_refused_with_the_reason() {
    let root = Entity::issue(Template::root("Root"), Key::p256(1), None);
    let leaf = Entity::issue(Template::leaf("Leaf"), Key::p256(2), Some(&root));
    let read = |key: &str, chain: &str| SigningKey::from_pem(key.as_bytes(), chain.as_bytes(), None);
    assert!(matches!(read(&Key::p256(3).pem(), &leaf.pem()), Err(SignError::KeyMismatch { .. })));
    assert!(matches!(read(&leaf.key.pem(), ""), Err(SignError::Key(_))));
    assert!(matches!(read("", &leaf.pem()), Err(SignError::Key(_))));
    assert!(matches!(read("-----BEGIN PRIVATE KEY-----\nAAAA", &leaf.pem()), Err(SignError::Input(_))));
    assert!(matches!(
        read("-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----", &leaf.pem()),
        Err(SignError::Input(_))
    ));
    let ed25519 = must("openssl", &["genpkey", "-algorithm", "ed25519"]);
    assert!(matches!(read(&ed25519, &leaf.pem()), Err(SignError::Key(_))));
    let small = Entity::issue(Template::leaf("Small"), Key::rsa(1024, 0), Some(&root));
    assert!(matches!(read(&small.key.pem(), &small.pem()), Err(SignError::KeyMismatch { .. } | SignError::Key(_))));
}

#[test]
fn a_damaged_pfx_is_refused_wherever_the_damage_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let leaf = Entity::issue(Template::leaf("Leaf"), Key::p256(2), None);
    std::fs::write(path("key.pem"), leaf.key.pem() + &leaf.pem()).unwrap();
    let (key, out) = (path("key.pem"), path("out.pfx"));
    must("openssl", &["pkcs12", "-export", "-in", text(&key), "-out", text(&out), "-passout", "pass:pw", "-iter", "1"]);
    let pfx = std::fs::read(out).unwrap();
    assert!(SigningKey::from_pfx(&pfx, "pw").is_ok());
    let mut passed = 0;
    for at in 0..pfx.len() {
        let mut copy = pfx.clone();
        copy[at] ^= 1;
        passed += usize::from(SigningKey::from_pfx(&copy, "pw").is_ok());
        assert!(SigningKey::from_pfx(&pfx[..at], "pw").is_err());
    }
    assert_eq!(passed, 0, "the MAC covers the content, and its own parameters change it");
}
