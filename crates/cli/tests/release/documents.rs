//! Documents against the schemas of the repository and against independent validators, which `cargo xtask test` puts into
//! the cache. A validator that is missing fails the test.

use super::vendor::{Vendor, root};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn by_schema(schema: &str, document: &Value) {
    let text = std::fs::read_to_string(root().join("docs/schemas").join(schema)).expect("the schema is there");
    let schema: Value = serde_json::from_str(&text).expect("the schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    let errors: Vec<String> = validator.iter_errors(document).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{}\n{document:#}", errors.join("\n"));
}

const FORMATS: [(&str, &str); 8] = [
    ("openvex", "openvex.json"),
    ("csaf", "csaf.json"),
    ("cyclonedx", "cyclonedx.json"),
    ("ocsf", "ocsf.jsonl"),
    ("jsonl", "lines.jsonl"),
    ("prometheus", "prometheus.txt"),
    ("intune-rules", "intune.json"),
    ("intune-script", "intune.ps1"),
];

/// Every format, and the same bytes when asked again.
pub fn export(vendor: &Vendor, fleet: &Path, now: &str, names_a_cve: bool, to: &Path) {
    for (format, name) in FORMATS {
        let path = to.join(format!("{now}.{name}"));
        let words = format!("export CATALOG --root ROOT --fleet {} --now {now} --format {format}", fleet.display());
        if format == "openvex" && !names_a_cve {
            // A document without statements is not one.
            assert!(vendor.tell(&words, 2).is_empty());
            continue;
        }
        let bytes = vendor.tell(&words, 0);
        if format == "csaf" {
            assert_eq!(vendor.tell(&words, 0), bytes, "{format} gives the same bytes");
        }
        if format == "ocsf" {
            ocsf(&bytes);
        }
        std::fs::write(path, bytes).expect("writable");
    }
}

/// Each event against the types that the `ocsf-types` crate generates from the published schema: a name that the class or
/// its objects do not have would be lost between reading and writing, a value of another type would not be read.
fn ocsf(lines: &[u8]) {
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let event: Value = serde_json::from_slice(line).expect("an event is JSON");
        let read: ocsf_types::PatchState = serde_json::from_value(event.clone()).expect("an event of the class");
        assert_eq!(serde_json::to_value(&read).expect("it can be written"), event);
        // What the class requires.
        let device = read.device.expect("a device");
        assert!(device.type_id.is_some() && read.metadata.is_some() && read.time.is_some());
        assert!(read.activity_id.is_some() && read.severity_id.is_some() && read.type_uid == Some(500_401));
        let os = device.os.expect("an operating system");
        assert!(os.type_id.is_some() && os.version.is_some_and(|version| !version.is_empty()));
        for article in read.kb_article_list.expect("what was released") {
            assert!(article.uid.is_some());
        }
    }
}

fn cache() -> PathBuf {
    let home = std::env::var("HOME").unwrap_or_default();
    let base = std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{home}/.cache"));
    PathBuf::from(base).join("hotgraft/tools")
}

fn check(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; `cargo xtask setup` installs it"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{said}");
    said
}

/// All documents of the year, and the catalog under the client of The Update Framework.
pub fn validate(documents: &Path, catalog: &Path, now: &Path) {
    // To look at them: the folder named here gets a copy.
    if let Some(keep) = std::env::var_os("HOTGRAFT_KEEP") {
        check(Command::new("cp").arg("-r").args([documents, catalog]).arg(keep));
    }
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/release");
    let python = cache().join("release-python/bin/python");
    let mut said = check(Command::new(python).arg(scripts.join("validate.py")).args([documents, catalog, now]));
    let node = cache().join("release-node");
    said += &check(Command::new("node").arg(scripts.join("validate.mjs")).args([&node, &documents.to_owned()]));
    assert!(said.contains("17 targets under python-tuf") && said.contains("mandatory tests"), "{said}");
    let sarif = node.join("node_modules/@microsoft/sarif-multitool-linux/Sarif.Multitool");
    let report = documents.join("report.sarif");
    let mut multitool = Command::new(sarif);
    multitool
        .args(["validate", "--rule-kind", "Sarif", "--level", "Error", "--log", "ForceOverwrite", "--output"])
        .arg(&report)
        .arg(documents.join("verdict.sarif"))
        .env("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1");
    check(&mut multitool);
    let report: Value = serde_json::from_slice(&std::fs::read(report).expect("a report")).expect("JSON");
    let results = report["runs"][0]["results"].as_array().cloned().unwrap_or_default();
    let errors: Vec<&Value> = results.iter().filter(|r| r["level"] == "error").collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// The page is whole and needs nothing from elsewhere.
pub fn check_page(path: &Path) {
    let page = std::fs::read_to_string(path).expect("a page");
    assert!(page.contains("<b>7</b> machines") && page.contains("CVE-2026-0010"), "{page}");
    for outside in ["http://", "https://", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(outside), "the page asks for {outside}");
    }
}
