//! The floor: every instruction of every function, decoded once.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use iced_x86::{Decoder, DecoderOptions, Instruction};
use object::read::pe::PeFile64;
use object::{Object, ObjectSection, SectionKind};

/// Code of one image, cut at the starts of functions.
pub struct Image {
    /// Address and bytes of each piece.
    pieces: Vec<(u64, Vec<u8>)>,
}

/// Bytes that one piece of work has at least.
const PIECE: usize = 16 << 10;

impl Image {
    /// Reads the code of an image. What `.pdata` calls functions is cut apart; what stands between them (functions that
    /// need no unwind data) stays without its filler.
    ///
    /// # Errors
    /// If it is no 64-bit PE file.
    pub fn read(path: &Path) -> Result<Self> {
        let data = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = PeFile64::parse(data.as_slice()).with_context(|| format!("{} is no PE32+ file", path.display()))?;
        let base = file.relative_address_base();
        let mut starts: Vec<(u64, u64)> = Vec::new();
        for section in file.sections().filter(|s| s.name() == Ok(".pdata")) {
            for entry in section.data()?.chunks_exact(12) {
                let word =
                    |at: usize| u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]));
                if word(4) > word(0) {
                    starts.push((word(0), word(4)));
                }
            }
        }
        starts.sort_unstable();
        let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
        for section in file.sections().filter(|s| s.kind() == SectionKind::Text) {
            let (first, bytes) = (section.address() - base, section.data()?);
            let last = first + bytes.len() as u64;
            let slice = |from: u64, to: u64| &bytes[(from - first) as usize..(to - first) as usize];
            let mut at = first;
            let mut add = |from: u64, code: &[u8]| match pieces.last_mut() {
                Some((_, piece)) if piece.len() < PIECE => piece.extend_from_slice(code),
                _ => pieces.push((from, code.to_vec())),
            };
            for (from, to) in starts.iter().filter(|(from, to)| *from >= first && *to <= last) {
                if *from > at {
                    add(at, unfilled(slice(at, *from)));
                }
                if *to > at {
                    add((*from).max(at), slice((*from).max(at), *to));
                    at = *to;
                }
            }
            add(at, unfilled(slice(at, last)));
        }
        Ok(Self { pieces })
    }

    /// Bytes of code.
    pub fn code(&self) -> usize {
        self.pieces.iter().map(|p| p.1.len()).sum()
    }
}

/// Without the filler at both ends.
fn unfilled(bytes: &[u8]) -> &[u8] {
    let filler = |b: &u8| matches!(b, 0xcc | 0x90 | 0);
    let from = bytes.iter().position(|b| !filler(b)).unwrap_or(bytes.len());
    let to = bytes.iter().rposition(|b| !filler(b)).map_or(from, |p| p + 1);
    &bytes[from..to]
}

/// Decodes everything; returns how long it took.
///
/// # Errors
/// If bytes are left over.
pub fn decode(images: &[Image], threads: usize) -> Result<Duration> {
    let pieces: Vec<&(u64, Vec<u8>)> = images.iter().flat_map(|i| &i.pieces).collect();
    let next = AtomicUsize::new(0);
    let total = AtomicUsize::new(0);
    let from = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut instruction = Instruction::default();
                let mut lengths = 0;
                while let Some((address, code)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut decoder = Decoder::with_ip(64, code, *address, DecoderOptions::NONE);
                    while decoder.can_decode() {
                        decoder.decode_out(&mut instruction);
                        lengths += std::hint::black_box(&instruction).len();
                    }
                }
                total.fetch_add(lengths, Ordering::Relaxed);
            });
        }
    });
    let time = from.elapsed();
    let code: usize = images.iter().map(Image::code).sum();
    ensure!(total.into_inner() == code, "not all code was decoded");
    Ok(time)
}
