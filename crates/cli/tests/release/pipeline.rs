//! `release build`: many pairs, a cache that resumes, all or nothing.

use super::vendor::{image, json, release, run};
use std::collections::BTreeMap;
use std::path::Path;

fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    entries.map(|e| e.expect("an entry").path()).map(|p| (name(&p), std::fs::read(p).expect("readable"))).collect()
}

#[test]
fn who_accepted_a_condition_is_in_the_patch_and_in_the_catalog() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let pair = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fixtures/export-added");
    let side = |side: &str| pair.join(side).join("export-added.dll").display().to_string();
    let manifest = |more: &str| {
        let (old, new) = (side("old"), side("new"));
        let pair = format!("[[pair]]\nold = \"{old}\"\nnew = \"{new}\"\naccept = [\"image.export.added\"]\n");
        std::fs::write(at("m.toml"), format!("schema = \"hotgraft.manifest/1\"\nsequence = 1\n{more}{pair}"))
            .expect("writable");
    };
    let catalogued = |out: &str| {
        let [m, cache, to] = ["m.toml", "cache", out].map(|name| at(name).display().to_string());
        release(&format!("build --manifest {m} -o {to} --cache {cache} --format json"), 0);
        let bytes = std::fs::read(at(out).join("export-added_hotpatch.dll")).expect("readable");
        hotgraft_release::workshop::patch_of("export-added.dll", "p.dll", &bytes).expect("a patch")
    };
    manifest("");
    let nobody = catalogued("nobody");
    assert_eq!((nobody.accepted.as_slice(), nobody.accepted_by), (&["image.export.added".to_owned()][..], None));
    // The cache knows the difference.
    manifest("accepted_by = \"A. Reviewer\"\n");
    assert_eq!(catalogued("somebody").accepted_by.as_deref(), Some("A. Reviewer"));
}

#[test]
fn many_pairs_all_or_nothing_with_a_cache_that_resumes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    for (side, versions) in [("old", [("engine", 0), ("panel", 0)]), ("new", [("engine", 2), ("panel", 1)])] {
        std::fs::create_dir(at(side)).expect("writable");
        for (name, version) in versions {
            for end in ["dll", "pdb"] {
                let from = image(name, version).with_extension(end);
                std::fs::copy(from, at(side).join(format!("{name}.{end}"))).expect("copied");
            }
        }
        // Fifty that did not change.
        for n in 0..50 {
            std::fs::copy(image("engine", 3), at(side).join(format!("same{n}.dll"))).expect("copied");
        }
    }
    let manifest = "schema = \"hotgraft.manifest/1\"\nsequence = 1\ncves = [\"CVE-2026-0001\"]\nold_folder = \"old\"\nnew_folder = \"new\"\n";
    std::fs::write(at("manifest.toml"), manifest).expect("writable");
    let words = |manifest: &str, out: &str, cache: &str| {
        let [manifest, out, cache] = [manifest, out, cache].map(|name| at(name).display().to_string());
        format!("build --manifest {manifest} -o {out} --cache {cache} --format json")
    };
    let first = json(&release(&words("manifest.toml", "first", "cache"), 0));
    assert_eq!((first["images"].as_array().map(Vec::len), &first["reused"]), (Some(52), &0.into()));
    let files = tree(&at("first"));
    assert_eq!(files.keys().collect::<Vec<_>>(), ["engine_hotpatch.dll", "panel_hotpatch.dll", "patches.json"]);
    // From the cache, and without it: the same bytes.
    let second = json(&release(&words("manifest.toml", "second", "cache"), 0));
    assert_eq!(second["reused"], 2);
    release(&format!("{} --jobs 1", words("manifest.toml", "third", "other")), 0);
    assert_eq!((tree(&at("second")), tree(&at("third"))), (files.clone(), files.clone()));
    // What is there is not overwritten.
    release(&words("manifest.toml", "first", "cache"), 2);
    // A damaged entry of the cache counts for nothing.
    for (name, _) in tree(&at("cache/patches")) {
        std::fs::write(at("cache/patches").join(name), b"damaged").expect("writable");
    }
    let again = json(&release(&words("manifest.toml", "fourth", "cache"), 0));
    assert_eq!((again["reused"].as_u64(), tree(&at("fourth"))), (Some(0), files.clone()));

    // Killed in the middle: nothing appears, and what was done is not done again.
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_hotgraft"))
        .arg("release")
        .args(words("manifest.toml", "killed", "resume").split_whitespace())
        .args(["--jobs", "1"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("hotgraft runs");
    let results = at("resume/results");
    let done = || {
        std::fs::read_dir(&results).map_or(0, |d| {
            d.filter_map(Result::ok).filter(|e| !e.file_name().to_string_lossy().starts_with('.')).count()
        })
    };
    let begun = std::time::Instant::now();
    while done() == 0 && begun.elapsed().as_secs() < 120 && child.try_wait().expect("known").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().expect("it ends");
    child.wait().expect("it ended");
    if !at("killed").exists() {
        let kept = done();
        assert!(kept >= 1);
        let resumed = json(&release(&words("manifest.toml", "killed", "resume"), 0));
        assert_eq!(resumed["reused"].as_u64(), Some(kept as u64));
    }
    assert_eq!(tree(&at("killed")), files);

    // One that cannot be patched: nothing is written.
    std::fs::copy(image("engine", 6), at("old/engine.dll")).expect("copied");
    std::fs::copy(image("engine", 6).with_extension("pdb"), at("old/engine.pdb")).expect("copied");
    std::fs::copy(image("engine", 8), at("new/engine.dll")).expect("copied");
    std::fs::copy(image("engine", 8).with_extension("pdb"), at("new/engine.pdb")).expect("copied");
    let refused = json(&release(&words("manifest.toml", "refused", "cache"), 3));
    assert_eq!(refused["published"], false);
    assert!(!at("refused").exists());
    let left: Vec<_> = tree_names(folder.path()).into_iter().filter(|name| name.starts_with(".hotgraft")).collect();
    assert!(left.is_empty(), "{left:?}");
    // Bad manifests are answered.
    for bad in ["", "schema = \"other/1\"\nsequence = 1\n", "schema = \"hotgraft.manifest/1\"\nsequence = 0\n", "\u{0}"]
    {
        std::fs::write(at("bad.toml"), bad).expect("writable");
        release(&words("bad.toml", "bad", "cache"), 2);
    }
    assert_eq!(run(["release", "build"]).status.code(), Some(2));
}

fn tree_names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder)
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect()
}
