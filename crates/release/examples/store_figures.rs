//! What the store costs: `cargo run --release -p hotgraft-release --example store_figures [MACHINES] [DAYS]`.

use hotgraft_release::report;
use hotgraft_release::store::{Level, Store};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

/// Month that a machine has come to, whether it stays behind, whether it is patched in part.
type State = (i64, bool, bool);

/// Eight hotpatches and four baselines a year; machines follow after up to forty days, one in fifty stays behind, one in a
/// hundred is patched in part for some days each month.
fn state(machine: u64, day: i64) -> State {
    let since = day - 20_466 - (machine * 7919 % 40).cast_signed();
    let stays = machine.is_multiple_of(50);
    let month = since.div_euclid(30).clamp(0, if stays { (machine % 7).cast_signed() } else { 12 });
    (month, stays, machine % 100 == 1 && since.rem_euclid(30) < 4)
}

fn level((month, stays, partly): State) -> Level {
    let word = |fixed: bool| if fixed { if partly { "partly" } else { "fixed" } } else { "not_fixed" };
    Level {
        baseline: Some(format!("2026-{:02}", month / 3 * 3 + 1)),
        hotpatch: (month % 3 > 0).then(|| format!("2026-{:02}", month + 1)),
        file_build: Some(format!("1.0.{}", month / 3)),
        effective_build: Some(format!("1.0.{month}")),
        action: if stays { "baseline" } else { "none" }.to_owned(),
        behind: u64::from(stays),
        restart: stays,
        cves: (1..=24).map(|n| (format!("CVE-2026-{n:04}"), word(month * 2 >= n).to_owned())).collect(),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let machines = numbers.next().transpose()?.unwrap_or(100_000);
    let days = numbers.next().transpose()?.unwrap_or(365).cast_signed();
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("store.sqlite");
    let mut store = Store::open(&path)?;
    let names: Vec<String> = (0..machines).map(|n| format!("pc{n:06}")).collect();
    let mut out = std::io::stdout().lock();
    let begun = Instant::now();
    let mut slowest = 0.0f64;
    let mut levels: BTreeMap<State, Level> = BTreeMap::new();
    for day in 20_466..20_466 + days {
        let states: Vec<State> = (0..machines).map(|m| state(m, day)).collect();
        for state in &states {
            levels.entry(*state).or_insert_with(|| level(*state));
        }
        let start = Instant::now();
        store.record(day, names.iter().map(String::as_str).zip(states.iter().map(|state| &levels[state])))?;
        slowest = slowest.max(start.elapsed().as_secs_f64());
    }
    writeln!(
        out,
        "{machines} machines x {days} days recorded in {:.1} s, a day in {slowest:.2} s at most",
        begun.elapsed().as_secs_f64()
    )?;
    writeln!(out, "{:.1} MiB", std::fs::metadata(&path)?.len() as f64 / 1_048_576.0)?;
    let last = 20_466 + days - 1;
    let mut timed =
        |what: &str, work: &dyn Fn() -> hotgraft_release::Result<usize>| -> Result<(), Box<dyn std::error::Error>> {
            let start = Instant::now();
            let rows = work()?;
            writeln!(out, "{:<44} {:>8.1} ms, {rows} rows", what, start.elapsed().as_secs_f64() * 1000.0)?;
            Ok(())
        };
    timed("machines by level on a day", &|| Ok(store.levels(last - 100)?.len()))?;
    timed("levels over the year", &|| Ok(store.over_time(0, last)?.len()))?;
    timed("states of 24 CVEs over the year", &|| Ok(store.cves(0, last)?.len()))?;
    timed("who fell out, 200 named", &|| Ok(store.fallen(last, 200)?.1.len()))?;
    timed("who fell out half a year ago, 200 named", &|| Ok(store.fallen(last - 180, 200)?.1.len()))?;
    timed("where a CVE is open, 1000 named", &|| Ok(store.open_on("CVE-2026-0012", last - 100, 1000)?.len()))?;
    timed("history of a machine", &|| Ok(store.history("pc000777")?.len()))?;
    timed("the whole page", &|| Ok(report::page(&store, "Example", None)?.len()))?;
    Ok(())
}
