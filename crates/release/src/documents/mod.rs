//! The patch state in formats that scanners, SIEM and auditors read. Each is a pure function of the catalog, what is true of
//! the machines, and a time that the caller gives.

pub mod csaf;
pub mod cyclonedx;
pub mod intune;
pub mod lines;
pub mod ocsf;
pub mod openvex;
pub mod prometheus;
pub mod sarif;

use crate::catalog::Catalog;
use crate::plan::{Action, Plan};
use crate::time::Time;
use crate::truth::{Finding, State, Truth};

/// A machine: what is true of it, and what it has to do.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What is true.
    pub truth: Truth,
    /// What to do.
    pub plan: Plan,
}

/// What all documents are made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Releases.
    pub catalog: &'a Catalog,
    /// Machines, in the order of their ids.
    pub subjects: &'a [Subject],
    /// When the document is made.
    pub now: Time,
    /// Version of the tool.
    pub tool: &'a str,
}

/// What has to be done about an open CVE, in words, and what has to be restarted for it: `none`, `vulnerable_component`
/// or `system`, as CSAF calls it.
fn remedy(subject: &Subject, finding: &Finding) -> (String, &'static str) {
    let plan = &subject.plan;
    let release = plan.release.as_deref().unwrap_or("the next release");
    match (finding.state, plan.action) {
        (State::PendingRestart, _) => {
            ("Restart the processes that still run the old image.".to_owned(), "vulnerable_component")
        }
        (State::Staged, _) => ("Nothing: the patch is applied as soon as the image is loaded.".to_owned(), "none"),
        (_, Action::Hotpatch) => (format!("Apply hotpatch {release}; no restart is needed."), "none"),
        (_, Action::Wait) => (format!("Wait for the rollout of {release}: {}.", plan.reason), "none"),
        (_, Action::RollBack) => (format!("Take out the withdrawn hotpatch: {}.", plan.reason), "none"),
        (_, Action::FinishRestart) => (format!("Restart: {}.", plan.reason), "vulnerable_component"),
        (_, Action::Baseline) => (format!("Install baseline {release} and restart the machine."), "system"),
        (_, Action::NotEligible) => (format!("Somebody has to look at it: {}.", plan.reason), "system"),
        (_, Action::None) => ("No release fixes it yet on this machine; wait for the next one.".to_owned(), "none"),
    }
}

/// A name within an URI.
fn escaped(text: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    text.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// An UUID made of the content: the same content has the same one.
fn uuid(content: &[u8]) -> String {
    let mut hex: Vec<char> = crate::canonical::sha256(content).chars().take(32).collect();
    // Version 8: made in a way of our own; variant of RFC 9562.
    if let Some(version) = hex.get_mut(12) {
        *version = '8';
    }
    if let Some(variant) = hex.get_mut(16) {
        *variant = 'a';
    }
    let text: String = hex.into_iter().collect();
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}
