//! Keys and images for the tests.
#![allow(dead_code, reason = "each test program uses a part")]

use hotgraft_release::Time;
use hotgraft_release::catalog::{Baseline, Catalog, Cause, Fixes};
use hotgraft_release::tuf::{Expiry, Role};
use hotgraft_release::workshop::{RoleHolders, Workshop, image_of};
use hotgraft_signer::{Certificate, DigestSigner, SigningKey};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A new key with a certificate of its own.
pub fn key(name: &str) -> SigningKey {
    let folder = tempfile::tempdir().unwrap();
    let (key, cert) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let curve = if name.contains("384") { "ec_paramgen_curve:P-384" } else { "ec_paramgen_curve:P-256" };
    let kind: &[&str] = if name.contains("rsa") { &["rsa:2048"] } else { &["ec", "-pkeyopt", curve] };
    let output = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "3650", "-subj", &format!("/CN={name}"), "-newkey"])
        .args(kind)
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    SigningKey::from_pem(&std::fs::read(key).unwrap(), &std::fs::read(cert).unwrap(), None).unwrap()
}

pub fn certificate(key: &SigningKey) -> Certificate {
    key.certificates()[0].clone()
}

/// Keys of all roles: two of the root that both must sign, one of each other.
pub struct Keys {
    pub root: [SigningKey; 2],
    pub targets: SigningKey,
    pub online: SigningKey,
}

impl Keys {
    pub fn new() -> Keys {
        Keys { root: [key("root a 384"), key("root b rsa")], targets: key("targets"), online: key("online") }
    }

    pub fn all(&self) -> Vec<&dyn DigestSigner> {
        vec![&self.root[0], &self.root[1], &self.targets, &self.online]
    }

    pub fn roles(&self) -> BTreeMap<Role, RoleHolders> {
        let one = |key: &SigningKey| RoleHolders { certificates: vec![certificate(key)], threshold: 1 };
        BTreeMap::from([
            (Role::Root, RoleHolders { certificates: self.root.iter().map(certificate).collect(), threshold: 2 }),
            (Role::Targets, one(&self.targets)),
            (Role::Snapshot, one(&self.online)),
            (Role::Timestamp, one(&self.online)),
        ])
    }
}

pub fn time(text: &str) -> Time {
    text.parse().unwrap()
}

pub fn fixture(name: &str, side: &str, file: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    std::fs::read(root.join("testdata/fixtures").join(name).join(side).join(file)).unwrap()
}

/// A baseline of one image, which fixes what is named.
pub fn baseline(id: &str, before: Option<&str>, image: &[u8], cves: &[&str]) -> (Baseline, BTreeMap<String, Vec<u8>>) {
    let name = "bounds.dll".to_owned();
    let fixes: Fixes = cves.iter().map(|cve| ((*cve).to_owned(), [name.clone()].into())).collect();
    let baseline = Baseline {
        id: id.to_owned(),
        build: format!("1.0.{id}"),
        cause: Cause::Planned,
        kb: None,
        fixes,
        supersedes: before.map(str::to_owned),
        supported_until: time("2027-12-31"),
        images: vec![image_of(&name, image).unwrap()],
    };
    (baseline, BTreeMap::from([(name, image.to_vec())]))
}

/// A published catalog with one baseline, in a folder of its own.
pub fn published(folder: &Path, keys: &Keys) -> Workshop {
    let at = time("2026-01-13");
    let catalog = Catalog::new("Example", "https://example.test/");
    let mut workshop =
        Workshop::init(&folder.join("catalog"), catalog, Expiry::default(), &keys.roles(), &keys.all(), at).unwrap();
    let (first, images) = baseline("2026-01", None, &fixture("bounds", "old", "bounds.dll"), &["CVE-2025-0001"]);
    workshop.add_baseline(at, first, &images).unwrap();
    workshop.publish(&keys.all(), at).unwrap();
    workshop
}

/// All files below a folder.
pub fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}
