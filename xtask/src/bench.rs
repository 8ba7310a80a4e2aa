//! `cargo xtask bench`: what the stages cost, as a multiple of decoding every instruction of both images once.
//!
//! Seconds depend on the machine; the multiple hardly does, so it can be compared between releases.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use iced_x86::{Decoder, DecoderOptions, Instruction};
use object::read::pe::PeFile64;
use object::{Object, ObjectSection, SectionKind};

use crate::hotgraft::{Hotgraft, Profile};
use crate::{command, root, say};

mod accuracy;
mod diff;
mod engine;
mod signer;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    what: Option<What>,
    /// Pairs to measure, as OLD and NEW in turn; without any, the pairs of the corpus, else the largest fixtures.
    images: Vec<PathBuf>,
    /// Runs of each; the quickest counts.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Fail if `hotgraft diff` takes more than this multiple.
    #[arg(long, value_name = "RATIO")]
    limit: Option<f64>,
}

/// Measures of their own.
#[derive(Clone, Debug, clap::Subcommand)]
enum What {
    /// How well functions are matched without PDBs, on pairs whose names are known.
    Accuracy(accuracy::Options),
    /// What a comparison costs on pairs of every size: time, memory, growth, threads.
    Diff(diff::Options),
    /// Apply, successor and roll back under load on a live process: answers, pauses, and what a redirect costs.
    Engine(engine::Options),
    /// `hotgraft sign` and `verify` on a large image, as a multiple of hashing it.
    Signer(signer::Options),
}

/// Prints one line for each pair.
///
/// # Errors
/// If an image cannot be read, a command fails, or the limit is exceeded.
pub fn run(options: &Options) -> Result<()> {
    match &options.what {
        Some(What::Accuracy(options)) => return accuracy::run(options),
        Some(What::Diff(options)) => return diff::run(options),
        Some(What::Engine(options)) => return engine::run(options),
        Some(What::Signer(options)) => return signer::run(options),
        None => {}
    }
    let pairs = pairs(options)?;
    let hotgraft = Hotgraft::build(Profile::Release)?;
    say::line(&format!(
        "{:<28} {:>9} {:>12} {:>11} {:>7} {:>11} {:>7} {:>9}",
        "image", "code", "floor", "diff", "ratio", "build", "ratio", "peak"
    ));
    let mut worst = 0.0_f64;
    for (old, new) in &pairs {
        let (bytes, floor) = best(options.runs, || floor(&[old, new]))?;
        let out = tempfile::tempdir()?;
        let patch = out.path().join("patch.dll");
        let (_, diff) = best(options.runs, || {
            timed(
                hotgraft.command().args(["--jobs", "1", "diff"]).arg(old).arg(new).args(["--format", "json"]),
                &[0, 1],
            )
        })?;
        let (peak, build) = best(options.runs, || {
            timed(hotgraft.command().args(["--jobs", "1", "build"]).arg(old).arg(new).arg("-o").arg(&patch), &[0, 3, 4])
        })?;
        let ratio = |time: Duration| time.as_secs_f64() / floor.as_secs_f64();
        worst = worst.max(ratio(diff));
        let step = old.ancestors().nth(2).and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        let name = format!("{step}/{}", old.file_name().unwrap_or_default().to_string_lossy());
        say::line(&format!(
            "{:<28} {:>6} KB {:>9.2} ms {:>8.1} ms {:>7.1} {:>8.1} ms {:>7.1} {:>6} MB",
            tail(&name, 28),
            bytes / 1024,
            floor.as_secs_f64() * 1e3,
            diff.as_secs_f64() * 1e3,
            ratio(diff),
            build.as_secs_f64() * 1e3,
            ratio(build),
            peak / 1024,
        ));
    }
    match options.limit {
        Some(limit) if worst > limit => bail!("diff takes {worst:.1} times the floor, more than {limit}"),
        _ => Ok(()),
    }
}

/// The last characters of a name.
fn tail(name: &str, length: usize) -> &str {
    name.char_indices().rev().nth(length - 1).map_or(name, |(at, _)| &name[at..])
}

fn pairs(options: &Options) -> Result<Vec<(PathBuf, PathBuf)>> {
    ensure!(options.images.len().is_multiple_of(2), "images come in pairs, OLD and NEW");
    if !options.images.is_empty() {
        return Ok(options.images.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect());
    }
    let corpus = root::cache().join("corpus-O2");
    let mut found = Vec::new();
    if corpus.is_dir() {
        // One fix of each package is enough, for the images hardly differ.
        for built in crate::corpus::built(&corpus)? {
            if let Some(image) = built.step.images.first() {
                found.push((
                    built.step.package.clone(),
                    built.folder.join("old").join(image),
                    built.folder.join("new").join(image),
                ));
            }
        }
        found.dedup_by(|a, b| a.0 == b.0 && a.1.file_name() == b.1.file_name());
    }
    if found.is_empty() {
        for fixture in crate::fixtures::expect::Fixture::all()? {
            found.push((fixture.name.clone(), fixture.image("old"), fixture.image("new")));
        }
        found.sort_by_key(|(_, old, _)| std::cmp::Reverse(fs::metadata(old).map_or(0, |data| data.len())));
        found.truncate(4);
    }
    Ok(found.into_iter().map(|(_, old, new)| (old, new)).collect())
}

/// The quickest of some runs, with what it returned.
fn best<T>(runs: u32, mut run: impl FnMut() -> Result<(T, Duration)>) -> Result<(T, Duration)> {
    let mut best = run()?;
    for _ in 1..runs {
        let next = run()?;
        if next.1 < best.1 {
            best = next;
        }
    }
    Ok(best)
}

/// Decodes the executable sections of these images in one thread; the least that any comparison has to do.
fn floor(images: &[&Path]) -> Result<(usize, Duration)> {
    let mut bytes = 0;
    let mut time = Duration::ZERO;
    for image in images {
        let data = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
        let file = PeFile64::parse(data.as_slice()).with_context(|| format!("{} is no PE32+ file", image.display()))?;
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            let code = section.data()?;
            let from = Instant::now();
            let mut decoder = Decoder::with_ip(64, code, section.address(), DecoderOptions::NONE);
            let mut instruction = Instruction::default();
            let mut lengths = 0;
            while decoder.can_decode() {
                decoder.decode_out(&mut instruction);
                lengths += std::hint::black_box(&instruction).len();
            }
            time += from.elapsed();
            ensure!(lengths == code.len(), "{} was not decoded to its end", image.display());
            bytes += lengths;
        }
    }
    Ok((bytes, time))
}

/// Runs a command; returns its peak of memory in KB and how long it took.
fn timed(command: &mut std::process::Command, codes: &[i32]) -> Result<(u64, Duration)> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let from = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", command::shown(command)))?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let exit = loop {
        if let Ok(text) = fs::read_to_string(&status)
            && let Some(line) = text.lines().find(|line| line.starts_with("VmHWM:"))
        {
            let kilobytes = line.split_whitespace().nth(1).and_then(|number| number.parse().ok());
            peak = peak.max(kilobytes.unwrap_or(0));
        }
        if let Some(exit) = child.try_wait()? {
            break exit;
        }
        thread::sleep(Duration::from_micros(500));
    };
    let time = from.elapsed();
    let code = exit.code().unwrap_or(-1);
    ensure!(codes.contains(&code), "`{}` exited with {code}", command::shown(command));
    Ok((peak, time))
}
