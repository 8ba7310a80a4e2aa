//! Everything a developer or CI runs: `cargo xtask TASK`.

mod command;
mod fixtures;
mod root;
mod say;
mod tools;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tasks of developers and CI.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the fixtures of testdata/sources into testdata/fixtures.
    Fixtures {
        /// Build into a temporary folder and compare with the committed ones.
        #[arg(long)]
        check: bool,
        /// Only these.
        names: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Fixtures { check: true, names } => fixtures::check(&names).map(drop),
        Task::Fixtures { check: false, names } => fixtures::build_committed(&names),
    }
}
