//! Machines: processes in buffers, files on a disk, and somebody who does what the plan says, or does not.

use super::vendor::image;
use hotgraft_engine::{ApplyOptions, BufferSpace, PatchFile, RollbackOptions, Trust, apply, query, rollback};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Where images are loaded.
const AT: [(&str, u64); 2] = [("engine", 0x7ff6_0000_0000), ("panel", 0x7ff7_0000_0000)];

/// A process with both images.
pub struct Process {
    pub pid: u32,
    space: BufferSpace,
    /// What its memory really is: the version of each image that its code is equal to, and the one it was loaded from.
    pub really: BTreeMap<&'static str, (u32, u32)>,
    /// The sequence of withdrawn patches that are active.
    pub active: BTreeMap<&'static str, Vec<(u32, u32)>>,
}

/// A machine.
pub struct Machine {
    pub id: String,
    pub vbs: bool,
    pub disk: BTreeMap<&'static str, u32>,
    pub processes: Vec<Process>,
}

fn bytes(name: &str, version: u32) -> Vec<u8> {
    std::fs::read(image(name, version)).expect("the series is committed")
}

impl Process {
    fn start(pid: u32, disk: &BTreeMap<&'static str, u32>) -> Process {
        let mut space = BufferSpace::new();
        let mut really = BTreeMap::new();
        for (name, at) in AT {
            space.load(&format!("{name}.dll"), &bytes(name, disk[name]), at).expect("it loads");
            really.insert(name, (disk[name], disk[name]));
        }
        Process { pid, space, really, active: BTreeMap::new() }
    }

    fn at(name: &str) -> u64 {
        AT.iter().find(|(known, _)| *known == name).expect("known").1
    }

    /// Applies a patch file, which brings the image to `version`.
    pub fn apply(&mut self, name: &'static str, patch: &[u8], version: u32) {
        let file = PatchFile::parse(patch).expect("a patch");
        let sequence = file.graft().sequence;
        let options = ApplyOptions { trust: Trust::trial(), ..ApplyOptions::default() };
        apply(&mut self.space, Self::at(name), &file, &options).expect("it applies");
        let really = self.really.get_mut(name).expect("known");
        self.active.entry(name).or_default().push((sequence, really.0));
        really.0 = version;
    }

    /// Takes out the active patch: what it superseded is active again.
    pub fn roll_back(&mut self, name: &'static str) {
        let (sequence, before) = self.active.get_mut(name).and_then(Vec::pop).expect("a patch is active");
        let options = RollbackOptions { sequence: Some(sequence), ..RollbackOptions::default() };
        rollback(&mut self.space, Self::at(name), &options).expect("it can be taken out");
        self.really.get_mut(name).expect("known").0 = before;
    }

    /// Somebody else changes the entry of the first patched function.
    pub fn hook(&mut self, name: &'static str) {
        let images = query(&self.space, Some(Self::at(name))).expect("readable");
        let entry = &images[0].patches[0].entries[0];
        self.space.poke(entry.address, &[0xcc; 2]).expect("mapped");
    }

    fn status(&self, name: &str) -> Value {
        let images = query(&self.space, Some(Self::at(name))).expect("readable");
        json!({ "pid": self.pid, "name": "example.exe", "error": null, "images": images })
    }
}

impl Machine {
    pub fn new(id: &str, processes: u32) -> Machine {
        let disk = BTreeMap::from([("engine", 0), ("panel", 0)]);
        let processes = (0..processes).map(|n| Process::start(100 + n, &disk)).collect();
        Machine { id: id.to_owned(), vbs: true, disk, processes }
    }

    /// Restarts everything: processes load what is on the disk.
    pub fn restart(&mut self) {
        for process in &mut self.processes {
            *process = Process::start(process.pid, &self.disk);
        }
    }

    /// `hotgraft.machine/1`, the status read from memory by the engine.
    pub fn document(&self) -> Value {
        let disk: Vec<Value> = self
            .disk
            .iter()
            .map(|(name, version)| {
                let sha256 = hotgraft_hotpatch::hex::text(&hotgraft_hotpatch::sha::both(&bytes(name, *version)).0);
                json!({ "name": format!("{name}.dll"), "sha256": sha256 })
            })
            .collect();
        let status: Vec<Value> = AT
            .iter()
            .map(|(name, _)| {
                let processes: Vec<Value> = self.processes.iter().map(|p| p.status(name)).collect();
                let document = json!({ "schema": "hotgraft.status/1", "as_expected": null, "processes": processes });
                json!({ "image": format!("{name}.dll"), "document": document })
            })
            .collect();
        json!({ "schema": "hotgraft.machine/1", "machine": self.id, "os": { "name": "Windows", "version": "10.0.26100" }, "attributes": { "vbs": self.vbs }, "disk": disk, "status": status })
    }

    /// Does what the plan says; `versions` says which release brings which image to which version.
    pub fn act(&mut self, plan: &Value, catalog: &Path, versions: &BTreeMap<String, BTreeMap<&'static str, u32>>) {
        let release = plan["release"].as_str().unwrap_or_default();
        match plan["action"].as_str().expect("an action") {
            "hotpatch" => {
                for step in plan["steps"].as_array().expect("steps") {
                    let (target, sha256) =
                        (step["target"].as_str().expect("text"), step["sha256"].as_str().expect("text"));
                    let (folder, file) = target.rsplit_once('/').expect("a path");
                    let path = catalog.join(format!("public/targets/{folder}/{sha256}.{file}"));
                    let patch = std::fs::read(path).expect("it is served");
                    let name = AT.iter().find(|(n, _)| step["image"] == format!("{n}.dll")).expect("known").0;
                    let pids: BTreeSet<u64> =
                        step["pids"].as_array().expect("pids").iter().filter_map(Value::as_u64).collect();
                    for process in self.processes.iter_mut().filter(|p| pids.contains(&u64::from(p.pid))) {
                        process.apply(name, &patch, versions[release][name]);
                    }
                }
            }
            "roll_back" => {
                for step in plan["steps"].as_array().expect("steps") {
                    let name = AT.iter().find(|(n, _)| step["image"] == format!("{n}.dll")).expect("known").0;
                    self.processes.iter_mut().for_each(|p| p.roll_back(name));
                }
            }
            "baseline" => self.install(&versions[release], true),
            "finish_restart" => self.restart(),
            other => panic!("{}: nothing to do for {other}", self.id),
        }
    }

    pub fn install(&mut self, versions: &BTreeMap<&'static str, u32>, restart: bool) {
        self.disk = versions.clone();
        if restart {
            self.restart();
        }
    }

    /// What is really fixed: for a fix that is in `image` since `version`, in how many processes, and in the file.
    pub fn really_fixed(&self, image: &str, version: u32, withdrawn: &[(&str, u32)]) -> (usize, bool) {
        let has = |process: &&Process| {
            let (now, loaded) = process.really[image];
            // What was withdrawn does not count, whatever it does.
            let counts = if withdrawn.contains(&(image, now)) { loaded } else { now };
            counts >= version
        };
        (self.processes.iter().filter(has).count(), self.disk[image] >= version)
    }
}
