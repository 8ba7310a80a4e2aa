//! The example service patches itself through `hotgraft_agent.dll`, under Wine.
#![cfg(unix)]

mod lab;

use std::fs;

use lab::{lab, valid};

#[test]
fn a_service_patches_itself() {
    let (lab, _turn) = lab("agent");
    // What nobody signed is refused, and the service says why.
    let mut service = lab.service("plain.dll");
    assert_eq!(service.ask("p"), "applied 3");
    assert!(service.ask("m").contains("trust policy"));
    assert_eq!(service.ask("a"), "answer 11");
    service.end();

    let mut service = lab.service("signed.dll");
    assert_eq!(service.ask("s"), "active 0 []");
    assert_eq!(service.ask("p"), "applied 0", "{}", service.ask("m"));
    assert_eq!(service.ask("a"), "answer 12");
    let state = service.ask("s");
    assert!(state.starts_with("active 1 [{") && state.contains("Example Ltd"), "{state}");
    // The same from outside, and what the schema says of it.
    let status = valid("status.json", &lab.ok("status --image service.exe --format json --expect 1"));
    let image = &status["processes"][0]["images"][0];
    assert_eq!((status["as_expected"].as_bool(), image["active"].as_u64()), (Some(true), Some(1)), "{status}");
    // Wine has no hotpatches of its own.
    assert_eq!(status["system"]["hotpatching"], "not_available", "{status}");
    assert!(lab.ok("status --image service.exe").contains("hotpatches of Windows itself: not available here"));
    assert_eq!(service.ask("p"), "applied 3");
    assert_eq!(service.ask("r"), "rolled back 0");
    assert_eq!(service.ask("a"), "answer 11");
    assert!(service.ask("s").starts_with("active 0 [{"));
    service.end();
    // Each attempt is in the record twice.
    assert_eq!(fs::read_to_string(lab.folder.join("audit.jsonl")).unwrap().lines().count(), 8);
}

#[test]
fn the_doctor_names_every_prerequisite() {
    let (lab, _turn) = lab("agent");
    let keys = |checks: &serde_json::Value| -> Vec<String> {
        let all = checks.as_array().unwrap().iter();
        // Whatever is not as it should be comes with what to do, or is not known, or is only good to know.
        all.inspect(|check| {
            let told =
                check["advice"].is_string() || ["ok", "note", "unknown"].contains(&check["level"].as_str().unwrap());
            assert!(told && !check["text"].as_str().unwrap().is_empty(), "{check}");
        })
        .map(|check| check["key"].as_str().unwrap().to_owned())
        .collect()
    };
    let service = lab.service("plain.dll");
    let status = valid("status.json", &lab.ok("status --image service.exe --format json"));
    let pid = status["processes"][0]["pid"].as_u64().unwrap();
    let said = lab.hotgraft(&format!("doctor service.exe --pid {pid} --format json")).output().unwrap();
    let report = valid("doctor.json", &String::from_utf8_lossy(&said.stdout));
    let machine = keys(&report["machine"]);
    for key in ["architecture", "windows", "vbs", "hvci", "umci", "hotpatch"] {
        assert!(machine.contains(&format!("machine.{key}")), "{key}: {machine:?}");
    }
    let process = keys(&report["process"]["checks"]);
    for key in ["architecture", "protected", "dynamic_code", "signature", "cfg", "cet", "rights"] {
        assert!(process.contains(&format!("process.{key}")), "{key}: {process:?}");
    }
    let image = keys(&report["images"][0]["checks"]);
    for key in
        ["machine", "chpe", "managed", "relocations", "aslr", "cfg", "cet", "code_writable", "pdb", "functionpadmin"]
    {
        assert!(image.contains(&format!("image.{key}")), "{key}: {image:?}");
    }
    service.end();
}
