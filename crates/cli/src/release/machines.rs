//! What machines and their owners ask of a catalog: is it to be trusted, what to do next, what is true.

use super::args::{CatalogArgs, CollectArgs, Document, ExportArgs, MachineArgs, PlanArgs, ReportArgs, VerifyArgs};
use crate::args::Format;
use crate::output::{self, Exit, Terminal};
use anyhow::{Context, Result, ensure};
use hotgraft_release::documents::{Facts, Subject, csaf, cyclonedx, intune, lines, ocsf, openvex, prometheus};
use hotgraft_release::files::Folder;
use hotgraft_release::machine::Machine;
use hotgraft_release::plan::{Plan, plan as plan_one};
use hotgraft_release::rollout::Rollout;
use hotgraft_release::store::{Level, Store, day_of};
use hotgraft_release::tuf::{Client, Trusted};
use hotgraft_release::workshop::patch_path;
use hotgraft_release::{Catalog, Error, Time, canonical, truth};
use hotgraft_signer::UnixTime;
use rayon::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

/// A catalog that was found in order, and the time that counts.
struct Opened {
    trusted: Trusted,
    source: Folder,
    now: Time,
}

fn open(args: &CatalogArgs) -> Result<Opened> {
    let now = args.now.unwrap_or_else(|| Time(UnixTime::now()));
    // A vendor's folder has what is served one folder deeper.
    let inner = args.catalog.join("public");
    let source = Folder(if inner.join("metadata").is_dir() { inner } else { args.catalog.clone() });
    let client = match &args.state {
        Some(state) if state.exists() => Client::resume(&output::read(state)?)?,
        _ => {
            let root = args.root.as_deref().context("--root is needed: there is no remembered state yet")?;
            Client::new(&output::read(root)?)?
        }
    };
    let trusted = client.update(&source, now)?;
    Ok(Opened { trusted, source, now })
}

impl Opened {
    /// Only what was found in order is remembered.
    fn remember(&self, args: &CatalogArgs) -> Result<()> {
        match &args.state {
            Some(state) => output::write_bytes(state, &canonical::pretty(&self.trusted.remembered)?),
            None => Ok(()),
        }
    }

    fn catalog(&self) -> Catalog {
        self.trusted.catalog.at(self.now)
    }
}

/// A patch: its name in the catalog, its bytes, and its provenance.
pub type CurrentPatch = (String, Vec<u8>, Option<Vec<u8>>);

/// The newest patches of every baseline that are not withdrawn.
pub fn current_patches(args: &CatalogArgs) -> Result<Vec<CurrentPatch>> {
    let opened = open(args)?;
    let catalog = opened.catalog();
    let mut patches = Vec::new();
    for (_, hotpatch) in catalog.hotpatches() {
        if catalog.revoked(&hotpatch.id).is_some() {
            continue;
        }
        for patch in &hotpatch.patches {
            let name = patch_path(hotpatch, patch);
            let bytes = opened.trusted.target(&opened.source, &name)?;
            let provenance = opened.trusted.target(&opened.source, &format!("{name}.intoto.json")).ok();
            patches.push((name, bytes, provenance));
        }
    }
    opened.remember(args)?;
    Ok(patches)
}

/// `hotgraft release verify`.
pub fn verify(args: &VerifyArgs, _: &Terminal) -> Result<Exit> {
    let judged = open(&args.catalog).and_then(|opened| {
        let files = opened.trusted.check_files(&opened.source)?;
        opened.remember(&args.catalog)?;
        Ok((opened, files))
    });
    let (opened, (files, bytes)) = match judged {
        Ok(found) => found,
        Err(error) => {
            let Some(untrusted @ Error::Untrusted { key, file, .. }) = error.downcast_ref::<Error>() else {
                return Err(error);
            };
            let report = json!({"schema": "hotgraft.release.verify/1", "ok": false, "key": key, "file": file, "text": untrusted.to_string()});
            match args.format {
                Format::Json => output::write_bytes(Path::new("-"), &output::json(&report)?)?,
                Format::Text => output::print_text(&format!("not to be trusted: {untrusted}\n"))?,
            }
            return Ok(Exit::No);
        }
    };
    let figures = opened.trusted.figures();
    match args.format {
        Format::Json => {
            let report = json!({"schema": "hotgraft.release.verify/1", "ok": true, "update": figures, "files": files, "bytes": bytes});
            output::write_bytes(Path::new("-"), &output::json(&report)?)?;
        }
        Format::Text => {
            let [root, targets, snapshot, timestamp] = figures.versions;
            output::print_text(&format!(
                "in order: root {root}, targets {targets}, snapshot {snapshot}, timestamp {timestamp}; {} entries, {files} files, {bytes} bytes; counts until {}\n",
                figures.entries, figures.expires
            ))?;
        }
    }
    Ok(Exit::Done)
}

fn machines(args: &MachineArgs) -> Result<Vec<Machine>> {
    let mut all = Vec::new();
    for path in &args.machines {
        all.push(Machine::read(&path.display().to_string(), &output::read(path)?)?);
    }
    if let Some(path) = &args.fleet {
        let text = String::from_utf8(output::read(path)?).with_context(|| format!("{}: not UTF-8", path.display()))?;
        all.extend(Machine::read_lines(&path.display().to_string(), &text)?);
    }
    all.sort_by(|a, b| a.machine.cmp(&b.machine));
    let twice = all.windows(2).find(|pair| pair[0].machine == pair[1].machine);
    ensure!(
        twice.is_none(),
        "{}: this machine is there twice",
        twice.map(|p| p[0].machine.as_str()).unwrap_or_default()
    );
    Ok(all)
}

fn subjects(catalog: &Catalog, args: &MachineArgs, rollout: Option<&Rollout>, now: Time) -> Result<Vec<Subject>> {
    let ignored: BTreeSet<String> = args.ignore_unreadable.iter().cloned().collect();
    let judge = |machine: &Machine| {
        let truth = truth::judge(catalog, machine, &ignored);
        let plan = plan_one(catalog, machine, &truth, rollout, now);
        Subject { truth, plan }
    };
    Ok(machines(args)?.par_iter().map(judge).collect())
}

/// `hotgraft release plan`.
pub fn plan(args: &PlanArgs, _: &Terminal) -> Result<Exit> {
    let opened = open(&args.catalog)?;
    let rollout = match &args.rollout {
        Some(path) => {
            let text =
                String::from_utf8(output::read(path)?).with_context(|| format!("{}: not UTF-8", path.display()))?;
            let rollout: Rollout =
                toml::from_str(&text).with_context(|| format!("{}: expected a rollout", path.display()))?;
            rollout.check()?;
            Some(rollout)
        }
        None => None,
    };
    let subjects = subjects(&opened.catalog(), &args.machines, rollout.as_ref(), opened.now)?;
    opened.remember(&args.catalog)?;
    let plans: Vec<&Plan> = subjects.iter().map(|subject| &subject.plan).collect();
    match args.format {
        Format::Json => {
            let report = json!({"schema": "hotgraft.release.plans/1", "product": opened.trusted.catalog.product, "now": opened.now, "plans": plans});
            output::write_bytes(Path::new("-"), &output::json(&report)?)?;
        }
        Format::Text => {
            let mut out = String::new();
            for plan in plans {
                let action = serde_json::to_value(plan.action)?;
                let restart = if plan.restart { ", restart" } else { "" };
                let release = plan.release.as_deref().map(|r| format!(" {r}")).unwrap_or_default();
                let action = action.as_str().unwrap_or_default().replace('_', " ");
                out += &format!("{}: {action}{release}{restart}\n  {}\n", plan.machine, plan.reason);
                if !plan.open.is_empty() {
                    out += &format!("  open      {}\n", plan.open.join(", "));
                }
                for step in &plan.steps {
                    out += &format!("  {:<9} {} in processes {:?}\n", step.image, step.target, step.pids);
                }
            }
            output::print_text(&out)?;
        }
    }
    Ok(Exit::Done)
}

/// `hotgraft release export`.
pub fn export(args: &ExportArgs, _: &Terminal) -> Result<Exit> {
    let opened = open(&args.catalog)?;
    let catalog = opened.catalog();
    let subjects = subjects(&catalog, &args.machines, None, opened.now)?;
    let facts = Facts { catalog: &catalog, subjects: &subjects, now: opened.now, tool: env!("CARGO_PKG_VERSION") };
    let bytes = match args.format {
        Document::Json => {
            let truths: Vec<&truth::Truth> = subjects.iter().map(|subject| &subject.truth).collect();
            let report = json!({"schema": "hotgraft.release.truths/1", "product": catalog.product, "now": opened.now, "machines": truths});
            output::json(&report)?
        }
        Document::Jsonl => lines::document(&facts)?,
        Document::Openvex => openvex::document(&facts)?,
        Document::Csaf => csaf::document(&facts)?,
        Document::Cyclonedx => cyclonedx::document(&facts)?,
        Document::Ocsf => ocsf::document(&facts)?,
        Document::Prometheus => prometheus::document(&facts),
        Document::IntuneRules => intune::rules(&catalog.publisher)?,
        Document::IntuneScript => intune::script(),
    };
    opened.remember(&args.catalog)?;
    output::write_bytes(&args.output, &bytes)?;
    Ok(Exit::Done)
}

/// `hotgraft release collect`.
pub fn collect(args: &CollectArgs, terminal: &Terminal) -> Result<Exit> {
    let opened = open(&args.catalog)?;
    let catalog = opened.catalog();
    let subjects = subjects(&catalog, &args.machines, None, opened.now)?;
    let levels: Vec<(&str, Level)> = subjects.iter().map(|s| (s.truth.machine.as_str(), Level::of(s))).collect();
    let mut store = Store::open(&args.store)?;
    store.set_product(&catalog.product)?;
    let count = store.record(day_of(opened.now), levels.iter().map(|(name, level)| (*name, level)))?;
    opened.remember(&args.catalog)?;
    terminal.note(format!("{}: {count} machines on {}", args.store.display(), opened.now.day()));
    Ok(Exit::Done)
}

/// `hotgraft release report`.
pub fn report(args: &ReportArgs, _: &Terminal) -> Result<Exit> {
    ensure!(args.store.exists(), "{}: there is no such store", args.store.display());
    let store = Store::open(&args.store)?;
    let page = hotgraft_release::report::page(&store, &store.product()?, args.day.map(day_of))?;
    output::write_bytes(&args.output, page.as_bytes())?;
    Ok(Exit::Done)
}
