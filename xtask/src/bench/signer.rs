//! `cargo xtask bench signer`: time and memory of signing and verifying a large image, as a multiple of hashing it once
//! with the same library, on one thread, a buffer at a time.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::timed;
use crate::hotgraft::{self, Hotgraft, Profile};
use crate::{command, say};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Size of the image, MB (10^6 bytes).
    #[arg(long, default_value_t = 200)]
    size: u32,
    /// Runs of each; the quickest counts.
    #[arg(long, default_value_t = 7)]
    runs: u32,
    /// Fail if signing or verifying without page hashes and second digest takes more than this multiple.
    #[arg(long, value_name = "RATIO")]
    limit: Option<f64>,
}

/// Memory that none of them may take, KB.
const MEMORY: u64 = 64 << 10;

/// Prints one line for each thing that is measured.
///
/// # Errors
/// If a command fails, or takes more time or memory than it may.
pub fn run(options: &Options) -> Result<()> {
    let hotgraft = Hotgraft::build(Profile::Release)?;
    // On the disk that the build is on, not in a folder that may be memory.
    let folder = tempfile::tempdir_in(hotgraft::target_folder())?;
    let at = |name: &str| folder.path().join(name);
    let image = at("image.dll");
    make(&image, options.size as usize * 1_000_000)?;
    credentials(folder.path())?;
    let (plain, paged) = (at("signed.dll"), at("paged.dll"));
    let sign = |out: &Path, more: &[&str]| {
        let mut sign = hotgraft.command();
        sign.args(["-q", "sign"]).arg(&image).arg("-o").arg(out).arg("--key").arg(at("key.pem"));
        sign.arg("--cert").arg(at("cert.pem")).args(more);
        sign
    };
    let verify = |file: &Path| {
        let mut verify = hotgraft.command();
        verify.args(["-q", "verify"]).arg(file).arg("--trust").arg(at("cert.pem"));
        verify
    };
    let mut json = verify(&plain);
    json.args(["--format", "json"]);
    let mut works: [(&str, Command, Option<&Path>); 5] = [
        ("sign", sign(&plain, &[]), Some(&plain)),
        ("verify", verify(&plain), None),
        // The document states the file's own SHA-256 as well: two digests of the same bytes.
        ("verify, second digest", json, None),
        ("sign, page hashes", sign(&paged, &["--page-hashes"]), Some(&paged)),
        ("verify, page hashes", verify(&paged), None),
    ];
    let mut floor = Duration::MAX;
    let mut best = [(Duration::MAX, 0); 5];
    // In turn, so that whatever else the machine does falls on all of them.
    for _ in 0..options.runs.max(1) {
        floor = floor.min(hash(&image)?);
        for ((_, work, out), best) in works.iter_mut().zip(&mut best) {
            if let Some(out) = out {
                let _ = fs::remove_file(out);
            }
            let (peak, time) = timed(work, &[0])?;
            *best = (best.0.min(time), best.1.max(peak));
        }
    }
    say::line(&format!("{:<22} {:>10} {:>7} {:>9}", "image", "time", "ratio", "peak"));
    let hashed = format!("hash {} MB", options.size);
    say::line(&format!("{hashed:<22} {:>7.1} ms {:>7.2}", floor.as_secs_f64() * 1e3, 1.0));
    let (mut worst, mut most) = (0.0_f64, 0);
    for ((name, _, _), (time, peak)) in works.iter().zip(best) {
        let ratio = time.as_secs_f64() / floor.as_secs_f64();
        say::line(&format!(
            "{name:<22} {:>7.1} ms {ratio:>7.2} {:>6.1} MB",
            time.as_secs_f64() * 1e3,
            peak as f64 / 1024.0
        ));
        if !name.contains(',') {
            worst = worst.max(ratio);
        }
        most = most.max(peak);
    }
    ensure!(most < MEMORY, "{} MB are too much", most / 1024);
    let limit = options.limit.unwrap_or(f64::MAX);
    ensure!(worst <= limit, "{worst:.2} times the time of hashing, more than {limit}");
    Ok(())
}

fn hash(path: &Path) -> Result<Duration> {
    let from = Instant::now();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    let mut hasher = Sha256::new();
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        }
    }
    std::hint::black_box(hasher.finalize());
    Ok(from.elapsed())
}

/// A certificate for signing code that is its own root.
fn credentials(folder: &Path) -> Result<()> {
    let mut openssl = command::at(folder, "openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "30",
    ]);
    openssl.args(["-subj", "/CN=Bench", "-addext", "extendedKeyUsage=codeSigning"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem", "-out", "cert.pem"]);
    command::quiet(&mut openssl).map(drop)
}

/// A PE image of one section of this many bytes.
fn make(path: &Path, size: usize) -> Result<()> {
    let size = size.next_multiple_of(0x200);
    let mut headers = vec![0_u8; 0x400];
    headers[..2].copy_from_slice(b"MZ");
    headers[0x80..0x84].copy_from_slice(b"PE\0\0");
    let mut put = |at: usize, value: u32, bytes: usize| {
        headers[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    };
    put(0x3c, 0x80, 4);
    // COFF header: x64, one section, size of the optional header, executable.
    put(0x84, 0x8664, 2);
    put(0x86, 1, 2);
    put(0x94, 240, 2);
    put(0x96, 0x2022, 2);
    // Optional header: PE32+, alignments, versions, sizes, subsystem, directories.
    let image = (0x1000 + size).next_multiple_of(0x1000);
    for (at, value, bytes) in [
        (0, 0x20b, 2),
        (32, 0x1000, 4),
        (36, 0x200, 4),
        (40, 6, 2),
        (48, 6, 2),
        (56, u32::try_from(image)?, 4),
        (60, 0x400, 4),
        (68, 3, 2),
        (108, 16, 4),
    ] {
        put(0x98 + at, value, bytes);
    }
    // The section: size and address in memory and in the file, readable.
    for (at, value) in
        [(8, u32::try_from(size)?), (12, 0x1000), (16, u32::try_from(size)?), (20, 0x400), (36, 0x4000_0040)]
    {
        put(0x188 + at, value, 4);
    }
    let mut file = BufWriter::new(File::create(path).with_context(|| format!("cannot make {}", path.display()))?);
    file.write_all(&headers)?;
    for index in 0..size as u64 / 8 {
        file.write_all(&index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())?;
    }
    file.flush().context("cannot write the image")
}
