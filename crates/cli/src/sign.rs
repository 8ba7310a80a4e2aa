//! `hotgraft sign`: Authenticode, whole or in two halves.

use crate::args::{DigestArg, SignArgs};
use crate::output::{self, Exit, Stop, Terminal};
use anyhow::{Context, Result};
use hotgraft_signer::{DigestAlgorithm, Existing, SignOptions, SigningKey};

/// Run the command.
pub fn run(args: &SignArgs, terminal: &Terminal) -> Result<Exit> {
    let bytes = output::read(&args.file)?;
    let options = SignOptions {
        digest: match args.digest {
            DigestArg::Sha256 => DigestAlgorithm::Sha256,
            DigestArg::Sha384 => DigestAlgorithm::Sha384,
            DigestArg::Sha512 => DigestAlgorithm::Sha512,
        },
        description: args.description.clone(),
        url: args.url.clone(),
        page_hashes: args.page_hashes,
        existing: if args.append { Existing::Append } else { Existing::Replace },
        ..SignOptions::default()
    };
    let key = key(args)?;
    let signed = hotgraft_signer::sign(&bytes, &key, &options).with_context(|| args.file.display().to_string())?;
    let path = args.output.as_deref().context("-o OUT is needed")?;
    output::write_bytes(path, &signed)?;
    terminal.note(format!("{}: signed", path.display()));
    Ok(Exit::Done)
}

fn key(args: &SignArgs) -> Result<SigningKey> {
    let password = password(args)?;
    let password = password.as_deref();
    if let (Some(key), Some(cert)) = (&args.key, &args.cert) {
        return SigningKey::from_pem(&output::read(key)?, &output::read(cert)?, password)
            .with_context(|| format!("{} with {}", key.display(), cert.display()));
    }
    Err(Stop::failed("no key was given", "give --key KEY --cert CHAIN, or --pfx FILE with --password-file or --password-env"))
}

fn password(args: &SignArgs) -> Result<Option<String>> {
    if let Some(path) = &args.password_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
        return Ok(Some(text.lines().next().unwrap_or_default().to_owned()));
    }
    match &args.password_env {
        Some(name) => Ok(Some(std::env::var(name).with_context(|| format!("the environment variable {name} is not set"))?)),
        None => Ok(None),
    }
}
