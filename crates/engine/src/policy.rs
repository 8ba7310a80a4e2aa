//! Whom to trust: the signature of the very bytes that are mapped.

use hotgraft_signer::{Fault, TrustPolicy, UnixTime, verify};

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
    policy.check_sequence(patch.graft().sequence).map_err(refuse)?;
    let verdict = verify(patch.bytes(), policy, trust.now).and_then(|report| match &report.fault {
        Some(fault) => Err(fault.clone()),
        None => Ok(report
            .signer()
            .map(|signature| signature.signer.as_ref().map_or_else(String::new, |s| s.subject.clone()))),
    });
    match verdict {
        Ok(Some(subject)) => Ok(Some(subject)),
        Ok(None) => Err(refuse(Fault::Unsigned)),
        // A file that is refused by name, or a sequence, is refused whoever asks; a signature may be passed over.
        Err(Fault::Unsigned) => match policy.check_unsigned(trust.allow_unsigned) {
            Ok(()) => Ok(None),
            Err(fault) => Err(refuse(fault)),
        },
        Err(fault) => Err(refuse(fault)),
    }
}
