//! The `hotgraft` command: arguments in, reports out.

mod args;
mod build;
mod diff;
mod doctor;
mod html;
mod inspect;
mod lay_out;
mod live;
mod make;
mod output;
mod release;
mod sarif;
mod sign;
mod trust;
mod verify;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use output::{Exit, Terminal};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Failed.into() } else { Exit::Done.into() };
        }
    };
    let terminal = Terminal::new(&cli.global);
    if cli.global.jobs > 0
        && let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(cli.global.jobs).build_global()
    {
        terminal.error(&anyhow::Error::new(error).context("cannot start threads"));
        return Exit::Failed.into();
    }
    let result = match cli.command {
        Command::Diff(args) => diff::run(&args, &terminal),
        Command::Build(args) => build::run(&args, &terminal),
        Command::Sign(args) => sign::run(&args, &terminal),
        Command::Verify(args) => verify::run(&args, &terminal),
        Command::Inspect(args) => inspect::run(&args, &terminal),
        Command::Run(args) => live::run(&args, &terminal),
        Command::Apply(args) => live::apply(&args, &terminal),
        Command::Rollback(args) => live::rollback(&args, &terminal),
        Command::Status(args) => live::status(&args, &terminal),
        Command::Watch(args) => live::watch(&args, &terminal),
        Command::Doctor(args) => doctor::run(&args, &terminal),
        Command::Release(args) => release::run(&args, &terminal),
        Command::LayOut(args) => lay_out::run(&args, &terminal),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hotgraft", &mut text);
            output::write_bytes(std::path::Path::new("-"), &text).map(|()| Exit::Done)
        }
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            terminal.error(&error);
            output::exit_of(&error).into()
        }
    }
}
