//! `cargo xtask bench engine`: patched under load on a live process: answers, pauses, and what a redirect costs.

use anyhow::{Context, Result, ensure};

use crate::{command, root, say};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Cycles of apply, successor and roll back.
    #[arg(long, default_value_t = 1000)]
    cycles: u32,
    /// Fail if the median pause is longer, microseconds.
    #[arg(long, value_name = "US")]
    pause: Option<u64>,
    /// Fail if a request of ordinary size takes that much longer in patched code, percent.
    #[arg(long, value_name = "PERCENT")]
    loss: Option<f64>,
}

/// The measures are tests of the engine, so that they also run with few cycles wherever the tests do.
const MEASURES: [&str; 3] = [
    "a_request_server_loses_no_answer_while_it_is_patched",
    "cycles_while_all_threads_spin_lose_no_answer",
    "a_patched_function_is_as_fast_as_before",
];

/// Prints the figures of each measure.
///
/// # Errors
/// If an answer is lost or wrong, or a bound is exceeded.
pub fn run(options: &Options) -> Result<()> {
    let mut cargo = command::at(&root::repository(), env!("CARGO"));
    cargo.args(["test", "--quiet", "-p", "hotgraft-engine", "--test", "live", "--", "--nocapture", "--exact"]);
    cargo.args(MEASURES).env("HOTGRAFT_CYCLES", options.cycles.to_string()).env("HOTGRAFT_LIMIT", "7200");
    let said = command::quiet(&mut cargo)?;
    let figures: Vec<&str> = said.lines().filter(|line| line.contains("median") || line.contains(" ns ")).collect();
    ensure!(figures.len() == MEASURES.len(), "{} figures of {} measures:\n{said}", figures.len(), MEASURES.len());
    for line in &figures {
        say::line(line);
    }
    if let Some(limit) = options.pause {
        let number = figures[..].iter().filter_map(|line| line.split_once("median ")?.1.split(',').next()).next();
        let median: u64 = number.context("a median")?.trim().parse()?;
        ensure!(median <= limit, "the median pause is {median} us, more than {limit}");
    }
    if let Some(limit) = options.loss {
        let number = figures.iter().find_map(|line| line.strip_suffix(" %")?.rsplit(' ').next());
        let loss: f64 = number.context("a loss")?.parse()?;
        ensure!(loss <= limit, "a patched function is {loss} % slower, more than {limit}");
    }
    Ok(())
}
