//! OpenVEX 0.2.0: `fixed` only where every live instance has the fix; the product is an image on a machine, named by its
//! hash, with the active hotpatch as a part of it.

use super::{Facts, Subject, escaped, remedy};
use crate::canonical;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::truth::State;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The document.
///
/// # Errors
/// [`Error::Malformed`] if there is no CVE to speak of.
pub fn document(facts: &Facts<'_>) -> Result<Vec<u8>> {
    // Machines of which the same is true share a statement.
    let mut groups: BTreeMap<(String, State, String, String), Vec<Value>> = BTreeMap::new();
    for subject in facts.subjects {
        for finding in &subject.truth.findings {
            let action = remedy(subject, finding).0;
            let key = (finding.cve.clone(), finding.state, finding.text.clone(), action);
            groups.entry(key).or_default().extend(products(facts.catalog, subject, &finding.cve));
        }
    }
    let statements: Vec<Value> = groups
        .into_iter()
        .filter(|(_, products)| !products.is_empty())
        .map(|((cve, state, text, action), products)| {
            let mut statement = json!({
                "vulnerability": { "name": cve },
                "products": products,
                "status": status(state),
                "status_notes": text,
                "timestamp": facts.now,
            });
            match state {
                State::NotInstalled => statement["justification"] = "component_not_present".into(),
                state if status(state) == "affected" => statement["action_statement"] = action.into(),
                _ => {}
            }
            statement
        })
        .collect();
    if statements.is_empty() {
        return Err(Error::malformed(
            "the catalog",
            "a CVE that a release fixes: an OpenVEX document has at least one statement, and there is none to make",
        ));
    }
    let mut document = json!({
        "@context": "https://openvex.dev/ns/v0.2.0",
        "author": facts.catalog.publisher,
        "role": "Vendor",
        "timestamp": facts.now,
        "version": 1,
        "tooling": format!("hotgraft {}", facts.tool),
        "statements": statements,
    });
    let id = canonical::sha256(&canonical::bytes(&document)?);
    document["@id"] = format!("urn:hotgraft:openvex:{id}").into();
    canonical::pretty(&document)
}

fn status(state: State) -> &'static str {
    match state {
        State::Fixed => "fixed",
        State::NotInstalled => "not_affected",
        State::Unknown => "under_investigation",
        State::PendingRestart | State::Staged | State::Partly | State::NotFixed => "affected",
    }
}

/// The images of a machine that a fix concerns.
fn products(catalog: &Catalog, subject: &Subject, cve: &str) -> Vec<Value> {
    let truth = &subject.truth;
    let fixes = catalog.known_fixes();
    let baseline = truth.baseline.as_deref().and_then(|id| catalog.baseline(id));
    let images = fixes.get(cve).into_iter().flatten();
    images
        .map(|image| {
            let (namespace, machine) = (escaped(&catalog.product.to_lowercase()), escaped(&truth.machine));
            let version = baseline.map(|b| format!("@{}", escaped(&b.build))).unwrap_or_default();
            let id = format!("pkg:generic/{namespace}/{}{version}?machine={machine}", escaped(image));
            let mut product = json!({ "@id": id, "identifiers": { "purl": id } });
            if let Some(file) = baseline.and_then(|b| b.images.iter().find(|i| i.name == *image)) {
                product["hashes"] = json!({ "sha-256": file.sha256 });
            }
            let active = truth.live.iter().filter(|l| l.image == *image).filter_map(|l| l.hotpatch.as_deref());
            let mut parts: BTreeMap<&str, Value> = BTreeMap::new();
            for id in active {
                let patch = catalog.hotpatches().find(|(_, h)| h.id == id).and_then(|(_, h)| h.patches.iter().find(|p| p.image == *image));
                if let Some(patch) = patch {
                    let part = json!({ "@id": format!("pkg:generic/{namespace}/{}@{}", escaped(&patch.file), escaped(id)), "hashes": { "sha-256": patch.sha256 } });
                    parts.insert(id, part);
                }
            }
            if !parts.is_empty() {
                product["subcomponents"] = parts.into_values().collect::<Vec<_>>().into();
            }
            product
        })
        .collect()
}
