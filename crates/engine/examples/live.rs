//! The engine on live processes, for its tests: `live apply PID PATCH`, `live rollback PID [SEQUENCE]`,
//! `live status PID`, `live run PATCH PROGRAM ARGS...`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for tests")]

fn main() -> std::process::ExitCode {
    #[cfg(all(windows, target_arch = "x86_64"))]
    return live::main();
    #[cfg(not(all(windows, target_arch = "x86_64")))]
    {
        eprintln!("for Windows on x86-64 only");
        std::process::ExitCode::FAILURE
    }
}

#[cfg(all(windows, target_arch = "x86_64"))]
mod live {
    use std::error::Error;
    use std::process::{Command, ExitCode};
    use std::time::Duration;

    use hotgraft_engine::windows::{Access, LiveProcess, RunOptions, processes, run};
    use hotgraft_engine::{
        ApplyOptions, PatchFile, Phase, RollbackOptions, Trust, apply, assess, find_base, query, rollback,
    };

    /// HOTGRAFT_KILL=phase: die before that phase, as a killed process does.
    fn hook(phase: Phase) -> bool {
        if std::env::var("HOTGRAFT_KILL").is_ok_and(|name| name == phase.name()) {
            std::process::abort();
        }
        std::env::var("HOTGRAFT_STOP").map_or(true, |name| name != phase.name())
    }

    fn options() -> ApplyOptions<'static> {
        ApplyOptions { trust: Trust::trial(), time_limit: Duration::from_millis(500), hook: &hook }
    }

    pub fn main() -> ExitCode {
        match work() {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        }
    }

    fn work() -> Result<u8, Box<dyn Error>> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["apply", pid, file] => {
                let patch = PatchFile::parse(&std::fs::read(file)?)?;
                let mut space = LiveProcess::open(pid.parse()?, Access::Change)?;
                let base = find_base(&space, patch.graft())?;
                let done = apply(&mut space, base, &patch, &options())?;
                println!("applied {} pause_us {} attempts {}", done.sequence, done.pause.as_micros(), done.attempts);
                println!("reused {} superseded {:?}", done.reused, done.superseded);
            }
            ["rollback", pid, file, rest @ ..] => {
                let patch = PatchFile::parse(&std::fs::read(file)?)?;
                let mut space = LiveProcess::open(pid.parse()?, Access::Change)?;
                let base = find_base(&space, patch.graft())?;
                let sequence = rest.first().map(|text| text.parse()).transpose()?;
                let limit = Duration::from_millis(500);
                let done = rollback(&mut space, base, &RollbackOptions { sequence, time_limit: limit, hook: &hook })?;
                println!("rolled back {} active {:?} pause_us {}", done.sequence, done.active, done.pause.as_micros());
            }
            ["status", pid] => {
                let space = LiveProcess::open(pid.parse()?, Access::Query)?;
                println!("{}", serde_json::to_string(&query(&space, None)?)?);
            }
            ["assess", pid, file] => {
                let patch = PatchFile::parse(&std::fs::read(file)?)?;
                let space = LiveProcess::open(pid.parse()?, Access::Query)?;
                println!("{}", serde_json::to_string(&assess(&space, &patch)?)?);
            }
            ["cycle", pid, count, first, second] => {
                // Apply, successor, roll back, over and over: prints the pauses in microseconds.
                let (first, second) =
                    (PatchFile::parse(&std::fs::read(first)?)?, PatchFile::parse(&std::fs::read(second)?)?);
                let mut space = LiveProcess::open(pid.parse()?, Access::Change)?;
                let base = find_base(&space, first.graft())?;
                for _ in 0..count.parse::<u32>()? {
                    println!("{}", apply(&mut space, base, &first, &options())?.pause.as_micros());
                    println!("{}", apply(&mut space, base, &second, &options())?.pause.as_micros());
                    println!("{}", rollback(&mut space, base, &RollbackOptions::default())?.pause.as_micros());
                }
            }
            ["find", name] => {
                for process in processes()?.iter().filter(|process| process.name.eq_ignore_ascii_case(name)) {
                    println!("{}", process.pid);
                }
            }
            ["run", file, program, rest @ ..] => {
                let patch = PatchFile::parse(&std::fs::read(file)?)?;
                let options = RunOptions { apply: options(), poll: Duration::from_millis(5) };
                let report = run(Command::new(program).args(rest), &[patch], &options)?;
                eprintln!("applied {}", report.applied.iter().flatten().count());
                return Ok(report.exit_code as u8);
            }
            _ => return Err("unknown command".into()),
        }
        Ok(0)
    }
}
