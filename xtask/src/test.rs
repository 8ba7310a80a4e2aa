//! `cargo xtask test`: everything that is checked before a change goes in.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

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
    if wanted(Part::Verdicts) || wanted(Part::Live) {
        fixture_expectations(report, wanted(Part::Live))?;
    }
    if wanted(Part::Demo) {
        report.check("the demo", || demo::run(demo::Options { quiet: true }));
    }
    Ok(())
}

fn fixture_expectations(report: &mut Report, live: bool) -> Result<()> {
    let mut hotgraft = None;
    report.check("hotgraft builds", || {
        hotgraft = Some(Hotgraft::build(Profile::Dev)?);
        Ok(())
    });
    let Some(hotgraft) = hotgraft else { return Ok(()) };
    say::step("what is said of each fixture");
    let out = tempfile::tempdir()?;
    let mut runs = Vec::new();
    let all = Fixture::all()?;
    for fixture in &all {
        let mut patch = None;
        report.check(&format!("{}: {}", fixture.name, fixture.spec.about), || {
            patch = fixture.judge(&hotgraft, out.path())?;
            Ok(())
        });
        if let Some(run) = &fixture.expectation.run {
            runs.push((fixture, run, patch));
        }
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
                match &run.midway_stdout {
                    Some(want) => fixture.run_midway(&wine, &windows, &patch, want),
                    None => Ok(()),
                }
            }
            None => bail!("there is no patch to run with"),
        });
    }
    Ok(())
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
