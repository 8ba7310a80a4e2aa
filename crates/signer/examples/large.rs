//! Time and memory for a large file: `large FILE MIB KEY.pem CERT.pem ROOT.pem`. FILE is made, signed to FILE.signed, and
//! verified; the plain SHA-256 of the same bytes is the measure.

use hotgraft_signer::*;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::io::{BufWriter, Read, Write};
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, size, key, certificate, root] = arguments.as_slice() else {
        return Err("large FILE MIB KEY.pem CERT.pem ROOT.pem".into());
    };
    let signed = format!("{file}.signed");
    make(file, size.parse::<usize>()? << 20)?;
    let key = SigningKey::from_pem(&std::fs::read(key)?, &std::fs::read(certificate)?, None)?;
    let trust = TrustPolicy::load(root.as_ref())?;
    let source = std::fs::File::open(file)?;

    let plain = time("hash", || {
        let mut file = std::fs::File::open(file)?;
        let mut buffer = vec![0; 256 << 10];
        let mut hasher = Sha256::new();
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finalize().to_vec()),
                n => hasher.update(&buffer[..n]),
            }
        }
    })?;
    assert_eq!(plain.len(), 32);
    for page_hashes in [false, true] {
        let options = SignOptions { page_hashes, ..SignOptions::default() };
        time(if page_hashes { "sign, page hashes" } else { "sign" }, || {
            let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(&signed)?);
            sign_stream(&source, &key, &options, &mut out)?;
            Ok(out.flush()?)
        })?;
        let file = std::fs::File::open(&signed)?;
        let report = time(if page_hashes { "verify, page hashes" } else { "verify" }, || {
            Ok(examine(&file, &trust, UnixTime::now()))
        })?;
        if let Some(fault) = report.fault {
            return Err(fault.into());
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("VmHWM: not known");
    writeln!(std::io::stdout(), "{peak}")?;
    Ok(())
}

fn time<T>(what: &str, work: impl FnOnce() -> Result<T, Box<dyn Error>>) -> Result<T, Box<dyn Error>> {
    let (start, cpu) = (Instant::now(), cpu_ticks());
    let result = work()?;
    let ticks = cpu_ticks() - cpu;
    writeln!(
        std::io::stdout(),
        "{what}: {:.3} s wall, {:.2} s cpu",
        start.elapsed().as_secs_f64(),
        ticks as f64 / 100.0
    )?;
    Ok(result)
}

/// Hundredths of a second of user and system time, where the system tells.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum()
}

/// One section that fills the file.
fn make(path: &str, size: usize) -> std::io::Result<()> {
    let mut headers = vec![0u8; 0x400];
    headers[..2].copy_from_slice(b"MZ");
    headers[0x3c] = 0x80;
    headers[0x80..0x84].copy_from_slice(b"PE\0\0");
    let mut put = |at: usize, value: u32, bytes: usize| {
        headers[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    };
    put(0x84, 0x8664, 2);
    put(0x86, 1, 2);
    put(0x94, 240, 2);
    put(0x98, 0x20b, 2);
    put(0x98 + 32, 0x1000, 4);
    put(0x98 + 36, 0x200, 4);
    put(0x98 + 60, 0x400, 4);
    put(0x98 + 108, 16, 4);
    put(0x188 + 8, size as u32, 4);
    put(0x188 + 12, 0x1000, 4);
    put(0x188 + 16, size as u32, 4);
    put(0x188 + 20, 0x400, 4);
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    file.write_all(&headers)?;
    for i in 0..size / 8 {
        file.write_all(&(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())?;
    }
    file.flush()
}
