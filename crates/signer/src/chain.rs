//! Paths from a signer to a trusted root, with the rules of RFC 5280 that matter where roots are given by a policy:
//! names, key identifiers, signatures, CA bits, path lengths, purposes, validity, revocation, deny list. Policies and
//! name constraints are not processed: a certificate that demands them is refused.

use crate::cert::{Certificate, usage};
use crate::crl::Status;
use crate::digest::hex;
use crate::fault::{Checked, Fault};
use crate::oid;
use crate::policy::TrustPolicy;
use crate::pubkey::{PublicKey, digest_of_signature};
use crate::time::UnixTime;
use const_oid::ObjectIdentifier;

/// Certificates in a path, at most.
const LONGEST: usize = 10;
/// Signatures checked in search of a path, at most: crossed certificates must not cost exponential time.
const MOST_CHECKS: usize = 100;

/// What a path is wanted for.
pub(crate) struct Wanted<'a> {
    /// Certificates the file carries.
    pub(crate) pool: &'a [Certificate],
    pub(crate) roots: &'a [Certificate],
    pub(crate) policy: &'a TrustPolicy,
    /// Purposes; the signer must name them all.
    pub(crate) ekus: &'a [ObjectIdentifier],
    /// The time at which the path must be valid.
    pub(crate) at: UnixTime,
    /// Whether `at` comes from somebody trusted, so that a later revocation does not count.
    pub(crate) at_is_proven: bool,
    /// For the currency of revocation lists.
    pub(crate) now: UnixTime,
}

/// A path that satisfies all rules.
#[derive(Debug)]
pub(crate) struct Path {
    /// Signer first, root last.
    pub(crate) certificates: Vec<Certificate>,
    /// Whether current revocation lists cover everything below the root.
    pub(crate) revocation_checked: bool,
}

impl Wanted<'_> {
    /// Looks for a path.
    ///
    /// # Errors
    /// The fault of the first path that reached a root, or [`Fault::Untrusted`] when none did.
    pub(crate) fn find(&self, leaf: &Certificate) -> Checked<Path> {
        let mut search = Search { wanted: self, checks: 0, fault: None, deepest: leaf.clone(), depth: 0 };
        match search.extend(&mut vec![leaf.clone()]) {
            Some(path) => Ok(path),
            None => Err(search.fault.take().unwrap_or_else(|| search.no_path(leaf))),
        }
    }
}

struct Search<'a> {
    wanted: &'a Wanted<'a>,
    checks: usize,
    fault: Option<Fault>,
    /// The last certificate of the longest path that was tried.
    deepest: Certificate,
    depth: usize,
}

impl Search<'_> {
    fn no_path(&self, leaf: &Certificate) -> Fault {
        let detail = if self.checks >= MOST_CHECKS {
            format!("gave up after {MOST_CHECKS} signatures")
        } else {
            let issuer = crate::cert::name_text(self.deepest.issuer());
            if self.deepest.is_self_issued() {
                format!("the path ends at {issuer}, which is not a given root")
            } else {
                format!("the path ends below {issuer}, whose certificate is not there")
            }
        };
        Fault::Untrusted { subject: leaf.subject_text(), detail }
    }

    fn extend(&mut self, path: &mut Vec<Certificate>) -> Option<Path> {
        let last = path.last()?.clone();
        if path.len() > self.depth {
            (self.depth, self.deepest) = (path.len(), last.clone());
        }
        if self.wanted.roots.contains(&last) {
            match self.wanted.check_path(path) {
                Ok(revocation_checked) => {
                    return Some(Path { certificates: path.clone(), revocation_checked });
                }
                Err(fault) => {
                    self.fault.get_or_insert(fault);
                    return None;
                }
            }
        }
        if path.len() == LONGEST {
            return None;
        }
        let wanted = self.wanted;
        let candidates = wanted.roots.iter().chain(&wanted.policy.intermediates).chain(wanted.pool);
        for issuer in candidates {
            if path.contains(issuer) || !may_have_issued(issuer, &last) {
                continue;
            }
            if self.checks == MOST_CHECKS {
                return None;
            }
            self.checks += 1;
            match has_issued(issuer, &last) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(fault) => {
                    self.fault.get_or_insert(fault);
                    continue;
                }
            }
            path.push(issuer.clone());
            let found = self.extend(path);
            path.pop();
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

fn may_have_issued(issuer: &Certificate, certificate: &Certificate) -> bool {
    let ids = (&issuer.extensions().subject_key_id, &certificate.extensions().authority_key_id);
    let same_key = !matches!(ids, (Some(a), Some(b)) if a != b);
    issuer.subject() == certificate.issuer() && same_key
}

fn has_issued(issuer: &Certificate, certificate: &Certificate) -> Checked<bool> {
    let what = || format!("the certificate of {}", certificate.subject_text());
    let (digest, rsa) = digest_of_signature(certificate.algorithm(), &what())?;
    let key = PublicKey::from_spki(issuer.key(), &issuer.subject_text())?;
    let fits = matches!(key, PublicKey::Rsa(_)) == rsa;
    Ok(fits && key.verifies(digest, &digest.digest(certificate.tbs()), certificate.signature()))
}

impl Wanted<'_> {
    /// Checks a path that ends at a root; returns whether revocation lists cover it.
    fn check_path(&self, path: &[Certificate]) -> Checked<bool> {
        for certificate in path {
            self.policy.check_certificate(certificate)?;
        }
        for (index, certificate) in path.iter().enumerate() {
            self.check_position(path, index, certificate)?;
        }
        for certificate in path {
            self.check_validity(certificate)?;
        }
        let mut covered = true;
        for pair in path.windows(2) {
            covered &= self.check_revocation(&pair[0], &pair[1])?;
        }
        Ok(covered)
    }

    fn check_position(&self, path: &[Certificate], index: usize, certificate: &Certificate) -> Checked<()> {
        let subject = certificate.subject_text();
        let bad = |detail: String| Fault::BadPath { subject: subject.clone(), detail };
        let wrong = |purpose: &str| Fault::WrongPurpose { subject: subject.clone(), purpose: purpose.to_owned() };
        let extensions = certificate.extensions();
        if let Some(id) = extensions.unknown_critical {
            return Err(bad(format!("the critical extension {id} is not understood")));
        }
        let is_ca = matches!(extensions.basic, Some((true, _)));
        if index == 0 {
            // A certificate that the policy names as a root itself (`openssl req -x509` makes such) was trusted as it is; a
            // path of one can be nothing else. An authority somewhere below a root must not sign code.
            if is_ca && path.len() > 1 {
                return Err(bad(
                    "a certificate authority signs, which only its certificates and lists may need".to_owned()
                ));
            }
            if extensions.key_usage.is_some_and(|bits| bits & usage::DIGITAL_SIGNATURE == 0) {
                return Err(wrong("digitalSignature"));
            }
        } else {
            if !is_ca {
                return Err(bad("it is not a certificate authority".to_owned()));
            }
            if extensions.key_usage.is_some_and(|bits| bits & usage::CERT_SIGN == 0) {
                return Err(wrong("keyCertSign"));
            }
            // Self-issued certificates (key roll-over) do not count towards the length (RFC 5280 4.2.1.9).
            let below = path[1..index].iter().filter(|c| !c.is_self_issued()).count();
            if let Some((_, Some(most))) = extensions.basic
                && below > most as usize
            {
                return Err(bad(format!("at most {most} authorities may be below it, there are {below}")));
            }
        }
        for eku in self.ekus {
            let named = match &extensions.ekus {
                Some((ekus, _)) if index == 0 => ekus.contains(eku),
                Some((ekus, _)) => ekus.contains(eku) || ekus.contains(&oid::ANY_PURPOSE),
                None => index > 0,
            };
            if !named {
                return Err(wrong(&eku.to_string()));
            }
        }
        Ok(())
    }

    fn check_validity(&self, certificate: &Certificate) -> Checked<()> {
        let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
        if self.at < not_before {
            return Err(Fault::NotYetValid { subject: certificate.subject_text(), not_before, needed: self.at });
        }
        if self.at > not_after {
            return Err(Fault::Expired { subject: certificate.subject_text(), not_after, needed: self.at });
        }
        Ok(())
    }

    fn check_revocation(&self, certificate: &Certificate, issuer: &Certificate) -> Checked<bool> {
        let mut covered = false;
        for list in &self.policy.revocation_lists {
            match list.status(certificate, issuer) {
                Some(Status::Revoked { since, retroactive }) => {
                    // A signature proven to be older than the revocation stands, unless the key was in other hands.
                    if !self.at_is_proven || retroactive || self.at >= since {
                        let (subject, serial) = (certificate.subject_text(), hex(certificate.serial()));
                        return Err(Fault::Revoked { subject, serial, since });
                    }
                    covered |= list.is_current(self.now);
                }
                Some(Status::Good) => covered |= list.is_current(self.now),
                None => {}
            }
        }
        if !covered && self.policy.revocation_required {
            let detail = "no revocation list of its issuer is given, or none is current".to_owned();
            return Err(Fault::RevocationUnknown { subject: certificate.subject_text(), detail });
        }
        Ok(covered)
    }
}
