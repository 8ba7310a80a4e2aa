//! `hotgraft release`: arguments in, reports out; what it means is in the release crate.

pub mod args;
mod build;
mod keys;
pub mod machines;
mod observe;
mod pairs;
mod vendor;

use crate::output::{Exit, Stop, Terminal};
use anyhow::{Context, Result};
use args::{Now, ReleaseArgs, ReleaseCommand};
use hotgraft_release::{Error, Time};

/// Run the command.
pub fn run(args: &ReleaseArgs, terminal: &Terminal) -> Result<Exit> {
    let answer = match &args.command {
        ReleaseCommand::Init(args) => vendor::init(args, terminal),
        ReleaseCommand::AddBaseline(args) => vendor::add_baseline(args, terminal),
        ReleaseCommand::AddHotpatch(args) => vendor::add_hotpatch(args, terminal),
        ReleaseCommand::Revoke(args) => vendor::revoke(args, terminal),
        ReleaseCommand::Rotate(args) => vendor::rotate(args, terminal),
        ReleaseCommand::Publish(args) => vendor::publish(args, terminal),
        ReleaseCommand::Verify(args) => machines::verify(args, terminal),
        ReleaseCommand::Observe(args) => observe::observe(args),
        ReleaseCommand::Plan(args) => machines::plan(args, terminal),
        ReleaseCommand::Export(args) => machines::export(args, terminal),
        ReleaseCommand::Collect(args) => machines::collect(args, terminal),
        ReleaseCommand::Report(args) => machines::report(args, terminal),
        ReleaseCommand::Build(args) => build::run(args, terminal),
    };
    answer.map_err(refusal)
}

/// Refusals of the release crate end with exit code 3, whatever was being done.
fn refusal(error: anyhow::Error) -> anyhow::Error {
    let hint = match error.downcast_ref::<Error>() {
        Some(Error::Refused { .. }) => "nothing was written; docs/releases.md explains the rules",
        Some(Error::Untrusted { key: "unsigned" | "tampered", .. }) => {
            "nothing was written; give the keys that the root names with --signer"
        }
        Some(Error::Untrusted { .. }) => "nothing was written; get the catalog anew from who publishes it",
        _ => return error,
    };
    Stop { exit: Exit::Refused, message: format!("{error:#}"), hint: Some(hint.to_owned()) }.into()
}

/// The time that the options or the environment name: none that is written comes from a clock.
fn stated_time(given: Option<Time>, option: &str) -> Result<Time> {
    if let Some(time) = given {
        return Ok(time);
    }
    let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") else {
        return Err(Stop::failed(
            "what is written must not depend on a clock, and no time was given",
            format!("give {option} TIME, or set SOURCE_DATE_EPOCH"),
        ));
    };
    let seconds: u64 = text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH={text}: expected seconds"))?;
    Ok(Time(hotgraft_signer::UnixTime(seconds)))
}

impl Now {
    fn stated(self) -> Result<Time> {
        stated_time(self.now, "--now")
    }
}

impl args::Date {
    fn stated(self) -> Result<Time> {
        stated_time(self.date, "--date")
    }
}
