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

    use hotgraft_engine::windows::faults::{self, Fault};
    use hotgraft_engine::windows::watch::{Observer, Subject, Watch};
    use hotgraft_engine::windows::{Access, LiveProcess, RunOptions, processes, run};
    use hotgraft_engine::{
        AddressSpace, Applied, ApplyError, ApplyOptions, PatchFile, Phase, Protection, Region, RollbackOptions, Trust,
        apply, assess, count_threads, find_base, query, rollback,
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

    /// Apply or roll back.
    fn change(pid: u32, patch: &PatchFile, what: &str) -> Result<(), Box<dyn Error>> {
        let mut space = LiveProcess::open(pid, Access::Change)?;
        let base = find_base(&space, patch.graft())?;
        match what {
            "apply" => _ = apply(&mut space, base, patch, &options())?,
            _ => _ = rollback(&mut space, base, &RollbackOptions::default())?,
        }
        Ok(())
    }

    type Snapshot = Vec<(Region, Vec<u8>)>;

    /// Protection of every page of the patched image, and the bytes of those that cannot be written.
    fn snapshot(pid: u32, patch: &PatchFile) -> Result<Snapshot, Box<dyn Error>> {
        let space = LiveProcess::open(pid, Access::Query)?;
        let base = find_base(&space, patch.graft())?;
        let mut all = Vec::new();
        for region in space.regions()?.into_iter().filter(|region| region.allocation == base) {
            let code = region.protection == Protection::ReadExecute;
            let mut bytes = vec![0; if code { region.size as usize } else { 0 }];
            space.read(region.address, &mut bytes)?;
            all.push((region, bytes));
        }
        Ok(all)
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
            ["threads", pid] => {
                let mut space = LiveProcess::open(pid.parse()?, Access::Change)?;
                let mut images = query(&space, None)?;
                count_threads(&mut images, &space.threads()?);
                for patch in images.iter().flat_map(|image| &image.patches) {
                    println!("sequence {}: {} in it", patch.sequence, patch.threads.as_ref().map_or(0, Vec::len));
                    for entry in &patch.entries {
                        println!("{}: {} in the old code", entry.name, entry.old_threads.as_ref().map_or(0, Vec::len));
                    }
                }
            }
            ["assess", pid, file] => {
                let patch = PatchFile::parse(&std::fs::read(file)?)?;
                let space = LiveProcess::open(pid.parse()?, Access::Query)?;
                println!("{}", serde_json::to_string(&assess(&space, &patch)?)?);
            }
            ["cycle", pid, count, first, second] => {
                // Apply, successor, roll back, over and over: prints each pause, and beside it the shortest one that there
                // could have been at that time, in microseconds.
                let (first, second) =
                    (PatchFile::parse(&std::fs::read(first)?)?, PatchFile::parse(&std::fs::read(second)?)?);
                let mut space = LiveProcess::open(pid.parse()?, Access::Change)?;
                let base = find_base(&space, first.graft())?;
                for _ in 0..count.parse::<u32>()? {
                    let say = |space: &mut LiveProcess, pause: Duration| -> Result<(), Box<dyn Error>> {
                        println!("{} {}", pause.as_micros(), space.shortest_pause()?.as_micros());
                        Ok(())
                    };
                    let pause = apply(&mut space, base, &first, &options())?.pause;
                    say(&mut space, pause)?;
                    let pause = apply(&mut space, base, &second, &options())?.pause;
                    say(&mut space, pause)?;
                    let pause = rollback(&mut space, base, &RollbackOptions::default())?.pause;
                    say(&mut space, pause)?;
                }
            }
            ["fault", pid, file, what, number] => {
                // End at the given system call, as if killed.
                let patch = PatchFile::parse(&std::fs::read(file)?)?;
                faults::plan(Some((number.parse()?, Fault::Kill)));
                change(pid.parse()?, &patch, what)?;
            }
            ["faults", pid, file, what, step, from, count] => {
                // Let every so-manieth system call fail, one at a time: so many of them, from the given one.
                let patch = PatchFile::parse(&std::fs::read(file)?)?;
                let pid = pid.parse()?;
                let back = if *what == "apply" { "rollback" } else { "apply" };
                let (without, with) = {
                    let first = snapshot(pid, &patch)?;
                    change(pid, &patch, what)?;
                    let second = snapshot(pid, &patch)?;
                    change(pid, &patch, back)?;
                    assert!(first == snapshot(pid, &patch)?, "there and back again");
                    (first, second)
                };
                // A patch that could not be found in memory again is placed anew: active, at another address.
                let is_done = |now: &Snapshot| -> Result<bool, Box<dyn Error>> {
                    let same_pages = now.iter().map(|page| &page.0).eq(with.iter().map(|page| &page.0));
                    let space = LiveProcess::open(pid, Access::Query)?;
                    let base = find_base(&space, patch.graft())?;
                    let active = query(&space, Some(base))?.first().and_then(|image| image.active);
                    Ok(match *what {
                        "apply" => same_pages && active == Some(patch.graft().sequence),
                        _ => *now == with && active.is_none(),
                    })
                };
                let (mut failed, mut unnoticed, mut late) = (0, 0, 0);
                for number in (from.parse()?..).step_by(step.parse()?).take(count.parse()?) {
                    faults::plan(Some((number, Fault::Fail)));
                    let started = std::time::Instant::now();
                    let outcome = change(pid, &patch, what);
                    let (calls, at) = faults::calls();
                    if started.elapsed() > Duration::from_secs(5) {
                        println!("slow: call {number} ({at}) {:?} {outcome:?}", started.elapsed());
                    }
                    faults::plan(None);
                    if at.is_empty() {
                        outcome?;
                        println!("calls {calls}");
                        change(pid, &patch, back)?;
                        break;
                    }
                    // The agent may still do what it was asked for.
                    if at == "wait" {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    let now = snapshot(pid, &patch)?;
                    let done = now != without && is_done(&now)?;
                    match outcome {
                        Err(_) if now == without => failed += 1,
                        Err(error) if done && at == "wait" => {
                            println!("late: {error}");
                            late += 1;
                        }
                        Ok(()) if done => unnoticed += 1,
                        outcome => return Err(format!("call {number} ({at}): {outcome:?}").into()),
                    }
                    if done {
                        change(pid, &patch, back)?;
                    }
                    assert!(snapshot(pid, &patch)? == without, "call {number} ({at}): not as before");
                }
                println!("failed {failed} unnoticed {unnoticed} late {late}");
            }
            ["watch", program, passes, files @ ..] => {
                // So many passes, 50 ms apart; every outcome is a line.
                struct Print;
                impl Observer for Print {
                    type Stop = std::convert::Infallible;
                    fn before(&mut self, _: Subject<'_>) -> Result<(), Self::Stop> {
                        Ok(())
                    }
                    fn after(
                        &mut self,
                        of: Subject<'_>,
                        outcome: &Result<Applied, ApplyError>,
                    ) -> Result<(), Self::Stop> {
                        match outcome {
                            Ok(done) => println!("{} patched with {}", of.program, done.sequence),
                            Err(error) => println!("{} not patched: {error}", of.program),
                        }
                        Ok(())
                    }
                }
                let patches = files.iter().map(|file| Ok(PatchFile::parse(&std::fs::read(file)?)?)).collect::<Result<
                    Vec<_>,
                    Box<dyn Error>,
                >>(
                )?;
                let mut watch = Watch::new();
                for _ in 0..passes.parse::<u32>()? {
                    let Ok(pass) = watch.pass(&patches, &[(*program).to_owned()], &options(), &mut Print)?;
                    println!("pass {} {}", pass.patched, pass.unpatched);
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            ["find", name] => {
                for process in processes()?.iter().filter(|process| process.name.eq_ignore_ascii_case(name)) {
                    println!("{}", process.pid);
                }
            }
            ["run", file, program, rest @ ..] => {
                let patch = PatchFile::parse(&std::fs::read(file)?)?;
                let options = RunOptions { apply: options(), poll: Duration::from_millis(5), told: &|_, _, _| () };
                let report = run(Command::new(program).args(rest), &[patch], &options)?;
                eprintln!("applied {}", report.applied.iter().flatten().count());
                return Ok(report.exit_code as u8);
            }
            _ => return Err("unknown command".into()),
        }
        Ok(0)
    }
}
