//! Keys in a SoftHSM2 token that the test makes itself (feature `pkcs11`).
#![cfg(feature = "pkcs11")]

mod common;

use common::pe::Shape;
use common::pki::{Entity, Key, Template};
use common::tools::{must, text};
use hotgraft_signer::*;

/// 2026-11-24
const NOW: UnixTime = UnixTime(1_795_500_000);
const CONFIGURATION: &str = "hotgraft-softhsm2.conf";
const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

/// The library reads its configuration from the environment, and changing that within a process is not sound: the test
/// runs itself again with it. It never works on the tokens of whoever runs the tests.
#[test]
fn a_token_signs() {
    if std::env::var("SOFTHSM2_CONF").is_ok_and(|path| path.ends_with(CONFIGURATION)) {
        return within_the_environment();
    }
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join(CONFIGURATION);
    let tokens = folder.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(&configuration, format!("directories.tokendir = {}\nobjectstore.backend = file\n", text(&tokens)))
        .unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_token_signs", "--nocapture"])
        .env("SOFTHSM2_CONF", &configuration)
        .output()
        .unwrap();
    let log = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && log.contains("1 passed"), "{log}");
}

fn within_the_environment() {
    let module = MODULES.iter().find(|m| std::path::Path::new(m).exists()).expect("SoftHSM2 is needed for this test");
    must("softhsm2-util", &["--init-token", "--free", "--label", "demo", "--pin", "1234", "--so-pin", "5678"]);
    let folder = tempfile::tempdir().unwrap();
    let root = Entity::issue(Template::root("Root"), Key::p256(1), None);
    let trust = TrustPolicy::from_pem_roots(root.pem().as_bytes()).unwrap();
    let pe = Shape { overlay: 3, ..Shape::default() }.build();
    let leaves: Vec<Entity> = [("rsa", Key::rsa(2048, 0)), ("p256", Key::p256(2)), ("p384", Key::p384(2))]
        .into_iter()
        .map(|(name, key)| Entity::issue(Template::leaf(name), key, Some(&root)))
        .collect();
    for (index, leaf) in leaves.iter().enumerate() {
        let path = folder.path().join("key.pem");
        std::fs::write(&path, leaf.key.pem()).unwrap();
        let id = format!("0{}", index + 1);
        must(
            "softhsm2-util",
            &[
                "--import",
                text(&path),
                "--token",
                "demo",
                "--label",
                &leaf.template.subject,
                "--id",
                &id,
                "--pin",
                "1234",
            ],
        );
    }
    let chain: Vec<Certificate> =
        leaves.iter().chain([&root]).map(|e| Certificate::from_der(&e.der).unwrap()).collect();
    let open = |part: &str, pin: &str, chain: &[Certificate]| {
        TokenKey::open(&format!("pkcs11:{part}?module-path={module}"), pin, chain.to_vec())
    };
    assert!(matches!(open("object=rsa", "4321", &chain), Err(SignError::Password)));
    for (index, leaf) in leaves.iter().enumerate() {
        for part in [format!("token=demo;object={}", leaf.template.subject), format!("id=%0{}", index + 1)] {
            let key = open(&part, "1234", &chain).unwrap();
            assert_eq!(key.certificates()[0].der(), leaf.der);
            for digest in DigestAlgorithm::ALL {
                let options = SignOptions { digest, ..SignOptions::default() };
                let signed = sign(&pe, &key, &options).unwrap();
                let report = verify(&signed, &trust, NOW).unwrap();
                assert_eq!(report.publisher().unwrap().subject, format!("CN={},O=Example Org", leaf.template.subject));
                if index == 0 {
                    let soft = SigningKey::from_pem(leaf.key.pem().as_bytes(), leaf.pem().as_bytes(), None).unwrap();
                    let all: Vec<Certificate> = key.certificates().to_vec();
                    let soft_signature = soft.sign(digest, b"x").unwrap();
                    assert_eq!(key.sign(digest, b"x").unwrap(), soft_signature, "RSA in a token or not: {all:?}");
                }
            }
        }
    }
    let name = format!("object={}", leaves[0].template.subject);
    assert!(matches!(open(&name, "1234", &chain[1..]), Err(SignError::KeyMismatch { .. } | SignError::Device(_))));
    assert!(matches!(open(&name, "1234", &[]), Err(SignError::Key(_))));
    assert!(matches!(open("object=none", "1234", &chain), Err(SignError::Key(_))));
    assert!(matches!(open("token=none", "1234", &chain), Err(SignError::Key(_))));
    assert!(matches!(open("token=demo", "1234", &chain), Err(SignError::Key(_))), "three keys are not one");
    let missing = TokenKey::open("pkcs11:token=demo?module-path=/nowhere/lib.so", "1234", chain.clone());
    assert!(matches!(missing, Err(SignError::Device(_))));
    assert!(matches!(TokenKey::open("pkcs11:token=demo", "1234", chain), Err(SignError::Key(_))));
}
