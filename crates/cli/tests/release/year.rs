//! The year: four planned baselines, eight hotpatches, an emergency baseline that no hotpatch could be, a hotpatch that is
//! withdrawn, and keys that are stolen.

use super::documents;
use super::machines::Machine;
use super::vendor::{Vendor, certificate, json, key};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// CVE, image and version that first has the fix: from the sources, not from any catalog.
const FIXES: [(&str, &str, u32); 10] = [
    ("CVE-2026-0001", "engine", 1),
    ("CVE-2026-0002", "engine", 2),
    ("CVE-2026-0003", "panel", 1),
    ("CVE-2026-0004", "engine", 4),
    ("CVE-2026-0005", "engine", 5),
    ("CVE-2026-0006", "engine", 7),
    ("CVE-2026-0007", "engine", 8),
    ("CVE-2026-0008", "engine", 9),
    ("CVE-2026-0009", "engine", 11),
    ("CVE-2026-0010", "engine", 12),
];

struct Year {
    vendor: Vendor,
    machines: Vec<Machine>,
    versions: BTreeMap<String, BTreeMap<&'static str, u32>>,
    withdrawn: Vec<(&'static str, u32)>,
    known: usize,
    documents: std::path::PathBuf,
    checked: usize,
}

impl Year {
    fn machine(&mut self, id: &str) -> &mut Machine {
        self.machines.iter_mut().find(|m| m.id == id).expect("known")
    }

    fn fleet(&self) -> std::path::PathBuf {
        let path = self.vendor.folder.path().join("fleet.jsonl");
        let lines: Vec<String> = self.machines.iter().map(|m| m.document().to_string()).collect();
        std::fs::write(&path, lines.join("\n")).expect("writable");
        path
    }

    fn ask(&self, command: &str, now: &str) -> Value {
        json(&self.vendor.tell(
            &format!("{command} CATALOG --root ROOT --fleet {} --now {now} --format json", self.fleet().display()),
            0,
        ))
    }

    fn plans(&self, now: &str) -> BTreeMap<String, Value> {
        let plans = self.ask("plan", now);
        documents::by_schema("release-plans.json", &plans);
        let plans = plans["plans"].as_array().expect("plans").clone();
        plans.into_iter().map(|plan| (plan["machine"].as_str().expect("text").to_owned(), plan)).collect()
    }

    /// What is said of each machine and CVE, against what its memory has.
    fn check_truth(&mut self, now: &str) {
        let truths = self.ask("export", now);
        documents::by_schema("release-truths.json", &truths);
        for truth in truths["machines"].as_array().expect("machines") {
            let machine = self.machines.iter().find(|m| truth["machine"] == m.id).expect("known");
            let findings = truth["findings"].as_array().expect("findings");
            assert_eq!(findings.len(), self.known, "{now} {}", machine.id);
            for finding in findings {
                let (cve, state) = (finding["cve"].as_str().expect("text"), finding["state"].as_str().expect("text"));
                let (_, image, version) = FIXES.iter().find(|(id, ..)| *id == cve).expect("known");
                let (fixed, file) = machine.really_fixed(image, *version, &self.withdrawn);
                let all = machine.processes.len();
                let hooked = machine.id == "hooked" && !truth["doubts"].as_array().expect("doubts").is_empty();
                let expected = match (fixed, file) {
                    // Of a hooked entry nobody knows; a file of no release proves nothing.
                    _ if hooked && *image == "engine" => "unknown",
                    _ if machine.id == "stray" && *image == "engine" => "unknown",
                    (n, _) if n == all => "fixed",
                    (_, true) => "pending_restart",
                    (0, false) => "not_fixed",
                    _ => "partly",
                };
                assert_eq!(state, expected, "{now} {} {cve}: {finding:#}", machine.id);
                self.checked += 1;
            }
        }
    }

    /// A month: what everybody is told, and what is true; then all documents. Returns the plans.
    fn month(&mut self, now: &str, known: usize, expected: &[(&str, &str, &[u32])]) -> BTreeMap<String, Value> {
        self.known = known;
        let state = self.vendor.folder.path().join("trusted.json");
        let root = if state.exists() { "" } else { "--root ROOT" };
        self.vendor.tell(&format!("verify CATALOG --state {} {root} --now {now}", state.display()), 0);
        // Nobody is fooled by an old catalog.
        let before = std::fs::read(&state).expect("written");
        let late: String = now.replace("2026", "2027");
        self.vendor.tell(&format!("verify CATALOG --state {} --now {late}", state.display()), 1);
        assert_eq!(std::fs::read(&state).expect("still there"), before);
        let plans = self.plans(now);
        for (machine, action, open) in expected {
            let plan = &plans[*machine];
            assert_eq!(plan["action"], *action, "{now} {machine}: {plan:#}");
            let open: Vec<String> = open.iter().map(|n| format!("CVE-2026-{n:04}")).collect();
            assert_eq!(plan["open"], serde_json::to_value(open).expect("text"), "{now} {machine}: {plan:#}");
            let restarts = *action == "baseline";
            assert_eq!(plan["restart"], restarts, "{now} {machine}: {plan:#}");
        }
        self.check_truth(now);
        documents::export(&self.vendor, &self.fleet(), now, known > 0, &self.documents);
        plans
    }

    /// Those machines do what they are told until there is nothing left.
    fn act(&mut self, now: &str, who: &[&str]) {
        for _ in 0..4 {
            let plans = self.plans(now);
            let (catalog, versions) = (self.vendor.catalog(), self.versions.clone());
            let mut left = false;
            for id in who {
                let plan = &plans[*id];
                if !["none", "not_eligible"].contains(&plan["action"].as_str().expect("text")) {
                    self.machine(id).act(plan, &catalog, &versions);
                    left = true;
                }
            }
            if !left {
                break;
            }
        }
        let plans = self.plans(now);
        for id in who {
            assert!(
                ["none", "not_eligible"].contains(&plans[*id]["action"].as_str().expect("text")),
                "{:#}",
                plans[*id]
            );
        }
        self.check_truth(now);
        let store = self.vendor.folder.path().join("store.sqlite");
        self.vendor.tell(
            &format!("collect {} CATALOG --root ROOT --fleet {} --now {now}", store.display(), self.fleet().display()),
            0,
        );
    }

    fn install(&mut self, release: &str, who: &[&str]) {
        let versions = self.versions[release].clone();
        for id in who {
            self.machine(id).install(&versions, true);
        }
    }
}

#[test]
fn a_year_of_releases() {
    let documents = tempfile::tempdir().expect("a temporary folder");
    let versions = [
        ("2026-01", 0, 0),
        ("2026-02", 1, 0),
        ("2026-03", 2, 1),
        ("2026-04", 3, 1),
        ("2026-05", 4, 1),
        ("2026-06", 5, 1),
        ("2026-07", 6, 1),
        ("2026-08", 7, 1),
        ("2026-08b", 8, 1),
        ("2026-09", 9, 1),
        ("2026-10", 10, 1),
        ("2026-11", 11, 1),
        ("2026-12", 12, 1),
    ];
    let versions = versions.map(|(id, e, p)| (id.to_owned(), BTreeMap::from([("engine", e), ("panel", p)])));
    let mut year = Year {
        vendor: Vendor::new("2026-01-13"),
        machines: ["good", "away", "novbs", "pending", "stray", "hooked"].map(|id| Machine::new(id, 1)).into(),
        versions: versions.into(),
        withdrawn: Vec::new(),
        known: 0,
        documents: documents.path().to_owned(),
        checked: 0,
    };
    year.machines.push(Machine::new("half", 2));
    year.machine("novbs").vbs = false;
    year.machine("stray").install(&BTreeMap::from([("engine", 1), ("panel", 0)]), true);

    // January: the first baseline. Nobody has anything to do, but who has files of no release.
    year.vendor.baseline("2026-01-13", "2026-01", [0, 0], "2026-07-14", "");
    year.vendor.publish("2026-01-13");
    year.month("2026-01-13", 0, &[("good", "none", &[]), ("stray", "not_eligible", &[])]);

    // February: a hotpatch. One machine patches one of its two processes; on another somebody hooks the patched function.
    let refused = year.vendor.hotpatch("2026-02-10", "2026-02", 2, &[("engine", 0, 1)], "--cve CVE-2026-0001", 3);
    assert!(refused.is_null(), "a gap in the sequence: {refused}");
    year.vendor.hotpatch("2026-02-10", "2026-02", 1, &[("engine", 1, 2)], "--cve CVE-2026-0001", 3);
    let added = year.vendor.hotpatch("2026-02-10", "2026-02", 1, &[("engine", 0, 1)], "--cve CVE-2026-0001", 0);
    documents::by_schema("release-added.json", &added);
    assert_eq!((&added["kind"], &added["restart"]), (&"hotpatch".into(), &false.into()));
    year.vendor.publish("2026-02-10");
    let plans = year.month(
        "2026-02-10",
        1,
        &[
            ("good", "hotpatch", &[1]),
            ("away", "hotpatch", &[1]),
            ("half", "hotpatch", &[1]),
            ("novbs", "not_eligible", &[1]),
            ("stray", "not_eligible", &[1]),
        ],
    );
    assert!(plans["novbs"]["reason"].as_str().expect("text").contains("vbs"), "{:#}", plans["novbs"]);
    assert!(plans["stray"]["reason"].as_str().expect("text").contains("lineage"), "{:#}", plans["stray"]);
    let mut half = plans["half"].clone();
    half["steps"][0]["pids"] = serde_json::json!([100]);
    let (catalog, of) = (year.vendor.catalog(), year.versions.clone());
    year.machine("half").act(&half, &catalog, &of);
    year.act("2026-02-10", &["good", "away", "pending", "hooked"]);
    year.machine("hooked").processes[0].hook("engine");
    let plans = year.month(
        "2026-02-11",
        1,
        &[("good", "none", &[]), ("half", "hotpatch", &[1]), ("hooked", "not_eligible", &[1])],
    );
    assert_eq!(plans["half"]["steps"][0]["pids"], serde_json::json!([101]), "only the process that lacks it");

    // March: cumulative, with a second image. A restart takes the hook away.
    let cves = "--cve CVE-2026-0002=engine.dll --cve CVE-2026-0003=panel.dll";
    let pairs = [("engine", 0, 2), ("panel", 0, 1)];
    year.vendor.hotpatch("2026-03-10", "2026-03", 2, &pairs, cves, 3);
    let cves = format!("--cve CVE-2026-0001=engine.dll {cves}");
    let added = year.vendor.hotpatch("2026-03-10", "2026-03", 2, &pairs, &cves, 0);
    assert_eq!(added["patches"]["engine.dll"]["predecessors"], 1);
    year.vendor.publish("2026-03-10");
    year.machine("hooked").restart();
    year.month(
        "2026-03-10",
        3,
        &[("good", "hotpatch", &[2, 3]), ("half", "hotpatch", &[1, 2, 3]), ("hooked", "hotpatch", &[1, 2, 3])],
    );
    year.act("2026-03-10", &["good", "half", "hooked"]);

    // April: a baseline that brings nothing that these machines do not have: no restart is demanded of them.
    let fixes = "--cve CVE-2026-0001=engine.dll --cve CVE-2026-0002=engine.dll --cve CVE-2026-0003=panel.dll";
    year.vendor.baseline("2026-04-14", "2026-04", [3, 1], "2026-10-13", fixes);
    year.vendor.publish("2026-04-14");
    let plans = year.month(
        "2026-04-14",
        3,
        &[("good", "none", &[]), ("away", "hotpatch", &[2, 3]), ("novbs", "baseline", &[1, 2, 3])],
    );
    assert_eq!(plans["good"]["restart_by"], "2026-07-14T00:00:00Z");
    assert_eq!(plans["good"]["baselines_behind"], 1);
    year.install("2026-04", &["good", "half", "hooked"]);
    year.act("2026-04-14", &["novbs"]);
    let of = year.versions["2026-04"].clone();
    year.machine("pending").install(&of, false);
    year.month("2026-04-15", 3, &[("good", "none", &[]), ("pending", "finish_restart", &[2, 3])]);

    // May: a hotpatch on the new baseline. Who is on the old one has to restart now.
    year.vendor.hotpatch("2026-05-12", "2026-05", 3, &[("engine", 3, 4)], "--cve CVE-2026-0004", 0);
    year.vendor.publish("2026-05-12");
    year.month(
        "2026-05-12",
        4,
        &[("good", "hotpatch", &[4]), ("away", "baseline", &[2, 3, 4]), ("pending", "finish_restart", &[2, 3, 4])],
    );
    year.act("2026-05-12", &["good", "half", "hooked", "pending"]);

    // June: a hotpatch that is withdrawn after two weeks. What it superseded is active again.
    year.vendor.hotpatch("2026-06-09", "2026-06", 4, &[("engine", 3, 5)], "--cve CVE-2026-0004 --cve CVE-2026-0005", 0);
    year.vendor.publish("2026-06-09");
    year.month("2026-06-09", 5, &[("good", "hotpatch", &[5])]);
    year.act("2026-06-09", &["good", "hooked"]);
    year.vendor.tell("revoke CATALOG --hotpatch 2026-06 --reason slow --date 2026-06-24", 0);
    year.vendor.publish("2026-06-24");
    year.withdrawn.push(("engine", 5));
    year.month("2026-06-24", 5, &[("good", "roll_back", &[4, 5]), ("half", "none", &[5]), ("pending", "none", &[5])]);
    year.act("2026-06-24", &["good", "half", "hooked", "pending"]);
    year.month("2026-06-25", 5, &[("good", "none", &[5]), ("hooked", "none", &[5])]);

    // July: the baseline has the fix; a restart is needed for it.
    year.vendor.baseline("2026-07-14", "2026-07", [6, 1], "2026-12-31", "--cve CVE-2026-0004 --cve CVE-2026-0005");
    year.vendor.publish("2026-07-14");
    let plans = year.month("2026-07-14", 5, &[("good", "baseline", &[5]), ("away", "baseline", &[2, 3, 4, 5])]);
    assert_eq!(plans["away"]["baselines_behind"], 2);
    year.act("2026-07-14", &["good", "half", "hooked", "pending", "novbs"]);

    // August: a hotpatch, and ten days later a fix that changes living data: no hotpatch can carry it.
    year.vendor.hotpatch("2026-08-11", "2026-08", 5, &[("engine", 6, 7)], "--cve CVE-2026-0006", 0);
    year.vendor.publish("2026-08-11");
    year.month("2026-08-11", 6, &[("good", "hotpatch", &[6]), ("novbs", "not_eligible", &[6])]);
    year.act("2026-08-11", &["good", "half", "hooked", "pending"]);
    let emergency = "--cve CVE-2026-0006=engine.dll --cve CVE-2026-0007=engine.dll";
    let pairs = [("engine", 6, 8), ("panel", 1, 1)];
    let refused = year.vendor.hotpatch("2026-08-20", "2026-08b", 6, &pairs, emergency, 3);
    documents::by_schema("release-added.json", &refused);
    assert_eq!((&refused["kind"], &refused["restart"]), (&"restart_update".into(), &true.into()));
    assert!(refused["reasons"][0].as_str().expect("text").contains("data.initialiser.changed"), "{refused:#}");
    let sarif = documents.path().join("verdict.sarif");
    let more = format!("{emergency} --else-baseline-until 2027-01-31 --sarif {}", sarif.display());
    let added = year.vendor.hotpatch("2026-08-20", "2026-08b", 6, &pairs, &more, 0);
    assert_eq!(added["kind"], "baseline");
    year.vendor.publish("2026-08-20");
    let plans = year.month("2026-08-20", 7, &[("good", "baseline", &[7]), ("away", "baseline", &[2, 3, 4, 5, 6, 7])]);
    assert!(plans["good"]["reason"].as_str().expect("text").contains("not hotpatchable"), "{:#}", plans["good"]);
    year.act("2026-08-20", &["good", "half", "hooked", "pending", "novbs"]);

    // September: the publishing machine is broken into. Its keys are replaced; machines go on from what they remember.
    let folder = year.vendor.folder.path().to_owned();
    let stolen = (year.vendor.targets.clone(), year.vendor.online.clone());
    year.vendor.targets = key(&folder, "targets2", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    year.vendor.online = key(&folder, "online2", &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let (t, o) = (certificate(&year.vendor.targets).to_owned(), certificate(&year.vendor.online).to_owned());
    year.vendor.hotpatch("2026-09-08", "2026-09", 6, &[("engine", 8, 9)], "--cve CVE-2026-0008", 0);
    year.vendor.tell(
        &format!("rotate CATALOG --role targets={t} --role snapshot={o} --role timestamp={o} SIGN --now 2026-09-08"),
        0,
    );
    let thief = format!("--signer {} --signer {}", stolen.0, stolen.1);
    year.vendor.tell(&format!("publish CATALOG {thief} --now 2026-09-08"), 3);
    year.month("2026-09-08", 8, &[("good", "hotpatch", &[8]), ("away", "baseline", &[2, 3, 4, 5, 6, 7, 8])]);
    // And one that was away since February comes back: a restart, then a hotpatch.
    year.act("2026-09-08", &["good", "half", "hooked", "pending", "novbs", "away"]);

    // October to December.
    year.vendor.baseline("2026-10-13", "2026-10", [10, 1], "2027-04-13", "--cve CVE-2026-0008=engine.dll");
    year.vendor.publish("2026-10-13");
    year.month("2026-10-13", 8, &[("good", "none", &[]), ("away", "none", &[]), ("novbs", "baseline", &[8])]);
    year.install("2026-10", &["good", "half", "hooked"]);
    year.act("2026-10-13", &["novbs"]);
    year.vendor.hotpatch("2026-11-10", "2026-11", 7, &[("engine", 10, 11)], "--cve CVE-2026-0009", 0);
    year.vendor.publish("2026-11-10");
    year.month(
        "2026-11-10",
        9,
        &[("good", "hotpatch", &[9]), ("away", "baseline", &[9]), ("pending", "baseline", &[9])],
    );
    year.act("2026-11-10", &["good", "half", "hooked", "away", "pending"]);
    year.vendor.hotpatch(
        "2026-12-08",
        "2026-12",
        8,
        &[("engine", 10, 12)],
        "--cve CVE-2026-0009 --cve CVE-2026-0010",
        0,
    );
    year.vendor.publish("2026-12-08");
    year.known = 10;
    year.act("2026-12-08", &["good", "half", "hooked", "away", "pending"]);
    year.month(
        "2026-12-09",
        10,
        &[
            ("good", "none", &[]),
            ("half", "none", &[]),
            ("hooked", "none", &[]),
            ("away", "none", &[]),
            ("pending", "none", &[]),
            ("novbs", "not_eligible", &[9, 10]),
            ("stray", "not_eligible", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ],
    );
    // What scanners of files see is not what counts.
    let truths = year.ask("export", "2026-12-09");
    let good = truths["machines"].as_array().expect("machines").iter().find(|m| m["machine"] == "good").expect("known");
    assert_eq!((&good["file_build"], &good["effective_build"]), (&"1.2026-10".into(), &"1.2026-12".into()));
    assert_eq!(good["hotpatch"], "2026-12");
    let plans = year.plans("2026-12-09");
    assert_eq!((&plans["good"]["hotpatches_behind"], &plans["novbs"]["hotpatches_behind"]), (&0.into(), &2.into()));
    for machine in &year.machines {
        let expected = match machine.id.as_str() {
            "stray" => 1,
            "novbs" => 10,
            _ => 12,
        };
        assert!(machine.processes.iter().all(|p| p.really["engine"].0 == expected), "{}", machine.id);
    }
    assert!(year.checked > 400, "{} states were checked", year.checked);

    let page = documents.path().join("fleet.html");
    let store = folder.join("store.sqlite");
    year.vendor.tell(&format!("report {} -o {}", store.display(), page.display()), 0);
    documents::check_page(&page);
    documents::validate(documents.path(), &year.vendor.catalog().join("public"), Path::new("2026-12-09"));
}
