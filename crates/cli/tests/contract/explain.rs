//! `diff --explain` in text and JSON, and the files for BinDiff's readers.

use super::{code, fixture, hotgraft, validate};
use serde_json::Value;

fn changed(name: &str) -> String {
    let report = hotgraft(&[&"diff", &fixture(name, "old"), &fixture(name, "new"), &"--format", &"json"]);
    let report: Value = serde_json::from_slice(&report.stdout).expect("it is JSON");
    let functions = report["functions"].as_array().expect("functions");
    let changed = functions.iter().find(|f| f["status"] == "changed").expect("a function is changed");
    changed["name"].as_str().expect("it has a name").to_owned()
}

#[test]
fn explain_aligns_blocks_and_instructions() {
    let name = changed("switch");
    let (old, new) = (fixture("switch", "old"), fixture("switch", "new"));
    let output = hotgraft(&[&"diff", &old, &new, &"--explain", &name, &"--format", &"json"]);
    assert_eq!(code(&output), 1, "{}", String::from_utf8_lossy(&output.stderr));
    let document = validate("explain.json", &output.stdout);
    let function = &document["functions"][0];
    assert_eq!((function["name"].as_str(), function["status"].as_str()), (Some(name.as_str()), Some("changed")));
    let lines = function["lines"].as_array().expect("lines");
    let same = lines.iter().filter(|l| l["kind"] == "same").count();
    assert!(same > 0 && same < lines.len(), "{same} of {}", lines.len());
    // Every line where a block begins names one of the blocks.
    let blocks = function["blocks"].as_array().expect("blocks");
    assert!(blocks.iter().any(|b| b["fate"] != "same"));
    for side in ["old", "new"] {
        let named: Vec<&Value> = blocks.iter().map(|b| &b[format!("{side}_rva")]).filter(|r| !r.is_null()).collect();
        let leading: Vec<&Value> = lines.iter().map(|l| &l[side]).filter(|i| i["leads"] == true).collect();
        assert!(!leading.is_empty());
        for instruction in leading {
            assert!(named.contains(&&instruction["rva"]), "{side}: {instruction}");
        }
    }
    let output = hotgraft(&[&"diff", &old, &new, &"--explain", &name]);
    let text = String::from_utf8(output.stdout).expect("it is text");
    assert!(text.starts_with(&format!("{name}: Changed")) && text.contains(": block, "), "{text}");
}

#[test]
fn explain_writes_no_page() {
    let name = changed("switch");
    let output = hotgraft(&[
        &"diff",
        &fixture("switch", "old"),
        &fixture("switch", "new"),
        &"--explain",
        &name,
        &"--format",
        &"html",
    ]);
    assert_eq!(code(&output), 2);
    assert!(output.stdout.is_empty());
}

#[test]
fn files_for_bindiff_are_written_beside_the_report() {
    let folder = tempfile::tempdir().expect("a folder");
    let (exports, results) = (folder.path().join("exports"), folder.path().join("exports/results.BinDiff"));
    let (old, new) = (fixture("switch", "old"), fixture("switch", "new"));
    let output = hotgraft(&[&"diff", &old, &new, &"--binexport", &exports, &"--bindiff", &results]);
    assert_eq!(code(&output), 1, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.stdout.is_empty(), "the report is written as well");
    let name = old.file_name().expect("it has a name").to_string_lossy().into_owned();
    let mut files: Vec<String> = std::fs::read_dir(&exports)
        .expect("the folder is made")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(files, [format!("new_{name}.BinExport"), format!("old_{name}.BinExport"), "results.BinDiff".to_owned()]);
    let database = std::fs::read(&results).expect("it was written");
    assert!(database.starts_with(b"SQLite format 3\0"));

    let nowhere = folder.path().join("none/results.BinDiff");
    let output = hotgraft(&[&"diff", &old, &new, &"--bindiff", &nowhere]);
    assert_eq!(code(&output), 2);
    assert!(output.stdout.is_empty() && !nowhere.exists());
}
