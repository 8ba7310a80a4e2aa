//! The vendor: keys, images, and the program.

use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate lies two levels deep").to_owned()
}

/// A committed version of an image of the product.
pub fn image(name: &str, version: u32) -> PathBuf {
    root().join(format!("testdata/series/{name}/v{version:02}/{name}.dll"))
}

pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_hotgraft"))
        .env_remove("SOURCE_DATE_EPOCH")
        .args(args)
        .output()
        .expect("hotgraft runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "a panic: {stderr}");
    output
}

/// Runs `hotgraft release` with words that have no spaces, and demands an exit code; returns stdout.
pub fn release(words: &str, code: i32) -> Vec<u8> {
    let output = run(std::iter::once("release").chain(words.split_whitespace()));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "release {words}\n{said}");
    output.stdout
}

pub fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(bytes)))
}

/// A key with a certificate of its own; returns `KEY,CERT`.
pub fn key(folder: &Path, name: &str, kind: &[&str]) -> String {
    let (key, cert) = (folder.join(format!("{name}.key.pem")), folder.join(format!("{name}.cert.pem")));
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
    format!("{},{}", key.display(), cert.display())
}

pub fn certificate(pair: &str) -> &str {
    pair.split_once(',').expect("KEY,CERT").1
}

/// A catalog with keys of different kinds.
pub struct Vendor {
    pub folder: tempfile::TempDir,
    pub root_key: String,
    pub targets: String,
    pub online: String,
}

impl Vendor {
    pub fn new(now: &str) -> Vendor {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root_key = key(folder.path(), "root", &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]);
        let targets = key(folder.path(), "targets", &["rsa:2048"]);
        let online = key(folder.path(), "online", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        let vendor = Vendor { folder, root_key, targets, online };
        let [r, t, o] = [&vendor.root_key, &vendor.targets, &vendor.online].map(|k| certificate(k).to_owned());
        vendor.tell(
            &format!(
                "init CATALOG --product Example --publisher https://example.test/ --requires vbs --role root={r} --role targets={t} \
                 --role snapshot={o} --role timestamp={o} --expiry timestamp=40 --expiry snapshot=60 --expiry targets=120 SIGN --now {now}"
            ),
            0,
        );
        vendor
    }

    pub fn catalog(&self) -> PathBuf {
        self.folder.path().join("catalog")
    }

    /// Runs a command; `CATALOG`, `SIGN` and `ROOT` stand for what they are here.
    pub fn tell(&self, words: &str, code: i32) -> Vec<u8> {
        let sign = format!("--signer {} --signer {} --signer {}", self.root_key, self.targets, self.online);
        let words = words
            .replace("CATALOG", &self.catalog().display().to_string())
            .replace("SIGN", &sign)
            .replace("ROOT", &self.catalog().join("root.json").display().to_string());
        release(&words, code)
    }

    pub fn publish(&self, now: &str) {
        self.tell(&format!("publish CATALOG SIGN --now {now}"), 0);
    }

    pub fn baseline(&self, date: &str, id: &str, [engine, panel]: [u32; 2], until: &str, more: &str) {
        let (engine, panel) = (image("engine", engine), image("panel", panel));
        self.tell(
            &format!(
                "add-baseline CATALOG --id {id} --build 1.{id} --kb KB-{id} --image {} --image {} --supported-until {until} --date {date} {more}",
                engine.display(),
                panel.display()
            ),
            0,
        );
    }

    /// Adds a hotpatch of `engine` (old and new version) and perhaps `panel`; returns the report.
    pub fn hotpatch(
        &self,
        date: &str,
        id: &str,
        sequence: u32,
        pairs: &[(&str, u32, u32)],
        more: &str,
        code: i32,
    ) -> Value {
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, old, new)| format!("--pair {} {}", image(name, *old).display(), image(name, *new).display()))
            .collect();
        let words = format!(
            "add-hotpatch CATALOG --id {id} --build 1.{id} --kb KB-{id} --sequence {sequence} --date {date} {} {more} --format json",
            pairs.join(" ")
        );
        let out = self.tell(&words, code);
        if out.is_empty() { Value::Null } else { json(&out) }
    }
}
