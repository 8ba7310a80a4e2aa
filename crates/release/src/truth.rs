//! What is really fixed on a machine: judged by the builds and patches in memory, not by versions of files.
//!
//! `fixed` is said only where every live instance of every image that a fix needs has it. What cannot be known is called
//! unknown: a process that could not be read, an image that was not looked for, bytes that somebody else changed.

use crate::catalog::{Catalog, Hotpatch, Identity, Image};
use crate::machine::{Machine, OperatingSystem};
use crate::time::Time;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What is true of one CVE on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In every live instance; or nothing runs, and the file has it.
    Fixed,
    /// None of the images is on the machine.
    NotInstalled,
    /// The files have it, live instances do not: they run since before.
    PendingRestart,
    /// Nothing runs; the patch is applied as soon as the image is loaded.
    Staged,
    /// In some live instances.
    Partly,
    /// It cannot be known.
    Unknown,
    /// In none.
    NotFixed,
}

impl State {
    /// All, in this order.
    pub const ALL: [State; 7] = [
        State::Fixed,
        State::NotInstalled,
        State::PendingRestart,
        State::Staged,
        State::Partly,
        State::Unknown,
        State::NotFixed,
    ];

    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            State::Fixed => "fixed",
            State::NotInstalled => "not_installed",
            State::PendingRestart => "pending_restart",
            State::Staged => "staged",
            State::Partly => "partly",
            State::Unknown => "unknown",
            State::NotFixed => "not_fixed",
        }
    }

    /// Whether the machine can be attacked through it, as far as is known.
    pub fn is_open(self) -> bool {
        !matches!(self, State::Fixed | State::NotInstalled)
    }
}

/// An instance of an image in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Name of the image.
    pub image: String,
    /// Process.
    pub pid: u32,
    /// Name of the process.
    pub process: String,
    /// Address (VA).
    pub address: u64,
    /// SHA-256 of the file that it was loaded from, by its identity; absent if no release has such an image.
    pub sha256: Option<String>,
    /// The latest baseline that has this image.
    pub baseline: Option<String>,
    /// The hotpatch that is active.
    pub hotpatch: Option<String>,
    /// Why that hotpatch was withdrawn.
    pub revoked: Option<String>,
    /// The version that it is as secure as.
    pub build: Option<String>,
    /// Why not everything is known of it.
    pub doubt: Option<String>,
    /// What is fixed in it.
    pub fixed: BTreeSet<String>,
    /// Whether the active hotpatch can be taken out.
    pub revertible: bool,
}

/// One CVE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Id.
    pub cve: String,
    /// What is true.
    pub state: State,
    /// Instances (process id, image) that have it.
    pub fixed_in: Vec<(u32, String)>,
    /// Instances that do not.
    pub open_in: Vec<(u32, String)>,
    /// In words.
    pub text: String,
}

/// What an operator has to restart before the files of the machine are what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Nothing.
    None,
    /// Processes that hold old images.
    Process,
}

/// A machine, as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Truth {
    /// `hotgraft.release.truth/1`.
    pub schema: &'static str,
    /// Product.
    pub product: String,
    /// Machine.
    pub machine: String,
    /// When it was looked at.
    pub time: Option<Time>,
    /// What it runs, if it says so.
    pub os: Option<OperatingSystem>,
    /// The baseline whose files it has.
    pub baseline: Option<String>,
    /// Version that its files state: what scanners of files see.
    pub file_build: Option<String>,
    /// The version that the weakest live instance is as secure as; absent if it cannot be known.
    pub effective_build: Option<String>,
    /// Hotpatch that is active in every instance of the images that it patches.
    pub hotpatch: Option<String>,
    /// What has to be restarted so that the files of the machine are what runs.
    pub restart_pending: Restart,
    /// Why some of this cannot be known.
    pub doubts: Vec<String>,
    /// Names of processes that could not be read and were said not to matter.
    pub ignored: Vec<String>,
    /// Live instances, by image and process.
    pub live: Vec<Live>,
    /// CVEs, by id.
    pub findings: Vec<Finding>,
}

/// The image that has this identity, under any name; the latest if there are several.
fn by_identity<'a>(catalog: &'a Catalog, name: &str, identity: &Identity) -> Option<&'a Image> {
    let of = |image: &&Image| image.identity == *identity && image.name.eq_ignore_ascii_case(name);
    catalog.baselines().rev().find_map(|(_, baseline)| baseline.images.iter().find(of))
}

/// The latest baseline that has an image of this name and content.
fn baseline_with<'a>(catalog: &'a Catalog, name: &str, sha256: &str) -> Option<&'a crate::catalog::Baseline> {
    let has = |image: &Image| image.sha256 == sha256 && image.name.eq_ignore_ascii_case(name);
    catalog.baselines().rev().map(|(_, b)| b).find(|b| b.images.iter().any(has))
}

/// What is fixed in a file: what baselines up to the last that has it say of images of this name.
fn fixed_in_file(catalog: &Catalog, name: &str, sha256: &str) -> BTreeSet<String> {
    let mut fixed = BTreeSet::new();
    let Some(last) = baseline_with(catalog, name, sha256) else { return fixed };
    for (_, baseline) in catalog.baselines() {
        let here = baseline.fixes.iter().filter(|(_, images)| images.iter().any(|i| i.eq_ignore_ascii_case(name)));
        fixed.extend(here.map(|(cve, _)| cve.clone()));
        if baseline.id == last.id {
            break;
        }
    }
    fixed
}

/// The baseline whose images the machine's files are: the latest that has them all.
pub fn baseline_of<'a>(catalog: &'a Catalog, machine: &Machine) -> Option<&'a crate::catalog::Baseline> {
    let matches = |image: &Image| {
        machine.disk.iter().any(|file| file.name.eq_ignore_ascii_case(&image.name) && file.sha256 == image.sha256)
    };
    // A machine need not have every image of a product, but what it has must be of one baseline.
    let known = |baseline: &&crate::catalog::Baseline| {
        let ours = |name: &str| baseline.images.iter().any(|i| i.name.eq_ignore_ascii_case(name));
        let mut files = machine.disk.iter().filter(|file| ours(&file.name)).peekable();
        files.peek().is_some()
            && files.all(|file| {
                baseline.images.iter().any(|i| i.name.eq_ignore_ascii_case(&file.name) && i.sha256 == file.sha256)
            })
            && baseline.images.iter().any(matches)
    };
    catalog.baselines().rev().map(|(_, b)| b).find(known)
}

fn live_of(catalog: &Catalog, pid: u32, process: &str, instance: &crate::machine::Instance) -> Live {
    let image = by_identity(catalog, &instance.name, &instance.identity);
    let mut live = Live {
        image: image.map_or_else(|| instance.name.clone(), |i| i.name.clone()),
        pid,
        process: process.to_owned(),
        address: instance.address,
        sha256: image.map(|i| i.sha256.clone()),
        baseline: None,
        hotpatch: None,
        revoked: None,
        build: None,
        doubt: None,
        fixed: BTreeSet::new(),
        revertible: true,
    };
    let Some(image) = image else {
        live.doubt = Some("no release has this build of the image".to_owned());
        return live;
    };
    if let Some(baseline) = baseline_with(catalog, &image.name, &image.sha256) {
        live.baseline = Some(baseline.id.clone());
        live.build = Some(baseline.build.clone());
    }
    live.fixed = fixed_in_file(catalog, &image.name, &image.sha256);
    match instance.state.as_deref() {
        Some("partial") => live.doubt = Some("a patch is active in part".to_owned()),
        Some("foreign_hook") => live.doubt = Some("entries were changed by somebody else".to_owned()),
        _ => {}
    }
    let active = instance.patches.iter().filter(|p| p.state == "applied" && Some(p.sequence) == instance.active);
    let mut active: Vec<_> = active.collect();
    active.dedup_by(|a, b| a.sha256 == b.sha256);
    match (active.as_slice(), live.doubt.is_some()) {
        ([], _) if instance.active.is_some() && live.doubt.is_none() => {
            live.doubt = Some("a sequence is active, but no patch of it is listed".to_owned());
        }
        ([patch], false) => match catalog.hotpatch_of(&patch.sha256) {
            Some((hotpatch, listed)) if listed.base_sha256 == image.sha256 => {
                live.hotpatch = Some(hotpatch.id.clone());
                live.revertible = patch.revertible;
                live.revoked = catalog.revoked(&hotpatch.id).map(str::to_owned);
                if live.revoked.is_none() {
                    live.build = Some(hotpatch.equivalent_build.clone());
                    let here = hotpatch.fixes.iter().filter(|(_, images)| images.contains(&image.name));
                    live.fixed.extend(here.map(|(cve, _)| cve.clone()));
                }
            }
            _ => live.doubt = Some(format!("the active patch {} is of no release", patch.sha256)),
        },
        ([_, _, ..], false) => live.doubt = Some("several patches of one sequence are active".to_owned()),
        _ => {}
    }
    live
}

/// The release that an instance is as secure as: place in the history, and version. A hotpatch that does not touch the image
/// any further than what is active takes the instance along.
fn level<'a>(catalog: &'a Catalog, live: &'a Live) -> Option<(usize, &'a str)> {
    let at = |id: &str| {
        catalog.history.iter().position(|entry| match &entry.event {
            crate::catalog::Event::Baseline(b) => b.id == id,
            crate::catalog::Event::Hotpatch(h) => h.id == id,
            crate::catalog::Event::Revoke(_) => false,
        })
    };
    let baseline = catalog.baseline(live.baseline.as_deref()?)?;
    let mut level = (at(&baseline.id)?, baseline.build.as_str());
    let mut content = live.sha256.as_deref()?;
    let mut sequence = 0;
    let active = live.hotpatch.as_deref().filter(|_| live.revoked.is_none());
    if let Some((_, hotpatch)) = catalog.hotpatches().find(|(_, h)| Some(h.id.as_str()) == active) {
        level = (at(&hotpatch.id)?, &hotpatch.equivalent_build);
        sequence = hotpatch.sequence;
        content = &hotpatch.patches.iter().find(|p| p.image == live.image)?.new_sha256;
    }
    let counts = |h: &Hotpatch| h.sequence > sequence && h.baseline == baseline.id && catalog.revoked(&h.id).is_none();
    for (_, later) in catalog.hotpatches().filter(|(_, h)| counts(h)) {
        let patch = later.patches.iter().find(|p| p.image == live.image);
        if patch.is_some_and(|patch| patch.new_sha256 != content) {
            break;
        }
        level = (at(&later.id)?, &later.equivalent_build);
    }
    Some(level)
}

/// Whether every live instance has `hotpatch`, or needs none of it, and there is one that has.
pub fn everywhere(hotpatch: &Hotpatch, live: &[Live]) -> bool {
    let patched = |l: &&Live| hotpatch.patches.iter().any(|p| p.image == l.image);
    let mut concerned = live.iter().filter(patched).peekable();
    concerned.peek().is_some() && concerned.all(|l| l.hotpatch.as_deref() == Some(&hotpatch.id) && l.doubt.is_none())
}

/// What is true of a machine. Processes named in `ignored` need not be readable.
pub fn judge(catalog: &Catalog, machine: &Machine, ignored: &BTreeSet<String>) -> Truth {
    let mut doubts = BTreeSet::new();
    let mut passed_over = BTreeSet::new();
    let mut live: BTreeMap<(String, u32, u64), Live> = BTreeMap::new();
    for process in machine.status.iter().flat_map(|looked| &looked.document.processes) {
        if let Some(error) = &process.error {
            if ignored.iter().any(|name| name.eq_ignore_ascii_case(&process.name)) {
                passed_over.insert(process.name.clone());
            } else {
                doubts.insert(format!("process {} ({}) cannot be read: {error}", process.pid, process.name));
            }
        }
        for instance in &process.images {
            let one = live_of(catalog, process.pid, &process.name, instance);
            live.insert((one.image.clone(), one.pid, one.address), one);
        }
    }
    let live: Vec<Live> = live.into_values().collect();
    for one in &live {
        if let Some(doubt) = &one.doubt {
            doubts.insert(format!("{} in process {}: {doubt}", one.image, one.pid));
        }
    }
    let baseline = baseline_of(catalog, machine);
    let findings: Vec<Finding> = catalog
        .known_fixes()
        .into_iter()
        .map(|(cve, images)| finding(catalog, machine, &live, &doubts, cve, &images))
        .collect();
    let weakest = live.iter().map(|l| level(catalog, l)).min();
    let known = doubts.is_empty() && looked_for_all(catalog, machine);
    let effective_build = match weakest {
        Some(weakest) if known => weakest.map(|(_, build)| build.to_owned()),
        None if known => baseline.map(|b| b.build.clone()),
        _ => None,
    };
    let old = |l: &Live| {
        let file = machine.disk.iter().find(|file| file.name.eq_ignore_ascii_case(&l.image));
        file.zip(l.sha256.as_ref()).is_some_and(|(file, sha256)| file.sha256 != *sha256)
    };
    let hotpatch = catalog.hotpatches().rev().map(|(_, h)| h).find(|h| everywhere(h, &live));
    Truth {
        schema: "hotgraft.release.truth/1",
        product: catalog.product.clone(),
        machine: machine.machine.clone(),
        time: machine.time,
        os: machine.os.clone(),
        baseline: baseline.map(|b| b.id.clone()),
        file_build: baseline.map(|b| b.build.clone()),
        effective_build,
        hotpatch: hotpatch.map(|h| h.id.clone()),
        restart_pending: if live.iter().any(old) { Restart::Process } else { Restart::None },
        doubts: doubts.into_iter().collect(),
        ignored: passed_over.into_iter().collect(),
        live,
        findings,
    }
}

/// Whether memory was searched for every image that the machine has.
fn looked_for_all(catalog: &Catalog, machine: &Machine) -> bool {
    let names = catalog.baselines().flat_map(|(_, b)| &b.images).map(|i| &i.name);
    names
        .filter(|name| machine.disk.iter().any(|f| f.name.eq_ignore_ascii_case(name)))
        .all(|name| looked_for(machine, name))
}

fn looked_for(machine: &Machine, image: &str) -> bool {
    machine.status.iter().any(|looked| looked.image.eq_ignore_ascii_case(image))
}

fn finding(
    catalog: &Catalog,
    machine: &Machine,
    live: &[Live],
    doubts: &BTreeSet<String>,
    cve: String,
    images: &BTreeSet<String>,
) -> Finding {
    let (mut fixed_in, mut open_in, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    let (mut installed, mut unknown) = (false, false);
    // Of what is open: how much would a restart close, and how much waits for the image to be loaded.
    let (mut restart_helps, mut staged, mut files_open) = (0, 0, 0);
    let mut fixed_files = 0;
    for name in images {
        let file = machine.disk.iter().find(|file| file.name.eq_ignore_ascii_case(name));
        let here: Vec<&Live> = live.iter().filter(|l| l.image == *name).collect();
        if file.is_none() && here.is_empty() {
            continue;
        }
        installed = true;
        let file_fixed = file.is_some_and(|file| fixed_in_file(catalog, name, &file.sha256).contains(&cve));
        if !looked_for(machine, name) {
            unknown = true;
            reasons.push(format!("memory was not searched for {name}"));
        }
        for one in &here {
            let at = (one.pid, one.image.clone());
            if one.fixed.contains(&cve) {
                // Somebody else's change of an entry may have undone what the file has.
                if one.doubt.is_some() {
                    unknown = true;
                } else {
                    fixed_in.push(at);
                }
            } else if one.doubt.is_some() {
                unknown = true;
            } else {
                open_in.push(at);
                restart_helps += usize::from(file_fixed);
                if let Some(why) = &one.revoked {
                    reasons.push(format!("the active hotpatch was withdrawn: {why}"));
                }
            }
        }
        if here.is_empty() {
            let waits = catalog.hotpatches().any(|(_, h)| {
                catalog.revoked(&h.id).is_none()
                    && h.fixes.get(&cve).is_some_and(|images| images.contains(name))
                    && h.patches.iter().any(|p| {
                        p.image == *name
                            && machine.staged.contains(&p.sha256)
                            && file.is_some_and(|f| f.sha256 == p.base_sha256)
                    })
            });
            if file_fixed {
                fixed_files += 1;
            } else if waits {
                staged += 1;
            } else {
                files_open += 1;
                reasons.push(format!("nothing runs {name}, and its file does not have the fix"));
            }
        }
    }
    let unreadable = doubts.iter().find(|doubt| doubt.contains("cannot be read"));
    if installed && unreadable.is_some() {
        unknown = true;
    }
    let open = open_in.len();
    let state = if !installed {
        State::NotInstalled
    } else if open > 0 && restart_helps == open && files_open == 0 && staged == 0 {
        State::PendingRestart
    } else if open > 0 && (!fixed_in.is_empty() || fixed_files > 0) {
        State::Partly
    } else if open > 0 {
        State::NotFixed
    } else if unknown {
        State::Unknown
    } else if files_open > 0 {
        if fixed_in.is_empty() && fixed_files == 0 { State::NotFixed } else { State::Partly }
    } else if staged > 0 {
        State::Staged
    } else {
        State::Fixed
    };
    if unknown {
        reasons.extend(doubts.iter().cloned());
    }
    let counts = format!("in {} of {} live instances", fixed_in.len(), fixed_in.len() + open);
    let text = match state {
        State::Fixed if fixed_in.is_empty() => "nothing runs, and the file has the fix".to_owned(),
        State::Fixed => format!("fixed in all {} live instances", fixed_in.len()),
        State::NotInstalled => "none of the images is on the machine".to_owned(),
        State::PendingRestart => format!("{counts}; the files have the fix, so a restart of the others completes it"),
        State::Staged => "nothing runs; the patch is applied as soon as the image is loaded".to_owned(),
        State::Partly => format!("fixed {counts}"),
        State::Unknown => "it cannot be known".to_owned(),
        State::NotFixed => "not fixed".to_owned(),
    };
    reasons.sort();
    reasons.dedup();
    let text = std::iter::once(text).chain(reasons).collect::<Vec<_>>().join("; ");
    Finding { cve, state, fixed_in, open_in, text }
}
