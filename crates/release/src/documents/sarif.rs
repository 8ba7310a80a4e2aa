//! SARIF 2.1.0 for verdicts and differences: a refusal is an error, a condition or a difference is for somebody to
//! review, a patched change passes.

use crate::canonical;
use crate::error::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// The patch carries it.
    Patch,
    /// Somebody must accept it by name.
    Condition,
    /// No patch.
    Refuse,
    /// It makes no difference.
    Harmless,
    /// The two builds differ; nobody has judged it.
    Difference,
}

/// A finding of a verdict, or a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Image.
    pub image: String,
    /// Key of the rule.
    pub key: String,
    /// Why there is the rule.
    pub why: Option<String>,
    /// What to do, if the rule knows.
    pub help: Option<String>,
    /// What it says.
    pub judgement: Judgement,
    /// Function or object.
    pub subject: String,
    /// In words.
    pub text: String,
    /// `FILE:LINE`, if known.
    pub source: Option<String>,
    /// True for a condition that somebody accepted by name.
    pub accepted: bool,
}

/// The document.
///
/// # Errors
/// None for documents of ours.
pub fn verdicts(findings: impl IntoIterator<Item = Finding>, tool: &str) -> Result<Vec<u8>> {
    let findings: Vec<Finding> = findings.into_iter().collect();
    let mut rules: BTreeMap<&str, &Finding> = BTreeMap::new();
    for finding in &findings {
        rules.entry(&finding.key).or_insert(finding);
    }
    let index: BTreeMap<&str, usize> = rules.keys().enumerate().map(|(index, key)| (*key, index)).collect();
    // A function can have several differences of one kind; a fingerprint is for one.
    let mut seen: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    let mut results: Vec<Value> = Vec::with_capacity(findings.len());
    for finding in &findings {
        let nth = seen.entry((&finding.image, &finding.key, &finding.subject)).or_default();
        results.push(result(finding, index.get(finding.key.as_str()), *nth));
        *nth += 1;
    }
    let rules: Vec<Value> = rules
        .values()
        .map(|finding| {
            let why = finding.why.clone().unwrap_or_else(|| finding.key.clone());
            let mut rule = json!({
                "id": finding.key,
                "name": pascal(&finding.key),
                "shortDescription": { "text": sentence(&finding.key.replace(['.', '_'], " ")) },
                "fullDescription": { "text": sentence(&why) },
            });
            if let Some(help) = &finding.help {
                rule["help"] = json!({ "text": sentence(help) });
            }
            rule
        })
        .collect();
    canonical::pretty(&json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "hotgraft", "semanticVersion": tool, "version": tool, "rules": rules } },
            "columnKind": "utf16CodeUnits",
            "results": results,
        }],
    }))
}

fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

fn pascal(key: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
    };
    key.split(['.', '_']).map(word).collect()
}

fn result(finding: &Finding, index: Option<&usize>, nth: usize) -> Value {
    let (kind, level) = match finding.judgement {
        Judgement::Refuse => ("fail", "error"),
        Judgement::Condition | Judgement::Difference => ("review", "none"),
        Judgement::Patch => ("pass", "none"),
        Judgement::Harmless => ("informational", "none"),
    };
    let place = finding.source.as_deref().and_then(|source| {
        let (file, line) = source.rsplit_once(':')?;
        Some((file, line.parse::<u32>().ok().filter(|line| *line > 0)?))
    });
    let physical = match place {
        Some((file, line)) => {
            let uri: Vec<String> = file.replace('\\', "/").split('/').map(super::escaped).collect();
            let uri = uri.join("/");
            // `C:/...` is no relative reference: what is before a colon would be a scheme.
            let uri = match uri.split_once("%3A/") {
                Some((drive, path)) if drive.len() == 1 => format!("file:///{drive}:/{path}"),
                _ => uri,
            };
            json!({ "artifactLocation": { "uri": uri }, "region": { "startLine": line } })
        }
        None => json!({ "artifactLocation": { "uri": super::escaped(&finding.image) } }),
    };
    let mut fingerprint = format!("{}\n{}\n{}", finding.image, finding.key, finding.subject);
    if nth > 0 {
        fingerprint.push_str(&format!("\n{nth}"));
    }
    let mut result = json!({
        "ruleId": finding.key,
        "kind": kind,
        "level": level,
        "message": { "text": sentence(&format!("{}: {}", finding.subject, finding.text)) },
        "locations": [{
            "physicalLocation": physical,
            "logicalLocations": [{ "name": finding.subject, "fullyQualifiedName": format!("{}!{}", finding.image, finding.subject) }],
        }],
        "partialFingerprints": { "hotgraft/v1": canonical::sha256(fingerprint.as_bytes()) },
    });
    if let Some(index) = index {
        result["ruleIndex"] = (*index).into();
    }
    if finding.accepted {
        let how = format!("Accepted by name: --accept {}.", finding.key);
        result["suppressions"] = json!([{ "kind": "external", "status": "accepted", "justification": how }]);
    }
    result
}
