//! SARIF 2.1.0 for verdicts: a refusal is an error, a condition is for somebody to review, a patched change passes.

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
}

/// A finding of a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Image.
    pub image: String,
    /// Key of the rule.
    pub key: String,
    /// Why there is the rule.
    pub why: Option<String>,
    /// What it says.
    pub judgement: Judgement,
    /// Function or object.
    pub subject: String,
    /// In words.
    pub text: String,
    /// `FILE:LINE`, if known.
    pub source: Option<String>,
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
    let results: Vec<Value> = findings.iter().map(|finding| result(finding, index.get(finding.key.as_str()))).collect();
    let rules: Vec<Value> = rules
        .values()
        .map(|finding| {
            let why = finding.why.clone().unwrap_or_else(|| finding.key.clone());
            json!({
                "id": finding.key,
                "name": pascal(&finding.key),
                "shortDescription": { "text": sentence(&finding.key.replace(['.', '_'], " ")) },
                "fullDescription": { "text": sentence(&why) },
                "help": { "text": format!("`hotgraft build --explain {}` says what to do.", finding.key) },
            })
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

fn result(finding: &Finding, index: Option<&usize>) -> Value {
    let (kind, level) = match finding.judgement {
        Judgement::Refuse => ("fail", "error"),
        Judgement::Condition => ("review", "none"),
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
            json!({ "artifactLocation": { "uri": uri.join("/").replace("%3A", ":") }, "region": { "startLine": line } })
        }
        None => json!({ "artifactLocation": { "uri": super::escaped(&finding.image) } }),
    };
    let fingerprint = format!("{}\n{}\n{}", finding.image, finding.key, finding.subject);
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
    result
}
