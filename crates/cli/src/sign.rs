//! `hotgraft sign`: Authenticode, whole or in two halves, and what is done with signatures that are there.

use crate::args::{DigestArg, SignArgs};
use crate::output::{self, Exit, Stop, Terminal};
use crate::trust::provenance_path;
use anyhow::{Context, Result};
use hotgraft_signer::{
    Certificate, DigestAlgorithm, DigestSigner, Existing, Provenance, SignError, SignOptions, SigningKey, Source,
    Timestamping, add_timestamp, attach, attach_pkcs7, extract, hash_only, http_transport, read_pem_certificates,
    remove_stream, sign_file, sign_stream,
};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// What is to be signed: a file that is read where it lies, or what came through stdin.
enum Input {
    File(File),
    Memory(Vec<u8>),
}

impl Input {
    fn open(path: &Path) -> Result<Input> {
        if path == Path::new("-") {
            return output::read(path).map(Input::Memory);
        }
        let file = File::open(path).with_context(|| format!("{}: cannot read", path.display()))?;
        // Only what has a size can be read at offsets.
        match file.metadata() {
            Ok(data) if data.is_file() => Ok(Input::File(file)),
            _ => output::read(path).map(Input::Memory),
        }
    }
}

impl Source for Input {
    fn size(&self) -> u64 {
        match self {
            Input::File(file) => file.size(),
            Input::Memory(bytes) => bytes.size(),
        }
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        match self {
            Input::File(file) => file.read_at(at, buffer),
            Input::Memory(bytes) => bytes.read_at(at, buffer),
        }
    }
}

fn digest(argument: DigestArg) -> DigestAlgorithm {
    match argument {
        DigestArg::Sha256 => DigestAlgorithm::Sha256,
        DigestArg::Sha384 => DigestAlgorithm::Sha384,
        DigestArg::Sha512 => DigestAlgorithm::Sha512,
    }
}

/// Run the command.
pub fn run(args: &SignArgs, terminal: &Terminal) -> Result<Exit> {
    let input = Input::open(&args.file)?;
    let about = || args.file.display().to_string();
    let transport = http_transport(args.timestamp.clone(), args.timestamp_attempts);
    let timestamp_digest = digest(args.timestamp_digest.unwrap_or(args.digest));
    let timestamp = Timestamping { transport: &transport, digest: timestamp_digest };
    let options = SignOptions {
        digest: digest(args.digest),
        description: args.description.clone(),
        url: args.url.clone(),
        page_hashes: args.page_hashes,
        existing: if args.append { Existing::Append } else { Existing::Replace },
        timestamp: (!args.timestamp.is_empty()).then(|| timestamp.clone()),
        ..SignOptions::default()
    };
    if let Some(path) = &args.hash_only {
        let wanted = hash_only(&input, &options).with_context(about)?;
        output::write_bytes(path, &wanted.message)?;
        let hex = hotgraft_hotpatch::hex::text(&wanted.digest);
        terminal.note(format!(
            "{}: to be signed with {}; their digest is {hex}",
            path.display(),
            wanted.algorithm.name()
        ));
        return Ok(Exit::Done);
    }
    if let Some(path) = &args.extract {
        output::write_bytes(path, &extract(&input).with_context(about)?)?;
        return Ok(Exit::Done);
    }
    let path = args.output.as_deref().context("-o OUT is needed")?;
    if args.remove {
        write(path, |out| remove_stream(&input, out).with_context(about))?;
        terminal.note(format!("{}: without a signature", path.display()));
    } else if args.timestamp_only {
        write(path, |out| add_timestamp(&input, &timestamp, out).with_context(about))?;
        terminal.note(format!("{}: timestamped", path.display()));
    } else if let Some(signature) = &args.attach {
        attached(args, signature, &input, &options, path)?;
        terminal.note(format!("{}: signed", path.display()));
    } else {
        whole(args, &input, &options, path, terminal)?;
    }
    Ok(Exit::Done)
}

/// Sign with a key that is here.
fn whole(args: &SignArgs, input: &Input, options: &SignOptions<'_>, path: &Path, terminal: &Terminal) -> Result<()> {
    let about = || args.file.display().to_string();
    let key = key(args)?;
    let replaced = !args.append && extract(input).is_ok();
    let envelope = match &args.provenance {
        Some(statement) => Some(provenance(statement, input, &*key)?),
        None => None,
    };
    if path == Path::new("-") {
        write(path, |out| sign_stream(input, &*key, options, out).with_context(about))?;
    } else {
        output::write_file(path, |file| sign_file(input, &*key, options, file).with_context(about))?;
    }
    let who = key.certificates().first().map(Certificate::subject_text).unwrap_or_default();
    let instead = if replaced { ", in the place of the signature that was there" } else { "" };
    terminal.note(format!("{}: signed by {who}{instead}", path.display()));
    if let Some(envelope) = envelope {
        let path = provenance_path(path);
        output::write_bytes(&path, &envelope)?;
        terminal.note(format!("{}: provenance, signed by the same key", path.display()));
    }
    Ok(())
}

/// The envelope for a statement, which must speak of this file.
fn provenance(path: &Path, input: &Input, key: &dyn DigestSigner) -> Result<Vec<u8>> {
    let about = || path.display().to_string();
    let statement = Provenance::from_statement(&output::read(path)?).with_context(about)?;
    let mut bytes = vec![0; usize::try_from(input.size())?];
    input.read_at(0, &mut bytes)?;
    statement.check_patch(&bytes).with_context(about)?;
    statement.sign(key).with_context(about)
}

/// The signature of somebody else: a raw one over what `--hash-only` wrote, with `--cert`; or a finished PKCS#7.
fn attached(args: &SignArgs, from: &Path, input: &Input, options: &SignOptions<'_>, path: &Path) -> Result<()> {
    let about = || format!("{} with {}", args.file.display(), from.display());
    let signature = output::read(from)?;
    match &args.cert {
        Some(cert) => {
            let chain = read_pem_certificates(&output::read(cert)?).with_context(|| cert.display().to_string())?;
            write(path, |out| attach(input, &chain, &signature, options, out).with_context(about))
        }
        None => write(path, |out| attach_pkcs7(input, &signature, options.existing, out).with_context(about)),
    }
}

/// Through a buffer into a file, or to stdout.
fn write(path: &Path, work: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if path == Path::new("-") {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        work(&mut out)?;
        return out.flush().context("cannot write to stdout");
    }
    output::write_file(path, |file| {
        let mut out = std::io::BufWriter::new(file);
        work(&mut out)?;
        out.flush().with_context(|| format!("{}: cannot write", path.display()))
    })
}

fn key(args: &SignArgs) -> Result<Box<dyn DigestSigner>> {
    if let (Some(key), Some(cert)) = (&args.key, &args.cert) {
        let (text, chain) = (output::read(key)?, output::read(cert)?);
        let about = format!("{} with {}", key.display(), cert.display());
        let open = |password: Option<&str>| SigningKey::from_pem(&text, &chain, password);
        return Ok(Box::new(with_password(args, &key.display().to_string(), open)?.with_context(|| about)?));
    }
    if let Some(pfx) = &args.pfx {
        let (bytes, about) = (output::read(pfx)?, pfx.display().to_string());
        let open = |password: Option<&str>| SigningKey::from_pfx(&bytes, password.unwrap_or_default());
        return Ok(Box::new(with_password(args, &about, open)?.with_context(|| about)?));
    }
    if let Some(uri) = &args.pkcs11 {
        return token(args, uri);
    }
    Err(Stop::failed(
        "no key was given",
        "give --key KEY --cert CHAIN, --pfx FILE, or --pkcs11 URI; with a key that is elsewhere, --hash-only and --attach",
    ))
}

#[cfg(feature = "pkcs11")]
fn token(args: &SignArgs, uri: &str) -> Result<Box<dyn DigestSigner>> {
    let mut uri = uri.to_owned();
    if let Some(module) = &args.pkcs11_module {
        let module = module.to_str().context("--pkcs11-module is not UTF-8")?;
        // What has a meaning in such a URI must not be read as that.
        let module: String = module
            .bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() || b"/._-:\\".contains(&b) {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02x}")
                }
            })
            .collect();
        uri = format!("{uri}{}module-path={module}", if uri.contains('?') { '&' } else { '?' });
    }
    let chain = match &args.cert {
        Some(cert) => read_pem_certificates(&output::read(cert)?).with_context(|| cert.display().to_string())?,
        None => Vec::new(),
    };
    // A device counts wrong PINs: none is ever tried that nobody gave.
    let open = |pin: Option<&str>| match pin {
        Some(pin) => hotgraft_signer::TokenKey::open(&uri, pin, chain.clone()),
        None => Err(SignError::Password),
    };
    Ok(Box::new(with_password(args, "the token", open)?.with_context(|| uri.clone())?))
}

#[cfg(not(feature = "pkcs11"))]
fn token(_: &SignArgs, _: &str) -> Result<Box<dyn DigestSigner>> {
    Err(Stop::failed(
        "keys in PKCS#11 tokens cannot be used by this build",
        "sign in two halves: --hash-only writes the bytes that the token signs, --attach takes its signature",
    ))
}

/// Opens a key with the password that the options give; if they give none and it needs one, the user is asked.
fn with_password<T>(
    args: &SignArgs,
    about: &str,
    open: impl Fn(Option<&str>) -> Result<T, SignError>,
) -> Result<Result<T, SignError>> {
    let given = password(args)?;
    let opened = open(given.as_deref());
    if given.is_some() || !matches!(opened, Err(SignError::Password)) {
        return Ok(opened);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Stop::failed(
            format!("{about}: a password is needed"),
            "give --password-file or --password-env; on a terminal it is asked for",
        ));
    }
    let typed = rpassword::prompt_password(format!("Password of {about}: ")).context("cannot ask for the password")?;
    Ok(open(Some(&typed)))
}

fn password(args: &SignArgs) -> Result<Option<String>> {
    if let Some(path) = &args.password_file {
        let bytes = output::read(path)?;
        let text = String::from_utf8(bytes).with_context(|| format!("{}: not UTF-8", path.display()))?;
        return Ok(Some(text.lines().next().unwrap_or_default().to_owned()));
    }
    match &args.password_env {
        Some(name) => {
            Ok(Some(std::env::var(name).with_context(|| format!("the environment variable {name} is not set"))?))
        }
        None => Ok(args.password.clone()),
    }
}
