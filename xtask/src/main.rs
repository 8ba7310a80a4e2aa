//! Everything a developer or CI runs: `cargo xtask TASK`.

mod bench;
mod ci;
mod command;
mod corpus;
mod demo;
mod dist;
mod emulation;
mod fixtures;
mod fuzz;
mod hotgraft;
mod python;
mod report;
mod root;
mod say;
mod test;
mod tools;
mod wine;

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
    /// A service with a fault is patched while it runs, and rolled back: every step shown.
    Demo,
    /// Everything that is checked before a change goes in.
    Test {
        /// Only these parts.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<test::Part>,
    },
    /// A patch for each real security fix of some Debian packages, held against the source.
    Corpus(corpus::Options),
    /// What the stages cost, as a multiple of decoding every instruction once.
    Bench(bench::Options),
    /// What CI runs: the tests, the dependencies' licences and sources, the documentation.
    Ci,
    /// Install what the tasks need, or name it.
    Setup,
    /// Archives for Linux and Windows.
    Dist,
    /// Run the fuzz targets.
    Fuzz(fuzz::Options),
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
        Task::Demo => demo::run(demo::Options::default()),
        Task::Test { only } => test::run(&only),
        Task::Corpus(options) => corpus::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Ci => ci::run(),
        Task::Setup => ci::setup(),
        Task::Dist => dist::run(),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Fixtures { check: true, names } => fixtures::check(&names).map(drop),
        Task::Fixtures { check: false, names } => fixtures::build_committed(&names),
    }
}
