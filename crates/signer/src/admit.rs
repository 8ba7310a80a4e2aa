//! The one place where a policy decides about a hotpatch: signature, sequence and provenance together. `verify`, `apply`
//! and `run` all ask here.

use crate::fault::{Checked, Fault};
use crate::policy::TrustPolicy;
use crate::provenance::{Provenance, provenance_of};
use crate::report::VerifyReport;
use crate::time::UnixTime;
use crate::verify::examine_and_hash;

/// What a policy decides about.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The file.
    pub pe: &'a [u8],
    /// Sequence number of the patch; absent for a file that is none.
    pub sequence: Option<u32>,
    /// The provenance envelope that came with it.
    pub provenance: Option<&'a [u8]>,
}

/// What a policy found, in its parts: each can be right while another is not.
#[derive(Debug)]
#[non_exhaustive]
pub struct Admission {
    /// The signatures; [`VerifyReport::fault`] says why they do not suffice.
    pub signature: VerifyReport,
    /// The sequence number is below the policy's minimum.
    pub sequence: Option<Fault>,
    /// The provenance statement, if there is one or one is demanded, or what is wrong with it.
    pub provenance: Option<Checked<Provenance>>,
}

impl Admission {
    /// The first fault: the sequence, then the signatures, then the provenance.
    pub fn fault(&self) -> Option<&Fault> {
        let provenance = self.provenance.as_ref().and_then(|result| result.as_ref().err());
        self.sequence.as_ref().or(self.signature.fault.as_ref()).or(provenance)
    }
}

/// Holds a file against a policy. `now` counts where there is no trusted timestamp.
pub fn admit(candidate: &Candidate<'_>, policy: &TrustPolicy, now: UnixTime) -> Admission {
    // Reading memory does not fail.
    let signature = examine_and_hash(candidate.pe, policy, now)
        .unwrap_or_else(|_| crate::verify::examine(candidate.pe, policy, now));
    let sequence = candidate.sequence.and_then(|number| policy.check_sequence(number).err());
    let provenance = match candidate.provenance {
        Some(envelope) => Some(provenance_of(candidate.pe, &signature, envelope)),
        None if policy.provenance_required => {
            let detail = "the policy wants a statement, and there is none".to_owned();
            Some(Err(Fault::ProvenanceMismatch { detail }))
        }
        None => None,
    };
    Admission { signature, sequence, provenance }
}
