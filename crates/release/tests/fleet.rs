//! Rings are the same for a machine every time; the store answers as a plain list would.

mod common;

use common::time;
use hotgraft_release::rollout::{Gate, Health, Ring, Rollout, SCHEMA};
use hotgraft_release::store::{Level, Store, day_of};
use std::collections::BTreeMap;

fn rollout() -> Rollout {
    let ring = |name: &str, basis_points, pause_hours, gate| Ring {
        name: name.to_owned(),
        basis_points,
        machines: Vec::new(),
        pause_hours,
        gate,
    };
    let gate = Some(Gate { least_reports: 10, most_failed_basis_points: 100 });
    let rings = vec![ring("first", 100, 24, gate), ring("early", 900, 48, gate), ring("all", 9000, 0, None)];
    Rollout {
        schema: SCHEMA.to_owned(),
        release: "h1".into(),
        start: time("2026-02-10"),
        rings,
        health: BTreeMap::new(),
        paused: false,
    }
}

#[test]
fn rings_have_their_shares_and_machines_their_rings() {
    let rollout = rollout();
    rollout.check().unwrap();
    let mut counts = [0u32; 3];
    for n in 0..100_000 {
        counts[rollout.ring_of("Example", &format!("pc{n}"))] += 1;
    }
    // Within four standard deviations of 1 %, 9 % and 90 %.
    assert!((874..=1126).contains(&counts[0]) && (8638..=9362).contains(&counts[1]), "{counts:?}");
    // As they were when this test was written: machines do not change their ring with a release of hotgraft.
    let of =
        |ring| (0..600).filter(|n| rollout.ring_of("Example", &format!("pc{n}")) == ring).take(5).collect::<Vec<_>>();
    assert_eq!([of(0), of(1)], [vec![323, 341, 540], vec![11, 27, 35, 49, 59]]);
    let mut named = rollout.clone();
    named.rings[0].machines.push("pc7".into());
    assert_eq!(named.ring_of("Example", "pc7"), 0);
    // A wider first ring takes machines in, and lets none go.
    let mut wider = rollout.clone();
    wider.rings[0].basis_points = 500;
    wider.rings[1].basis_points = 500;
    for n in 0..2000 {
        let id = format!("pc{n}");
        assert!(wider.ring_of("Example", &id) <= rollout.ring_of("Example", &id));
    }
}

#[test]
fn time_and_health_open_rings() {
    let mut rollout = rollout();
    let of = |ring: usize, rollout: &Rollout| {
        (0..).map(|n| format!("pc{n}")).find(|id| rollout.ring_of("Example", id) == ring).unwrap()
    };
    let ids = [of(0, &rollout), of(1, &rollout), of(2, &rollout)];
    let open = |rollout: &Rollout, now: &str| ids.each_ref().map(|id| rollout.turn("Example", id, time(now)).open);
    assert_eq!(open(&rollout, "2026-02-09"), [false; 3]);
    assert_eq!(open(&rollout, "2026-02-20"), [true, false, false], "nobody reported");
    rollout.health.insert("first".into(), Health { ok: 100, failed: 1 });
    assert_eq!(open(&rollout, "2026-02-20"), [true, true, false], "1 % of 101 is within the gate");
    assert_eq!(open(&rollout, "2026-02-10"), [true, false, false], "24 hours have not passed");
    rollout.health.insert("first".into(), Health { ok: 98, failed: 1 });
    assert_eq!(open(&rollout, "2026-02-20"), [true, false, false], "more than 1 % failed");
    rollout.health.insert("first".into(), Health { ok: 100, failed: 0 });
    rollout.health.insert("early".into(), Health { ok: 10, failed: 0 });
    assert_eq!(open(&rollout, "2026-02-12"), [true, true, false], "72 hours have not passed");
    assert_eq!(open(&rollout, "2026-02-13"), [true; 3]);
    rollout.paused = true;
    assert_eq!(open(&rollout, "2026-02-20"), [false; 3]);
    for bad in [
        &(|r: &mut Rollout| r.rings.clear()) as &dyn Fn(&mut Rollout),
        &|r| r.rings[2].basis_points = 9001,
        &|r| r.rings[1].name = "first".into(),
        &|r| r.schema = "x".into(),
        &|r| r.health = BTreeMap::from([("x".into(), Health::default())]),
    ] {
        let mut rollout = self::rollout();
        bad(&mut rollout);
        assert!(rollout.check().is_err());
    }
}

/// A state that depends on machine and day, as those of real fleets: long spans, few levels.
fn level(machine: u64, day: i64) -> Level {
    let delay = (machine * 7919) % 40;
    let month = (day - 20_466 - i64::try_from(delay).unwrap()).div_euclid(30).clamp(0, 12);
    let stuck = machine.is_multiple_of(17);
    let month = if stuck { month.min(2) } else { month };
    let state = |fixed| if fixed { "fixed" } else { "not_fixed" };
    Level {
        baseline: Some(format!("b{}", month / 3)),
        hotpatch: (month % 3 > 0).then(|| format!("h{month}")),
        file_build: Some(format!("1.{}", month / 3)),
        effective_build: Some(format!("1.{month}")),
        action: if stuck && day > 20_600 { "baseline" } else { "none" }.to_owned(),
        behind: u64::from(stuck && day > 20_600),
        restart: stuck && day > 20_600,
        cves: (1..=4).map(|n| (format!("CVE-2026-{n:04}"), state(month >= n * 3).to_owned())).collect(),
    }
}

#[test]
fn the_store_answers_as_a_plain_list_would() {
    let (machines, first, days) = (60u64, 20_466, 200);
    let mut store = Store::in_memory().unwrap();
    store.set_product("Example").unwrap();
    assert!(store.set_product("Other").is_err());
    let names: Vec<String> = (0..machines).map(|n| format!("pc{n:03}")).collect();
    let reports = |machine: u64, day: i64| !(machine.is_multiple_of(5) && day % 11 == 0);
    for day in first..first + days {
        let states: Vec<(u64, Level)> =
            (0..machines).filter(|m| reports(*m, day)).map(|m| (m, level(m, day))).collect();
        let states = || states.iter().map(|(m, l)| (names[usize::try_from(*m).unwrap()].as_str(), l));
        // A day that is corrected: another state first, then the right one twice.
        let wrong = Level { action: "wait".into(), ..level(0, day) };
        store.record(day, states().map(|(name, _)| (name, &wrong))).unwrap();
        store.record(day, states()).unwrap();
        store.record(day, states()).unwrap();
    }
    assert_eq!(store.days().unwrap(), Some((first, first + days - 1)));
    for day in [first, first + 77, first + 150, first + days - 1] {
        let mut expected: BTreeMap<Level, u64> = BTreeMap::new();
        let mut cves: BTreeMap<(String, String), u64> = BTreeMap::new();
        let (mut fallen, mut open) = (Vec::new(), Vec::new());
        for machine in (0..machines).filter(|m| reports(*m, day)) {
            let level = level(machine, day);
            for (cve, state) in &level.cves {
                *cves.entry((cve.clone(), state.clone())).or_default() += 1;
            }
            let name = names[usize::try_from(machine).unwrap()].clone();
            if level.behind > 0 {
                fallen.push(name.clone());
            }
            if level.cves["CVE-2026-0002"] != "fixed" {
                open.push(name);
            }
            *expected.entry(Level { cves: BTreeMap::new(), ..level }).or_default() += 1;
        }
        let found: BTreeMap<Level, u64> =
            store.levels(day).unwrap().into_iter().map(|c| (c.level, c.machines)).collect();
        assert_eq!(found, expected);
        let found = store.cves(day, day).unwrap();
        assert_eq!(found.into_iter().map(|(_, c, s, n)| ((c, s), n)).collect::<BTreeMap<_, _>>(), cves);
        let (count, named) = store.fallen(day, 1000).unwrap();
        assert_eq!(
            (count, named.into_iter().map(|row| row.machine).collect::<Vec<_>>()),
            (fallen.len() as u64, fallen)
        );
        let found: Vec<String> =
            store.open_on("CVE-2026-0002", day, 1000).unwrap().into_iter().map(|row| row.0).collect();
        assert_eq!(found, open);
    }
    let spans = store.history("pc010").unwrap();
    assert!(spans.windows(2).all(|pair| pair[0].last < pair[1].first), "{spans:?}");
    let covered: i64 = spans.iter().map(|span| span.last - span.first + 1).sum();
    assert_eq!(covered, i64::try_from((first..first + days).filter(|d| reports(10, *d)).count()).unwrap());
    // The past is not rewritten.
    assert!(store.record(first, [("pc000", &level(0, first))]).is_err());
    let page = hotgraft_release::report::page(&store, "Example", None).unwrap();
    assert!(page.contains("CVE-2026-0004") && page.contains("pc017"));
    let _ = day_of(time("2026-01-13"));
}

#[test]
fn something_else_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, b"not a database, but long enough to be looked at").unwrap();
    assert!(Store::open(&path).is_err());
}
