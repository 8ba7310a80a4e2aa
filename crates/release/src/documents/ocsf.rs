//! OCSF events of class `patch_state` (5004, category Discovery), one to a line for each machine and release.

use super::Facts;
use crate::catalog::Event;
use crate::error::{Error, Result};
use crate::truth::everywhere;
use serde_json::{Value, json};

const VERSION: &str = "1.5.0";
const CLASS: u32 = 5004;

/// The lines.
///
/// # Errors
/// None for documents of ours.
pub fn document(facts: &Facts<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for subject in facts.subjects {
        let event = event(facts, subject);
        out.extend(serde_json::to_vec(&event).map_err(|e| Error::malformed("an event", e.to_string()))?);
        out.push(b'\n');
    }
    Ok(out)
}

fn event(facts: &Facts<'_>, subject: &super::Subject) -> Value {
    let catalog = facts.catalog;
    let truth = &subject.truth;
    let product = json!({ "name": catalog.product, "vendor_name": catalog.publisher });
    let mut articles = Vec::new();
    for entry in &catalog.history {
        let (id, kb, title, installed, superseded) = match &entry.event {
            Event::Baseline(b) => {
                let later = catalog.baselines().any(|(_, other)| other.supersedes.as_deref() == Some(&b.id));
                let has =
                    truth.baseline.as_deref() == Some(&b.id) && truth.restart_pending == crate::truth::Restart::None;
                (&b.id, &b.kb, format!("baseline {} ({})", b.id, b.build), has, later)
            }
            Event::Hotpatch(h) => {
                let later = catalog.hotpatches().any(|(_, other)| other.supersedes.as_deref() == Some(&h.id));
                (
                    &h.id,
                    &h.kb,
                    format!("hotpatch {} (as secure as {})", h.id, h.equivalent_build),
                    everywhere(h, &truth.live),
                    later,
                )
            }
            Event::Revoke(_) => continue,
        };
        let mut article = json!({
            "uid": kb.clone().unwrap_or_else(|| id.clone()),
            "title": title,
            "is_superseded": superseded,
            "install_state": if installed { "Installed" } else { "Not Installed" },
            "install_state_id": if installed { 1 } else { 2 },
            "severity": "Unknown",
            "os": { "name": "Windows", "type": "Windows", "type_id": 100 },
            "product": product,
            "created_time": entry.date.seconds() * 1000,
        });
        if let Some(why) = catalog.revoked(id) {
            article["classification"] = format!("Withdrawn: {why}").into();
        }
        articles.push(article);
    }
    // The class wants the version; it is stated even where the machine did not say.
    let (name, version) =
        truth.os.as_ref().map_or(("Windows", "unknown"), |os| (os.name.as_str(), os.version.as_str()));
    let os = json!({ "name": name, "type": "Windows", "type_id": 100, "version": version });
    // 3 is medium, 1 informational: how bad the CVEs are is for others to say.
    let open = !subject.plan.open.is_empty();
    json!({
        "class_uid": CLASS,
        "class_name": "Operating System Patch State",
        "category_uid": 5,
        "category_name": "Discovery",
        "activity_id": 1,
        "activity_name": "Log",
        "type_uid": CLASS * 100 + 1,
        "type_name": "Operating System Patch State: Log",
        "severity_id": if open { 3 } else { 1 },
        "severity": if open { "Medium" } else { "Informational" },
        "status_id": if open { 2 } else { 1 },
        "status": if open { "Failure" } else { "Success" },
        "time": facts.now.seconds() * 1000,
        "message": if subject.plan.reason.is_empty() { "state".to_owned() } else { subject.plan.reason.clone() },
        "metadata": { "version": VERSION, "product": { "name": "hotgraft", "vendor_name": "hotgraft", "version": facts.tool }, "uid": super::uuid(truth.machine.as_bytes()) },
        "device": { "uid": truth.machine, "hostname": truth.machine, "type_id": 0, "type": "Unknown", "os": os },
        "kb_article_list": articles,
        "unmapped": {
            "hotgraft_file_build": truth.file_build,
            "hotgraft_effective_build": truth.effective_build,
            "hotgraft_open_cves": subject.plan.open,
        },
    })
}
