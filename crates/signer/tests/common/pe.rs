//! PE files made from nothing: valid enough to be signed by anyone, with the shapes that signatures care about.

/// The shape of a PE file.
#[derive(Debug, Clone)]
pub struct Shape {
    /// PE32+ or PE32.
    pub plus: bool,
    /// Bytes of raw data per section, not rounded.
    pub sections: Vec<usize>,
    /// Bytes behind the last section.
    pub overlay: usize,
    /// Bytes left out before the last section (a layout that verifiers disagree about).
    pub gap: usize,
    /// Number of data directories.
    pub directories: u32,
    /// Whether the header states its checksum.
    pub checksum: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { plus: true, sections: vec![0x1234, 0x200, 0x2001], overlay: 0, gap: 0, directories: 16, checksum: true }
    }
}

pub const PE_OFFSET: usize = 0x80;
pub const OPTIONAL: usize = PE_OFFSET + 24;
pub const CHECKSUM: usize = OPTIONAL + 64;

impl Shape {
    /// File offset of the security directory's entry.
    pub fn security(&self) -> usize {
        OPTIONAL + if self.plus { 112 } else { 96 } + 32
    }

    /// File offset of the section table.
    pub fn section_table(&self) -> usize {
        OPTIONAL + self.optional_size()
    }

    fn optional_size(&self) -> usize {
        (if self.plus { 112 } else { 96 }) + 8 * 16
    }

    pub fn build(&self) -> Vec<u8> {
        const HEADERS: usize = 0x400;
        let mut f = vec![0u8; HEADERS];
        f[..2].copy_from_slice(b"MZ");
        put32(&mut f, 0x3c, PE_OFFSET as u32);
        f[PE_OFFSET..PE_OFFSET + 4].copy_from_slice(b"PE\0\0");
        put16(&mut f, PE_OFFSET + 4, if self.plus { 0x8664 } else { 0x14c });
        put16(&mut f, PE_OFFSET + 6, self.sections.len() as u16);
        put16(&mut f, PE_OFFSET + 20, self.optional_size() as u16);
        put16(&mut f, PE_OFFSET + 22, if self.plus { 0x2022 } else { 0x2102 });
        put16(&mut f, OPTIONAL, if self.plus { 0x20b } else { 0x10b });
        put32(&mut f, OPTIONAL + 32, 0x1000);
        put32(&mut f, OPTIONAL + 36, 0x200);
        put16(&mut f, OPTIONAL + 40, 6);
        put16(&mut f, OPTIONAL + 48, 6);
        put32(&mut f, OPTIONAL + 60, HEADERS as u32);
        put16(&mut f, OPTIONAL + 68, 2);
        let directories_at = self.security() - 32;
        put32(&mut f, directories_at - 4, self.directories);
        let mut rva = 0x1000u32;
        for (i, &size) in self.sections.iter().enumerate() {
            if self.gap > 0 && i + 1 == self.sections.len() {
                f.resize(f.len() + self.gap, 0x47);
            }
            let raw = size.next_multiple_of(0x200);
            let at = self.section_table() + 40 * i;
            f[at..at + 5].copy_from_slice(&[b'.', b's', b'e', b'c', b'0' + i as u8]);
            put32(&mut f, at + 8, size as u32);
            put32(&mut f, at + 12, rva);
            put32(&mut f, at + 16, raw as u32);
            let start = f.len();
            put32(&mut f, at + 20, start as u32);
            put32(&mut f, at + 36, if i == 0 { 0x6000_0020 } else { 0x4000_0040 });
            f.extend((0..raw).map(|b| if b < size { (b * 7 + i * 31 + b / 251) as u8 } else { 0 }));
            rva += (size as u32).next_multiple_of(0x1000);
        }
        put32(&mut f, OPTIONAL + 56, rva);
        f.extend((0..self.overlay).map(|b| b as u8 ^ 0x5a));
        if self.checksum {
            fix_checksum(&mut f);
        }
        f
    }
}

pub fn put16(f: &mut [u8], at: usize, value: u16) {
    f[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub fn put32(f: &mut [u8], at: usize, value: u32) {
    f[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub fn get32(f: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(f[at..at + 4].try_into().unwrap())
}

/// The header checksum, computed the slow way.
pub fn checksum(f: &[u8]) -> u32 {
    let mut sum = 0u32;
    for (i, word) in f.chunks(2).enumerate() {
        if (CHECKSUM..CHECKSUM + 4).contains(&(2 * i)) {
            continue;
        }
        sum += u32::from(word[0]) | u32::from(*word.get(1).unwrap_or(&0)) << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum + f.len() as u32
}

pub fn fix_checksum(f: &mut [u8]) {
    let sum = checksum(f);
    put32(f, CHECKSUM, sum);
}
