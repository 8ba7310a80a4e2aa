//! `cargo xtask bench diff`: what a comparison costs, as a multiple of the floor: decoding every instruction of every
//! function of both images once, in the same number of threads. Beside it peak memory, growth with size, and threads.

mod corpus;
mod floor;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::timed;
use crate::hotgraft::{Hotgraft, Profile};
use crate::say;
use corpus::Pair;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Runs of each; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Largest pair of the series, in copies of all libraries (about 6 MB of code each).
    #[arg(long, default_value_t = 8)]
    copies: usize,
    /// Only pairs whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Take this `hotgraft` instead of building one.
    #[arg(long, value_name = "FILE")]
    hotgraft: Option<std::path::PathBuf>,
}

/// Medians of one way to compare.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    wall: f64,
    /// Processor time, which other work on the machine hardly touches.
    processor: f64,
    /// Kilobytes.
    peak: u64,
}

/// Prints the table: the floor and the comparison by the clock, in all threads; their ratio, and that of the processor
/// time of both in one thread, which other work on the machine hardly touches; the comparison in one thread, and how much
/// faster all are; peak memory as a multiple of the bytes of both images and PDBs.
///
/// # Errors
/// If a pair cannot be built or compared.
pub fn run(options: &Options) -> Result<()> {
    ensure!(options.runs > 0, "no runs");
    let hotgraft = match &options.hotgraft {
        Some(path) => Hotgraft { path: path.clone() },
        None => Hotgraft::build(Profile::Release)?,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    say::line(&machine(threads)?);
    say::line(&format!(
        "{:<26} {:<6} {:>8} {:>9} {:>9} {:>6} {:>6} {:>9} {:>8} {:>7}",
        "pair", "", "code", "floor", "diff", "ratio", "cpu", "1 thread", "threads", "memory"
    ));
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    let mut growth: Vec<(f64, f64)> = Vec::new();
    let sizes = [0, 1, 2, 4, 8, 16, 32].into_iter().filter(|n| *n <= options.copies);
    let makers = sizes.map(|n| (format!("libraries x{n}"), Some(n))).chain([("pyarrow".to_owned(), None)]);
    for (name, copies) in makers {
        if !wanted(&name) {
            continue;
        }
        let pair = copies.map_or_else(corpus::wheel, corpus::linked)?;
        let has_pdb = pair.old.with_extension("pdb").is_file();
        for no_pdb in [false, true].into_iter().filter(|no_pdb| has_pdb || *no_pdb) {
            let (code, cost) = measure(&hotgraft, &pair, no_pdb, options.runs, threads)?;
            if pair.series && !no_pdb {
                growth.push((code.ln(), cost.processor.ln()));
            }
        }
    }
    if let Some(exponent) = slope(&growth) {
        say::line(&format!("\ngrowth of processor time with code, exponent: {exponent:.2}"));
    }
    Ok(())
}

/// Measures one pair, prints its line, and returns the bytes of code and the cost in one thread.
fn measure(hotgraft: &Hotgraft, pair: &Pair, no_pdb: bool, runs: usize, threads: usize) -> Result<(f64, Cost)> {
    let images = [floor::Image::read(&pair.old)?, floor::Image::read(&pair.new)?];
    let code: usize = images.iter().map(floor::Image::code).sum();
    let out = tempfile::tempdir()?;
    let report = out.path().join("report.json");
    let diff = |jobs: usize| -> Result<(f64, f64, u64)> {
        let before = processor_of_children()?;
        let mut command: Command = hotgraft.command();
        command.args(["--jobs", &jobs.to_string(), "diff"]).arg(&pair.old).arg(&pair.new);
        command.args(["--format", "json", "-o"]).arg(&report);
        if no_pdb {
            command.arg("--no-pdb");
        }
        let (peak, wall) = timed(&mut command, &[0, 1])?;
        Ok((wall.as_secs_f64(), processor_of_children()? - before, peak))
    };
    let (mut floors, mut floors_one, mut many, mut one) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // Processor time is counted in steps too coarse for one run.
    let repeat = 1 + (100_000_000 / code.max(1)).min(200);
    // In turns, so that other work on the machine meets all alike.
    for _ in 0..runs {
        floors.push(floor::decode(&images, threads)?.as_secs_f64());
        many.push(diff(threads)?);
        let before = processor_of_this()?;
        for _ in 0..repeat {
            floor::decode(&images, 1)?;
        }
        floors_one.push((processor_of_this()? - before) / repeat as f64);
        one.push(diff(1)?);
    }
    let (floor, floor_one, many, one) = (median(&mut floors), median(&mut floors_one), cost(&many), cost(&one));
    let mut bytes = fs::metadata(&pair.old)?.len() + fs::metadata(&pair.new)?.len();
    if !no_pdb {
        bytes += size_or_zero(&pair.old.with_extension("pdb")) + size_or_zero(&pair.new.with_extension("pdb"));
    }
    say::line(&format!(
        "{:<26} {:<6} {:>5.1} MB {:>6.1} ms {:>6.0} ms {:>6.1} {:>6.1} {:>6.0} ms {:>7.2}x {:>6.2}x",
        pair.name,
        if no_pdb { "no PDB" } else { "PDB" },
        code as f64 / 2e6,
        floor * 1e3,
        many.wall * 1e3,
        many.wall / floor,
        one.processor / floor_one,
        one.wall * 1e3,
        one.wall / many.wall,
        many.peak as f64 * 1024.0 / bytes as f64,
    ));
    Ok((code as f64, one))
}

fn cost(runs: &[(f64, f64, u64)]) -> Cost {
    Cost {
        wall: median(&mut runs.iter().map(|r| r.0).collect::<Vec<_>>()),
        processor: median(&mut runs.iter().map(|r| r.1).collect::<Vec<_>>()),
        peak: runs.iter().map(|r| r.2).max().unwrap_or(0),
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(values[half - 1], values[half]) } else { values[half] }
}

/// Least squares.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    if points.len() < 2 {
        return None;
    }
    let (x, y) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let covariance: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let variance: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    Some(covariance / variance)
}

fn size_or_zero(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// Processor time of all children that have ended.
fn processor_of_children() -> Result<f64> {
    processor(2)
}

/// Processor time of this process itself.
fn processor_of_this() -> Result<f64> {
    processor(0)
}

fn processor(skip: usize) -> Result<f64> {
    /// Linux counts in hundredths of a second, whatever the kernel's own clock.
    const TICK: f64 = 0.01;
    let text = fs::read_to_string("/proc/self/stat")?;
    // The name in parentheses may hold anything; 11 fields stand between it and the times, user and system of each.
    let fields = text.rsplit_once(')').context("no times in /proc/self/stat")?.1;
    let times = fields.split_whitespace().skip(11 + skip).take(2);
    let ticks = times.map(str::parse::<u64>).collect::<Result<Vec<_>, _>>()?;
    Ok(TICK * ticks.iter().sum::<u64>() as f64)
}

fn machine(threads: usize) -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|p| p.1.trim().to_owned()));
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kilobytes = memory.lines().next().and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse::<u64>().ok());
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "{}, {threads} processors, {} GB, load {}",
        model.unwrap_or_else(|| "unknown processor".to_owned()),
        kilobytes.unwrap_or(0) / 1_000_000,
        load.split_whitespace().next().unwrap_or("?"),
    ))
}
