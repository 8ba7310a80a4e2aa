//! Only what the trust policy allows is applied, and what is checked is what is mapped.

mod support;

use std::path::Path;
use std::process::Command;

use hotgraft_engine::{ApplyError, ApplyOptions, BufferSpace, PatchFile, Trust, apply, query};
use hotgraft_signer::{Artifact, Provenance, SignOptions, SigningKey, TrustPolicy, UnixTime, sign};
use support::*;

const AT: u64 = 0x1_4000_0000;

/// A self-signed code-signing certificate, made by OpenSSL: (key, certificate), PEM.
fn credentials(folder: &Path, name: &str) -> (Vec<u8>, Vec<u8>) {
    let (key, certificate) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pem")));
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "30",
    ]);
    command.args(["-subj", &format!("/CN={name}"), "-addext", "extendedKeyUsage=codeSigning"]);
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    let output = command.output().expect("openssl is needed for this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (std::fs::read(key).unwrap(), std::fs::read(certificate).unwrap())
}

fn attempt(file: &[u8], trust: Trust<'_>) -> Result<BufferSpace, ApplyError> {
    attempt_with(file, None, trust)
}

fn attempt_with(file: &[u8], provenance: Option<Vec<u8>>, trust: Trust<'_>) -> Result<BufferSpace, ApplyError> {
    let mut space = BufferSpace::new();
    space.load(BASE_NAME, &base_file(), AT).unwrap();
    let before = space.snapshot();
    let patch = PatchFile::parse(file).unwrap().with_provenance(provenance);
    match apply(&mut space, AT, &patch, &ApplyOptions { trust, ..ApplyOptions::default() }) {
        Ok(_) => Ok(space),
        Err(error) => {
            assert_eq!(space.snapshot(), before);
            assert!(error.is_refusal(), "{error}");
            Err(error)
        }
    }
}

fn trust(policy: &TrustPolicy) -> Trust<'_> {
    Trust { policy: Some(policy), now: UnixTime::now(), allow_unsigned: false }
}

#[test]
fn the_policy_decides_on_the_bytes_that_are_mapped() {
    let folder = tempfile::tempdir().unwrap();
    let (key, certificate) = credentials(folder.path(), "Ours");
    let (_, other) = credentials(folder.path(), "Other");
    let signer = SigningKey::from_pem(&key, &certificate, None).unwrap();
    let unsigned = first(&base_file()).build();
    let signed = sign(&unsigned, &signer, &SignOptions::default()).unwrap();

    let policy = TrustPolicy::from_pem_roots(&certificate).unwrap();
    let space = attempt(&signed, trust(&policy)).unwrap();
    let signer = query(&space, None).unwrap()[0].patches[0].signer.clone();
    assert!(signer.as_deref().is_some_and(|subject| subject.contains("Ours")), "{signer:?}");

    // Nobody, or somebody else, is trusted.
    attempt(&signed, Trust::default()).unwrap_err();
    attempt(&signed, trust(&TrustPolicy::from_pem_roots(&other).unwrap())).unwrap_err();
    // One byte of the code differs from what was signed.
    let mut changed = signed.clone();
    changed[0x401] ^= 1;
    attempt(&changed, trust(&policy)).unwrap_err();
    // Leave to apply unsigned patches is not leave to apply what somebody has tampered with.
    attempt(&changed, Trust { allow_unsigned: true, ..trust(&policy) }).unwrap_err();
    // Unsigned: with leave, unless the policy forbids it.
    attempt(&unsigned, trust(&policy)).unwrap_err();
    attempt(&unsigned, Trust { allow_unsigned: true, ..trust(&policy) }).unwrap();
    let mut strict = policy.clone();
    strict.unsigned_permitted = false;
    attempt(&unsigned, Trust { allow_unsigned: true, ..trust(&strict) }).unwrap_err();
    // A sequence below what the policy demands.
    let mut later = policy.clone();
    later.minimum_sequence = Some(2);
    attempt(&signed, trust(&later)).unwrap_err();
    // Provenance, where the policy wants it: the signer's statement about this patch, and no other.
    let image = |bytes: &[u8]| Artifact::of_image("patch.dll", bytes).unwrap();
    let mut statement = Provenance {
        patch: image(&unsigned),
        old: Artifact::of_file("old.dll", b"old"),
        new: Artifact::of_file("new.dll", b"new"),
        tool: "urn:hotgraft:0.1.0".to_owned(),
        options: Default::default(),
        verdict: "patch".to_owned(),
        accepted: vec![],
    };
    let key = SigningKey::from_pem(&key, &certificate, None).unwrap();
    let good = statement.sign(&key).unwrap();
    statement.patch = image(&base_file());
    let foreign = statement.sign(&key).unwrap();
    let mut documented = policy.clone();
    documented.provenance_required = true;
    attempt_with(&signed, Some(good.clone()), trust(&documented)).unwrap();
    attempt_with(&signed, Some(good.clone()), trust(&policy)).unwrap();
    attempt_with(&signed, None, trust(&documented)).unwrap_err();
    attempt_with(&signed, Some(foreign), trust(&documented)).unwrap_err();
    attempt_with(&unsigned, Some(good), Trust { allow_unsigned: true, ..trust(&documented) }).unwrap_err();
}
