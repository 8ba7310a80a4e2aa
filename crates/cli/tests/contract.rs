//! The command line's contract: exit codes, JSON by schema, nothing half-written, one clear message for bad input.

#[path = "contract/explain.rs"]
mod explain;
#[path = "contract/html.rs"]
mod html;
#[path = "contract/sarif.rs"]
mod sarif;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate lies two levels deep").to_owned()
}

fn hotgraft(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_hotgraft"))
        .args(args.iter().map(|a| a.as_ref()))
        .output()
        .expect("hotgraft runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !stderr.contains("panicked"),
        "a panic for {:?}: {stderr}",
        args.iter().map(|a| a.as_ref()).collect::<Vec<_>>()
    );
    output
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

fn fixture(name: &str, side: &str) -> PathBuf {
    let folder = root().join("testdata/fixtures").join(name).join(side);
    let image = |e: &str| {
        std::fs::read_dir(&folder)
            .expect("the fixture is there")
            .filter_map(|f| f.ok())
            .map(|f| f.path())
            .find(|p| p.extension().is_some_and(|x| x == e))
    };
    image("dll").or_else(|| image("exe")).expect("a fixture has an image")
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root().join("testdata/fixtures"))
        .expect("fixtures are committed")
        .filter_map(|e| e.ok())
        .filter(|e| e.path().join("expect.json").exists())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 19, "only {} fixtures", names.len());
    names
}

fn validate(schema: &str, document: &[u8]) -> Value {
    let text = std::fs::read_to_string(root().join("docs/schemas").join(schema)).expect("the schema is there");
    let schema: Value = serde_json::from_str(&text).expect("the schema is JSON");
    let value: Value = serde_json::from_slice(document).unwrap_or_else(|e| {
        panic!("not JSON ({e}): {}", String::from_utf8_lossy(&document[..document.len().min(400)]))
    });
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    let errors: Vec<String> = validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    value
}

fn expectation(name: &str) -> Value {
    let text =
        std::fs::read_to_string(root().join("testdata/fixtures").join(name).join("expect.json")).expect("readable");
    serde_json::from_str(&text).expect("expect.json is JSON")
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().map(|a| a.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

#[test]
fn every_fixture_is_judged_as_expected() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut wrong = Vec::new();
    for name in names() {
        let expect = expectation(&name);
        let patch = folder.path().join(format!("{name}_hotpatch.dll"));
        let report = folder.path().join(format!("{name}.json"));
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![];
        let (old, new) = (fixture(&name, "old"), fixture(&name, "new"));
        args.extend([
            &"build" as &dyn AsRef<std::ffi::OsStr>,
            &old,
            &new,
            &"-o",
            &patch,
            &"--report",
            &report,
            &"--format",
            &"json",
        ]);
        let hooks = root().join("testdata/fixtures").join(&name).join("hooks.obj");
        if hooks.exists() {
            args.extend([&"--hooks" as &dyn AsRef<std::ffi::OsStr>, &hooks]);
        }
        let output = hotgraft(&args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if code(&output) as i64 != expect["exit"].as_i64().expect("exit is a number") {
            wrong.push(format!("{name}: exit {} instead of {}: {said}", code(&output), expect["exit"]));
            continue;
        }
        assert_eq!(patch.exists(), code(&output) == 0, "{name}: a patch is written exactly for exit 0");
        if code(&output) == 2 {
            assert!(said.starts_with("error: "), "{name}: {said}");
            continue;
        }
        let value = validate("build.json", &output.stdout);
        assert_eq!(value, validate("build.json", &std::fs::read(&report).expect("the report is written")), "{name}");
        if value["verdict"] != expect["verdict"] {
            wrong.push(format!("{name}: verdict {} instead of {}", value["verdict"], expect["verdict"]));
        }
        let rules = |outcome: Option<&str>| -> Vec<&str> {
            let rules = value["rules"].as_array().expect("rules").iter();
            rules.filter(|r| outcome.is_none_or(|o| r["outcome"] == o)).filter_map(|r| r["key"].as_str()).collect()
        };
        for key in strings(&expect["rules"]) {
            if !rules(None).contains(&key) {
                wrong.push(format!("{name}: no finding with key {key}, but {:?}", rules(None)));
            }
        }
        for key in strings(&expect["refused"]) {
            if !rules(Some("refuse")).contains(&key) {
                wrong.push(format!("{name}: {key} is not refused, but {:?}", rules(Some("refuse"))));
            }
        }
        if code(&output) == 0 {
            assert_eq!(value["residual"]["checked"], true, "{name}");
            assert_eq!(value["residual"]["remaining"], 0, "{name}");
            for list in ["replaced", "added"] {
                let mut found: Vec<&str> = value["patch"][list]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .filter_map(|f| f["name"].as_str())
                    .collect();
                let mut want = strings(&expect[list]);
                found.sort_unstable();
                want.sort_unstable();
                if !expect[list].is_null() && found != want {
                    wrong.push(format!("{name}: {list} {found:?} instead of {want:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn who_accepted_and_what_a_hook_is_from_are_in_the_patch_and_its_report() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let patch = folder.path().join("patch.dll");
    let (old, new) = (fixture("hook", "old"), fixture("hook", "new"));
    let hooks = root().join("testdata/fixtures/hook/hooks.obj");
    let keys = ["data.initialiser.changed", "runtime.hook"];
    let build = |with_hooks: bool, keys: &[&str], by: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hotgraft"));
        command.arg("build").args([&old, &new]).arg("-o").arg(&patch).args(["--format", "json"]);
        if with_hooks {
            command.arg("--hooks").arg(&hooks);
        }
        command.args(keys.iter().flat_map(|key| ["--accept", key]));
        command.args(by.iter().flat_map(|by| ["--accepted-by", by]));
        command.output().expect("hotgraft runs")
    };
    // Without hooks nothing could repair the variable; with them both keys are needed.
    for output in [build(false, &keys, None), build(true, &keys[..1], None), build(true, &keys[1..], None)] {
        assert_eq!(code(&output), 3);
        assert!(!patch.exists());
        validate("build.json", &output.stdout);
    }
    let output = build(true, &keys, Some("A. Person"));
    assert_eq!(code(&output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    let report = validate("build.json", &output.stdout);
    assert_eq!(report["accepted"], serde_json::json!({"keys": keys, "by": "A. Person"}));
    let points = report["patch"]["hooks"]["entries"].as_array().expect("hooks");
    assert_eq!(
        points.iter().map(|h| h["point"].as_str()).collect::<Vec<_>>(),
        [Some("pre_apply"), Some("post_apply"), Some("post_rollback")]
    );
    let shown = hotgraft(&[&"inspect", &patch, &"--tables"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for line in ["accepted by A. Person", "hook hotgraft_pre_apply at", "hook hotgraft_post_rollback at"] {
        assert!(shown.contains(line), "{shown}");
    }
    let verified = hotgraft(&[&"verify", &patch, &"--base", &old, &"--new", &new]);
    assert_eq!(code(&verified), 0, "{}", String::from_utf8_lossy(&verified.stdout));
    // Nobody accepts without a condition.
    assert_eq!(code(&build(true, &[], Some("A. Person"))), 2);
}

#[test]
fn the_address_space_of_a_patch_is_laid_out_by_its_schema() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (patch, out) = (folder.path().join("patch.dll"), folder.path().join("space"));
    let (old, new) = (fixture("statics", "old"), fixture("statics", "new"));
    assert_eq!(code(&hotgraft(&[&"build", &old, &new, &"-o", &patch])), 0);
    assert_eq!(code(&hotgraft(&[&"lay-out", &old, &new, &patch, &"-o", &out])), 0);
    let space = validate("space.json", &std::fs::read(out.join("space.json")).expect("it is written"));
    let regions = space["regions"].as_array().expect("regions");
    let size: u64 = regions.iter().filter_map(|r| r["size"].as_u64()).sum();
    assert_eq!(std::fs::metadata(out.join("memory.bin")).expect("it is written").len(), size);
    let functions = space["functions"].as_array().expect("functions");
    assert_eq!(functions.len(), 1);
    assert_eq!(functions[0]["name"], "function next_ticket");
    // Callers enter at the base's entry, and the code is in the patch.
    let inside = |address: &Value, image: &str| {
        let region = regions.iter().find(|r| r["image"] == image).expect("the image");
        let (at, start, size) = (address.as_u64(), region["address"].as_u64(), region["size"].as_u64());
        at.zip(start).zip(size).is_some_and(|((at, start), size)| (start..start + size).contains(&at))
    };
    assert!(inside(&functions[0]["patched"], "base") && inside(&functions[0]["body"], "patch"));
    assert!(inside(&functions[0]["new"], "new"));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in names() {
        if expectation(&name)["verdict"] != "patch" {
            continue;
        }
        let (one, two) = (folder.path().join("one.dll"), folder.path().join("two.dll"));
        for (patch, jobs) in [(&one, "1"), (&two, "2")] {
            let output =
                hotgraft(&[&"build", &fixture(&name, "old"), &fixture(&name, "new"), &"-o", patch, &"--jobs", &jobs]);
            assert_eq!(code(&output), 0, "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(std::fs::read(&one).expect("one"), std::fs::read(&two).expect("two"), "{name}");
    }
}

#[test]
fn diff_follows_its_schema_and_its_exit_codes() {
    for name in names() {
        let (old, new) = (fixture(&name, "old"), fixture(&name, "new"));
        let output = hotgraft(&[&"diff", &old, &new, &"--format", &"json"]);
        if expectation(&name)["exit"] == 2 {
            assert_eq!(code(&output), 2, "{name}");
            continue;
        }
        let value = validate("diff.json", &output.stdout);
        let functions = value["functions"].as_array().expect("functions");
        for side in ["old", "new"] {
            let mut rvas: Vec<u64> = functions.iter().filter_map(|f| f[side]["rva"].as_u64()).collect();
            let all = rvas.len();
            rvas.sort_unstable();
            rvas.dedup();
            assert_eq!(rvas.len(), all, "{name}: a function of {side} appears twice");
            assert_eq!(all as u64, value[side]["functions"].as_u64().expect("a number"), "{name}: {side}");
        }
        let order =
            |f: &Value| (f["old"]["rva"].as_u64().unwrap_or(u64::MAX), f["new"]["rva"].as_u64().unwrap_or(u64::MAX));
        assert!(functions.is_sorted_by_key(order), "{name}: functions are sorted by old RVA, then new");
        let equal = hotgraft(&[&"diff", &old, &old, &"--format", &"json"]);
        assert_eq!(code(&equal), 0, "{name}: an image does not differ from itself");
        let value = validate("diff.json", &equal.stdout);
        assert_eq!(value["summary"]["changed"], 0, "{name}");
    }
}

#[test]
fn damaged_input_gives_one_message_and_writes_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (old, new) = (fixture("bounds", "old"), fixture("bounds", "new"));
    let good = std::fs::read(&old).expect("the fixture is readable");
    let damaged = folder.path().join("damaged.dll");
    let patch = folder.path().join("patch.dll");
    let e_lfanew = u32::from_le_bytes(good[0x3c..0x40].try_into().expect("4 bytes")) as usize;
    let with = |at: usize, bytes: &[u8]| {
        let mut copy = good.clone();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        copy
    };
    let optional = e_lfanew + 24;
    let first_section = optional + 240;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("no MZ", with(0, b"XX")),
        ("cut in the DOS header", good[..0x20].to_vec()),
        ("cut in the headers", good[..e_lfanew + 30].to_vec()),
        ("cut in a section", good[..good.len() / 2].to_vec()),
        ("e_lfanew far away", with(0x3c, &[0xff; 4])),
        ("foreign machine", with(e_lfanew + 4, &[0xff, 0x01])),
        ("32-bit machine", with(e_lfanew + 4, &[0x4c, 0x01])),
        ("absurd section count", with(e_lfanew + 6, &[0xff, 0xff])),
        ("absurd image size", with(optional + 56, &[0xff; 4])),
        ("overlapping sections", with(first_section + 40 + 12, &good[first_section + 12..first_section + 16])),
        ("section outside of the image", with(first_section + 12, &[0, 0, 0, 0xf0])),
        ("absurd import directory", with(optional + 120, &[0xf0, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f])),
        ("text", b"this is no image at all".repeat(100)),
    ];
    for (what, bytes) in cases {
        std::fs::write(&damaged, &bytes).expect("writable");
        for output in [
            hotgraft(&[&"build", &damaged, &new, &"-o", &patch]),
            hotgraft(&[&"diff", &damaged, &new]),
            hotgraft(&[&"inspect", &damaged]),
            hotgraft(&[&"inspect", &damaged, &"--tables"]),
        ] {
            assert_eq!(code(&output), 2, "{what}: {}", String::from_utf8_lossy(&output.stderr));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(stderr.matches("error: ").count(), 1, "{what}: {stderr}");
            assert!(stderr.contains("damaged.dll"), "{what}: the message names the file: {stderr}");
        }
        // What is well formed enough to look for a signature has none: the answer is no.
        assert_ne!(code(&hotgraft(&[&"verify", &damaged])), 0, "{what}");
        assert!(!patch.exists(), "{what}");
    }
}

#[test]
fn a_pdb_of_another_build_is_not_used() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let patch = folder.path().join("patch.dll");
    let (old, new) = (fixture("bounds", "old"), fixture("bounds", "new"));
    let foreign = fixture("strings", "old").with_extension("pdb");
    let output = hotgraft(&[&"build", &old, &new, &"--old-pdb", &foreign, &"-o", &patch]);
    assert_eq!(code(&output), 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("PDB of another build"));
    assert!(!patch.exists());
}

#[test]
fn a_patch_cannot_be_written_where_there_is_no_folder() {
    let (old, new) = (fixture("bounds", "old"), fixture("bounds", "new"));
    let nowhere = Path::new("/nonexistent/folder/patch.dll");
    let output = hotgraft(&[&"build", &old, &new, &"-o", &nowhere]);
    assert_eq!(code(&output), 2);
}

#[test]
fn a_changed_byte_in_a_patch_is_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let patch = folder.path().join("patch.dll");
    let (old, new) = (fixture("bounds", "old"), fixture("bounds", "new"));
    assert_eq!(code(&hotgraft(&[&"build", &old, &new, &"-o", &patch])), 0);
    let verified = hotgraft(&[&"verify", &patch, &"--base", &old, &"--new", &new, &"--format", &"json"]);
    assert_eq!(code(&verified), 0, "{}", String::from_utf8_lossy(&verified.stdout));
    validate("verify.json", &verified.stdout);
    let other = hotgraft(&[&"verify", &patch, &"--base", &new]);
    assert_eq!(code(&other), 1, "the new image is not the base");
    let good = std::fs::read(&patch).expect("written");
    let changed = folder.path().join("changed.dll");
    for at in (0..good.len()).step_by(good.len() / 97 + 1) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&changed, &bytes).expect("writable");
        let output = hotgraft(&[&"verify", &changed, &"--base", &old, &"--new", &new]);
        assert_ne!(code(&output), 0, "byte {at:#x} was changed and nobody noticed");
    }
}

#[test]
fn usage_errors_are_exit_2_and_help_is_exit_0() {
    assert_eq!(code(&hotgraft(&[&"build"])), 2);
    assert_eq!(code(&hotgraft(&[&"frobnicate"])), 2);
    assert_eq!(code(&hotgraft(&[&"--help"])), 0);
    assert_eq!(code(&hotgraft(&[&"--version"])), 0);
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = hotgraft(&[&"completions", &shell]);
        assert_eq!(code(&output), 0);
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn the_doctor_tells_what_stands_in_the_way() {
    let good = fixture("service", "old");
    let output = hotgraft(&[&"doctor", &good, &"--format", &"json"]);
    assert_eq!(code(&output), 0);
    let value = validate("doctor.json", &output.stdout);
    let image = &value["images"][0];
    let entries = &image["entries"];
    let number = |key: &str| entries[key].as_u64().expect("a number");
    assert!(number("functions") > 0);
    assert_eq!(number("functions"), number("padded_short_jump") + number("near_jump") + number("none"));

    // Relocations stripped: blocked, with advice, and nothing more is read.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut bytes = std::fs::read(&good).expect("readable");
    let header = u32::from_le_bytes(bytes[0x3c..0x40].try_into().expect("4 bytes")) as usize;
    bytes[header + 22] |= 1;
    let stripped = folder.path().join("stripped.exe");
    std::fs::write(&stripped, &bytes).expect("writable");
    let output = hotgraft(&[&"doctor", &stripped, &"--format", &"json"]);
    assert_eq!(code(&output), 1);
    let value = validate("doctor.json", &output.stdout);
    assert_eq!(value["level"], "blocks");
    assert!(value["images"][0]["entries"].is_null());
    let checks = value["images"][0]["checks"].as_array().expect("checks");
    assert!(
        checks.iter().any(|c| c["key"] == "image.relocations" && c["level"] == "blocks" && c["advice"].is_string())
    );

    // What is no image at all.
    let output = hotgraft(&[&"doctor", &root().join("Cargo.toml")]);
    assert_eq!(code(&output), 2);
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: "));
    // Everything else than an image is a question for Windows.
    let output = hotgraft(&[&"doctor", &"--pid", &"1"]);
    assert_eq!(code(&output), 2);
}
