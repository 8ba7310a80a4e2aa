//! The command line as data. Validation that needs more than one argument happens in the commands.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Make, sign, verify and apply hotpatches for Windows images.
#[derive(Debug, Parser)]
#[command(
    name = "hotgraft",
    version,
    about,
    long_about = "hotgraft takes two shipped builds of a Windows image (old and new PE files with their PDBs) and makes a signed \
                  hotpatch: a PE image whose functions replace the changed ones in a process that keeps running. Where a fix cannot be \
                  grafted soundly it says so, names the change that prevents it, and writes nothing.",
    after_help = "Examples:\n  \
        hotgraft diff old/service.exe new/service.exe\n  \
        hotgraft build old/service.exe new/service.exe -o service_hotpatch.dll --cve CVE-2026-0001\n  \
        hotgraft sign service_hotpatch.dll -o signed.dll --key key.pem --cert chain.pem\n  \
        hotgraft verify signed.dll --base old/service.exe --new new/service.exe --trust root.pem\n  \
        hotgraft apply --pid 4711 --patch signed.dll --trust root.pem\n  \
        hotgraft status --pid 4711\n  \
        hotgraft rollback --pid 4711\n\n\
        Exit codes: 0 done, or as expected; 1 the answer is no; 2 could not do it; 3 refused; 4 nothing to patch."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// When to colour human output.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Say less on stderr (twice: errors only).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub quiet: u8,
    /// Say more on stderr.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Threads to use; 0 means one per processor. The output does not depend on it.
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub jobs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare two builds of an image: exit 0 if nothing differs, 1 if something does.
    Diff(DiffArgs),
    /// Judge two builds and make a hotpatch image.
    Build(BuildArgs),
    /// Sign a PE file (Authenticode), or take a signature made elsewhere.
    Sign(SignArgs),
    /// Check structure, signature, base identity and what the patch leaves different.
    Verify(VerifyArgs),
    /// Show what is in an image or a hotpatch.
    Inspect(InspectArgs),
    /// Start a Windows program with patches applied before its code runs.
    Run(RunArgs),
    /// Apply a hotpatch to a running process.
    Apply(ApplyArgs),
    /// Take a hotpatch out of a running process.
    Rollback(RollbackArgs),
    /// Tell the patch state as read from memory.
    Status(StatusArgs),
    /// Keep processes patched: when they start, and when they load the image.
    Watch(WatchArgs),
    /// Tell whether images, this machine and a process can be hotpatched, and what to do where not.
    Doctor(DoctorArgs),
    /// Baselines, hotpatches, chains, plans, and documents for compliance.
    Release(crate::release::args::ReleaseArgs),
    /// Lay out the patched base and the new image in one address space, for a test that runs both.
    #[command(hide = true)]
    LayOut(LayOutArgs),
    /// Print shell completions.
    Completions {
        /// Shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Where the PDBs are.
#[derive(Clone, Debug, Default, Args)]
pub struct PdbArgs {
    /// PDB of OLD (default: beside the image, or by its debug directory's name).
    #[arg(long, value_name = "F")]
    pub old_pdb: Option<PathBuf>,
    /// PDB of NEW.
    #[arg(long, value_name = "F")]
    pub new_pdb: Option<PathBuf>,
}

/// Arguments of `lay-out`.
#[derive(Debug, Args)]
pub struct LayOutArgs {
    /// The shipped image.
    pub old: PathBuf,
    /// The fixed image.
    pub new: PathBuf,
    /// The hotpatch.
    pub patch: PathBuf,
    #[command(flatten)]
    pub pdbs: PdbArgs,
    /// Folder for `space.json` and `memory.bin`.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiffFormat {
    Text,
    Json,
    /// One page that needs nothing from elsewhere: listings and control-flow graphs side by side.
    Html,
    /// SARIF 2.1.0, for code review tools.
    Sarif,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BuildFormat {
    Text,
    Json,
    /// SARIF 2.1.0, for code review tools.
    Sarif,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hotgraft diff old.dll new.dll\n  hotgraft diff old.dll new.dll --format html -o report.html\n  \
                  hotgraft diff old.dll new.dll --explain parse_header\n  \
                  hotgraft diff old.dll new.dll --binexport out --bindiff out/results.BinDiff"
)]
pub struct DiffArgs {
    /// The shipped image.
    pub old: PathBuf,
    /// The fixed image.
    pub new: PathBuf,
    #[command(flatten)]
    pub pdbs: PdbArgs,
    /// Match by structure alone, as if no PDB existed.
    #[arg(long, conflicts_with_all = ["old_pdb", "new_pdb"])]
    pub no_pdb: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t = DiffFormat::Text)]
    pub format: DiffFormat,
    /// Output file; `-` is stdout.
    #[arg(short, long, value_name = "F", default_value = "-")]
    pub output: PathBuf,
    /// Show one function of both sides, aligned by block and instruction (text or JSON).
    #[arg(long, value_name = "NAME")]
    pub explain: Option<String>,
    /// Also write both images as `old_NAME.BinExport` and `new_NAME.BinExport` into this folder.
    #[arg(long, value_name = "DIR")]
    pub binexport: Option<PathBuf>,
    /// Also write the matches as a `.BinDiff` database; its readers want the `.BinExport` files beside it.
    #[arg(long, value_name = "F")]
    pub bindiff: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReachArg {
    /// RIP-relative fields, resolved after placing the patch within 2 GB of the base.
    Near,
    /// Slots in read-only data; works at any distance.
    Any,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hotgraft build old.dll new.dll -o fix_hotpatch.dll --sequence 2 --kb KB5000001 --cve CVE-2026-0001\n  \
                  hotgraft build old.dll new.dll --dry-run\n  hotgraft build --explain data.initialiser.changed"
)]
pub struct BuildArgs {
    /// The shipped image, the one that runs.
    #[arg(required_unless_present = "explain")]
    pub old: Option<PathBuf>,
    /// The fixed image.
    #[arg(required_unless_present = "explain")]
    pub new: Option<PathBuf>,
    /// The hotpatch image to write.
    #[arg(short, long, value_name = "PATCH", required_unless_present_any = ["dry_run", "explain"])]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub pdbs: PdbArgs,
    /// Sequence number of the patch; a later patch of the same base needs a higher one.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub sequence: u32,
    /// KB id to carry.
    #[arg(long, value_name = "ID")]
    pub kb: Option<String>,
    /// CVE that the patch fixes; may be given several times.
    #[arg(long, value_name = "ID")]
    pub cve: Vec<String>,
    /// Accept a named condition of the verdict; may be given several times.
    #[arg(long, value_name = "KEY")]
    pub accept: Vec<String>,
    /// Who accepts the conditions; recorded in the patch and its report.
    #[arg(long, value_name = "NAME", requires = "accept", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub accepted_by: Option<String>,
    /// Object file (COFF, x64) with functions that run when the patch is applied or rolled back: `int hotgraft_pre_apply(void)`,
    /// `hotgraft_post_apply`, `hotgraft_pre_rollback`, `hotgraft_post_rollback`. It may use functions, variables and
    /// imports of OLD by name.
    #[arg(long, value_name = "FILE")]
    pub hooks: Option<PathBuf>,
    /// Write where the patch comes from, as an in-toto statement for `hotgraft sign --provenance`.
    #[arg(long, value_name = "F", conflicts_with_all = ["dry_run", "emit"])]
    pub provenance: Option<PathBuf>,
    /// Also write the JSON report here (written for a refusal too).
    #[arg(long, value_name = "F")]
    pub report: Option<PathBuf>,
    /// Output format of the report on stdout.
    #[arg(long, value_enum, default_value_t = BuildFormat::Text)]
    pub format: BuildFormat,
    /// Stop at the verdict and write no patch.
    #[arg(long)]
    pub dry_run: bool,
    /// How patch code reaches the base (default: any where proven safe, else near).
    #[arg(long, value_enum)]
    pub reach: Option<ReachArg>,
    /// Allow a patch for images without PDBs.
    #[arg(long)]
    pub allow_without_pdb: bool,
    /// Print a stage as JSON instead of the report.
    #[arg(long, value_enum, value_name = "STAGE")]
    pub emit: Option<Stage>,
    /// Explain a rule key and exit.
    #[arg(long, value_name = "KEY", exclusive = true)]
    pub explain: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    Program,
    Comparison,
    Plan,
}

#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("action").args(["hash_only", "attach", "remove", "timestamp_only", "extract"]),
    group = clap::ArgGroup::new("secret").args(["password_file", "password_env", "password"]),
    after_help = "Examples:\n  \
        hotgraft sign patch.dll -o signed.dll --key key.pem --cert chain.pem\n  \
        hotgraft sign patch.dll -o signed.dll --pfx key.pfx --password-file pw.txt \\\n    \
            --timestamp http://tsa.example/ --timestamp http://tsa.example.org/   # the second if the first fails\n  \
        hotgraft sign patch.dll -o signed.dll --pkcs11 'pkcs11:token=build;object=release' \\\n    \
            --pkcs11-module /usr/lib/softhsm/libsofthsm2.so --cert chain.pem --password-env PIN\n\n  \
        With a key that is elsewhere, in two halves (the options must be the same in both):\n  \
        hotgraft sign patch.dll --hash-only to-sign.bin\n  \
        openssl dgst -sha256 -sign key.pem -out signature.bin to-sign.bin\n  \
        hotgraft sign patch.dll -o signed.dll --attach signature.bin --cert chain.pem\n  \
        hotgraft sign patch.dll -o signed.dll --attach finished.p7      # a PKCS#7 that was made elsewhere\n\n  \
        With the statement of `hotgraft build --provenance`; the signed one is written beside OUT:\n  \
        hotgraft sign patch.dll -o signed.dll --key key.pem --cert chain.pem --provenance patch.intoto.json\n\n  \
        What is there already:\n  \
        hotgraft sign signed.dll -o both.dll --append --key other.pem --cert other-chain.pem\n  \
        hotgraft sign signed.dll -o stamped.dll --timestamp-only --timestamp http://tsa.example/\n  \
        hotgraft sign signed.dll -o plain.dll --remove\n  \
        hotgraft sign signed.dll --extract signature.p7\n\n\
        A password is asked for on the terminal when the key needs one and no option gives it."
)]
pub struct SignArgs {
    /// PE file; `-` is stdin.
    pub file: PathBuf,
    /// Signed file to write; `-` is stdout. May be FILE itself.
    #[arg(short, long, value_name = "OUT", required_unless_present_any = ["hash_only", "extract"])]
    pub output: Option<PathBuf>,

    /// Key and certificates in one PFX file.
    #[arg(long, value_name = "F", help_heading = "Key", conflicts_with_all = ["key", "pkcs11", "action"])]
    pub pfx: Option<PathBuf>,
    /// Private key, PEM (PKCS#8, PKCS#1 or SEC1; encrypted or not).
    #[arg(long, value_name = "F", help_heading = "Key", requires = "cert", conflicts_with_all = ["pkcs11", "action"])]
    pub key: Option<PathBuf>,
    /// Certificates of the signer and its issuers, PEM, in any order.
    #[arg(long, value_name = "F", help_heading = "Key")]
    pub cert: Option<PathBuf>,
    /// Key in a PKCS#11 token, by a URI of RFC 7512 that leads to one key.
    #[arg(long, value_name = "URI", help_heading = "Key", conflicts_with = "action")]
    pub pkcs11: Option<String>,
    /// PKCS#11 library, unless the URI names it as module-path.
    #[arg(long, value_name = "F", help_heading = "Key", requires = "pkcs11")]
    pub pkcs11_module: Option<PathBuf>,
    /// File with the password or PIN (first line); `-` is stdin.
    #[arg(long, value_name = "F", help_heading = "Key")]
    pub password_file: Option<PathBuf>,
    /// Environment variable with the password or PIN.
    #[arg(long, value_name = "NAME", help_heading = "Key")]
    pub password_env: Option<String>,
    /// The password itself. Others on this machine can read command lines: for trials.
    #[arg(long, value_name = "TEXT", help_heading = "Key")]
    pub password: Option<String>,

    /// Digest of the file and of the signature.
    #[arg(long, value_enum, default_value_t = DigestArg::Sha256, help_heading = "Signature")]
    pub digest: DigestArg,
    /// Keep the signatures there are, and nest the new one in the first.
    #[arg(long, help_heading = "Signature")]
    pub append: bool,
    /// Put the new signature in the place of those there are (default).
    #[arg(long, help_heading = "Signature", conflicts_with = "append")]
    pub replace: bool,
    /// State a hash for each page.
    #[arg(long, help_heading = "Signature")]
    pub page_hashes: bool,
    /// Description shown to users.
    #[arg(long, value_name = "TEXT", help_heading = "Signature")]
    pub description: Option<String>,
    /// URL shown to users.
    #[arg(long, value_name = "URL", help_heading = "Signature")]
    pub url: Option<String>,
    /// Statement of `hotgraft build --provenance`; it is signed with the same key, to OUT.intoto.json.
    #[arg(long, value_name = "F", help_heading = "Signature", conflicts_with = "action")]
    pub provenance: Option<PathBuf>,

    /// RFC 3161 timestamp server. May be given several times, tried in turn; if none answers, nothing is written.
    #[arg(long, value_name = "URL", help_heading = "Timestamp")]
    pub timestamp: Vec<String>,
    /// Digest that the server is sent (default: as --digest).
    #[arg(long, value_enum, value_name = "DIGEST", help_heading = "Timestamp", requires = "timestamp")]
    pub timestamp_digest: Option<DigestArg>,
    /// How often each server is tried.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        help_heading = "Timestamp",
        value_parser = clap::value_parser!(u32).range(1..=20)
    )]
    pub timestamp_attempts: u32,

    /// Write the exact bytes that are to be signed, and stop.
    #[arg(long, value_name = "F", help_heading = "Instead of signing")]
    pub hash_only: Option<PathBuf>,
    /// Take a signature over those bytes (with --cert), or a finished PKCS#7, and put it into the file.
    #[arg(long, value_name = "F", help_heading = "Instead of signing")]
    pub attach: Option<PathBuf>,
    /// Add a timestamp to the signature that is there.
    #[arg(long, help_heading = "Instead of signing", requires = "timestamp")]
    pub timestamp_only: bool,
    /// Remove every signature.
    #[arg(long, help_heading = "Instead of signing")]
    pub remove: bool,
    /// Write the PKCS#7 that is in the file.
    #[arg(long, value_name = "F", help_heading = "Instead of signing")]
    pub extract: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DigestArg {
    Sha256,
    Sha384,
    Sha512,
}

/// Whom to trust: the same options, and the same code behind them, wherever a patch is judged.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Trust")]
pub struct TrustArgs {
    /// Trusted root certificates, PEM.
    #[arg(long, value_name = "PEM")]
    pub trust: Option<PathBuf>,
    /// Trust policy file (roots, publisher, purposes, minimum sequence, denied hashes), TOML or JSON.
    #[arg(long, value_name = "F")]
    pub policy: Option<PathBuf>,
    /// Roots of timestamp authorities, PEM (default: the trusted roots).
    #[arg(long, value_name = "PEM")]
    pub timestamp_trust: Option<PathBuf>,
    /// Certificate revocation list, DER or PEM. May be given several times.
    #[arg(long, value_name = "F")]
    pub crl: Vec<PathBuf>,
    /// Deny list: hashes of files and certificates, one to a line. May be given several times.
    #[arg(long, value_name = "F")]
    pub deny: Vec<PathBuf>,
    /// Common name that the signer must have. May be given several times: any of them.
    #[arg(long, value_name = "NAME")]
    pub publisher: Vec<String>,
    /// Demand a trusted timestamp.
    #[arg(long)]
    pub require_timestamp: bool,
    /// Demand current revocation lists for the whole path.
    #[arg(long)]
    pub require_revocation: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        hotgraft verify signed.dll --trust root.pem\n  \
        hotgraft verify signed.dll --policy policy.toml --base old.dll --new new.dll --format json\n  \
        hotgraft verify signed.dll --trust root.pem --timestamp-trust tsa-root.pem --require-timestamp --crl ca.crl\n  \
        hotgraft verify any.exe --trust root.pem --at 2031-01-01\n\n\
        A policy file:\n  \
        schema = \"hotgraft.policy/1\"\n  \
        roots = [\"root.pem\"]                  # beside the policy file\n  \
        timestamp_roots = [\"tsa-root.pem\"]\n  \
        timestamp_required = true\n  \
        revocation_lists = [\"ca.crl\"]\n  \
        required_eku = [\"codeSigning\"]\n  \
        minimum_sequence = 3\n  \
        denied_files = [\"<sha256>\"]\n  \
        allow_unsigned = false                # what --allow-unsigned may do; false unless said\n  \
        provenance_required = true\n  \
        [[publisher]]\n  \
        common_name = \"Example Ltd\"\n\n\
        Exit codes: 0 everything checked is in order; 1 a fault; 2 unreadable or no PE file.")]
pub struct VerifyArgs {
    /// Hotpatch (or any signed PE file, for its signature).
    pub patch: PathBuf,
    /// The base image, for its identity; with --new also the residual check.
    #[arg(long, value_name = "OLD")]
    pub base: Option<PathBuf>,
    /// The new image.
    #[arg(long, value_name = "NEW", requires = "base")]
    pub new: Option<PathBuf>,
    #[command(flatten)]
    pub pdbs: PdbArgs,
    /// Provenance envelope (default: PATCH.intoto.json, if it is there).
    #[arg(long, value_name = "F")]
    pub provenance: Option<PathBuf>,
    /// The time that counts for signatures without a trusted timestamp, like 2030-01-31T12:00:00Z (default: now).
    #[arg(long, value_name = "TIME")]
    pub at: Option<hotgraft_signer::UnixTime>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    pub trust: TrustArgs,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").args(["functions", "tables", "signature", "coverage", "disasm"]))]
pub struct InspectArgs {
    /// Image or hotpatch.
    pub file: PathBuf,
    /// PDB of the image (default: beside the image, or by its debug directory's name).
    #[arg(long, value_name = "F")]
    pub pdb: Option<PathBuf>,
    /// Functions with ranges and evidence.
    #[arg(long)]
    pub functions: bool,
    /// Hotpatch tables.
    #[arg(long)]
    pub tables: bool,
    /// Signatures and certificates.
    #[arg(long)]
    pub signature: bool,
    /// Shares of explained bytes, and the ranges that are not.
    #[arg(long)]
    pub coverage: bool,
    /// Disassembly of one function, references named.
    #[arg(long, value_name = "NAME")]
    pub disasm: Option<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Hotpatch; may be given several times, each is applied to the image it is for.
    #[arg(long, value_name = "PATCH", required = true)]
    pub patch: Vec<PathBuf>,
    /// Load patches that nobody signed (for trials; a policy can forbid it).
    #[arg(long)]
    pub allow_unsigned: bool,
    /// Audit record, JSON lines (default: HOTGRAFT_AUDIT, else %ProgramData%\\hotgraft\\audit.jsonl where it can be written).
    #[arg(long, value_name = "F")]
    pub audit: Option<PathBuf>,
    /// Program and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM ARGS")]
    pub program: Vec<std::ffi::OsString>,
    #[command(flatten)]
    pub trust: TrustArgs,
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Process id.
    #[arg(long, value_name = "N")]
    pub pid: u32,
    /// Hotpatch.
    #[arg(long, value_name = "PATCH")]
    pub patch: PathBuf,
    /// Load a patch that nobody signed (for trials; a policy can forbid it).
    #[arg(long)]
    pub allow_unsigned: bool,
    /// Give up when no safe moment was found in this time.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub timeout: u64,
    /// Audit record, JSON lines (default: HOTGRAFT_AUDIT, else %ProgramData%\\hotgraft\\audit.jsonl where it can be written).
    #[arg(long, value_name = "F")]
    pub audit: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    pub trust: TrustArgs,
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Process id.
    #[arg(long, value_name = "N")]
    pub pid: u32,
    /// Only this patch (default: the one that is active).
    #[arg(long, value_name = "PATCH")]
    pub patch: Option<PathBuf>,
    /// Give up when no safe moment was found in this time.
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub timeout: u64,
    /// Audit record, JSON lines (default: HOTGRAFT_AUDIT, else %ProgramData%\\hotgraft\\audit.jsonl where it can be written).
    #[arg(long, value_name = "F")]
    pub audit: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").args(["pid", "all", "image"]))]
pub struct StatusArgs {
    /// One process.
    #[arg(long, value_name = "N")]
    pub pid: Option<u32>,
    /// All processes that can be read (default).
    #[arg(long)]
    pub all: bool,
    /// Processes in which this image is loaded.
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Exit 1 unless every process that was looked at has this sequence applied (0: none).
    #[arg(long, value_name = "SEQUENCE")]
    pub expect: Option<u32>,
    /// Name the threads that are still in old code. Needs the rights of `apply`: a thread of hotgraft's own looks at the
    /// others inside the process, one at a time.
    #[arg(long)]
    pub threads: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        hotgraft doctor service.exe plugin.dll          # anywhere\n  \
        hotgraft doctor --pid 4711                      # this machine and a process of it\n  \
        hotgraft doctor build/*.dll --format json\n\n\
        Exit codes: 0 nothing stands in the way; 1 something does; 2 unreadable.")]
pub struct DoctorArgs {
    /// Images to look at.
    #[arg(value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Process to look at (Windows).
    #[arg(long, value_name = "N")]
    pub pid: Option<u32>,
    /// PDB of the image (default: beside the image, or by its debug directory's name).
    #[arg(long, value_name = "F", requires = "images")]
    pub pdb: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        hotgraft watch --catalog patches --trust root.pem\n  \
        hotgraft watch --catalog patches --trust root.pem --program service.exe --format json\n  \
        hotgraft watch --catalog catalog --root root.json --state seen.json --policy policy.toml\n  \
        hotgraft watch --catalog patches --trust root.pem --once\n\n\
        DIR is a folder of patches, or with --root or --state a published catalog: then only what it lists and has not\n\
        revoked counts. It is read again when it changes. Of several patches for an image the highest sequence that is\n\
        trusted is applied. What an operator rolls back stays so until the watch is started again.\n\n\
        Exit codes: 0 ended by Ctrl-C, or --once and everything is patched; 1 --once and something is not.")]
pub struct WatchArgs {
    /// Folder of patches, or catalog.
    #[arg(long, value_name = "DIR")]
    pub catalog: PathBuf,
    /// The first root of the catalog, got by another way than the catalog.
    #[arg(long, value_name = "F")]
    pub root: Option<PathBuf>,
    /// What this machine remembers of the catalog; it is written when all is in order.
    #[arg(long, value_name = "F")]
    pub state: Option<PathBuf>,
    /// Only processes of this program (file name); may be given several times (default: all).
    #[arg(long, value_name = "NAME")]
    pub program: Vec<String>,
    /// Load patches that nobody signed (for trials; a policy can forbid it).
    #[arg(long)]
    pub allow_unsigned: bool,
    /// How often to look for processes and images (default: as often as a twentieth of one processor allows, at most every 5
    /// and at least every 100 milliseconds).
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub poll: Option<u64>,
    /// For how long one attempt may look for a safe moment.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub timeout: u64,
    /// Look once and end.
    #[arg(long)]
    pub once: bool,
    /// Audit record, JSON lines (default: HOTGRAFT_AUDIT, else %ProgramData%\\hotgraft\\audit.jsonl where it can be written).
    #[arg(long, value_name = "F")]
    pub audit: Option<PathBuf>,
    /// Output format; JSON is one line of the audit record for every outcome.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    #[command(flatten)]
    pub trust: TrustArgs,
}
