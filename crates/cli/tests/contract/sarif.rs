//! SARIF for code review tools: by the schema (the validator that `cargo xtask setup` installs reads the published one),
//! and what the results say of pairs whose change is known.

use super::{code, expectation, fixture, hotgraft, names};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn sarif(arguments: &[&dyn AsRef<std::ffi::OsStr>], exit: i32) -> (Vec<u8>, Value) {
    let output = hotgraft(arguments);
    assert_eq!(code(&output), exit, "{}", String::from_utf8_lossy(&output.stderr));
    let value = serde_json::from_slice(&output.stdout).expect("JSON");
    (output.stdout, value)
}

fn validate(folder: &Path, files: &[PathBuf]) {
    let home = std::env::var("HOME").unwrap_or_default();
    let cache = std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{home}/.cache"));
    let tool = "hotgraft/tools/release-node/node_modules/@microsoft/sarif-multitool-linux/Sarif.Multitool";
    let report = folder.join("report.json");
    let output = Command::new(PathBuf::from(cache).join(tool))
        .args(["validate", "--rule-kind", "Sarif", "--level", "Error", "--log", "ForceOverwrite", "--output"])
        .arg(&report)
        .args(files)
        .env("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1")
        .output()
        .unwrap_or_else(|e| panic!("{e}; `cargo xtask setup` installs the validator"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let report: Value = serde_json::from_slice(&std::fs::read(report).expect("a report")).expect("JSON");
    let results = report["runs"][0]["results"].as_array().cloned().unwrap_or_default();
    let errors: Vec<&Value> = results.iter().filter(|r| r["level"] == "error").collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// What holds for every document, and its results.
fn results(value: &Value) -> &Vec<Value> {
    assert_eq!((&value["version"], value["runs"].as_array().map(Vec::len)), (&"2.1.0".into(), Some(1)));
    let run = &value["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().expect("rules");
    let results = run["results"].as_array().expect("results");
    let mut fingerprints = std::collections::BTreeSet::new();
    for result in results {
        let rule = &rules[result["ruleIndex"].as_u64().expect("an index") as usize];
        assert_eq!(rule["id"], result["ruleId"]);
        let why = rule["fullDescription"]["text"].as_str().expect("a sentence");
        assert!(why.contains(' '), "{} is not described", rule["id"]);
        assert!(rule["help"]["text"].as_str().is_some_and(|help| help.contains("hotgraft build")), "{rule}");
        assert!(result.get("guid").is_none() && result.get("correlationGuid").is_none());
        let place = &result["locations"][0];
        assert!(place["physicalLocation"]["artifactLocation"]["uri"].is_string(), "{result}");
        assert!(place["logicalLocations"][0]["fullyQualifiedName"].as_str().is_some_and(|n| n.contains('!')));
        assert!(fingerprints.insert(result["partialFingerprints"]["hotgraft/v1"].to_string()), "twice: {result}");
    }
    results
}

#[test]
fn every_fixture_has_valid_sarif_of_both_kinds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut files = Vec::new();
    for name in names().into_iter().filter(|name| expectation(name)["exit"] != 2) {
        let (old, new) = (fixture(&name, "old"), fixture(&name, "new"));
        let report = folder.path().join(format!("{name}.report"));
        let outputs = [
            hotgraft(&[&"diff", &old, &new, &"--format", &"sarif"]),
            hotgraft(&[&"build", &old, &new, &"--dry-run", &"--format", &"sarif", &"--report", &report]),
        ];
        let document = |n: usize| serde_json::from_slice::<Value>(&outputs[n].stdout).expect("JSON");
        let (diff, build) = (document(0), document(1));
        results(&diff);
        let report: Value = serde_json::from_slice(&std::fs::read(report).expect("a report")).expect("JSON");
        let rules = report["rules"].as_array().expect("rules");
        let found = results(&build);
        assert_eq!(found.len(), rules.len(), "{name}: a result for each finding");
        for (result, rule) in found.iter().zip(rules) {
            assert_eq!(result["ruleId"], rule["key"], "{name}");
            assert_eq!(result["level"] == "error", rule["outcome"] == "refuse", "{name}: {result}");
        }
        for (kind, output) in ["diff", "build"].into_iter().zip(&outputs) {
            let path = folder.path().join(format!("{name}.{kind}.sarif"));
            std::fs::write(&path, &output.stdout).expect("writable");
            files.push(path);
        }
    }
    assert!(files.len() >= 38);
    validate(folder.path(), &files);
}

#[test]
fn results_lead_to_the_source_and_name_what_differs() {
    let (old, new) = (fixture("bounds", "old"), fixture("bounds", "new"));
    let (bytes, diff) = sarif(&[&"diff", &old, &new, &"--format", &"sarif", &"--jobs", &"1"], 1);
    assert_eq!(bytes, sarif(&[&"diff", &old, &new, &"--format", &"sarif", &"--jobs", &"2"], 1).0);
    let mut functions = results(&diff).iter().filter(|r| r["ruleId"].as_str().unwrap_or("").starts_with("function."));
    let first = functions.next().expect("a function differs");
    assert_eq!((&first["kind"], &first["level"]), (&"review".into(), &"none".into()));
    let place = &first["locations"][0]["physicalLocation"];
    assert!(place["artifactLocation"]["uri"].as_str().expect("an URI").ends_with(".c"), "{place}");
    assert!(place["region"]["startLine"].as_u64().expect("a line") > 0);
    let (_, same) = sarif(&[&"diff", &old, &old, &"--format", &"sarif"], 0);
    assert!(results(&same).is_empty());

    let (old, new) = (fixture("initialiser", "old"), fixture("initialiser", "new"));
    let (_, build) = sarif(&[&"build", &old, &new, &"--dry-run", &"--format", &"sarif"], 3);
    let refusal = results(&build).iter().find(|r| r["ruleId"] == "data.initialiser.changed").expect("the refusal");
    assert_eq!((&refusal["kind"], &refusal["level"]), (&"fail".into(), &"error".into()));

    let (old, new) = (fixture("worker", "old"), fixture("worker", "new"));
    let key = "runtime.loop.endless";
    for (accept, suppressed) in [(None, false), (Some(key), true)] {
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> =
            vec![&"build", &old, &new, &"--dry-run", &"--format", &"sarif"];
        if let Some(key) = &accept {
            arguments.extend([&"--accept" as &dyn AsRef<std::ffi::OsStr>, key]);
        }
        let (_, build) = sarif(&arguments, if suppressed { 0 } else { 3 });
        let condition = results(&build).iter().find(|r| r["ruleId"] == key).expect("the condition");
        assert_eq!(condition["kind"], "review");
        assert_eq!(condition["suppressions"][0]["status"] == "accepted", suppressed, "{condition}");
    }
}
