//! What reading and comparing cost: `stages OLD NEW [--no-pdb]`, in one thread unless `RAYON_NUM_THREADS` says otherwise.
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use hotgraft_diff::{Options, compare, report};
use hotgraft_program::{PdbChoice, Program};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [old, new, more @ ..] = arguments.as_slice() else { return Err("stages OLD NEW [--no-pdb]".into()) };
    let none = more.iter().any(|m| m == "--no-pdb");
    let from = Instant::now();
    let read = |path: &str| Program::load(Path::new(path), if none { PdbChoice::None } else { PdbChoice::Auto });
    let old = read(old)?;
    println!("old     {:8.1} ms, {} functions", from.elapsed().as_secs_f64() * 1e3, old.functions.len());
    let from = Instant::now();
    let new = read(new)?;
    println!("new     {:8.1} ms, {} functions", from.elapsed().as_secs_f64() * 1e3, new.functions.len());
    let from = Instant::now();
    let comparison = compare(&old, &new, &Options { structure_only: none, ..Options::default() });
    println!("compare {:8.1} ms", from.elapsed().as_secs_f64() * 1e3);
    let from = Instant::now();
    let report = serde_json::to_string(&report::json(&old, &new, &comparison, 0.0))?;
    println!("report  {:8.1} ms, {} bytes", from.elapsed().as_secs_f64() * 1e3, report.len());
    Ok(())
}
