//! `hotgraft sign`: Authenticode, whole or in two halves.

use crate::args::{DigestArg, SignArgs};
use crate::output::{self, Exit, Stop, Terminal};
use anyhow::{Context, Result};
use hotgraft_signer::{
    DigestAlgorithm, Existing, SignOptions, SigningKey, Timestamping, attach, attach_pkcs7, hash_only, http_transport,
    read_pem_certificates,
};
use std::path::Path;

/// How often each timestamp server is asked before the next one is.
const ATTEMPTS: u32 = 3;

/// Run the command.
pub fn run(args: &SignArgs, terminal: &Terminal) -> Result<Exit> {
    let bytes = output::read(&args.file)?;
    let about = || args.file.display().to_string();
    let digest = match args.digest {
        DigestArg::Sha256 => DigestAlgorithm::Sha256,
        DigestArg::Sha384 => DigestAlgorithm::Sha384,
        DigestArg::Sha512 => DigestAlgorithm::Sha512,
    };
    let transport = http_transport(args.timestamp.clone(), ATTEMPTS);
    let timestamp = (!args.timestamp.is_empty()).then_some(Timestamping { transport: &transport, digest });
    let options = SignOptions {
        digest,
        description: args.description.clone(),
        url: args.url.clone(),
        page_hashes: args.page_hashes,
        existing: if args.append { Existing::Append } else { Existing::Replace },
        timestamp,
        ..SignOptions::default()
    };
    if let Some(path) = &args.hash_only {
        let wanted = hash_only(&bytes[..], &options).with_context(about)?;
        output::write_bytes(path, &wanted.message)?;
        terminal.note(format!("{}: to be signed with {}", path.display(), wanted.algorithm.name()));
        return Ok(Exit::Done);
    }
    let signed = match &args.attach {
        Some(path) => attached(args, path, &bytes, &options)?,
        None => hotgraft_signer::sign(&bytes, &key(args)?, &options).with_context(about)?,
    };
    let path = args.output.as_deref().context("-o OUT is needed")?;
    output::write_bytes(path, &signed)?;
    terminal.note(format!("{}: signed", path.display()));
    Ok(Exit::Done)
}

/// The signature of somebody else: a raw one over what `--hash-only` wrote, with `--cert`; or a finished PKCS#7.
fn attached(args: &SignArgs, path: &Path, bytes: &[u8], options: &SignOptions<'_>) -> Result<Vec<u8>> {
    let about = || format!("{} with {}", args.file.display(), path.display());
    let signature = output::read(path)?;
    let mut out = Vec::with_capacity(bytes.len() + signature.len());
    match &args.cert {
        Some(cert) => {
            let chain = read_pem_certificates(&output::read(cert)?).with_context(|| cert.display().to_string())?;
            attach(bytes, &chain, &signature, options, &mut out).with_context(about)?;
        }
        None => attach_pkcs7(bytes, &signature, options.existing, &mut out).with_context(about)?,
    }
    Ok(out)
}

fn key(args: &SignArgs) -> Result<SigningKey> {
    let password = password(args)?;
    if let (Some(key), Some(cert)) = (&args.key, &args.cert) {
        return SigningKey::from_pem(&output::read(key)?, &output::read(cert)?, password.as_deref())
            .with_context(|| format!("{} with {}", key.display(), cert.display()));
    }
    if let Some(pfx) = &args.pfx {
        return SigningKey::from_pfx(&output::read(pfx)?, password.as_deref().unwrap_or_default())
            .with_context(|| pfx.display().to_string());
    }
    if args.pkcs11.is_some() {
        return Err(Stop::failed(
            "keys in PKCS#11 tokens cannot be used by this build",
            "sign in two halves: --hash-only writes the bytes that the token signs, --attach takes its signature",
        ));
    }
    Err(Stop::failed(
        "no key was given",
        "give --key KEY --cert CHAIN, or --pfx FILE with --password-file or --password-env",
    ))
}

fn password(args: &SignArgs) -> Result<Option<String>> {
    if let Some(path) = &args.password_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
        return Ok(Some(text.lines().next().unwrap_or_default().to_owned()));
    }
    match &args.password_env {
        Some(name) => {
            Ok(Some(std::env::var(name).with_context(|| format!("the environment variable {name} is not set"))?))
        }
        None => Ok(None),
    }
}
