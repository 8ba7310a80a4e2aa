//! Compares two images and prints the report: `compare OLD NEW [--no-pdb] [--json]`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use hotgraft_diff::{Options, compare, report};
use hotgraft_program::{PdbChoice, Program};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (flags, files): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let [old, new] = files.as_slice() else { return Err("compare OLD NEW [--no-pdb] [--json] [--quiet]".into()) };
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    let pdb = || if has("--no-pdb") { PdbChoice::None } else { PdbChoice::Auto };
    let start = Instant::now();
    let old = Program::load(Path::new(old), pdb())?;
    let new = Program::load(Path::new(new), pdb())?;
    let loaded = start.elapsed().as_secs_f64();
    let options = Options { structure_only: has("--structure"), ..Options::default() };
    let c = compare(&old, &new, &options);
    let total = start.elapsed().as_secs_f64();
    if has("--json") {
        println!("{}", serde_json::to_string_pretty(&report::json(&old, &new, &c, total))?);
    } else if !has("--quiet") {
        print!("{}", report::text(&old, &new, &c, total));
    }
    eprintln!("load {loaded:.2} s, compare {:.2} s", total - loaded);
    Ok(())
}
