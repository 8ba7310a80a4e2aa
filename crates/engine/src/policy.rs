//! Whom to trust: the signature of the very bytes that are mapped.

use hotgraft_signer::{Candidate, Fault, TrustPolicy, UnixTime, admit};

use crate::error::ApplyError;
use crate::patch::PatchFile;

/// Whom to trust.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    /// The policy; without one nobody is trusted.
    pub policy: Option<&'a TrustPolicy>,
    /// The time that counts for a signature without a trusted timestamp.
    pub now: UnixTime,
    /// Let a patch pass that is not signed, or not by somebody trusted: for trials, and only if the policy permits it.
    pub allow_unsigned: bool,
}

impl Default for Trust<'_> {
    /// Nobody.
    fn default() -> Self {
        Trust { policy: None, now: UnixTime(0), allow_unsigned: false }
    }
}

impl Trust<'_> {
    /// Nobody is asked: for trials.
    pub fn trial() -> Trust<'static> {
        Trust { allow_unsigned: true, ..Trust::default() }
    }
}

/// Who signed the patch, if the policy lets it pass; `None` for one that passes unsigned.
pub(crate) fn check(patch: &PatchFile, trust: &Trust<'_>) -> Result<Option<String>, ApplyError> {
    let refuse = |fault: Fault| ApplyError::Policy(fault.to_string());
    let Some(policy) = trust.policy else {
        if trust.allow_unsigned {
            return Ok(None);
        }
        return Err(ApplyError::Policy("nobody is trusted: no trust policy was given".into()));
    };
    let candidate =
        Candidate { pe: patch.bytes(), sequence: Some(patch.graft().sequence), provenance: patch.provenance() };
    let admission = admit(&candidate, policy, trust.now);
    match admission.fault() {
        None => Ok(admission.signature.publisher().map(|signer| signer.subject.clone())),
        // A file that is refused by name, or a sequence, is refused whoever asks; a signature may be passed over, but not
        // the statement that only a signer can make.
        Some(Fault::Unsigned) if !policy.provenance_required => {
            policy.check_unsigned(trust.allow_unsigned).map(|()| None).map_err(refuse)
        }
        Some(fault) => Err(refuse(fault.clone())),
    }
}
