//! Signing in two halves, streams, nested signatures, policies in files.

mod common;

use common::forge::{Forge, NESTED, attribute};
use common::pe::Shape;
use common::pki::{Entity, Key, Template};
use common::tools::{raw, run, text};
use hotgraft_signer::*;

/// 2026-11-24
const NOW: UnixTime = UnixTime(1_795_500_000);

fn entities(key: Key) -> (Entity, Entity, SigningKey) {
    let root = Entity::issue(Template::root("Root"), Key::p256(1), None);
    let leaf = Entity::issue(Template::leaf("Publisher"), key, Some(&root));
    let chain = leaf.pem() + &root.pem();
    let key = SigningKey::from_pem(leaf.key.pem().as_bytes(), chain.as_bytes(), None).unwrap();
    (root, leaf, key)
}

#[test]
fn a_signature_from_elsewhere_gives_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    for key in [Key::rsa(2048, 0), Key::p384(2)] {
        let (root, leaf, key) = entities(key);
        let pe = Shape { overlay: 7, ..Shape::default() }.build();
        for digest in DigestAlgorithm::ALL {
            let options =
                SignOptions { digest, page_hashes: true, description: Some("Demo".into()), ..SignOptions::default() };
            let whole = sign(&pe, &key, &options).unwrap();
            let half = hash_only(pe.as_slice(), &options).unwrap();
            assert_eq!(half.digest, digest.digest(&half.message));
            // The other side is openssl, which knows nothing of Authenticode.
            let path = |name: &str| folder.path().join(name);
            std::fs::write(path("message"), &half.message).unwrap();
            std::fs::write(path("key.pem"), leaf.key.pem()).unwrap();
            let name = format!("-sha{}", half.digest.len() * 8);
            let output = raw(
                "openssl",
                &["dgst", &name, "-sign", "key.pem", "-out", "signature", "message"],
                Some(folder.path()),
            );
            assert!(output.status.success());
            let signature = std::fs::read(path("signature")).unwrap();
            let mut out = vec![];
            attach(pe.as_slice(), key.certificates(), &signature, &options, &mut out).unwrap();
            let trust = TrustPolicy::from_pem_roots(root.pem().as_bytes()).unwrap();
            verify(&out, &trust, NOW).unwrap();
            if matches!(leaf.key, Key::Rsa(_)) {
                assert_eq!(out, whole, "RSA has one signature for one message");
            }
            // Other options, another file, another certificate: the signature does not belong to them.
            let other = SignOptions { description: None, ..options.clone() };
            let elsewhere = Shape::default().build();
            let stranger = [Certificate::from_der(&root.der).unwrap()];
            for result in [
                attach(pe.as_slice(), key.certificates(), &signature, &other, &mut vec![]),
                attach(elsewhere.as_slice(), key.certificates(), &signature, &options, &mut vec![]),
                attach(pe.as_slice(), &stranger, &signature, &options, &mut vec![]),
                attach(pe.as_slice(), key.certificates(), &[], &options, &mut vec![]),
            ] {
                assert!(matches!(result, Err(SignError::Input(Fault::BadSignature { .. }))), "{result:?}");
            }
            assert!(matches!(attach(pe.as_slice(), &[], &signature, &options, &mut vec![]), Err(SignError::Key(_))));

            let mut attached = vec![];
            attach_pkcs7(pe.as_slice(), &extract(&whole).unwrap(), Existing::Refuse, &mut attached).unwrap();
            assert_eq!(attached, whole);
            let result = attach_pkcs7(elsewhere.as_slice(), &extract(&whole).unwrap(), Existing::Refuse, &mut vec![]);
            assert!(matches!(result, Err(SignError::Input(Fault::DigestMismatch { .. }))), "{result:?}");
        }
    }
}

/// A device that returns rubbish.
struct Faulty(Vec<Certificate>);

impl DigestSigner for Faulty {
    fn certificates(&self) -> &[Certificate] {
        &self.0
    }

    fn sign(&self, _: DigestAlgorithm, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Ok(vec![1; 256])
    }
}

#[test]
fn a_faulty_device_yields_no_file() {
    let (_, leaf, _) = entities(Key::rsa(2048, 0));
    let device = Faulty(vec![Certificate::from_der(&leaf.der).unwrap()]);
    let result = sign(&Shape::default().build(), &device, &SignOptions::default());
    assert!(matches!(result, Err(SignError::Input(Fault::BadSignature { .. }))), "{result:?}");
}

#[test]
fn files_and_slices_give_the_same() {
    let (root, _, key) = entities(Key::p256(2));
    let folder = tempfile::tempdir().unwrap();
    // More than a buffer, with an end that is not even.
    let pe = Shape { sections: vec![300_000, 0x200, 1_000_001], overlay: 100_003, ..Shape::default() }.build();
    let path = folder.path().join("in.exe");
    std::fs::write(&path, &pe).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let options = SignOptions { page_hashes: true, ..SignOptions::default() };
    let mut streamed = vec![];
    sign_stream(&file, &key, &options, &mut streamed).unwrap();
    assert_eq!(streamed, sign(&pe, &key, &options).unwrap());
    assert_eq!(common::pe::checksum(&streamed), common::pe::get32(&streamed, common::pe::CHECKSUM));
    std::fs::write(&path, &streamed).unwrap();
    let trust = TrustPolicy::from_pem_roots(root.pem().as_bytes()).unwrap();
    let report = examine(&std::fs::File::open(&path).unwrap(), &trust, NOW);
    assert_eq!(report.fault, None);
    assert_eq!(report, verify(&streamed, &trust, NOW).unwrap());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["signatures"][0]["signer"]["subject"], "CN=Publisher,O=Example Org");
    assert_eq!(json["fault"], serde_json::Value::Null);
    let refused = serde_json::to_value(examine(pe.as_slice(), &trust, NOW)).unwrap();
    assert_eq!(refused["fault"]["reason"], "unsigned");
}

#[test]
fn nested_signatures_are_appended_and_all_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (root, _, key) = entities(Key::rsa(2048, 0));
    let second = Entity::issue(Template::leaf("Second"), Key::p256(3), Some(&root));
    let third = Entity::issue(Template::leaf("Third"), Key::p384(4), Some(&root));
    let read =
        |e: &Entity| SigningKey::from_pem(e.key.pem().as_bytes(), (e.pem() + &root.pem()).as_bytes(), None).unwrap();
    let pe = Shape { overlay: 1, ..Shape::default() }.build();
    let append = |digest| SignOptions { digest, existing: Existing::Append, ..SignOptions::default() };
    let one = sign(&pe, &key, &append(DigestAlgorithm::Sha256)).unwrap();
    let two = sign(&one, &read(&second), &append(DigestAlgorithm::Sha512)).unwrap();
    let three = sign(&two, &read(&third), &append(DigestAlgorithm::Sha384)).unwrap();
    let trust = TrustPolicy::from_pem_roots(root.pem().as_bytes()).unwrap();
    let report = verify(&three, &trust, NOW).unwrap();
    let mut names: Vec<String> =
        report.signatures.iter().map(|s| s.signer.clone().unwrap().subject.replace(",O=Example Org", "")).collect();
    assert_eq!(names[0], "CN=Publisher");
    names.sort();
    assert_eq!(names, ["CN=Publisher", "CN=Second", "CN=Third"]);
    assert_eq!(report.signatures.iter().filter(|s| s.nested).count(), 2);
    assert!(report.signatures.iter().all(|s| s.fault.is_none()));
    assert_eq!(remove(&three).unwrap(), remove(&one).unwrap());
    // The one the policy names is found wherever it is.
    for name in ["Publisher", "Second", "Third"] {
        let publisher = Publisher { common_name: Some(name.to_owned()), ..Publisher::default() };
        let trust = TrustPolicy { publishers: vec![publisher], ..trust.clone() };
        let report = verify(&three, &trust, NOW).unwrap();
        assert_eq!(report.publisher().unwrap().subject, format!("CN={name},O=Example Org"));
        assert_eq!(report.signatures.iter().filter(|s| s.fault.is_none()).count(), 1);
    }

    std::fs::write(path("root.pem"), root.pem()).unwrap();
    std::fs::write(path("three.exe"), &three).unwrap();
    let (ok, log) = run(
        "osslsigncode",
        &["verify", "-CAfile", text(&path("root.pem")), "-ignore-cdp", "-in", text(&path("three.exe"))],
    );
    assert!(ok && log.contains("Number of verified signatures: 3"), "{log}");

    // And theirs is ours: osslsigncode nests in what we signed.
    std::fs::write(path("one.exe"), &one).unwrap();
    std::fs::write(path("leaf.pem"), second.pem()).unwrap();
    std::fs::write(path("leaf.key"), second.key.pem()).unwrap();
    let output = raw(
        "osslsigncode",
        &[
            "sign",
            "-nest",
            "-certs",
            "leaf.pem",
            "-key",
            "leaf.key",
            "-h",
            "sha256",
            "-in",
            "one.exe",
            "-out",
            "nested.exe",
        ],
        Some(folder.path()),
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = verify(&std::fs::read(path("nested.exe")).unwrap(), &trust, NOW).unwrap();
    assert_eq!(report.signatures.len(), 2);
}

#[test]
fn an_unknown_nested_form_is_kept_as_it_is() {
    // Appending must not rewrite what somebody else signed.
    let (root, leaf, key) = entities(Key::p256(2));
    let pe = Shape::default().build();
    let mut forge = Forge::new(&pe, &leaf, &[&root]);
    forge.unsigned.push(attribute(NESTED, &[Forge::new(&pe, &leaf, &[&root]).finish()]));
    let signed = common::forge::embed(&pe, &forge.finish());
    let options = SignOptions { existing: Existing::Append, ..SignOptions::default() };
    let appended = sign(&signed, &key, &options).unwrap();
    let trust = TrustPolicy::from_pem_roots(root.pem().as_bytes()).unwrap();
    assert_eq!(verify(&appended, &trust, NOW).unwrap().signatures.len(), 3);
    let signature = forge.signature();
    assert!(appended.windows(signature.len()).any(|w| w == signature));
}

#[test]
fn policies_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let (root, leaf, key) = entities(Key::p256(2));
    let signed = sign(&Shape::default().build(), &key, &SignOptions::default()).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let root_path = write("root.pem", &root.pem());
    let der_path = folder.path().join("root.der");
    std::fs::write(&der_path, &root.der).unwrap();
    let crl = root.crl("261101000000Z", "270101000000Z", &[(12345, "260101000000Z", None)]);
    std::fs::write(folder.path().join("root.crl"), crl).unwrap();
    for plain in [&root_path, &der_path] {
        let trust = TrustPolicy::load(plain).unwrap();
        assert_eq!(trust.check_unsigned(true), Ok(()));
        assert_eq!(trust.check_unsigned(false), Err(Fault::Unsigned));
        verify(&signed, &trust, NOW).unwrap();
    }
    let thumbprint: String =
        Certificate::from_der(&leaf.der).unwrap().sha256().iter().map(|b| format!("{b:02X}:")).collect();
    let toml = format!(
        "schema = \"hotgraft.policy/1\"\nroots = [\"root.pem\"]\nrequired_eku = [\"codeSigning\"]\n\
         minimum_sequence = 4\nrevocation_lists = [\"root.crl\"]\nrevocation_required = true\n\
         denied_files = [\"{}\"]\n[[publisher]]\ncommon_name = \"Nobody\"\n[[publisher]]\ncommon_name = \"Publisher\"\n\
         organisation = \"Example Org\"\nthumbprint = \"{}\"\n",
        "00".repeat(32),
        thumbprint.trim_end_matches(':')
    );
    let trust = TrustPolicy::load(&write("policy.toml", &toml)).unwrap();
    assert!(verify(&signed, &trust, NOW).unwrap().signer().unwrap().revocation_checked);
    assert_eq!(trust.check_unsigned(true), Err(Fault::Unsigned), "a policy file forbids unless it says otherwise");
    assert_eq!(trust.check_sequence(4), Ok(()));
    assert_eq!(trust.check_sequence(3), Err(Fault::SequenceTooLow { found: 3, minimum: 4 }));
    let json = serde_json::json!({
        "schema": "hotgraft.policy/1", "roots": [root.pem()], "allow_unsigned": true, "timestamp_required": true,
    });
    let trust = TrustPolicy::load(&write("policy.json", &json.to_string())).unwrap();
    assert_eq!(trust.check_unsigned(true), Ok(()));
    assert_eq!(verify(&signed, &trust, NOW).unwrap_err().reason(), "timestamp_missing");

    let head = "schema = \"hotgraft.policy/1\"\nroots = [\"root.pem\"]\n";
    for (name, text) in [
        ("a misspelt field", format!("{head}timestamp_requird = true\n")),
        ("a misspelt publisher field", format!("{head}[[publisher]]\ncn = \"x\"\n")),
        ("an empty publisher", format!("{head}[[publisher]]\n")),
        ("no schema", "roots = [\"root.pem\"]\n".to_owned()),
        ("another schema", head.replace("/1", "/2")),
        ("no roots", "schema = \"hotgraft.policy/1\"\nroots = []\n".to_owned()),
        ("a root that is not there", head.replace("root.pem", "none.pem")),
        ("a root that is none", head.replace("root.pem", "policy.toml")),
        ("a list that is none", format!("{head}revocation_lists = [\"root.pem\"]\n")),
        ("a short hash", format!("{head}denied_files = [\"0011\"]\n")),
        ("a hash that is none", format!("{head}denied_certificates = [\"{}\"]\n", "zz".repeat(32))),
        ("an unknown purpose", format!("{head}required_eku = [\"signing\"]\n")),
        ("neither TOML nor JSON", "hello".to_owned()),
        ("broken JSON", "{".to_owned()),
        ("an empty file", String::new()),
        ("an empty PEM", "-----BEGIN X-----\n-----END X-----\n".to_owned()),
    ] {
        let result = TrustPolicy::load(&write("bad", &text));
        assert!(result.is_err(), "{name}");
    }
}
