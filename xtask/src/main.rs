//! Everything a developer or CI runs: `cargo xtask TASK`.

mod command;
mod fixtures;
mod root;
mod say;
mod tools;

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

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Fixtures { check: true, names } => fixtures::check(&names).map(drop),
        Task::Fixtures { check: false, names } => fixtures::build_committed(&names),
    }
}
