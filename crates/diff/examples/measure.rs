//! Measures matching without PDBs against the names of the PDBs, on pairs of folders: `measure DIR...`, each with
//! `old/NAME.dll|exe`, `old/NAME.pdb`, `new/...`. Prints precision, recall, F1, and which rung made the wrong matches.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use hotgraft_diff::{Options, Status, compare};
use hotgraft_program::{PdbChoice, Program};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut verbose = false;
    let (mut right, mut claimed, mut truth) = (0usize, 0usize, 0usize);
    let mut buckets: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    for dir in std::env::args().skip(1) {
        if dir == "-v" {
            verbose = true;
            continue;
        }
        for (old, new) in pairs(Path::new(&dir))? {
            measure(&old, &new, verbose, &mut right, &mut claimed, &mut truth, &mut buckets)?;
        }
    }
    let (p, r) = (right as f64 / claimed as f64, right as f64 / truth as f64);
    println!(
        "all: precision {p:.4} recall {r:.4} F1 {:.4} ({right} right, {claimed} claimed, {truth} true)",
        2.0 * p * r / (p + r)
    );
    for (bucket, (hit, all)) in buckets {
        println!("  score {:.1}: {hit}/{all} = {:.3}", f64::from(bucket) / 10.0, hit as f64 / all as f64);
    }
    Ok(())
}

fn pairs(dir: &Path) -> std::io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir.join("old"))? {
        let old = entry?.path();
        if old.with_extension("pdb").exists() && old.extension().is_some_and(|e| e == "dll" || e == "exe") {
            let new = dir.join("new").join(old.file_name().unwrap_or_default());
            if new.exists() {
                all.push((old, new));
            }
        }
    }
    all.sort();
    Ok(all)
}

fn names(p: &Program) -> HashMap<u32, BTreeSet<String>> {
    p.functions
        .iter()
        .map(|f| (f.rva(), f.name.iter().chain(&f.aliases).cloned().collect::<BTreeSet<_>>()))
        .filter(|(_, names)| !names.is_empty())
        .collect()
}

fn measure(
    old: &Path,
    new: &Path,
    verbose: bool,
    right: &mut usize,
    claimed: &mut usize,
    truth: &mut usize,
    buckets: &mut BTreeMap<u32, (usize, usize)>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (a, b) = (Program::load(old, PdbChoice::Auto)?, Program::load(new, PdbChoice::Auto)?);
    let named = compare(&a, &b, &Options::default());
    let (x, y) = (names(&a), names(&b));
    let count = |names: &HashMap<u32, BTreeSet<String>>| {
        let mut count: HashMap<String, usize> = HashMap::new();
        for name in names.values().flatten() {
            *count.entry(name.clone()).or_default() += 1;
        }
        count
    };
    let (cx, cy) = (count(&x), count(&y));
    let true_name = |s: &BTreeSet<String>| s.iter().any(|n| cx.get(n) == Some(&1) && cy.get(n) == Some(&1));
    let here_truth = x.values().filter(|s| true_name(s)).count();
    let (s, t) = (Program::load(old, PdbChoice::None)?, Program::load(new, PdbChoice::None)?);
    let start = Instant::now();
    let c = compare(&s, &t, &Options::default());
    let seconds = start.elapsed().as_secs_f64();
    let (mut hit, mut all) = (0, 0);
    let mut wrong: BTreeMap<String, usize> = BTreeMap::new();
    for pair in &c.functions {
        let (Some(p), Some(q)) = (pair.old, pair.new) else { continue };
        let (p, q) = (s.functions[p.index()].rva(), t.functions[q.index()].rva());
        let (Some(n), Some(m)) = (x.get(&p), y.get(&q)) else { continue };
        if !true_name(n) && !true_name(m) {
            // Names that are not unique cannot say what is right, unless they differ.
            if n.intersection(m).next().is_some() {
                continue;
            }
        }
        all += 1;
        let good = n.intersection(m).next().is_some();
        hit += usize::from(good);
        let matched = pair.matched.expect("matched");
        let bucket = buckets.entry((matched.score * 10.0) as u32).or_default();
        bucket.0 += usize::from(good);
        bucket.1 += 1;
        if !good {
            *wrong.entry(format!("{:?}", matched.by)).or_default() += 1;
            if verbose {
                println!("    wrong {:?} {:.2}: {n:?} {p:x} is not {m:?} {q:x}", matched.by, matched.score);
            }
        }
    }
    let changed = |c: &hotgraft_diff::Comparison, p: &Program| -> BTreeSet<u32> {
        let changed = c.functions.iter().filter(|p| p.status == Status::Changed);
        changed.filter_map(|pair| Some(p.functions[pair.new?.index()].rva())).collect()
    };
    let (want, got) = (changed(&named, &b), changed(&c, &t));
    let (p, r) = (hit as f64 / all.max(1) as f64, hit as f64 / here_truth.max(1) as f64);
    println!(
        "{}: precision {p:.4} recall {r:.4} F1 {:.4}; functions {}+{} of {}+{}; wrong {wrong:?}; changed with PDB {}, without {}, both {}; {seconds:.2} s",
        old.display(),
        2.0 * p * r / (p + r),
        s.functions.len(),
        t.functions.len(),
        a.functions.len(),
        b.functions.len(),
        want.len(),
        got.len(),
        want.intersection(&got).count()
    );
    if verbose {
        for pair in &c.functions {
            if let (Some(p), None) = (pair.old, pair.new)
                && let Some(n) = x.get(&s.functions[p.index()].rva()).filter(|n| true_name(n))
            {
                println!("    missed {n:?} {} bytes", s.functions[p.index()].size());
            }
        }
    }
    *right += hit;
    *claimed += all;
    *truth += here_truth;
    Ok(())
}
