//! `hotgraft watch` under Wine: a folder, a published catalog, Ctrl-C, and the log of the system.
#![cfg(unix)]

mod lab;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Lab, lab, root, valid};

/// A folder with these patches.
fn folder(lab: &Lab, name: &str, patches: &[&str]) {
    let folder = lab.folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    for patch in patches {
        fs::copy(lab.folder.join(patch), folder.join(patch)).unwrap();
    }
}

#[test]
fn what_the_policy_does_not_trust_keeps_nothing_out() {
    let (lab, _turn) = lab("watch");
    folder(lab, "both", &["plain.dll", "signed.dll"]);
    let mut service = lab.service("signed.dll");
    let mut watch =
        lab.hotgraft("watch --catalog both --policy policy.toml --program service.exe --once --format json");
    // What is said to the log of the system goes to the diagnostics of Wine, which has no log.
    let watched = watch.env("HOTGRAFT_AUDIT", "watch.jsonl").env("WINEDEBUG", "+eventlog,+advapi").output().unwrap();
    let (said, log) = (String::from_utf8_lossy(&watched.stdout), String::from_utf8_lossy(&watched.stderr));
    assert_eq!(watched.status.code(), Some(0), "{said}{log}");
    assert_eq!(said.matches(r#""outcome":"refused""#).count(), 1, "{said}");
    assert_eq!(said.matches(r#""outcome":"done""#).count(), 1, "{said}");
    said.lines().for_each(|line| _ = valid("audit.json", line));
    assert_eq!(service.ask("a"), "answer 12");
    let events: Vec<&str> = log.lines().filter(|line| line.contains("watch") && line.contains("service.exe")).collect();
    assert!(events.iter().any(|line| line.contains("refused")), "{log}");
    assert!(events.iter().any(|line| line.contains("done")), "{log}");
    service.end();
}

#[test]
fn an_interrupt_ends_the_watch_between_two_attempts() {
    let (lab, _turn) = lab("watch");
    folder(lab, "signed", &["signed.dll"]);
    for poll in ["", " --poll 60000"] {
        let mut watch =
            lab.hotgraft(&format!("watch --catalog signed --policy policy.toml --program service.exe{poll}"));
        let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(watch.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(said.any(|line| line.contains("Ctrl-C ends the watch")));
        let service = poll.is_empty().then(|| {
            // It starts, and is patched without a word from it.
            let mut service = lab.service("plain.dll");
            let started = Instant::now();
            while service.ask("a") != "answer 12" {
                assert!(started.elapsed() < Duration::from_secs(60), "not patched");
                std::thread::sleep(Duration::from_millis(5));
            }
            service
        });
        let asked = Instant::now();
        // Wine makes an interrupt of the console of it.
        let signal = Command::new("kill").args(["-INT", &watch.id().to_string()]).status().unwrap();
        assert!(signal.success());
        assert!(said.any(|line| line.contains("ended: ")), "{poll}");
        assert_eq!(watch.wait().unwrap().code(), Some(0));
        // At once, and not at the next pass.
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
        if let Some(mut service) = service {
            assert_eq!(service.ask("a"), "answer 12");
            service.end();
        }
    }
}

#[test]
fn a_published_catalog_is_trusted_first_and_its_patches_then() {
    let (lab, _turn) = lab("watch");
    let fixture = root().join("testdata/fixtures/service");
    for side in ["old", "new"] {
        let folder = lab.folder.join(side);
        fs::create_dir_all(&folder).unwrap();
        for file in fs::read_dir(fixture.join(side)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
    }
    let now = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().unwrap().stdout;
    let now = String::from_utf8(now).unwrap().trim().to_owned();
    let role = |name| format!("--role {name}=cert.pem");
    let roles = ["root", "targets", "snapshot", "timestamp"].map(role).join(" ");
    lab.ok(&format!(
        "release init history --product Example --publisher https://example.test/ {roles} --signer key.pem,cert.pem --now {now}"
    ));
    lab.ok(&format!(
        "release add-baseline history --id base --build 1.0.100 --image old/service.exe --supported-until 2099-01-01 --date {now}"
    ));
    lab.ok(&format!(
        "release add-hotpatch history --id fix --build 1.0.107 --sequence 1 --kb KB5000002 --cve CVE-2026-0001=service.exe \
         --pair old/service.exe new/service.exe --date {now}"
    ));
    lab.ok(&format!("release publish history --signer key.pem,cert.pem --now {now}"));
    // The old service, as it runs on a machine.
    let mut service = lab.wine("old/service.exe");
    let mut service = service.arg("service.log").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(service.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = line.split_whitespace().find_map(|word| word.strip_prefix("pid=")).unwrap().to_owned();
    let watch = "watch --catalog history/public --allow-unsigned --program service.exe --once";
    // Of a catalog that somebody else vouches for nothing is taken.
    let root = fs::read_to_string(lab.folder.join("history/root.json")).unwrap();
    let signature = root.find(r#""sig""#).unwrap() + 40;
    let other = if root.as_bytes()[signature] == b'0' { "1" } else { "0" };
    let forged = [&root[..signature], other, &root[signature + 1..]].concat();
    fs::write(lab.folder.join("forged.json"), forged).unwrap();
    let refused = lab.hotgraft(&format!("{watch} --root forged.json --state seen.json")).output().unwrap();
    assert!(!refused.status.success());
    assert!(!lab.folder.join("seen.json").exists());
    lab.ok(&format!("status --pid {pid} --expect 0"));
    lab.ok(&format!("{watch} --root history/root.json --state seen.json"));
    let status = valid("status.json", &lab.ok(&format!("status --pid {pid} --expect 1 --format json")));
    assert_eq!(status["as_expected"], true, "{status}");
    // Threads are looked at for who asks for it.
    let patch = "/processes/0/images/0/patches/0";
    assert!(status.pointer(patch).unwrap()["threads"].is_null(), "{status}");
    let status = valid("status.json", &lab.ok(&format!("status --pid {pid} --threads --format json")));
    let patch = status.pointer(patch).unwrap();
    assert!(patch["threads"].is_array() && patch["entries"][0]["old_threads"].is_array(), "{patch}");
    // From now on what was seen is enough, and must not be taken back.
    assert!(lab.folder.join("seen.json").exists());
    lab.ok(&format!("{watch} --state seen.json"));
    service.kill().unwrap();
    service.wait().unwrap();
}
