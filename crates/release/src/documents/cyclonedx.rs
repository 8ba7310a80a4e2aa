//! CycloneDX 1.6: a machine is a device, its images are components, and an active hotpatch is a patch of type `monkey` in
//! the pedigree of its image: one that "dynamically modifies runtime behavior", in the standard's words.

use super::{Facts, Subject, remedy, uuid};
use crate::canonical;
use crate::catalog::Catalog;
use crate::error::Result;
use crate::truth::State;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The document.
///
/// # Errors
/// None for documents of ours.
pub fn document(facts: &Facts<'_>) -> Result<Vec<u8>> {
    let devices: Vec<Value> = facts.subjects.iter().map(|s| device(facts.catalog, s)).collect();
    let mut bom = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": facts.now,
            "tools": { "components": [{ "type": "application", "name": "hotgraft", "version": facts.tool }] },
            "component": { "type": "application", "bom-ref": "product", "name": facts.catalog.product },
        },
        "components": devices,
        "vulnerabilities": vulnerabilities(facts),
    });
    bom["serialNumber"] = format!("urn:uuid:{}", uuid(&canonical::bytes(&bom)?)).into();
    canonical::pretty(&bom)
}

fn reference(machine: &str, image: &str) -> String {
    format!("machine/{machine}/{image}")
}

fn device(catalog: &Catalog, subject: &Subject) -> Value {
    let truth = &subject.truth;
    let baseline = truth.baseline.as_deref().and_then(|id| catalog.baseline(id));
    let images = baseline.map(|b| b.images.as_slice()).unwrap_or_default();
    let components: Vec<Value> = images
        .iter()
        .map(|image| {
            let active: BTreeSet<&str> =
                truth.live.iter().filter(|l| l.image == image.name).filter_map(|l| l.hotpatch.as_deref()).collect();
            let mut component = json!({
                "type": "file",
                "bom-ref": reference(&truth.machine, &image.name),
                "name": image.name,
                "version": baseline.map(|b| b.build.as_str()).unwrap_or_default(),
                "hashes": [{ "alg": "SHA-256", "content": image.sha256 }],
            });
            let patches: Vec<Value> = active.iter().filter_map(|id| patch(catalog, id, &image.name)).collect();
            if !patches.is_empty() {
                let on = truth.live.iter().filter(|l| l.image == image.name);
                let (all, with) = on.fold((0, 0), |(all, with), l| (all + 1, with + usize::from(l.hotpatch.is_some())));
                component["pedigree"] =
                    json!({ "patches": patches, "notes": format!("active in {with} of {all} live instances") });
            }
            component
        })
        .collect();
    let property = |name: &str, value: &str| json!({ "name": format!("hotgraft:{name}"), "value": value });
    let mut properties = Vec::new();
    for (name, value) in [
        ("baseline", &truth.baseline),
        ("hotpatch", &truth.hotpatch),
        ("file_build", &truth.file_build),
        ("effective_build", &truth.effective_build),
    ] {
        properties.extend(value.as_ref().map(|value| property(name, value)));
    }
    properties.push(property("restart", if subject.plan.restart { "machine" } else { "none" }));
    json!({
        "type": "device",
        "bom-ref": format!("machine/{}", truth.machine),
        "name": truth.machine,
        "components": components,
        "properties": properties,
    })
}

fn patch(catalog: &Catalog, id: &str, image: &str) -> Option<Value> {
    let (_, hotpatch) = catalog.hotpatches().find(|(_, h)| h.id == id)?;
    let patch = hotpatch.patches.iter().find(|p| p.image == image)?;
    let cves = hotpatch.fixes.iter().filter(|(_, images)| images.contains(image));
    let resolves: Vec<Value> = cves
        .map(|(cve, _)| json!({ "type": "security", "id": cve, "name": cve, "description": format!("fixed by {} ({})", hotpatch.id, patch.sha256) }))
        .collect();
    Some(json!({ "type": "monkey", "resolves": resolves }))
}

fn vulnerabilities(facts: &Facts<'_>) -> Vec<Value> {
    let fixes = facts.catalog.known_fixes();
    let mut groups: BTreeMap<(String, State, String), BTreeSet<String>> = BTreeMap::new();
    for subject in facts.subjects {
        let baseline = subject.truth.baseline.as_deref().and_then(|id| facts.catalog.baseline(id));
        for finding in &subject.truth.findings {
            let mut detail = finding.text.clone();
            if finding.state.is_open() {
                detail += &format!(". {}", remedy(subject, finding).0);
            }
            let listed = |image: &&String| baseline.is_some_and(|b| b.images.iter().any(|i| i.name == **image));
            let images: Vec<&String> = fixes.get(&finding.cve).into_iter().flatten().filter(listed).collect();
            let references = groups.entry((finding.cve.clone(), finding.state, detail)).or_default();
            references.extend(images.iter().map(|image| reference(&subject.truth.machine, image)));
            if images.is_empty() {
                references.insert(format!("machine/{}", subject.truth.machine));
            }
        }
    }
    groups
        .into_iter()
        .map(|((cve, state, detail), references)| {
            let mut analysis = json!({ "state": analysis(state), "detail": detail });
            if state == State::NotInstalled {
                analysis["justification"] = "code_not_present".into();
            }
            if matches!(state, State::NotFixed | State::Partly | State::PendingRestart) {
                analysis["response"] = json!(["update"]);
            }
            let affects: Vec<Value> = references.into_iter().map(|reference| json!({ "ref": reference })).collect();
            json!({ "id": cve, "analysis": analysis, "affects": affects })
        })
        .collect()
}

fn analysis(state: State) -> &'static str {
    match state {
        State::Fixed => "resolved",
        State::NotInstalled => "not_affected",
        State::Unknown => "in_triage",
        State::PendingRestart | State::Staged | State::Partly | State::NotFixed => "exploitable",
    }
}
