//! `cargo xtask bench engine`: patched under load on a live process: answers, pauses beside the shortest ones possible, and
//! what a redirect costs.

use anyhow::{Context, Result, ensure};

use crate::{command, root, say};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Cycles of apply, successor and roll back.
    #[arg(long, default_value_t = 1000)]
    cycles: u32,
    /// Fail if the median pause of the request server is longer, microseconds.
    #[arg(long, value_name = "US")]
    pause: Option<u64>,
    /// Fail if that median is so many times the shortest possible pause: all threads stopped and let go, nothing done.
    #[arg(long, value_name = "TIMES")]
    ratio: Option<f64>,
    /// Fail if a request of ordinary size takes that much longer in patched code, percent.
    #[arg(long, value_name = "PERCENT")]
    loss: Option<f64>,
}

/// The measures are tests of the engine, so that they also run with few cycles wherever the tests do. Each with what part of
/// the cycles it makes: where every thread spins, each one takes long on a machine with few processors.
const MEASURES: [(&str, u32); 4] = [
    ("a_request_server_loses_no_answer_while_it_is_patched", 1),
    ("cycles_on_a_server_that_waits_for_requests_lose_no_answer", 1),
    ("cycles_while_all_threads_spin_lose_no_answer", 20),
    ("a_patched_function_is_as_fast_as_before", 1),
];

/// Prints the figures of each measure.
///
/// # Errors
/// If an answer is lost or wrong, or a bound is exceeded.
pub fn run(options: &Options) -> Result<()> {
    let mut figures = Vec::new();
    for (measure, part) in MEASURES {
        let mut cargo = command::at(&root::repository(), env!("CARGO"));
        cargo.args(["test", "--quiet", "-p", "hotgraft-engine", "--test", "live", "--", "--nocapture", "--exact"]);
        let cycles = (options.cycles / part).max(1);
        cargo.arg(measure).env("HOTGRAFT_CYCLES", cycles.to_string()).env("HOTGRAFT_LIMIT", "7200");
        let said = command::quiet(&mut cargo)?;
        let figure = said.lines().find(|line| line.contains("median") || line.contains(" ns "));
        let figure =
            figure.with_context(|| format!("no figure of {measure}:\n{said}"))?.trim_start_matches('.').to_owned();
        say::line(&figure);
        figures.push(figure);
    }
    let behind = |text: &str, name: &str| -> Result<f64> {
        let rest = text.split_once(name).with_context(|| format!("no {name:?} in {text}"))?.1;
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].trim_end_matches('.').parse().with_context(|| format!("no number behind {name:?} in {text}"))
    };
    let median = behind(&figures[0], "pause in microseconds: median ")?;
    let ratio = behind(&figures[0], "ratio of medians ")?;
    if let Some(limit) = options.pause {
        ensure!(median <= limit as f64, "the median pause is {median} us, more than {limit}");
    }
    if let Some(limit) = options.ratio {
        ensure!(ratio <= limit, "the median pause is {ratio} times the shortest possible, more than {limit}");
    }
    if let Some(limit) = options.loss {
        let number = figures[3].strip_suffix(" %").and_then(|line| line.rsplit(' ').next());
        let loss: f64 = number.context("a loss")?.parse()?;
        ensure!(loss <= limit, "a patched function is {loss} % slower, more than {limit}");
    }
    Ok(())
}
