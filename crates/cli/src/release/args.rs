//! The command line of `hotgraft release`.

use clap::{Args, Subcommand, ValueEnum};
use hotgraft_release::Time;
use std::path::PathBuf;

/// Baselines, hotpatches, chains, plans, and documents for compliance.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hotgraft release init catalog --product Example --publisher https://example.test/ --signer root.pem,root-cert.pem --now 2026-01-13\n  \
    hotgraft release add-baseline catalog --id 2026-01 --build 1.0.100 --image service.exe --supported-until 2026-10-01 --date 2026-01-13\n  \
    hotgraft release add-hotpatch catalog --id 2026-02 --build 1.0.107 --sequence 1 --pair v1/service.exe v2/service.exe \\\n      \
        --cve CVE-2026-0001 --date 2026-02-10\n  \
    hotgraft release publish catalog --signer root.pem,root-cert.pem --now 2026-02-10\n  \
    hotgraft release verify catalog/public --root root.json\n  \
    hotgraft release plan catalog/public --root root.json --machine pc17.json\n\n\
    Exit codes: 0 done, or as expected; 1 the answer is no; 2 could not do it; 3 refused.")]
pub struct ReleaseArgs {
    #[command(subcommand)]
    pub command: ReleaseCommand,
}

#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// Make the folder of a new catalog.
    Init(InitArgs),
    /// Add a release that is installed by restart.
    AddBaseline(AddBaselineArgs),
    /// Build, check and add a release that takes effect without restart.
    AddHotpatch(AddHotpatchArgs),
    /// Withdraw a hotpatch.
    Revoke(RevokeArgs),
    /// Give roles other keys.
    Rotate(RotateArgs),
    /// Sign what is prepared, and let it be served.
    Publish(PublishArgs),
    /// Check a served catalog as a machine does: exit 1 if it is not to be trusted.
    Verify(VerifyArgs),
    /// Write what this machine has on its disk and in its memory: for plan, export and collect.
    Observe(ObserveArgs),
    /// What machines have to do next.
    Plan(PlanArgs),
    /// The patch state of machines, in the formats of scanners and auditors.
    Export(ExportArgs),
    /// Put states of machines into a store.
    Collect(CollectArgs),
    /// A page about the whole fleet, from a store.
    Report(ReportArgs),
    /// Build the patches of many pairs, with a cache.
    Build(BuildArgs),
}

/// Keys that sign.
#[derive(Clone, Debug, Args)]
pub struct Signers {
    /// Key and certificate, PEM, as KEY,CERT; or a PFX file; or a PKCS#11 URI. May be given several times.
    #[arg(long = "signer", value_name = "KEY,CERT", required = true)]
    pub signers: Vec<String>,
    /// Environment variable with the password or PIN of the keys.
    #[arg(long, value_name = "NAME")]
    pub password_env: Option<String>,
}

/// The time that counts.
#[derive(Clone, Copy, Debug, Args)]
pub struct Now {
    /// The time that counts, like 2026-01-31T12:00:00Z or 2026-01-31. Without it SOURCE_DATE_EPOCH (seconds) counts.
    #[arg(long, value_name = "TIME")]
    pub now: Option<Time>,
}

/// The date of a release.
#[derive(Clone, Copy, Debug, Args)]
pub struct Date {
    /// From when the release counts, like 2026-01-31. Without it SOURCE_DATE_EPOCH (seconds) counts.
    #[arg(long, value_name = "TIME")]
    pub date: Option<Time>,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Folder to make.
    pub folder: PathBuf,
    /// Name of the product.
    #[arg(long)]
    pub product: String,
    /// Who releases it: an URL.
    #[arg(long, value_name = "URL")]
    pub publisher: String,
    /// Keys of a role: ROLE=CERT,CERT or ROLE:THRESHOLD=CERT,CERT. Without any, every signer has every role.
    #[arg(long = "role", value_name = "ROLE=CERT")]
    pub roles: Vec<String>,
    /// Months of planned baselines.
    #[arg(long, value_name = "MONTH", value_delimiter = ',', default_values_t = [1, 4, 7, 10], value_parser = clap::value_parser!(u8).range(1..=12))]
    pub baseline_months: Vec<u8>,
    /// An attribute that machines must have to get hotpatches, like vbs. May be given several times.
    #[arg(long, value_name = "NAME")]
    pub requires: Vec<String>,
    /// For how long signatures of a role count: ROLE=DAYS. May be given several times.
    #[arg(long, value_name = "ROLE=DAYS")]
    pub expiry: Vec<String>,
    #[command(flatten)]
    pub signers: Signers,
    #[command(flatten)]
    pub now: Now,
}

/// What every release has.
#[derive(Debug, Args)]
pub struct ReleaseFacts {
    /// Its name.
    #[arg(long)]
    pub id: String,
    /// Version of the product that it comes to.
    #[arg(long, value_name = "VERSION")]
    pub build: String,
    /// KB id.
    #[arg(long, value_name = "ID")]
    pub kb: Option<String>,
    /// CVE that it fixes: ID, or ID=IMAGE,IMAGE if the fix is not in all images of the release. May be given several times.
    #[arg(long, value_name = "ID")]
    pub cve: Vec<String>,
    #[command(flatten)]
    pub date: Date,
}

#[derive(Debug, Args)]
pub struct AddBaselineArgs {
    /// Folder of the catalog.
    pub folder: PathBuf,
    #[command(flatten)]
    pub facts: ReleaseFacts,
    /// An image. May be given several times.
    #[arg(long = "image", value_name = "FILE", required = true)]
    pub images: Vec<PathBuf>,
    /// End of support.
    #[arg(long, value_name = "TIME")]
    pub supported_until: Time,
    /// Not planned: an emergency.
    #[arg(long, value_name = "TEXT", conflicts_with = "feature")]
    pub emergency: Option<String>,
    /// Not planned: new features.
    #[arg(long, value_name = "TEXT")]
    pub feature: Option<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = crate::args::Format::Text)]
    pub format: crate::args::Format,
}

#[derive(Debug, Args)]
pub struct AddHotpatchArgs {
    /// Folder of the catalog.
    pub folder: PathBuf,
    #[command(flatten)]
    pub facts: ReleaseFacts,
    /// Sequence number: one more than that of the last hotpatch.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub sequence: u32,
    /// An image of the baseline, and its fixed build. May be given several times.
    #[arg(long = "pair", value_names = ["OLD", "NEW"], num_args = 2, required = true, action = clap::ArgAction::Append)]
    pub pairs: Vec<PathBuf>,
    /// Accept a named condition of the verdicts. May be given several times.
    #[arg(long, value_name = "KEY")]
    pub accept: Vec<String>,
    /// Who accepts the conditions; recorded in the patches and the catalog.
    #[arg(long, value_name = "NAME", requires = "accept", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub accepted_by: Option<String>,
    /// A signed patch to put in the place of the built one; it must be the built one with a signature. May be given
    /// several times.
    #[arg(long, value_name = "PATCH")]
    pub signed: Vec<PathBuf>,
    /// Write the built patches into this folder and stop: to be signed and given as --signed.
    #[arg(long, value_name = "FOLDER", conflicts_with = "signed")]
    pub stage: Option<PathBuf>,
    /// If a verdict refuses, make it a baseline, supported until then.
    #[arg(long, value_name = "TIME")]
    pub else_baseline_until: Option<Time>,
    /// Write the verdicts here, SARIF.
    #[arg(long, value_name = "F")]
    pub sarif: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = crate::args::Format::Text)]
    pub format: crate::args::Format,
}

#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// Folder of the catalog.
    pub folder: PathBuf,
    /// The hotpatch.
    #[arg(long, value_name = "ID")]
    pub hotpatch: String,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    #[command(flatten)]
    pub date: Date,
}

#[derive(Debug, Args)]
pub struct RotateArgs {
    /// Folder of the catalog.
    pub folder: PathBuf,
    /// New keys of a role: ROLE=CERT,CERT or ROLE:THRESHOLD=CERT,CERT. May be given several times.
    #[arg(long = "role", value_name = "ROLE=CERT", required = true)]
    pub roles: Vec<String>,
    #[command(flatten)]
    pub signers: Signers,
    #[command(flatten)]
    pub now: Now,
}

#[derive(Debug, Args)]
pub struct PublishArgs {
    /// Folder of the catalog.
    pub folder: PathBuf,
    #[command(flatten)]
    pub signers: Signers,
    #[command(flatten)]
    pub now: Now,
}

/// A served catalog, and why it is trusted.
#[derive(Debug, Args)]
pub struct CatalogArgs {
    /// Folder that is served (the vendor's folder will do).
    pub catalog: PathBuf,
    /// The first root, got by another way than the catalog.
    #[arg(long, value_name = "F", required_unless_present = "state")]
    pub root: Option<PathBuf>,
    /// What this machine remembers; it is written when all is in order.
    #[arg(long, value_name = "F")]
    pub state: Option<PathBuf>,
    /// The time that counts (default: now).
    #[arg(long, value_name = "TIME")]
    pub now: Option<Time>,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub catalog: CatalogArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t = crate::args::Format::Text)]
    pub format: crate::args::Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hotgraft release observe \"C:\\Program Files\\Example\" -o pc17.json\n  \
    hotgraft release observe service.exe codec.dll --machine pc17 --attribute canary | hotgraft release plan catalog --state s --machine -")]
pub struct ObserveArgs {
    /// Installed images of the product; a folder stands for the images (exe, dll) in it and below it.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Id of the machine (default: its name).
    #[arg(long, value_name = "ID")]
    pub machine: Option<String>,
    /// A patch that `hotgraft watch` or `run` applies when its image is loaded. May be given several times.
    #[arg(long, value_name = "PATCH")]
    pub staged: Vec<PathBuf>,
    /// Something else that the machine is or has, as the catalog's --requires names it: NAME, or NAME=false. May be given
    /// several times; vbs and hvci are found out where Windows tells.
    #[arg(long = "attribute", value_name = "NAME")]
    pub attributes: Vec<String>,
    /// Output file; `-` is stdout.
    #[arg(short, long, value_name = "F", default_value = "-")]
    pub output: PathBuf,
}

/// Machines.
#[derive(Debug, Args)]
pub struct MachineArgs {
    /// State of a machine (hotgraft.machine/1). May be given several times; `-` is stdin.
    #[arg(long = "machine", value_name = "F", required_unless_present = "fleet")]
    pub machines: Vec<PathBuf>,
    /// States of many machines, one JSON document to a line.
    #[arg(long, value_name = "F")]
    pub fleet: Option<PathBuf>,
    /// A process that cannot be read and does not matter, by name; the answer says so. May be given several times.
    #[arg(long, value_name = "NAME")]
    pub ignore_unreadable: Vec<String>,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub catalog: CatalogArgs,
    #[command(flatten)]
    pub machines: MachineArgs,
    /// Rollout by rings (hotgraft.rollout/1), TOML.
    #[arg(long, value_name = "F")]
    pub rollout: Option<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = crate::args::Format::Text)]
    pub format: crate::args::Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Document {
    /// What is true of each machine, JSON.
    Json,
    /// One line for each machine and CVE.
    Jsonl,
    /// OpenVEX 0.2.0.
    Openvex,
    /// CSAF 2.0, profile VEX.
    Csaf,
    /// CycloneDX 1.6.
    Cyclonedx,
    /// OCSF patch state events, one to a line.
    Ocsf,
    /// Prometheus text.
    Prometheus,
    /// Intune custom compliance: the rules.
    IntuneRules,
    /// Intune custom compliance: the script.
    IntuneScript,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub catalog: CatalogArgs,
    #[command(flatten)]
    pub machines: MachineArgs,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Document::Json)]
    pub format: Document,
    /// Output file; `-` is stdout.
    #[arg(short, long, value_name = "F", default_value = "-")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct CollectArgs {
    /// Store (SQLite); made if it is not there.
    pub store: PathBuf,
    #[command(flatten)]
    pub catalog: CatalogArgs,
    #[command(flatten)]
    pub machines: MachineArgs,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Store.
    pub store: PathBuf,
    /// The day that the page is about (default: the last in the store).
    #[arg(long, value_name = "DAY")]
    pub day: Option<Time>,
    /// Page to write; `-` is stdout.
    #[arg(short, long, value_name = "F", default_value = "-")]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Pairs and what they are for (hotgraft.manifest/1), TOML.
    #[arg(long, value_name = "F")]
    pub manifest: PathBuf,
    /// Folder of patches to make; it appears whole or not at all.
    #[arg(short, long, value_name = "FOLDER")]
    pub output: PathBuf,
    /// Folder of the cache.
    #[arg(long, value_name = "FOLDER")]
    pub cache: PathBuf,
    /// Output format.
    #[arg(long, value_enum, default_value_t = crate::args::Format::Text)]
    pub format: crate::args::Format,
}
