//! Every rule of the chain forbids what it is there to forbid, and nothing else.

mod common;

use common::time;
use hotgraft_release::Catalog;
use hotgraft_release::catalog::{Baseline, Cause, Event, Fixes, Hotpatch, Identity, Image, Patch, Revoke};
use hotgraft_release::chain::RULES;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn image(name: &str, build: u8) -> Image {
    let identity = Identity { timestamp: u32::from(build), checksum: 0, image_size: 4096, pdb: None };
    Image { name: name.to_owned(), sha256: format!("{build:02x}").repeat(32), size: 1, identity }
}

fn fixes(cves: &[&str], images: &[&str]) -> Fixes {
    let images: BTreeSet<String> = images.iter().map(|i| (*i).to_owned()).collect();
    cves.iter().map(|cve| ((*cve).to_owned(), images.clone())).collect()
}

fn baseline(id: &str, before: Option<&str>, build: u8, cves: &[&str]) -> Baseline {
    Baseline {
        id: id.to_owned(),
        build: id.to_owned(),
        cause: Cause::Planned,
        kb: None,
        fixes: fixes(cves, &["a.dll"]),
        supersedes: before.map(str::to_owned),
        supported_until: time("2026-12-01"),
        images: vec![image("a.dll", build), image("b.dll", build)],
    }
}

fn hotpatch(id: &str, base: &str, sequence: u32, before: Option<&str>, build: u8, cves: &[&str]) -> Hotpatch {
    let patch = Patch {
        image: "a.dll".to_owned(),
        base_sha256: image("a.dll", build).sha256,
        new_sha256: "ff".repeat(32),
        file: "a_hotpatch.dll".to_owned(),
        sha256: format!("{:02x}", sequence + 100).repeat(32),
        size: 1,
        accepted: Vec::new(),
        accepted_by: None,
        irrevertible: None,
        replaced: Vec::new(),
    };
    Hotpatch {
        id: id.to_owned(),
        baseline: base.to_owned(),
        sequence,
        equivalent_build: id.to_owned(),
        kb: None,
        fixes: fixes(cves, &["a.dll"]),
        supersedes: before.map(str::to_owned),
        patches: vec![patch],
    }
}

/// A baseline and two hotpatches.
fn catalog() -> Catalog {
    let mut catalog = Catalog::new("Example", "https://example.test/");
    let first = Event::Hotpatch(hotpatch("h1", "b1", 1, None, 1, &["CVE-2026-0001"]));
    catalog.append(time("2026-01-13"), Event::Baseline(baseline("b1", None, 1, &[]))).unwrap();
    catalog.append(time("2026-02-10"), first).unwrap();
    let second = hotpatch("h2", "b1", 2, Some("h1"), 1, &["CVE-2026-0001", "CVE-2026-0002"]);
    catalog.append(time("2026-03-10"), Event::Hotpatch(second)).unwrap();
    catalog
}

fn next_hotpatch() -> Hotpatch {
    hotpatch("h3", "b1", 3, Some("h2"), 1, &["CVE-2026-0001", "CVE-2026-0002", "CVE-2026-0003"])
}

fn next_baseline() -> Baseline {
    baseline("b2", Some("b1"), 2, &["CVE-2026-0001", "CVE-2026-0002"])
}

#[test]
fn each_rule_forbids_what_it_is_for() {
    let day = time("2026-04-14");
    let h = |change: &dyn Fn(&mut Hotpatch)| {
        let mut hotpatch = next_hotpatch();
        change(&mut hotpatch);
        Event::Hotpatch(hotpatch)
    };
    let b = |change: &dyn Fn(&mut Baseline)| {
        let mut baseline = next_baseline();
        change(&mut baseline);
        Event::Baseline(baseline)
    };
    let revoke = |id: &str| Event::Revoke(Revoke { hotpatch: id.to_owned(), reason: "slow".to_owned() });
    let full = catalog();
    let mut revoked = catalog();
    revoked.append(day, revoke("h2")).unwrap();
    let empty = Catalog::new("Example", "https://example.test/");
    let cases: Vec<(&str, &Catalog, &str, Event)> = vec![
        ("chain.base.wrong", &full, "2026-04-14", h(&|h| h.patches[0].base_sha256 = "00".repeat(32))),
        (
            "chain.base.wrong",
            &full,
            "2026-04-14",
            h(&|h| {
                let mut other = h.patches[0].clone();
                other.image = "c.dll".into();
                h.patches.push(other);
            }),
        ),
        ("chain.baseline.none", &empty, "2026-04-14", h(&|_| {})),
        ("chain.baseline.old", &full, "2026-04-14", h(&|h| h.baseline = "b0".into())),
        ("chain.baseline.old", &full, "2026-12-01", h(&|_| {})),
        ("chain.cve.form", &full, "2026-04-14", h(&|h| h.fixes.extend(fixes(&["CVE-26-1"], &["a.dll"])))),
        ("chain.cve.lost", &full, "2026-04-14", h(&|h| h.fixes = fixes(&["CVE-2026-0002"], &["a.dll"]))),
        ("chain.cve.lost", &full, "2026-04-14", b(&|b| b.fixes = fixes(&["CVE-2026-0001"], &["a.dll"]))),
        ("chain.date.back", &full, "2026-03-09", h(&|_| {})),
        ("chain.id.form", &full, "2026-04-14", h(&|h| h.id = "../h3".into())),
        ("chain.id.form", &full, "2026-04-14", b(&|b| b.images[0].name = "x/a.dll".into())),
        ("chain.id.taken", &full, "2026-04-14", h(&|h| h.id = "b1".into())),
        (
            "chain.image.lost",
            &full,
            "2026-04-14",
            h(&|h| {
                h.patches[0].image = "b.dll".into();
                h.fixes = fixes(&["CVE-2026-0001", "CVE-2026-0002"], &["b.dll"]);
            }),
        ),
        ("chain.image.none", &full, "2026-04-14", h(&|h| h.patches.clear())),
        ("chain.image.twice", &full, "2026-04-14", b(&|b| b.images[1].name = "A.dll".into())),
        ("chain.image.unknown", &full, "2026-04-14", h(&|h| h.fixes.extend(fixes(&["CVE-2026-0009"], &["c.dll"])))),
        ("chain.image.unknown", &full, "2026-04-14", h(&|h| h.fixes.extend(fixes(&["CVE-2026-0009"], &[])))),
        ("chain.planned.month", &full, "2026-05-12", b(&|_| {})),
        ("chain.revoke.twice", &revoked, "2026-04-14", revoke("h2")),
        ("chain.revoke.unknown", &full, "2026-04-14", revoke("b1")),
        ("chain.sequence.back", &full, "2026-04-14", h(&|h| h.sequence = 2)),
        ("chain.sequence.gap", &full, "2026-04-14", h(&|h| h.sequence = 4)),
        ("chain.supersedes.wrong", &full, "2026-04-14", h(&|h| h.supersedes = Some("h1".into()))),
        ("chain.supersedes.wrong", &full, "2026-04-14", b(&|b| b.supersedes = None)),
        ("chain.support.none", &full, "2026-04-14", b(&|b| b.supported_until = time("2026-04-14"))),
    ];
    let mut seen = BTreeSet::from([
        // Of the bytes of patches: the test below, and those of the command line.
        "chain.needs_predecessor",
        "chain.not_equal",
        "chain.patch.other",
    ]);
    for (key, catalog, date, event) in cases {
        let mut changed = catalog.clone();
        let error = changed.append(time(date), event).expect_err(key);
        assert_eq!(error.key(), Some(key), "{error}");
        assert_eq!(&changed, catalog, "{key}: nothing changed");
        seen.insert(key);
    }
    assert_eq!(seen, RULES.iter().map(|(key, _)| *key).collect());
    // And what they do not forbid.
    for event in [h(&|_| {}), b(&|_| {}), revoke("h1"), revoke("h2")] {
        catalog().append(day, event).unwrap();
    }
    // What was withdrawn may lose its fix; the next one is numbered on.
    let after = Event::Hotpatch(hotpatch("h3", "b1", 3, Some("h1"), 1, &["CVE-2026-0001"]));
    revoked.append(day, after).unwrap();
    // An unplanned baseline in a month of hotpatches says why.
    let why = Cause::Emergency { text: "now".into() };
    catalog().append(time("2026-05-12"), b(&|b| b.cause = why.clone())).unwrap();
}

#[test]
fn a_history_that_was_changed_is_not_read() {
    let good = serde_json::to_value(catalog()).unwrap();
    assert!(Catalog::read(good.to_string().as_bytes()).is_ok());
    for pointer in
        ["/history/0/event/build", "/history/1/event/kb", "/history/1/previous", "/history/2/number", "/history/1/date"]
    {
        let mut bad = good.clone();
        let value = bad.pointer_mut(pointer).unwrap();
        *value = match pointer {
            "/history/2/number" => 9.into(),
            "/history/1/date" => "2026-02-11T00:00:00Z".into(),
            _ => "x".into(),
        };
        assert!(Catalog::read(bad.to_string().as_bytes()).is_err(), "{pointer}");
    }
}

proptest! {
    #[test]
    fn no_bytes_break_a_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..4000, flip in 1u8..) {
        use hotgraft_release::machine::Machine;
        use hotgraft_release::tuf::Client;
        let _ = Catalog::read(&bytes);
        let _ = Machine::read("x", &bytes);
        let _ = Client::new(&bytes);
        let _ = Client::resume(&bytes);
        let mut good = serde_json::to_vec(&catalog()).unwrap();
        let at = at % good.len();
        good[at] ^= flip;
        // Whatever is read obeys the rules.
        if let Ok(catalog) = Catalog::read(&good) {
            prop_assert!(catalog.history.len() <= 3);
        }
    }
}

#[path = "../../engine/tests/support/mod.rs"]
mod patches;

#[test]
fn a_patch_that_needs_another_one_is_not_cumulative() {
    let base = patches::base_file();
    let prove = |least: u32| {
        let spec = patches::PatchSpec { min_sequence: least, ..patches::first(&base) };
        hotgraft_release::proof::equal_alone_and_after(patches::BASE_NAME, &base, &spec.build(), &[])
    };
    assert_eq!(prove(1).expect_err("it needs sequence 1").key(), Some("chain.needs_predecessor"));
    assert!(prove(0).is_ok());
}
