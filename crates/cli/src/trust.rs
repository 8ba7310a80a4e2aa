//! Whom the options say to trust, and what lies beside a patch: for `verify`, `apply` and `run` alike.

use crate::args::TrustArgs;
use crate::output::{self, Stop};
use anyhow::{Context, Result};
use hotgraft_signer::{Publisher, RevocationList, TrustPolicy, read_pem_certificates};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The policy that the options name; `None` without any.
pub fn policy(args: &TrustArgs) -> Result<Option<TrustPolicy>> {
    let mut policy = match (&args.policy, &args.trust) {
        (Some(file), _) => TrustPolicy::load(file)?,
        (None, Some(_)) => TrustPolicy::default(),
        (None, None) if args.demands_more() => {
            return Err(Stop::failed(
                "without a root nobody can satisfy what is demanded",
                "give --trust PEM with the roots, or --policy F",
            ));
        }
        (None, None) => return Ok(None),
    };
    if let Some(path) = &args.trust {
        // The reader of roots alone wants one at least.
        let roots = TrustPolicy::from_pem_roots(&output::read(path)?).with_context(|| path.display().to_string())?;
        policy.roots.extend(roots.roots);
    }
    if let Some(path) = &args.timestamp_trust {
        let roots = read_pem_certificates(&output::read(path)?).with_context(|| path.display().to_string())?;
        anyhow::ensure!(!roots.is_empty(), "{}: expected at least one certificate in PEM", path.display());
        policy.timestamp_roots.extend(roots);
    }
    for path in &args.crl {
        let list = RevocationList::from_bytes(&output::read(path)?).with_context(|| path.display().to_string())?;
        policy.revocation_lists.push(list);
    }
    for path in &args.deny {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
        policy.deny(&text).with_context(|| path.display().to_string())?;
    }
    // Publishers of a policy file and of the command line together: either list may narrow, neither may widen.
    if !args.publisher.is_empty() {
        let wanted = |p: &Publisher| p.common_name.as_ref().is_some_and(|name| args.publisher.contains(name));
        if policy.publishers.is_empty() {
            let named = |name: &String| Publisher { common_name: Some(name.clone()), ..Publisher::default() };
            policy.publishers = args.publisher.iter().map(named).collect();
        } else {
            policy.publishers.retain(wanted);
            if policy.publishers.is_empty() {
                return Err(Stop::failed(
                    "the policy names no publisher of --publisher",
                    "give a common name that the policy has, or leave the option out",
                ));
            }
        }
    }
    policy.timestamp_required |= args.require_timestamp;
    policy.revocation_required |= args.require_revocation;
    Ok(Some(policy))
}

impl TrustArgs {
    fn demands_more(&self) -> bool {
        let lists = [&self.crl, &self.deny].iter().any(|list| !list.is_empty());
        lists
            || self.timestamp_trust.is_some()
            || !self.publisher.is_empty()
            || self.require_timestamp
            || self.require_revocation
    }
}

/// Where the provenance envelope of a patch is.
pub fn provenance_path(patch: &Path) -> PathBuf {
    let mut name = OsString::from(patch);
    name.push(".intoto.json");
    name.into()
}

/// The provenance envelope beside a patch, if there is one.
pub fn provenance_beside(patch: &Path) -> Result<Option<Vec<u8>>> {
    let path = provenance_path(patch);
    if path.exists() { output::read(&path).map(Some) } else { Ok(None) }
}
