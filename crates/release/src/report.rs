//! The fleet on one page: how many machines are at which level, who fell out of the chain, which CVEs stay open where, over
//! time. The page needs nothing from elsewhere.

use crate::error::{Error, Result};
use crate::store::{Store, time_of};
use askama::Template;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Colours that are told apart with any eyes, on light and dark ground.
const COLOURS: [&str; 8] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7fd1", "#999933"];
/// Machines that a list names at most.
const MOST: u32 = 200;
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 220.0;

#[derive(Template)]
#[template(path = "fleet.html")]
struct Page {
    product: String,
    day: String,
    first: String,
    machines: u64,
    secure: u64,
    open: u64,
    fallen: u64,
    restart: u64,
    levels_chart: Chart,
    cves_chart: Chart,
    levels: Vec<LevelRow>,
    cves: Vec<CveRow>,
    fallen_rows: Vec<[String; 4]>,
    more_fallen: u64,
    width: f64,
    height: f64,
}

struct Chart {
    areas: Vec<Area>,
    ticks: Vec<(String, String)>,
    top: u64,
}

struct Area {
    label: String,
    colour: &'static str,
    points: String,
    last: u64,
}

struct LevelRow {
    name: String,
    file_build: String,
    effective_build: String,
    action: String,
    behind: u64,
    machines: u64,
    share: String,
}

struct CveRow {
    cve: String,
    /// State and machines.
    states: Vec<(String, u64)>,
    open: u64,
    names: String,
    more: u64,
}

/// The page about a day (the last in the store if none is given).
///
/// # Errors
/// [`Error::Malformed`] for an empty store.
pub fn page(store: &Store, product: &str, day: Option<i64>) -> Result<String> {
    let (first, last) = store.days()?.ok_or_else(|| Error::malformed("the store", "states of at least one day"))?;
    let day = day.unwrap_or(last).clamp(first, last);
    let levels = store.levels(day)?;
    let machines: u64 = levels.iter().map(|counted| counted.machines).sum();
    let over_time = store.over_time(first, day)?;
    let cves_over_time = store.cves(first, day)?;
    let (fallen, fallen_rows) = store.fallen(day, MOST)?;

    let series = over_time.iter().map(|(at, label, _, count)| (*at, label.clone(), *count));
    let levels_chart = stacked(series.collect(), first, day);
    let is_open = |state: &str| crate::truth::State::ALL.iter().any(|s| s.name() == state && s.is_open());
    let open_series =
        cves_over_time.iter().filter(|(_, _, state, _)| is_open(state)).map(|(at, cve, _, n)| (*at, cve.clone(), *n));
    let cves_chart = lines(open_series.collect(), first, day);

    let mut today: BTreeMap<&str, Vec<(String, u64)>> = BTreeMap::new();
    for (_, cve, state, count) in cves_over_time.iter().filter(|(at, ..)| *at == day) {
        today.entry(cve).or_default().push((state.clone(), *count));
    }
    let mut cves = Vec::new();
    for (cve, states) in today {
        let open: u64 = states.iter().filter(|(state, _)| is_open(state)).map(|(_, n)| n).sum();
        let named = if open == 0 { Vec::new() } else { store.open_on(cve, day, 20)? };
        let names: Vec<String> =
            named.iter().map(|(name, state, _)| format!("{name} ({})", state.replace('_', " "))).collect();
        let more = open.saturating_sub(names.len() as u64);
        let states = states.into_iter().map(|(state, n)| (state.replace('_', " "), n)).collect();
        cves.push(CveRow { cve: cve.to_owned(), states, open, names: names.join(", "), more });
    }
    cves.sort_by(|a, b| b.open.cmp(&a.open).then_with(|| a.cve.cmp(&b.cve)));
    let needs_nothing = |action: &str| action == "none";
    let page = Page {
        product: product.to_owned(),
        day: time_of(day).day(),
        first: time_of(first).day(),
        machines,
        secure: levels.iter().filter(|c| needs_nothing(&c.level.action)).map(|c| c.machines).sum(),
        open: cves.iter().map(|row| row.open).max().unwrap_or(0),
        fallen,
        restart: levels.iter().filter(|c| c.level.restart).map(|c| c.machines).sum(),
        levels_chart,
        cves_chart,
        levels: levels
            .iter()
            .map(|counted| LevelRow {
                name: level_name(counted.level.baseline.as_deref(), counted.level.hotpatch.as_deref()),
                file_build: counted.level.file_build.clone().unwrap_or_else(|| "unknown".to_owned()),
                effective_build: counted.level.effective_build.clone().unwrap_or_else(|| "unknown".to_owned()),
                action: counted.level.action.replace('_', " "),
                behind: counted.level.behind,
                machines: counted.machines,
                share: format!("{:.1} %", counted.machines as f64 * 100.0 / machines.max(1) as f64),
            })
            .collect(),
        cves,
        more_fallen: fallen.saturating_sub(fallen_rows.len() as u64),
        fallen_rows: fallen_rows
            .into_iter()
            .map(|(name, baseline, behind, action)| [name, baseline, behind.to_string(), action.replace('_', " ")])
            .collect(),
        width: WIDTH,
        height: HEIGHT,
    };
    page.render().map_err(|e| Error::malformed("the page", e.to_string()))
}

fn level_name(baseline: Option<&str>, hotpatch: Option<&str>) -> String {
    match (baseline, hotpatch) {
        (Some(baseline), Some(hotpatch)) => format!("{baseline} + {hotpatch}"),
        (Some(baseline), None) => baseline.to_owned(),
        (None, _) => "of no release".to_owned(),
    }
}

fn x(day: i64, first: i64, last: i64) -> f64 {
    let span = (last - first).max(1) as f64;
    (day - first) as f64 / span * WIDTH
}

/// Counts by label and day, missing days as none.
fn table(series: &[(i64, String, u64)]) -> (BTreeMap<String, BTreeMap<i64, u64>>, BTreeSet<i64>) {
    let mut by_label: BTreeMap<String, BTreeMap<i64, u64>> = BTreeMap::new();
    let mut days = BTreeSet::new();
    for (day, label, count) in series {
        *by_label.entry(label.clone()).or_default().entry(*day).or_default() += count;
        days.insert(*day);
    }
    (by_label, days)
}

fn ticks(first: i64, last: i64) -> Vec<(String, String)> {
    let months = (first..=last).filter(|day| time_of(*day).day().ends_with("-01"));
    months.map(|day| (format!("{:.1}", x(day, first, last)), time_of(day).day()[..7].to_owned())).collect()
}

fn stacked(series: Vec<(i64, String, u64)>, first: i64, last: i64) -> Chart {
    let (by_label, days) = table(&series);
    let at = |label: &BTreeMap<i64, u64>, day: &i64| label.get(day).copied().unwrap_or(0);
    let top = days.iter().map(|day| by_label.values().map(|l| at(l, day)).sum::<u64>()).max().unwrap_or(1).max(1);
    let mut below: BTreeMap<i64, u64> = BTreeMap::new();
    let mut areas = Vec::new();
    for (index, (label, counts)) in by_label.iter().enumerate() {
        let (mut upper, mut lower) = (String::new(), Vec::new());
        for day in &days {
            let from = below.get(day).copied().unwrap_or(0);
            let to = from + at(counts, day);
            let y = |value: u64| HEIGHT - value as f64 / top as f64 * HEIGHT;
            let _ = write!(upper, "{:.1},{:.1} ", x(*day, first, last), y(to));
            lower.push(format!("{:.1},{:.1}", x(*day, first, last), y(from)));
            below.insert(*day, to);
        }
        lower.reverse();
        let points = upper + &lower.join(" ");
        areas.push(Area {
            label: label.clone(),
            colour: COLOURS[index % COLOURS.len()],
            points,
            last: at(counts, &last),
        });
    }
    Chart { areas, ticks: ticks(first, last), top }
}

fn lines(series: Vec<(i64, String, u64)>, first: i64, last: i64) -> Chart {
    let (by_label, _) = table(&series);
    let top = by_label.values().flat_map(|l| l.values()).copied().max().unwrap_or(1).max(1);
    let mut areas = Vec::new();
    for (index, (label, counts)) in by_label.iter().enumerate() {
        let mut points = String::new();
        for (day, count) in counts {
            let y = HEIGHT - *count as f64 / top as f64 * HEIGHT;
            let _ = write!(points, "{:.1},{y:.1} ", x(*day, first, last));
        }
        let now = counts.get(&last).copied().unwrap_or(0);
        areas.push(Area { label: label.clone(), colour: COLOURS[index % COLOURS.len()], points, last: now });
    }
    Chart { areas, ticks: ticks(first, last), top }
}
