//! What a machine has to do next. No restart is demanded where none is needed.

use crate::catalog::{Baseline, Catalog, Hotpatch};
use crate::machine::Machine;
use crate::rollout::{Rollout, Turn};
use crate::time::Time;
use crate::truth::{self, Live, Truth};
use crate::workshop::patch_path;
use serde::Serialize;
use std::collections::BTreeSet;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing.
    None,
    /// Apply a hotpatch: no restart.
    Hotpatch,
    /// Take out a hotpatch that was withdrawn; what it superseded becomes active again.
    RollBack,
    /// Restart what still runs old files.
    FinishRestart,
    /// Install the latest baseline, and restart.
    Baseline,
    /// Wait: the rollout has not come to this machine.
    Wait,
    /// Nothing can be done without somebody looking at it.
    NotEligible,
}

/// A patch to apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Image.
    pub image: String,
    /// Path in the catalog.
    pub target: String,
    /// SHA-256 of the patch.
    pub sha256: String,
    /// Processes to apply it in.
    pub pids: Vec<u32>,
}

/// The plan for a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// `hotgraft.release.plan/1`.
    pub schema: &'static str,
    /// Machine.
    pub machine: String,
    /// The time that it is for.
    pub now: Time,
    /// What to do.
    pub action: Action,
    /// Whether a restart of the machine is needed for it.
    pub restart: bool,
    /// The release to come to.
    pub release: Option<String>,
    /// Baselines that the machine is behind: more than none means that it fell out of the chain.
    pub baselines_behind: usize,
    /// Hotpatches of its baseline that it does not have, the revoked ones not counted.
    pub hotpatches_behind: usize,
    /// By when a restart will be needed, if it is not needed now.
    pub restart_by: Option<Time>,
    /// CVEs that stay open until it is done.
    pub open: Vec<String>,
    /// Patches to apply or to take out.
    pub steps: Vec<Step>,
    /// Its turn in the rollout.
    pub turn: Option<Turn>,
    /// Why.
    pub reason: String,
}

/// What to do with a machine that is in a state.
pub fn plan(catalog: &Catalog, machine: &Machine, truth: &Truth, rollout: Option<&Rollout>, now: Time) -> Plan {
    let catalog = &catalog.at(now);
    let mut plan = Plan {
        schema: "hotgraft.release.plan/1",
        machine: machine.machine.clone(),
        now,
        action: Action::None,
        restart: false,
        release: None,
        baselines_behind: 0,
        hotpatches_behind: 0,
        restart_by: None,
        open: truth.findings.iter().filter(|f| f.state.is_open()).map(|f| f.cve.clone()).collect(),
        steps: Vec::new(),
        turn: None,
        reason: String::new(),
    };
    decide(catalog, machine, truth, now, &mut plan);
    if let Some(rollout) = rollout
        && plan.release.as_deref() == Some(&rollout.release)
        && matches!(plan.action, Action::Hotpatch | Action::Baseline)
    {
        let turn = rollout.turn(&catalog.product, &machine.machine, now);
        if !turn.open {
            (plan.action, plan.restart) = (Action::Wait, false);
            plan.steps.clear();
            plan.reason = turn.text.clone();
        }
        plan.turn = Some(turn);
    }
    plan
}

fn decide(catalog: &Catalog, machine: &Machine, truth: &Truth, now: Time, plan: &mut Plan) {
    let Some(latest) = catalog.latest_baseline() else {
        "the catalog has no release yet".clone_into(&mut plan.reason);
        return;
    };
    let Some(installed) = truth::baseline_of(catalog, machine) else {
        plan.action = Action::NotEligible;
        plan.reason = match stray(catalog, machine) {
            Some(file) => format!(
                "{file} is of no release: an update from elsewhere changed the lineage; install {} with a restart",
                latest.id
            ),
            None => "no image of the product is on the machine".to_owned(),
        };
        return;
    };
    plan.baselines_behind = catalog.baselines().rev().take_while(|(_, b)| b.id != installed.id).count();
    if installed.id == latest.id {
        on_latest(catalog, machine, truth, latest, plan);
    } else {
        behind(catalog, machine, truth, installed, latest, now, plan);
    }
}

/// A file of the machine that has the name of an image and the content of none.
fn stray(catalog: &Catalog, machine: &Machine) -> Option<String> {
    let images: Vec<_> = catalog.baselines().flat_map(|(_, b)| &b.images).collect();
    let ours = machine.disk.iter().filter(|f| images.iter().any(|i| i.name.eq_ignore_ascii_case(&f.name)));
    let mut ours: Vec<_> = ours.collect();
    let none = ours.iter().find(|f| !images.iter().any(|i| i.sha256 == f.sha256)).map(|f| f.name.clone());
    // Each is known, but they are of different baselines.
    none.or_else(|| ours.pop().map(|f| format!("the set of files with {}", f.name)))
}

/// Why a machine on the right baseline cannot take a hotpatch.
fn obstacle(catalog: &Catalog, machine: &Machine, truth: &Truth) -> Option<String> {
    let missing: Vec<&str> = catalog
        .requires
        .iter()
        .filter(|name| machine.attributes.get(*name) != Some(&true))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        return Some(format!("the machine does not have: {}", missing.join(", ")));
    }
    truth.live.iter().find_map(|l| l.doubt.as_ref().map(|doubt| format!("{} in process {}: {doubt}", l.image, l.pid)))
}

fn on_latest(catalog: &Catalog, machine: &Machine, truth: &Truth, latest: &Baseline, plan: &mut Plan) {
    let on_disk = |l: &Live| {
        machine.disk.iter().any(|f| f.name.eq_ignore_ascii_case(&l.image) && Some(&f.sha256) == l.sha256.as_ref())
    };
    let old: Vec<&Live> = truth.live.iter().filter(|l| l.sha256.is_some() && !on_disk(l)).collect();
    if !old.is_empty() {
        plan.action = Action::FinishRestart;
        plan.release = Some(latest.id.clone());
        let pids: BTreeSet<String> = old.iter().map(|l| format!("{} ({})", l.pid, l.process)).collect();
        let pids: Vec<String> = pids.into_iter().collect();
        plan.reason =
            format!("the files are those of {}, but these processes run older ones: {}", latest.id, pids.join(", "));
        return;
    }
    let wanted = catalog.latest_hotpatch(&latest.id);
    fn has(l: &Live) -> Option<&str> {
        l.hotpatch.as_deref()
    }
    plan.hotpatches_behind = match wanted {
        None => 0,
        Some(_) => {
            let lowest = truth.live.iter().map(|l| sequence(catalog, has(l))).min().unwrap_or(0);
            let later =
                catalog.hotpatches().filter(|(_, h)| h.baseline == latest.id && catalog.revoked(&h.id).is_none());
            later.filter(|(_, h)| h.sequence > lowest && steps_for(h, machine, truth).iter().any(|_| true)).count()
        }
    };
    let withdrawn: Vec<&Live> = truth.live.iter().filter(|l| l.revoked.is_some()).collect();
    let steps = wanted.map(|wanted| steps_for(wanted, machine, truth)).unwrap_or_default();
    // Later than what was withdrawn: the one transition replaces it.
    let replaces = |l: &&Live| {
        let image = |p: &Step| p.image == l.image && p.pids.contains(&l.pid);
        wanted.is_some_and(|w| w.sequence > sequence(catalog, has(l))) && steps.iter().any(image)
    };
    if let Some(left) = withdrawn.iter().find(|l| !replaces(l)) {
        let why = left.revoked.clone().unwrap_or_default();
        let id = left.hotpatch.clone().unwrap_or_default();
        if withdrawn.iter().any(|l| !l.revertible) {
            plan.action = Action::FinishRestart;
            plan.reason =
                format!("{id} was withdrawn ({why}) and cannot be taken out: restart the processes that have it");
        } else {
            plan.action = Action::RollBack;
            plan.reason = format!("{id} was withdrawn: {why}");
        }
        plan.release = Some(wanted.map_or_else(|| latest.id.clone(), |w| w.id.clone()));
        for l in &withdrawn {
            let patch = catalog.hotpatches().find(|(_, h)| Some(h.id.as_str()) == has(l));
            if let Some((_, h)) = patch
                && let Some(p) = h.patches.iter().find(|p| p.image == l.image)
            {
                match plan.steps.iter_mut().find(|s| s.sha256 == p.sha256) {
                    Some(step) => step.pids.push(l.pid),
                    None => plan.steps.push(Step {
                        image: l.image.clone(),
                        target: patch_path(h, p),
                        sha256: p.sha256.clone(),
                        pids: vec![l.pid],
                    }),
                }
            }
        }
        return;
    }
    let Some(wanted) = wanted.filter(|_| !steps.is_empty()) else {
        if !truth.doubts.is_empty() {
            plan.action = Action::NotEligible;
            plan.reason = truth.doubts.join("; ");
            return;
        }
        plan.reason = match wanted {
            Some(w) => format!("{} is everywhere", w.id),
            None => format!("{} is the latest, and it has no hotpatch", latest.id),
        };
        return;
    };
    plan.release = Some(wanted.id.clone());
    if let Some(obstacle) = obstacle(catalog, machine, truth) {
        plan.action = Action::NotEligible;
        plan.reason = obstacle;
        return;
    }
    plan.action = Action::Hotpatch;
    plan.reason = format!("{} is for {}, which the machine has; no restart", wanted.id, latest.id);
    plan.steps = steps;
}

fn sequence(catalog: &Catalog, id: Option<&str>) -> u32 {
    id.and_then(|id| catalog.hotpatches().find(|(_, h)| h.id == id)).map_or(0, |(_, h)| h.sequence)
}

/// Where a hotpatch is missing: live instances without it, and images that nothing runs and that have it not staged.
fn steps_for(hotpatch: &Hotpatch, machine: &Machine, truth: &Truth) -> Vec<Step> {
    let mut steps = Vec::new();
    for patch in &hotpatch.patches {
        let base = |l: &&Live| l.image == patch.image && l.sha256.as_ref() == Some(&patch.base_sha256);
        let live: Vec<&Live> = truth.live.iter().filter(base).collect();
        let pids: Vec<u32> =
            live.iter().filter(|l| l.hotpatch.as_deref() != Some(&hotpatch.id)).map(|l| l.pid).collect();
        let on_disk =
            machine.disk.iter().any(|f| f.name.eq_ignore_ascii_case(&patch.image) && f.sha256 == patch.base_sha256);
        let to_stage = live.is_empty() && on_disk && !machine.staged.contains(&patch.sha256);
        if !pids.is_empty() || to_stage {
            let (image, sha256) = (patch.image.clone(), patch.sha256.clone());
            steps.push(Step { image, target: patch_path(hotpatch, patch), sha256, pids });
        }
    }
    steps
}

/// On an older baseline: a restart is needed if something is open that the latest releases fix, or support ends.
fn behind(
    catalog: &Catalog,
    machine: &Machine,
    truth: &Truth,
    installed: &Baseline,
    latest: &Baseline,
    now: Time,
    plan: &mut Plan,
) {
    plan.release = Some(latest.id.clone());
    let behind = match plan.baselines_behind {
        1 => "1 baseline behind".to_owned(),
        n => format!("{n} baselines behind"),
    };
    let mut fixed: BTreeSet<&str> = catalog.fixed_in_files(&latest.id);
    let hotpatch = catalog.latest_hotpatch(&latest.id);
    fixed.extend(hotpatch.iter().flat_map(|h| h.fixes.keys().map(String::as_str)));
    let gained: Vec<&str> = plan.open.iter().map(String::as_str).filter(|cve| fixed.contains(cve)).collect();
    let withdrawn = truth.live.iter().any(|l| l.revoked.is_some());
    let need = if now >= installed.supported_until {
        Some(format!("support of {} ended at {}", installed.id, installed.supported_until))
    } else if let Some(hotpatch) = catalog.latest_hotpatch(&installed.id).filter(|h| {
        // What its own baseline still offers goes first if it closes everything.
        !gained.is_empty() && gained.iter().all(|cve| h.fixes.contains_key(*cve))
    }) {
        let steps = steps_for(hotpatch, machine, truth);
        if obstacle(catalog, machine, truth).is_none() && !steps.is_empty() {
            plan.action = Action::Hotpatch;
            plan.release = Some(hotpatch.id.clone());
            plan.steps = steps;
            plan.restart_by = Some(installed.supported_until);
            plan.reason = format!("{} closes everything that {} does; {behind}", hotpatch.id, latest.id);
            return;
        }
        Some(format!("{} are open, and {} cannot be applied here", gained.join(", "), hotpatch.id))
    } else if !gained.is_empty() {
        Some(format!("{} are open, and only {} fixes them", gained.join(", "), latest.id))
    } else if withdrawn {
        Some("the active hotpatch was withdrawn".to_owned())
    } else {
        None
    };
    match need {
        Some(need) => {
            (plan.action, plan.restart) = (Action::Baseline, true);
            let cause = latest.cause.text();
            plan.reason = format!("fell out of the chain, {behind}: {need} ({cause})");
        }
        None => {
            plan.restart_by = Some(installed.supported_until);
            plan.reason = format!(
                "{behind}, but nothing is open that {} fixes; restart by {}",
                latest.id, installed.supported_until
            );
        }
    }
}
