//! CSAF 2.0, profile VEX: what each release fixes, and what each machine has; with what has to be restarted for it.

use super::{Facts, remedy};
use crate::canonical;
use crate::catalog::{Catalog, Event};
use crate::error::Result;
use crate::truth::State;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The document.
///
/// # Errors
/// None for documents of ours.
pub fn document(facts: &Facts<'_>) -> Result<Vec<u8>> {
    let catalog = facts.catalog;
    let fixes = catalog.known_fixes();
    let vulnerabilities: Vec<Value> = fixes.keys().map(|cve| vulnerability(facts, cve)).collect();
    let mut document = json!({
        "document": {
            "category": "csaf_vex",
            "csaf_version": "2.0",
            "lang": "en",
            "title": format!("Patch state of {}", catalog.product),
            "publisher": { "category": "vendor", "name": catalog.publisher, "namespace": catalog.publisher },
            "notes": [{
                "category": "general",
                "title": "How it was found",
                "text": "A machine is called fixed only if every live instance of every image concerned has the fix in memory.",
            }],
            "tracking": {
                "status": "final",
                "version": "1",
                "initial_release_date": facts.now,
                "current_release_date": facts.now,
                "revision_history": [{ "number": "1", "date": facts.now, "summary": "State at this time" }],
                "generator": { "engine": { "name": "hotgraft", "version": facts.tool } },
            },
        },
        "product_tree": tree(facts),
        "vulnerabilities": vulnerabilities,
    });
    let id = canonical::sha256(&canonical::bytes(&document)?);
    document["document"]["tracking"]["id"] = format!("HG-{}", &id[..32]).into();
    canonical::pretty(&document)
}

fn baseline_id(id: &str) -> String {
    format!("baseline:{id}")
}

fn hotpatch_id(id: &str) -> String {
    format!("hotpatch:{id}")
}

fn patched_id(id: &str) -> String {
    format!("patched:{id}")
}

fn machine_id(id: &str) -> String {
    format!("machine:{id}")
}

fn tree(facts: &Facts<'_>) -> Value {
    let catalog = facts.catalog;
    let leaf = |category: &str, version: &str, id: String, name: String| json!({ "category": category, "name": version, "product": { "product_id": id, "name": name } });
    let mut versions = Vec::new();
    let mut relationships = Vec::new();
    for (_, baseline) in catalog.baselines() {
        let name = format!("{} {} ({})", catalog.product, baseline.build, baseline.id);
        versions.push(leaf(
            "product_version",
            &format!("{} ({})", baseline.build, baseline.id),
            baseline_id(&baseline.id),
            name,
        ));
    }
    for (_, hotpatch) in catalog.hotpatches() {
        let name = format!("{} hotpatch {}", catalog.product, hotpatch.id);
        versions.push(leaf(
            "patch_level",
            &format!("hotpatch {}", hotpatch.id),
            hotpatch_id(&hotpatch.id),
            name.clone(),
        ));
        relationships.push(json!({
            "category": "installed_on",
            "product_reference": hotpatch_id(&hotpatch.id),
            "relates_to_product_reference": baseline_id(&hotpatch.baseline),
            "full_product_name": { "product_id": patched_id(&hotpatch.id), "name": format!("{name} on {}", hotpatch.baseline) },
        }));
    }
    let mut tree = json!({
        "branches": [{
            "category": "vendor",
            "name": catalog.publisher,
            "branches": [{ "category": "product_name", "name": catalog.product, "branches": versions }],
        }],
    });
    if !relationships.is_empty() {
        tree["relationships"] = relationships.into();
    }
    if !facts.subjects.is_empty() {
        let machine =
            |id: &str| json!({ "product_id": machine_id(id), "name": format!("{} on machine {id}", catalog.product) });
        tree["full_product_names"] =
            facts.subjects.iter().map(|s| machine(&s.truth.machine)).collect::<Vec<_>>().into();
    }
    tree
}

/// Products by status, and remedies by (text, restart).
#[derive(Default)]
struct Statuses {
    fixed: Vec<String>,
    affected: Vec<String>,
    not_affected: Vec<String>,
    investigated: Vec<String>,
    remedies: BTreeMap<(String, &'static str), Vec<String>>,
}

fn vulnerability(facts: &Facts<'_>, cve: &str) -> Value {
    let mut statuses = Statuses::default();
    releases(facts.catalog, cve, &mut statuses);
    for subject in facts.subjects {
        let Some(finding) = subject.truth.findings.iter().find(|f| f.cve == cve) else { continue };
        let id = machine_id(&subject.truth.machine);
        match finding.state {
            State::Fixed => statuses.fixed.push(id),
            State::NotInstalled => statuses.not_affected.push(id),
            State::Unknown => statuses.investigated.push(id),
            _ => {
                statuses.remedies.entry(remedy(subject, finding)).or_default().push(id.clone());
                statuses.affected.push(id);
            }
        }
    }
    let lists = [
        ("fixed", &statuses.fixed),
        ("known_affected", &statuses.affected),
        ("known_not_affected", &statuses.not_affected),
        ("under_investigation", &statuses.investigated),
    ];
    let status: serde_json::Map<String, Value> =
        lists.into_iter().filter(|(_, ids)| !ids.is_empty()).map(|(name, ids)| (name.to_owned(), json!(ids))).collect();
    let remediations: Vec<Value> = statuses
        .remedies
        .iter()
        .map(|((text, restart), ids)| {
            json!({ "category": "vendor_fix", "details": text, "product_ids": ids, "restart_required": { "category": restart } })
        })
        .collect();
    let mut vulnerability = json!({
        "cve": cve,
        "notes": [{ "category": "description", "text": format!("{cve} in {}", facts.catalog.product) }],
        "product_status": status,
    });
    if !remediations.is_empty() {
        vulnerability["remediations"] = remediations.into();
    }
    if !statuses.not_affected.is_empty() {
        vulnerability["flags"] = json!([{ "label": "component_not_present", "product_ids": statuses.not_affected }]);
    }
    vulnerability
}

/// What is true of the releases themselves: a baseline without its hotpatches, and with each of them.
fn releases(catalog: &Catalog, cve: &str, statuses: &mut Statuses) {
    for (_, baseline) in catalog.baselines() {
        let id = baseline_id(&baseline.id);
        if catalog.fixed_in_files(&baseline.id).contains(cve) {
            statuses.fixed.push(id);
            statuses.fixed.extend(of(catalog, &baseline.id).into_iter().map(|(id, _)| patched_id(&id)));
            continue;
        }
        let patch = catalog.latest_hotpatch(&baseline.id).filter(|h| h.fixes.contains_key(cve));
        let remedy = match patch {
            Some(hotpatch) => (format!("Apply hotpatch {}; no restart is needed.", hotpatch.id), "none"),
            None => match later_fix(catalog, cve) {
                Some(later) => (format!("Install baseline {later} and restart the machine."), "system"),
                None => ("No release that counts fixes it yet; wait for the next one.".to_owned(), "none"),
            },
        };
        let mut affected = vec![id];
        for (hotpatch, fixes) in of(catalog, &baseline.id) {
            let id = patched_id(&hotpatch);
            // A withdrawn hotpatch fixes nothing that can be relied upon.
            if fixes.contains(&cve.to_owned()) && catalog.revoked(&hotpatch).is_none() {
                statuses.fixed.push(id);
            } else {
                affected.push(id);
            }
        }
        statuses.remedies.entry(remedy).or_default().extend(affected.iter().cloned());
        statuses.affected.extend(affected);
    }
}

fn of(catalog: &Catalog, baseline: &str) -> Vec<(String, Vec<String>)> {
    let of = catalog.hotpatches().filter(|(_, h)| h.baseline == baseline);
    of.map(|(_, h)| (h.id.clone(), h.fixes.keys().cloned().collect())).collect()
}

/// The first baseline that fixes it.
fn later_fix<'a>(catalog: &'a Catalog, cve: &str) -> Option<&'a str> {
    catalog.history.iter().find_map(|entry| match &entry.event {
        Event::Baseline(baseline) if baseline.fixes.contains_key(cve) => Some(baseline.id.as_str()),
        _ => None,
    })
}
