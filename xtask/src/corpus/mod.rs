//! `cargo xtask corpus`: a patch for each real security fix of some Debian packages, held against the source.

mod archive;
mod behave;
mod ctags;
mod inputs;
mod judge;
mod live;
mod live_tool;
mod recipe;
mod same;
mod share;
mod step;

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::emulation::{Amount, Emulator, Execution};
use crate::hotgraft::{self, Hotgraft, Profile};
use crate::wine::Wine;
use crate::{root, say, tools};
use judge::Row;
pub use step::Built;

/// Which programs to run patched under Wine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Programs {
    /// The programs that a fix changed.
    Changed,
    /// Also programs that use a DLL that a fix changed.
    All,
}

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Take pairs that are already built, in DIR/PACKAGE/NN-CVE/{old,new} with step.json. May be given several times;
    /// LEVEL says how they were optimised, if not as --opt says.
    #[arg(long, value_name = "[LEVEL=]DIR", allow_hyphen_values = true)]
    from: Vec<String>,
    /// Optimisation level to build with.
    #[arg(long, default_value = "-O2", allow_hyphen_values = true)]
    opt: String,
    /// Keep the patches here.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Compare the patched old programs with the new ones under Wine.
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "changed", value_name = "WHICH")]
    run: Option<Programs>,
    /// Patch old DLLs under Wine while a program drives them, and old programs while they work, at a random moment.
    #[arg(long)]
    live: bool,
    /// Run what the patches replace beside the new images in an emulator, on this many inputs for each function.
    #[arg(long, num_args = 0..=1, default_missing_value = "32", value_name = "INPUTS")]
    execute: Option<u32>,
    /// Inputs for each program.
    #[arg(long, default_value_t = 24)]
    inputs: u32,
    /// Only fixes whose folder's name contains this.
    #[arg(long)]
    step: Option<String>,
    /// Only these packages.
    packages: Vec<String>,
}

/// Builds what is missing, judges every fix, prints a line for each and the totals.
///
/// # Errors
/// If a result is wrong: an internal error, a residual, a needless or a missed replacement, or other behaviour.
pub fn run(options: &Options) -> Result<()> {
    let mut from: Vec<(String, PathBuf)> = options.from.iter().map(|from| level_and_folder(from, options)).collect();
    if from.is_empty() {
        from.push((options.opt.clone(), build_pairs(options)?));
    }
    let mut fixes = Vec::new();
    for (level, folder) in &from {
        let mut found = step::all(folder, level, &options.packages)?;
        found.retain(|fix| options.step.as_ref().is_none_or(|part| fix.step.step.contains(part.as_str())));
        ensure!(!found.is_empty(), "no built fix in {}", folder.display());
        fixes.extend(found);
    }
    let kept;
    let out = match &options.out {
        Some(out) => {
            std::fs::create_dir_all(out)?;
            out.canonicalize()?
        }
        None => {
            kept = tempfile::tempdir()?;
            kept.path().to_owned()
        }
    };
    let hotgraft = Hotgraft::build(Profile::Release)?;
    say::step(&format!("{} fixes", fixes.len()));
    let mut judged: Vec<(&Built, Vec<Row>)> = Vec::new();
    for fix in &fixes {
        let rows: Vec<Row> = fix.step.images.iter().map(|image| judge::image(&hotgraft, fix, image, &out)).collect();
        for row in &rows {
            say::line(&row.line());
        }
        judged.push((fix, rows));
    }
    let mut wrong = totals(&judged);
    if let Some(inputs) = options.execute {
        wrong += execute(&hotgraft, &judged, inputs)?;
    }
    if let Some(programs) = options.run {
        wrong += run_programs(&judged, programs, options.inputs)?;
    }
    if options.live {
        wrong += patch_live(&judged, options.inputs)?;
    }
    if wrong > 0 {
        bail!("{wrong} results are wrong");
    }
    Ok(())
}

/// All built fixes below a folder.
///
/// # Errors
/// If one is malformed.
pub fn built(from: &std::path::Path) -> Result<Vec<Built>> {
    step::all(from, "", &[])
}

/// The two parts of an argument of `--from`.
fn level_and_folder(from: &str, options: &Options) -> (String, PathBuf) {
    match from.split_once('=') {
        Some((level, folder)) if level.starts_with("-O") => (level.to_owned(), folder.into()),
        _ => (options.opt.clone(), from.into()),
    }
}

/// Builds the packages' pairs into the cache.
fn build_pairs(options: &Options) -> Result<PathBuf> {
    tools::need(tools::CORPUS)?;
    let recipes = recipe::all()?;
    for name in &options.packages {
        ensure!(recipes.contains_key(name), "no recipe for {name}");
    }
    let from = root::cache().join(format!("corpus{}", options.opt));
    for (name, recipe) in &recipes {
        if if options.packages.is_empty() { !recipe.optional } else { options.packages.contains(name) } {
            recipe::build(name, recipe, &options.opt, &from.join(name))?;
        }
    }
    Ok(from)
}

/// Prints the totals; returns the number of wrong results.
fn totals(judged: &[(&Built, Vec<Row>)]) -> usize {
    let rows: Vec<&Row> = judged.iter().flat_map(|(_, rows)| rows).collect();
    let count = |test: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| test(row)).count();
    say::step("totals");
    say::line(&format!(
        "{} fixes, {} images: {} patch, {} conditional, {} refuse, {} nothing, {} error",
        judged.len(),
        rows.len(),
        count(&|row| row.verdict == "patch"),
        count(&|row| row.verdict == "conditional"),
        count(&|row| row.verdict == "refuse"),
        count(&|row| row.verdict == "nothing"),
        count(&|row| row.verdict == "error"),
    ));
    say::line(&format!(
        "residual {}, needless replacements {}, missed {}, faults {}; slowest build {:.1} s",
        rows.iter().filter_map(|row| row.residual).sum::<u64>(),
        rows.iter().map(|row| row.needless.len()).sum::<usize>(),
        rows.iter().map(|row| row.missed.len()).sum::<usize>(),
        count(&|row| row.fault.is_some()),
        rows.iter().map(|row| row.seconds).fold(0.0, f64::max),
    ));
    say::step("fixes");
    share::print(judged);
    say::step("images");
    say::line(
        "package     images  patch  nothing  refuse  error  residual  replaced/differ  patch size/replaced code (median)",
    );
    let mut packages: Vec<&str> = rows.iter().map(|row| row.package.as_str()).collect();
    packages.sort_unstable();
    packages.dedup();
    for package in packages.iter().copied().map(Some).chain([None]) {
        let of: Vec<&Row> =
            rows.iter().copied().filter(|row| package.is_none_or(|package| row.package == package)).collect();
        say::line(&package_line(package.unwrap_or("all"), &of));
    }
    count(&|row| !row.is_good())
}

/// A line of the table of packages.
fn package_line(name: &str, rows: &[&Row]) -> String {
    let count = |verdicts: &[&str]| rows.iter().filter(|row| verdicts.contains(&row.verdict.as_str())).count();
    let patched: Vec<&&Row> = rows.iter().filter(|row| row.patch.is_some()).collect();
    let replaced: usize = patched.iter().map(|row| row.replaced.len()).sum();
    let differ: usize = patched.iter().map(|row| row.differ).sum();
    let mut ratios: Vec<f64> =
        patched.iter().filter(|row| row.sizes.1 > 0).map(|row| row.sizes.0 as f64 / row.sizes.1 as f64).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or(0.0);
    format!(
        "{name:<10} {:>7} {:>6} {:>8} {:>7} {:>6} {:>9} {replaced:>9}/{differ:<6} {median:>12.2}",
        rows.len(),
        count(&["patch", "conditional"]),
        count(&["nothing"]),
        count(&["refuse"]),
        count(&["error"]),
        rows.iter().filter_map(|row| row.residual).sum::<u64>(),
    )
}

/// Runs what the patches replace in an emulator; returns the number of images with other behaviour.
fn execute(hotgraft: &Hotgraft, judged: &[(&Built, Vec<Row>)], inputs: u32) -> Result<usize> {
    let emulator = Emulator::open()?;
    say::step("what the patches replace, beside the new images in an emulator");
    let (mut wrong, mut all) = (0, Execution::default());
    for (fix, rows) in judged {
        for row in rows {
            let Some(patch) = &row.patch else { continue };
            let name = format!("{} {} {}", fix.step.package, fix.step.step, row.image);
            let [old, new] = ["old", "new"].map(|side| fix.folder.join(side).join(&row.image));
            let done = emulator.execute(hotgraft, [&old, &new], patch, Amount { inputs, mutants: 0, repaired: false });
            match done.and_then(|done| done.judge().map(|()| done)) {
                Ok(done) => {
                    say::done(&format!("{name}: {}", done.summary()));
                    all.functions.extend(done.functions);
                }
                Err(error) => {
                    wrong += 1;
                    say::failed(&format!("{name}: {error:#}"));
                }
            }
        }
    }
    say::line(&format!("all: {}", all.summary()));
    Ok(wrong)
}

/// Runs the old programs patched beside the new ones; returns the number of fixes that behave otherwise.
fn run_programs(judged: &[(&Built, Vec<Row>)], programs: Programs, inputs: u32) -> Result<usize> {
    let windows = hotgraft::build_for_windows(Profile::Release)?;
    let wine = Wine::open("corpus")?;
    say::step("patched old programs beside the new ones, under Wine");
    let mut wrong = 0;
    for (fix, rows) in judged {
        let patches: Vec<PathBuf> = rows.iter().filter_map(|row| row.patch.clone()).collect();
        if patches.is_empty() {
            continue;
        }
        for program in behave::programs(fix, programs == Programs::All) {
            let name = format!("{} {} {program}", fix.step.package, fix.step.step);
            match behave::compare(&wine, &windows, fix, &program, &patches, inputs) {
                Ok(seen) => say::done(&format!("{name}: {seen}")),
                Err(error) => {
                    wrong += 1;
                    say::failed(&format!("{name}: {error:#}"));
                }
            }
        }
    }
    Ok(wrong)
}

/// Patches old DLLs and programs at work; returns the number of fixes for which something was wrong.
fn patch_live(judged: &[(&Built, Vec<Row>)], inputs: u32) -> Result<usize> {
    let hotgraft = hotgraft::build_for_windows(Profile::Release)?;
    let wine = Wine::open("corpus-live")?;
    let folder = tempfile::tempdir()?;
    let host = live::host(folder.path())?;
    let mut wrong = 0;
    let mut say = |fix: &Built, image: &str, outcome: Result<String>| {
        let name = format!("{} {} {image}", fix.step.package, fix.step.step);
        match outcome {
            Ok(seen) => say::done(&format!("{name}: {seen}")),
            Err(error) => {
                wrong += 1;
                say::failed(&format!("{name}: {error:#}"));
            }
        }
    };
    say::step("old DLLs patched while they are used, under Wine");
    for (fix, rows) in judged {
        for (dll, program) in live::driven(&fix.step.images) {
            let Some(patch) = rows.iter().find(|row| row.image == dll).and_then(|row| row.patch.as_deref()) else {
                continue;
            };
            let trial = live::Trial { wine: &wine, hotgraft: &hotgraft, host: &host, fix, dll, program, patch, inputs };
            say(fix, dll, trial.run());
        }
    }
    say::step("old programs patched while they work, under Wine");
    for (fix, rows) in judged {
        for program in behave::programs(fix, true).iter().filter(|program| live_tool::takes_many(program)) {
            let loaded = rows.iter().filter(|row| row.image == *program || row.image.ends_with(".dll"));
            let patches: Vec<PathBuf> = loaded.filter_map(|row| row.patch.clone()).collect();
            if patches.is_empty() {
                continue;
            }
            let trial = live_tool::Trial { wine: &wine, hotgraft: &hotgraft, fix, program, patches: &patches, inputs };
            say(fix, program, trial.run());
        }
    }
    Ok(wrong)
}
