//! `cargo xtask fuzz`: the targets of `fuzz/`, each for a while.
//!
//! libFuzzer drives them. What tells it which code was reached is a pass of the compiler that any toolchain has, so the
//! pinned one serves; the sanitizers would not, and have little to find where `unsafe` is forbidden.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::{command, hotgraft, root, say};

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How long each.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// How many at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Only these.
    names: Vec<String>,
}

/// Tells the compiler to count what is reached, in the form that libFuzzer reads.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// The target is named so that the flags above are kept from build scripts and macros.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// What one target did.
struct Done {
    target: String,
    executions: u64,
    coverage: u64,
    features: u64,
    corpus: u64,
    memory: u64,
    /// What libFuzzer kept of a crash, a hang or a lack of memory.
    findings: Vec<PathBuf>,
}

/// Runs each target (or the named ones), starting from good and bad examples that the tests make, and from whatever
/// earlier runs found worth keeping.
///
/// # Errors
/// If a target does not build, or one has a finding.
pub fn run(options: &Options) -> Result<()> {
    let targets = targets(&options.names)?;
    let work = hotgraft::target_folder().join("fuzz");
    let seeds = work.join("seeds");
    say::step("seeds");
    for (package, test) in
        [("hotgraft-signer", "seeds"), ("hotgraft-signer", "negative"), ("hotgraft-engine", "hostile")]
    {
        let mut make = hotgraft::cargo();
        make.args(["test", "--quiet", "--locked", "--package", package, "--test", test]);
        command::quiet(make.env("HOTGRAFT_FUZZ_SEEDS", &seeds))?;
    }
    fixture_seeds(&seeds)?;
    say::step("targets");
    let mut build = hotgraft::cargo();
    build.args(["build", "--quiet", "--locked", "--release", "--target", HOST, "--target-dir"]).arg(&work);
    build.current_dir(root::repository().join("fuzz")).env("RUSTFLAGS", COVERAGE);
    command::loud(&mut build)?;

    say::step(&format!("{} targets, {} s each", targets.len(), options.seconds));
    let queue = Mutex::new(VecDeque::from(targets));
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(target) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) {
                    let done = fuzz(&work, &seeds, target, options.seconds);
                    if let Ok(mut results) = results.lock() {
                        results.push(done);
                    }
                }
            });
        }
    });
    report(results.into_inner().unwrap_or_default())
}

/// The largest fixture that is worth its time as an example, bytes.
const LARGEST_SEED: u64 = 0x4000;

/// The small images of the fixtures, and one PDB: what differs between PDBs is little beside what they have in common.
fn fixture_seeds(seeds: &Path) -> Result<()> {
    let mut images = Vec::new();
    for fixture in fs::read_dir(root::fixtures())? {
        let folder = fixture?.path().join("new");
        for file in fs::read_dir(&folder).into_iter().flatten() {
            let file = file?;
            let image = file.path().extension().is_some_and(|end| end == "exe" || end == "dll");
            if image && file.metadata()?.len() <= LARGEST_SEED {
                images.push(file.path());
            }
        }
    }
    let pdb = root::fixtures().join("statics/old/statics.pdb");
    for (target, files) in [("program_image", images), ("program_pdb", vec![pdb])] {
        let folder = seeds.join(target);
        fs::create_dir_all(&folder)?;
        for file in files {
            let name = file.file_name().unwrap_or_default();
            fs::copy(&file, folder.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    Ok(())
}

fn report(results: Vec<Result<Done>>) -> Result<()> {
    let mut results = results.into_iter().collect::<Result<Vec<_>>>()?;
    results.sort_by(|a, b| a.target.cmp(&b.target));
    say::line(&format!(
        "{:<28} {:>13} {:>8} {:>9} {:>7} {:>8} {:>9}",
        "target", "executions", "edges", "features", "corpus", "peak", "findings"
    ));
    for one in &results {
        let (edges, found) = (one.coverage, one.findings.len());
        say::line(&format!(
            "{:<28} {:>13} {edges:>8} {:>9} {:>7} {:>5} MB {found:>9}",
            one.target, one.executions, one.features, one.corpus, one.memory
        ));
    }
    let findings: Vec<String> =
        results.iter().flat_map(|r| &r.findings).map(|path| path.display().to_string()).collect();
    ensure!(findings.is_empty(), "findings: {}", findings.join(", "));
    Ok(())
}

fn targets(names: &[String]) -> Result<Vec<String>> {
    let folder = root::repository().join("fuzz/fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|end| end == "rs") && (names.is_empty() || names.contains(&name)) {
            targets.push(name);
        }
    }
    targets.sort();
    ensure!(!targets.is_empty(), "no such fuzz target");
    Ok(targets)
}

fn fuzz(work: &Path, seeds: &Path, target: String, seconds: u32) -> Result<Done> {
    let corpus = work.join("corpus").join(&target);
    let artifacts = work.join("artifacts").join(&target);
    let seeds = seeds.join(&target);
    for folder in [&corpus, &artifacts, &seeds] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let program = work.join(HOST).join("release").join(&target);
    // What an earlier run found, and is mended since, is no finding any more.
    for entry in fs::read_dir(&artifacts)? {
        let path = entry?.path();
        if command::finish(Command::new(&program).arg(&path))?.code == 0 {
            fs::remove_file(&path)?;
        }
    }
    let mut run = Command::new(&program);
    run.arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-print_final_stats=1", "-rss_limit_mb=2048", "-timeout=10"])
        .args([&corpus, &seeds])
        .stdin(Stdio::null());
    let done = command::finish(&mut run)?;
    let log = work.join(format!("{target}.log"));
    fs::write(&log, &done.stderr).with_context(|| format!("cannot write {}", log.display()))?;
    let mut findings = Vec::new();
    for entry in fs::read_dir(&artifacts)? {
        findings.push(entry?.path());
    }
    findings.sort();
    ensure!(done.code == 0 || !findings.is_empty(), "{target} ended with {}: see {}", done.code, log.display());
    // Of the last line of progress, as `... cov: 95 ft: 110 corp: 24/129b ...`, and of the statistics after it.
    let after = |key: &str| {
        let text = done.stderr.rsplit_once(key).map_or("", |(_, text)| text).trim_start();
        text.split(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    Ok(Done {
        executions: after("stat::number_of_executed_units:"),
        coverage: after(" cov: "),
        features: after(" ft: "),
        corpus: after(" corp: "),
        memory: after("stat::peak_rss_mb:"),
        target,
        findings,
    })
}
