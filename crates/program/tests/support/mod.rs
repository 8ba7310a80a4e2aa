//! A PE file written by hand, byte for byte what a test asks for.
#![allow(dead_code, reason = "every test file uses its own part")]

/// Preferred address of the images built here.
pub const BASE: u64 = 0x1_8000_0000;
/// IMAGE_SCN_* of a code section.
pub const CODE: u32 = 0x6000_0020;
/// IMAGE_SCN_* of a read-only data section.
pub const RDATA: u32 = 0x4000_0040;
/// IMAGE_SCN_* of a writable data section.
pub const DATA: u32 = 0xc000_0040;

/// A section.
#[derive(Clone)]
pub struct Section {
    pub name: [u8; 8],
    pub rva: u32,
    pub size: u32,
    pub bytes: Vec<u8>,
    pub characteristics: u32,
}

/// An image under construction.
#[derive(Clone)]
pub struct Pe {
    pub machine: u16,
    pub characteristics: u16,
    pub entry_point: u32,
    pub size_of_image: Option<u32>,
    pub directories: [(u32, u32); 16],
    pub sections: Vec<Section>,
    pub strings: Vec<u8>,
}

impl Pe {
    pub fn new() -> Self {
        Pe {
            machine: 0x8664,
            characteristics: 0x2022,
            entry_point: 0,
            size_of_image: None,
            directories: [(0, 0); 16],
            sections: Vec::new(),
            strings: Vec::new(),
        }
    }

    /// Adds a section at the next free page and returns its RVA.
    pub fn section(&mut self, name: &str, characteristics: u32, bytes: &[u8]) -> u32 {
        let rva = self.end();
        let mut short = [0; 8];
        short[..name.len()].copy_from_slice(name.as_bytes());
        let size = bytes.len() as u32;
        self.sections.push(Section { name: short, rva, size, bytes: bytes.to_vec(), characteristics });
        rva
    }

    fn end(&self) -> u32 {
        self.sections.last().map_or(0x1000, |s| (s.rva + s.size.max(1)).next_multiple_of(0x1000))
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let headers = (0x80 + 24 + 240 + 40 * self.sections.len()).next_multiple_of(0x200);
        let mut out = vec![0; headers];
        out[..2].copy_from_slice(b"MZ");
        put32(&mut out, 0x3c, 0x80);
        out[0x80..0x84].copy_from_slice(b"PE\0\0");
        put16(&mut out, 0x84, self.machine);
        put16(&mut out, 0x86, self.sections.len() as u16);
        put16(&mut out, 0x94, 240);
        put16(&mut out, 0x96, self.characteristics);
        let opt = 0x98;
        put16(&mut out, opt, 0x20b);
        put32(&mut out, opt + 16, self.entry_point);
        put64(&mut out, opt + 24, BASE);
        put32(&mut out, opt + 32, 0x1000);
        put32(&mut out, opt + 36, 0x200);
        put32(&mut out, opt + 56, self.size_of_image.unwrap_or(self.end()));
        put32(&mut out, opt + 60, headers as u32);
        put16(&mut out, opt + 68, 3);
        put32(&mut out, opt + 108, 16);
        for (i, (rva, size)) in self.directories.iter().enumerate() {
            put32(&mut out, opt + 112 + 8 * i, *rva);
            put32(&mut out, opt + 116 + 8 * i, *size);
        }
        for (i, s) in self.sections.iter().enumerate() {
            let at = opt + 240 + 40 * i;
            let raw = if s.bytes.is_empty() { 0 } else { out.len() as u32 };
            let raw_size = s.bytes.len().next_multiple_of(0x200);
            out[at..at + 8].copy_from_slice(&s.name);
            put32(&mut out, at + 8, s.size);
            put32(&mut out, at + 12, s.rva);
            put32(&mut out, at + 16, raw_size as u32);
            put32(&mut out, at + 20, raw);
            put32(&mut out, at + 36, s.characteristics);
            out.extend_from_slice(&s.bytes);
            out.resize(out.len().next_multiple_of(0x200), 0);
        }
        if !self.strings.is_empty() {
            let at = out.len() as u32;
            put32(&mut out, 0x8c, at);
            out.extend_from_slice(&(self.strings.len() as u32 + 4).to_le_bytes());
            out.extend_from_slice(&self.strings);
        }
        out
    }
}

pub fn put16(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub fn put32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub fn put64(out: &mut [u8], at: usize, value: u64) {
    out[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Block of base relocations for 8-byte fields that lie in one page.
pub fn relocations(sites: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&(sites[0] & !0xfff).to_le_bytes());
    let size = (8 + 2 * sites.len()).next_multiple_of(4);
    out.extend_from_slice(&(size as u32).to_le_bytes());
    for site in sites {
        out.extend_from_slice(&((10 << 12) | (site & 0xfff) as u16).to_le_bytes());
    }
    out.resize(size, 0);
    out
}

/// The committed pairs: (name, image, PDB) of every image that has one.
pub fn fixtures() -> Vec<(String, std::path::PathBuf)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fixtures");
    let mut out = Vec::new();
    for pair in sorted(&root) {
        for side in sorted(&pair) {
            for file in if side.is_dir() { sorted(&side) } else { Vec::new() } {
                if file.extension().is_some_and(|e| e == "exe" || e == "dll") {
                    let name = file.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
                    out.push((name, file));
                }
            }
        }
    }
    assert!(out.len() > 50, "fixtures are missing from {}", root.display());
    out
}

fn sorted(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> =
        std::fs::read_dir(dir).expect("a readable directory").map(|e| e.expect("an entry").path()).collect();
    all.sort();
    all
}
