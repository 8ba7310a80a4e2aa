//! The committed pairs: exactly the functions that `expect.json` names are changed, layout is no change, and matching by
//! structure alone never contradicts the names.

use hotgraft_diff::{Options, Status, compare};
use hotgraft_program::{PdbChoice, Program};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fixtures")
}

/// A pair of programs and what is expected of it.
struct Pair {
    name: String,
    old: Program,
    new: Program,
    expect: serde_json::Value,
}

/// All pairs that can be read; that there are some is asserted.
fn pairs() -> Vec<Pair> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(folder()).expect("fixtures").map(|e| e.expect("entry").path()).collect();
    folders.sort();
    let all: Vec<Pair> = folders
        .par_iter()
        .filter(|f| f.join("expect.json").exists())
        .filter_map(|f| {
            let text = std::fs::read(f.join("expect.json")).expect("readable");
            let expect: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
            // Exit 2: the input does not belong together.
            (expect["exit"] != 2).then(|| Pair {
                name: f.file_name().expect("name").to_string_lossy().into_owned(),
                old: load(&f.join("old")),
                new: load(&f.join("new")),
                expect,
            })
        })
        .collect();
    assert!(all.len() > 20, "only {} fixtures", all.len());
    all
}

fn load(folder: &Path) -> Program {
    let image = std::fs::read_dir(folder)
        .expect("folder")
        .map(|e| e.expect("entry").path())
        .find(|p| p.extension().is_some_and(|e| e == "dll" || e == "exe"))
        .expect("image");
    Program::load(&image, PdbChoice::Auto).expect("loads")
}

fn structure() -> Options {
    Options { structure_only: true, ..Options::default() }
}

fn changed(pair: &Pair, options: &Options) -> BTreeSet<String> {
    with_status(pair, options, Status::Changed)
}

fn with_status(pair: &Pair, options: &Options, status: Status) -> BTreeSet<String> {
    let c = compare(&pair.old, &pair.new, options);
    let changed = c.functions.iter().filter(|p| p.status == status);
    changed.filter_map(|p| Some(hotgraft_diff::label::function(&pair.new, p.new?))).collect()
}

#[test]
fn pairs_as_expected() {
    pairs().par_iter().for_each(|pair| {
        assert_eq!(changed(&same(pair), &Options::default()), BTreeSet::new(), "{}: with itself", pair.name);
        assert_eq!(changed(&same(pair), &structure()), BTreeSet::new(), "{}: with itself, no names", pair.name);
        let code = pair.expect["rules"].as_array().is_some_and(|r| r.iter().any(|r| r == "code.function.changed"));
        let verdict = pair.expect["verdict"].as_str();
        if verdict == Some("nothing") {
            assert_eq!(changed(pair, &Options::default()), BTreeSet::new(), "{}", pair.name);
            assert_eq!(changed(pair, &structure()), BTreeSet::new(), "{}: no names", pair.name);
        } else if code && verdict != Some("refuse") {
            let replaced = pair.expect["replaced"].as_array().expect("replaced");
            let expected: BTreeSet<String> = replaced.iter().filter_map(|n| n.as_str()).map(str::to_owned).collect();
            assert_eq!(changed(pair, &Options::default()), expected, "{}", pair.name);
            // Without names a small function may stay unmatched, and its callers then differ; but nothing is lost.
            let equal = with_status(pair, &structure(), Status::Identical);
            let alone =
                |name: &&String| pair.new.functions.iter().filter(|f| f.name.as_ref() == Some(*name)).count() == 1;
            let lost: Vec<_> = expected.intersection(&equal).filter(alone).collect();
            assert!(lost.is_empty(), "{}: no names: {lost:?}", pair.name);
        }
        names_agree(pair);
    });
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let with = |threads: usize, pair: &Pair, options: &Options| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("pool");
        let c = pool.install(|| compare(&pair.old, &pair.new, options));
        serde_json::to_string(&c).expect("serialises")
    };
    for pair in pairs() {
        for options in [Options::default(), structure()] {
            assert!(with(1, &pair, &options) == with(4, &pair, &options), "{}", pair.name);
        }
    }
}

fn same(pair: &Pair) -> Pair {
    Pair { name: pair.name.clone(), old: pair.old.clone(), new: pair.old.clone(), expect: serde_json::Value::Null }
}

/// Matches by structure alone, against the names: functions of the same name where both sides have it once.
fn names_agree(pair: &Pair) {
    let c = compare(&pair.old, &pair.new, &structure());
    let names = |p: &Program, id: hotgraft_program::FunctionId| -> BTreeSet<String> {
        let f = &p.functions[id.index()];
        f.name.iter().chain(&f.decorated).chain(&f.aliases).cloned().collect()
    };
    let all = |p: &Program| -> BTreeSet<String> {
        (0..p.functions.len()).flat_map(|i| names(p, hotgraft_program::FunctionId::from(i))).collect()
    };
    // A pair of unrelated images has nothing to say here.
    if pair.name == "unrelated" {
        return;
    }
    let both: BTreeSet<String> = all(&pair.old).intersection(&all(&pair.new)).cloned().collect();
    for p in &c.functions {
        let (Some(a), Some(b)) = (p.old, p.new) else { continue };
        let (x, y) = (names(&pair.old, a), names(&pair.new, b));
        let known = x.iter().any(|n| both.contains(n)) && y.iter().any(|n| both.contains(n));
        assert!(!known || !x.is_disjoint(&y), "{}: {x:?} is not {y:?} ({:?})", pair.name, p.matched);
    }
}
