//! What is said of a machine when little is known of it.

mod common;

use common::time;
use hotgraft_release::Catalog;
use hotgraft_release::catalog::{Baseline, Cause, Event, Fixes, Hotpatch, Identity, Image, Patch};
use hotgraft_release::machine::Machine;
use hotgraft_release::plan::{Action, plan};
use hotgraft_release::truth::{State, judge};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const CVE: &str = "CVE-2026-0001";

fn identity(build: u32) -> Identity {
    Identity { timestamp: build, checksum: 0, image_size: 4096, pdb: None }
}

fn sha(build: u32) -> String {
    format!("{build:02x}").repeat(32)
}

/// Baseline b1 without the fix, hotpatch h1 with it, baseline b2 with it; the fix is in two images.
fn catalog() -> Catalog {
    let names = ["a.dll", "b.dll"];
    let fixes = Fixes::from([(CVE.to_owned(), names.map(str::to_owned).into())]);
    let baseline = |id: &str, build: u32, before: Option<&str>, fixes: Fixes| Baseline {
        id: id.into(),
        build: format!("1.{build}"),
        cause: Cause::Planned,
        kb: None,
        fixes,
        supersedes: before.map(str::to_owned),
        supported_until: time("2026-12-01"),
        images: names
            .iter()
            .enumerate()
            .map(|(n, name)| {
                let build = build + u32::try_from(n).unwrap();
                Image { name: (*name).into(), sha256: sha(build), size: 1, identity: identity(build) }
            })
            .collect(),
    };
    let patch = |n: u32| Patch {
        image: names[n as usize].into(),
        base_sha256: sha(10 + n),
        new_sha256: sha(20 + n),
        file: format!("{n}.dll"),
        sha256: sha(30 + n),
        size: 1,
        accepted: vec![],
        accepted_by: None,
        irrevertible: None,
        replaced: vec![],
    };
    let hotpatch = Hotpatch {
        id: "h1".into(),
        baseline: "b1".into(),
        sequence: 1,
        equivalent_build: "1.15".into(),
        kb: None,
        fixes: fixes.clone(),
        supersedes: None,
        patches: vec![patch(0), patch(1)],
    };
    let mut catalog = Catalog::new("Example", "https://example.test/");
    catalog.append(time("2026-01-13"), Event::Baseline(baseline("b1", 10, None, Fixes::new()))).unwrap();
    catalog.append(time("2026-02-10"), Event::Hotpatch(hotpatch)).unwrap();
    catalog.append(time("2026-04-14"), Event::Baseline(baseline("b2", 20, Some("b1"), fixes))).unwrap();
    catalog
}

fn instance(name: &str, build: u32, patch: Option<u32>) -> Value {
    let patches: Vec<Value> = patch
        .iter()
        .map(|p| json!({"sequence": 1, "state": "applied", "sha256": sha(*p), "revertible": true}))
        .collect();
    json!({"name": name, "address": 4096, "identity": identity(build), "active": patch.map(|_| 1), "state": patch.map(|_| "applied"), "patches": patches})
}

fn process(pid: u32, images: Vec<Value>) -> Value {
    json!({"pid": pid, "name": "x.exe", "error": null, "images": images})
}

fn machine(disk: u32, a: Option<Vec<Value>>, b: Option<Vec<Value>>) -> Machine {
    let looked = |image: &str, processes: Vec<Value>| json!({"image": image, "document": {"schema": "hotgraft.status/1", "as_expected": null, "processes": processes}});
    let status: Vec<Value> =
        [("a.dll", a), ("b.dll", b)].into_iter().filter_map(|(n, p)| Some(looked(n, p?))).collect();
    let disk = [("a.dll", disk), ("b.dll", disk + 1)].map(|(n, build)| json!({"name": n, "sha256": sha(build)}));
    let document = json!({"schema": "hotgraft.machine/1", "machine": "pc", "disk": disk, "status": status});
    Machine::read("pc", document.to_string().as_bytes()).unwrap()
}

fn state(machine: &Machine) -> State {
    judge(&catalog(), machine, &BTreeSet::new()).findings[0].state
}

#[test]
fn fixed_is_said_only_where_it_is_known() {
    let (a, b) = (|p| instance("a.dll", 10, p), |p| instance("b.dll", 11, p));
    let both = |pa, pb| machine(10, Some(vec![process(1, vec![a(pa)])]), Some(vec![process(1, vec![b(pb)])]));
    assert_eq!(state(&both(Some(30), Some(31))), State::Fixed);
    assert_eq!(state(&both(Some(30), None)), State::Partly, "one of two images");
    assert_eq!(state(&both(None, None)), State::NotFixed);
    assert_eq!(state(&both(Some(30), Some(30))), State::Unknown, "the patch of another image");
    assert_eq!(state(&both(Some(30), Some(99))), State::Unknown, "a patch of no release");
    assert_eq!(
        state(&machine(10, Some(vec![process(1, vec![a(Some(30))])]), None)),
        State::Unknown,
        "b was not looked for"
    );
    assert_eq!(state(&machine(20, Some(vec![]), Some(vec![]))), State::Fixed, "nothing runs, the files have it");
    assert_eq!(state(&machine(10, Some(vec![]), Some(vec![]))), State::NotFixed, "nothing runs, the files lack it");
    assert_eq!(state(&machine(20, Some(vec![process(1, vec![a(None)])]), Some(vec![]))), State::PendingRestart);
    let mut staged = machine(10, Some(vec![]), Some(vec![]));
    staged.staged = [30, 31].map(sha).into();
    assert_eq!(state(&staged), State::Staged);
    let mut none = machine(10, Some(vec![]), Some(vec![]));
    none.disk.clear();
    assert_eq!(state(&none), State::NotInstalled);
}

#[test]
fn a_process_that_cannot_be_read_may_hold_anything() {
    let unreadable = json!({"pid": 9, "name": "guard.exe", "error": "access denied", "images": []});
    let patched = |name: &str, build, p| process(1, vec![instance(name, build, Some(p))]);
    let machine = machine(10, Some(vec![patched("a.dll", 10, 30), unreadable]), Some(vec![patched("b.dll", 11, 31)]));
    let truth = judge(&catalog(), &machine, &BTreeSet::new());
    assert_eq!((truth.findings[0].state, truth.effective_build), (State::Unknown, None));
    let truth = judge(&catalog(), &machine, &BTreeSet::from(["GUARD.EXE".to_owned()]));
    assert_eq!((truth.findings[0].state, truth.effective_build.as_deref()), (State::Fixed, Some("1.15")));
    assert_eq!(truth.ignored, ["guard.exe"], "and the answer says so");
}

#[test]
fn no_restart_where_none_is_needed() {
    let patched = |p: [Option<u32>; 2]| {
        machine(
            10,
            Some(vec![process(1, vec![instance("a.dll", 10, p[0])])]),
            Some(vec![process(1, vec![instance("b.dll", 11, p[1])])]),
        )
    };
    let ask = |machine: &Machine, now: &str| {
        let catalog = catalog().at(time(now));
        let plan = plan(&catalog, machine, &judge(&catalog, machine, &BTreeSet::new()), None, time(now));
        (plan.action, plan.restart, plan.baselines_behind, plan.steps.len())
    };
    let (all, one) = (patched([Some(30), Some(31)]), patched([Some(30), None]));
    assert_eq!(
        ask(&one, "2026-01-20"),
        (Action::NotEligible, false, 0, 0),
        "a patch that the catalog does not have yet"
    );
    assert_eq!(ask(&one, "2026-02-10"), (Action::Hotpatch, false, 0, 1));
    assert_eq!(ask(&all, "2026-04-14"), (Action::None, false, 1, 0), "on an older baseline, but nothing is open");
    assert_eq!(ask(&one, "2026-04-14"), (Action::Hotpatch, false, 1, 1), "its own baseline has the fix");
    assert_eq!(ask(&all, "2026-12-01"), (Action::Baseline, true, 1, 0), "support has ended");
}
