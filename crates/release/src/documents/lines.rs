//! One JSON document to a line, for SIEM: a machine and a CVE each.

use super::{Facts, remedy};
use crate::error::{Error, Result};
use serde_json::json;

/// The lines.
///
/// # Errors
/// None for documents of ours.
pub fn document(facts: &Facts<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for subject in facts.subjects {
        for finding in &subject.truth.findings {
            let remedy = finding.state.is_open().then(|| remedy(subject, finding));
            let line = json!({
                "schema": "hotgraft.release.line/1",
                "time": facts.now,
                "product": facts.catalog.product,
                "machine": subject.truth.machine,
                "cve": finding.cve,
                "state": finding.state,
                "text": finding.text,
                "file_build": subject.truth.file_build,
                "effective_build": subject.truth.effective_build,
                "baseline": subject.truth.baseline,
                "hotpatch": subject.truth.hotpatch,
                "action": subject.plan.action,
                "remedy": remedy.as_ref().map(|(text, _)| text),
                "restart": remedy.as_ref().map(|(_, restart)| restart),
            });
            out.extend(serde_json::to_vec(&line).map_err(|e| Error::malformed("a line", e.to_string()))?);
            out.push(b'\n');
        }
    }
    Ok(out)
}
