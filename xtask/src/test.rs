//! `cargo xtask test`: everything that is checked before a change goes in.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::emulation::{Amount, Emulator, Mutants};
use crate::fixtures::{self, expect::Fixture};
use crate::hotgraft::{self, Hotgraft, Profile};
use crate::report::Report;
use crate::wine::Wine;
use crate::{command, demo, python, say, tools};

/// Runs the checks, all of them if no part is named; a check that fails does not keep the others from running.
///
/// # Errors
/// If one failed.
pub fn run(only: &[Part]) -> Result<()> {
    let mut report = Report::default();
    checks(&mut report, only)?;
    report.close()
}

/// A part of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Formatting and lints.
    Source,
    /// `cargo test`.
    Unit,
    /// The committed fixtures are what their sources build.
    Fixtures,
    /// What is said of each fixture.
    Verdicts,
    /// Each fixture under Wine (with the verdicts).
    Live,
    /// What patches replace, run beside the new build in an emulator (with the verdicts).
    Emulation,
    /// The demo.
    Demo,
}

/// The checks themselves: all parts if none is named.
///
/// # Errors
/// If a tool that they need is missing.
pub fn checks(report: &mut Report, only: &[Part]) -> Result<()> {
    let wanted = |part: Part| only.is_empty() || only.contains(&part);
    for needed in [tools::FIXTURES, tools::WINDOWS, tools::READERS] {
        tools::need(needed)?;
    }
    if wanted(Part::Source) {
        say::step("source");
        report.check("rustfmt", || cargo(&["fmt", "--all", "--check"]));
        report.check("clippy", || {
            cargo(&["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])
        });
    }
    if wanted(Part::Unit) {
        say::step("unit and integration tests");
        cargo_test(report);
    }
    if wanted(Part::Fixtures) {
        say::step("fixtures");
        report.check("the committed fixtures are what their sources build", || fixtures::check(&[]).map(drop));
    }
    if wanted(Part::Verdicts) || wanted(Part::Live) || wanted(Part::Emulation) {
        fixture_expectations(report, wanted(Part::Live), wanted(Part::Emulation))?;
    }
    if wanted(Part::Demo) {
        report.check("the demo", || demo::run(demo::Options { quiet: true }));
    }
    Ok(())
}

fn fixture_expectations(report: &mut Report, live: bool, emulate: bool) -> Result<()> {
    let mut hotgraft = None;
    report.check("hotgraft builds", || {
        hotgraft = Some(Hotgraft::build(Profile::Dev)?);
        Ok(())
    });
    let Some(hotgraft) = hotgraft else { return Ok(()) };
    say::step("what is said of each fixture");
    let out = tempfile::tempdir()?;
    let mut runs = Vec::new();
    let mut patches = Vec::new();
    let all = Fixture::all()?;
    for fixture in &all {
        let mut patch = None;
        report.check(&format!("{}: {}", fixture.name, fixture.spec.about), || {
            patch = fixture.judge(&hotgraft, out.path())?;
            Ok(())
        });
        patches.extend(patch.clone().map(|patch| (fixture, patch)));
        if let Some(run) = &fixture.expectation.run {
            runs.push((fixture, run, patch));
        }
    }
    if emulate {
        emulation(report, &hotgraft, &patches);
    }
    if !live {
        return Ok(());
    }
    say::step("each fixture under Wine: old, new, and old with the patch");
    let mut windows: Option<PathBuf> = None;
    report.check("hotgraft builds for Windows", || {
        windows = Some(hotgraft::build_for_windows(Profile::Dev)?);
        Ok(())
    });
    let Some(windows) = windows else { return Ok(()) };
    let wine = Wine::open("test")?;
    for (fixture, run, patch) in runs {
        report.check(&format!("{} runs", fixture.name), || match patch {
            Some(patch) => {
                fixture.run(&wine, &windows, &patch, run)?;
                if let Some(want) = &run.midway_stdout {
                    fixture.run_midway(&wine, &windows, &patch, want)?;
                }
                if let Some(want) = &run.rolled_back_stdout {
                    fixture.run_rolled_back(&wine, &windows, &patch, want)?;
                }
                match &run.veto_stdout {
                    Some(want) => fixture.run_vetoed(&wine, &windows, &patch, want),
                    None => Ok(()),
                }
            }
            None => bail!("there is no patch to run with"),
        });
    }
    Ok(())
}

/// Runs what the patches replace beside the new builds, and sees that faults in patches are noticed.
fn emulation(report: &mut Report, hotgraft: &Hotgraft, patches: &[(&Fixture, PathBuf)]) {
    const INPUTS: u32 = 32;
    const MUTANTS: u32 = 3;
    say::step("what each patch replaces, beside the new build in an emulator");
    let mut emulator = None;
    report.check("the emulator", || {
        emulator = Some(Emulator::open()?);
        Ok(())
    });
    let Some(emulator) = emulator else { return };
    let mut mutants = Mutants::default();
    for (fixture, patch) in patches {
        report.check(&format!("{} does the same in the emulator", fixture.name), || {
            let images = [fixture.image("old"), fixture.image("new")];
            let images = [images[0].as_path(), images[1].as_path()];
            let execution = emulator.execute(
                hotgraft,
                images,
                patch,
                Amount { inputs: INPUTS, mutants: MUTANTS, repaired: fixture.spec.hooks.is_some() },
            )?;
            ensure!(!execution.functions.is_empty(), "nothing was run");
            execution.judge()?;
            mutants.made += execution.mutants.made;
            mutants.caught += execution.mutants.caught;
            mutants.missed.extend(execution.mutants.missed);
            Ok(())
        });
    }
    // Some change nothing that can be seen (a limit that is a value too), so not all can be noticed.
    report.check("faults put into patches are noticed", || {
        let Mutants { made, caught, missed } = &mutants;
        ensure!(*made >= 80, "only {made} faults were tried");
        ensure!(caught * 10 >= made * 9, "{caught} of {made} noticed; not {}", missed.join("; "));
        Ok(())
    });
}

fn cargo(arguments: &[&str]) -> Result<()> {
    command::quiet(hotgraft::cargo().args(arguments)).map(drop)
}

/// The tests of the workspace, and those of what is compiled in on request only.
fn cargo_test(report: &mut Report) {
    let mut python = None;
    report.check("LIEF and signify", || {
        python = Some(python::with_readers()?);
        Ok(())
    });
    report.check("validators of compliance documents", python::validators);
    let Some(python) = python else { return };
    for (name, arguments) in [
        ("cargo test", &["--workspace"][..]),
        ("cargo test, keys in a token", &["--package", "hotgraft-signer", "--features", "pkcs11", "--test", "pkcs11"]),
    ] {
        let mut test = hotgraft::cargo();
        test.args(["test", "--locked", "--no-fail-fast", "--color", "never"]).args(arguments);
        count_tests(report, name, test.env("HOTGRAFT_PYTHON", &python));
    }
}

/// Adds the counts of each test binary's closing line.
fn count_tests(report: &mut Report, name: &str, test: &mut Command) {
    let mut output = String::new();
    report.check(name, || {
        let done = command::finish(test)?;
        output = format!("{}\n{}", done.stdout, done.stderr);
        if done.code != 0 {
            bail!("exit code {}\n{output}", done.code);
        }
        Ok(())
    });
    for line in output.lines().filter(|line| line.starts_with("test result:")) {
        let number = |word: &str| {
            let words: Vec<&str> = line.split([' ', ';']).filter(|word| !word.is_empty()).collect();
            let at = words.iter().position(|one| *one == word)?;
            words.get(at.checked_sub(1)?)?.parse::<usize>().ok()
        };
        report.count(number("passed").unwrap_or(0), number("failed").unwrap_or(0), "a test of cargo test");
        // An ignored test is one that nobody runs: there is to be none.
        report.count(0, number("ignored").unwrap_or(0), "an ignored test");
    }
}
