//! Keys and roles, as the command line names them.

use super::args::Signers;
use crate::output::{self, Stop};
use anyhow::{Context, Result};
use hotgraft_release::tuf::Role;
use hotgraft_release::workshop::RoleHolders;
use hotgraft_signer::{DigestSigner, SigningKey, read_pem_certificates};
use std::collections::BTreeMap;
use std::path::Path;

/// Opens the keys that sign.
pub fn open(args: &Signers) -> Result<Vec<Box<dyn DigestSigner>>> {
    let password = match &args.password_env {
        Some(name) => Some(std::env::var(name).with_context(|| format!("the environment variable {name} is not set"))?),
        None => None,
    };
    args.signers.iter().map(|text| one(text, password.as_deref()).with_context(|| text.clone())).collect()
}

fn one(text: &str, password: Option<&str>) -> Result<Box<dyn DigestSigner>> {
    if text.starts_with("pkcs11:") {
        return token(text, password);
    }
    if let Some((key, certificate)) = text.rsplit_once(',') {
        let (key, certificate) = (output::read(Path::new(key))?, output::read(Path::new(certificate))?);
        return Ok(Box::new(SigningKey::from_pem(&key, &certificate, password)?));
    }
    let bytes = output::read(Path::new(text))?;
    Ok(Box::new(SigningKey::from_pfx(&bytes, password.unwrap_or_default())?))
}

#[cfg(feature = "pkcs11")]
fn token(uri: &str, pin: Option<&str>) -> Result<Box<dyn DigestSigner>> {
    // A device counts wrong PINs: none is ever tried that nobody gave.
    let pin = pin.ok_or_else(|| Stop::failed("the token needs a PIN", "give --password-env"))?;
    Ok(Box::new(hotgraft_signer::TokenKey::open(uri, pin, Vec::new())?))
}

#[cfg(not(feature = "pkcs11"))]
fn token(_: &str, _: Option<&str>) -> Result<Box<dyn DigestSigner>> {
    Err(Stop::failed("keys in PKCS#11 tokens cannot be used by this build", "give KEY,CERT or a PFX file"))
}

/// References, as the release crate takes them.
pub fn borrowed(signers: &[Box<dyn DigestSigner>]) -> Vec<&dyn DigestSigner> {
    signers.iter().map(|signer| &**signer).collect()
}

/// Roles by `ROLE=CERT,CERT` and `ROLE:THRESHOLD=CERT,CERT`.
pub fn roles(texts: &[String]) -> Result<BTreeMap<Role, RoleHolders>> {
    let mut roles = BTreeMap::new();
    for text in texts {
        let about = || format!("{text}: expected ROLE=CERT,CERT or ROLE:THRESHOLD=CERT,CERT");
        let (role, files) = text.split_once('=').with_context(about)?;
        let (role, threshold) = role.split_once(':').unwrap_or((role, "1"));
        let threshold = threshold.parse().with_context(about)?;
        let role: Role = role.parse().map_err(anyhow::Error::msg)?;
        let mut certificates = Vec::new();
        for file in files.split(',') {
            // The first certificate of a file is that of the key; its issuers may follow.
            let all = read_pem_certificates(&output::read(Path::new(file))?).with_context(|| file.to_owned())?;
            certificates.extend(all.into_iter().next());
        }
        if roles.insert(role, RoleHolders { certificates, threshold }).is_some() {
            return Err(Stop::failed(
                format!("{}: given twice", role.name()),
                "name all certificates of a role at once",
            ));
        }
    }
    Ok(roles)
}
