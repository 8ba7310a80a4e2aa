//! The committed pairs: verdict, rules and functions as `expect.json` of each says.

use hotgraft_packager::verdict::{Decision, Options, Outcome, judge};
use hotgraft_packager::{plan, rules};
use hotgraft_program::{PdbChoice, Program};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn images(folder: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "exe" || e == "dll"))
        .collect();
    out.sort();
    out
}

fn strings(value: &serde_json::Value) -> BTreeSet<String> {
    value.as_array().map(|a| a.iter().map(|v| v.as_str().unwrap().to_owned()).collect()).unwrap_or_default()
}

#[test]
fn the_committed_pairs_are_judged_as_expected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fixtures");
    let mut faults = Vec::new();
    let mut seen = 0;
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let expected: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("expect.json")).unwrap()).unwrap();
        let (old, new) = (images(&folder.join("old")), images(&folder.join("new")));
        let pairs: Vec<(PathBuf, PathBuf)> = old
            .iter()
            .filter_map(|o| {
                Some((o.clone(), new.iter().find(|n| n.file_name() == o.file_name()).or(new.first())?.clone()))
            })
            .collect();
        assert!(!pairs.is_empty(), "{name} has no images");
        if expected["verdict"].is_null() {
            continue;
        }
        seen += 1;
        // Where a fixture has a host beside its DLL, the DLL is the pair.
        let (o, n) = pairs.iter().find(|p| p.0.extension().is_some_and(|e| e == "dll")).unwrap_or(&pairs[0]);
        let old = Program::load(o, PdbChoice::Auto).unwrap();
        let new = Program::load(n, PdbChoice::Auto).unwrap();
        let cmp = hotgraft_diff::compare(&old, &new, &hotgraft_diff::Options::default());
        let options = Options {
            accept: strings(&expected["accept"]).into_iter().collect(),
            hooks: std::fs::read(folder.join("hooks.obj")).ok(),
            ..Options::default()
        };
        let verdict = judge(&old, &new, &cmp, &options);
        crate::common::assert_accounts(&cmp, &verdict);
        crate::bytes::assert_all_accounted(&name, &old, &new, &cmp, &verdict);
        let decision = match verdict.decision {
            Decision::Patch => "patch",
            Decision::Conditional => "conditional",
            Decision::Refuse => "refuse",
            Decision::Nothing => "nothing",
        };
        let grave = || {
            let list: Vec<_> =
                verdict.findings.iter().filter(|f| matches!(f.outcome, Outcome::Refuse | Outcome::Condition)).collect();
            list.iter().map(|f| format!("\n    {} {} {}", f.key, f.subject, f.text)).collect::<String>()
        };
        if expected["verdict"] != decision {
            faults.push(format!("{name}: {decision} instead of {}{}", expected["verdict"], grave()));
            continue;
        }
        let keys: BTreeSet<&str> = verdict.findings.iter().map(|f| f.key).collect();
        for key in strings(&expected["rules"]).iter().chain(&strings(&expected["refused"])) {
            if !keys.contains(key.as_str()) {
                faults.push(format!("{name}: no {key}, but {keys:?}"));
            }
        }
        for f in &verdict.findings {
            assert!(rules::explain(f.key).is_some(), "{}", f.key);
        }
        if matches!(verdict.decision, Decision::Patch | Decision::Conditional) {
            let plan = match plan::plan(&old, &new, &cmp, &verdict, &options) {
                Ok(plan) => plan,
                Err(e) => {
                    faults.push(format!("{name}: {e}"));
                    continue;
                }
            };
            let planned = |added: bool| -> BTreeSet<String> {
                let list = plan.functions.iter().filter(|f| f.old.is_none() == added);
                list.map(|f| new.functions[f.new.index()].name.clone().unwrap_or_default()).collect()
            };
            if planned(false) != strings(&expected["replaced"]) || planned(true) != strings(&expected["added"]) {
                faults.push(format!("{name}: replaced {:?} added {:?}", planned(false), planned(true)));
            }
        }
    }
    assert!(seen > 20, "only {seen} fixtures");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
