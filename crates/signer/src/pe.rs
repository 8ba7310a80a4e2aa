//! The parts of a PE file that a signature depends on: where the checksum and the security directory are, which bytes
//! are hashed, and the certificate table. Works on anything that can be read at an offset, so that large files need
//! not be in memory.

use crate::fault::{Checked, Fault, Place};
use std::io;

/// Bytes that can be read at an offset.
pub trait Source {
    /// Number of bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` from offset `at`.
    ///
    /// # Errors
    /// When there are not as many bytes, or reading fails.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl Source for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let part = start.checked_add(buffer.len()).and_then(|end| self.get(start..end));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Source for Vec<u8> {
    fn size(&self) -> u64 {
        self.as_slice().size()
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.as_slice().read_at(at, buffer)
    }
}

impl Source for std::fs::File {
    fn size(&self) -> u64 {
        self.metadata().map_or(0, |m| m.len())
    }

    #[cfg(unix)]
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, at)
    }

    #[cfg(windows)]
    fn read_at(&self, mut at: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(self, buffer, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    at += n as u64;
                    buffer = &mut buffer[n..];
                }
            }
        }
        Ok(())
    }
}

/// Size of the field CheckSum, bytes.
pub(crate) const CHECKSUM_SIZE: u64 = 4;
/// Size of the security directory's entry, bytes.
pub(crate) const SECURITY_SIZE: u64 = 8;
/// The certificate table begins at a multiple of this, and its entries are padded to it.
pub(crate) const TABLE_ALIGNMENT: u64 = 8;
/// Index of the security directory.
const SECURITY_INDEX: u64 = 4;
/// The largest certificate table that is read, bytes: some hundred times what signatures need.
const LARGEST_TABLE: u64 = 16 << 20;

/// Where things are in a PE file. All offsets are file offsets in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) size: u64,
    pub(crate) checksum_at: u64,
    /// What the field CheckSum says.
    pub(crate) checksum: u32,
    pub(crate) security_at: u64,
    pub(crate) headers_size: u64,
    pub(crate) section_alignment: u32,
    /// Raw data of sections, in the order of the section table: (offset, size), none empty.
    pub(crate) sections: Vec<(u64, u64)>,
    /// End of the raw data that sections and headers cover.
    pub(crate) raw_end: u64,
    /// The security directory: offset and size of the certificate table.
    pub(crate) table: (u64, u64),
}

fn headers(at: u64, expected: impl Into<String>) -> Fault {
    Fault::malformed(Place::Headers, at, expected)
}

/// Reads `N` bytes, or says what should have been there.
fn fixed<const N: usize>(source: &(impl Source + ?Sized), at: u64, expected: &str) -> Checked<[u8; N]> {
    let mut bytes = [0; N];
    source.read_at(at, &mut bytes).map_err(|_| headers(at, expected))?;
    Ok(bytes)
}

fn u16_at(source: &(impl Source + ?Sized), at: u64, expected: &str) -> Checked<u16> {
    fixed(source, at, expected).map(u16::from_le_bytes)
}

fn u32_at(source: &(impl Source + ?Sized), at: u64, expected: &str) -> Checked<u32> {
    fixed(source, at, expected).map(u32::from_le_bytes)
}

impl Layout {
    /// Reads the headers.
    ///
    /// # Errors
    /// [`Fault::Malformed`] for what is not a PE image that could carry a signature.
    pub(crate) fn read(source: &(impl Source + ?Sized)) -> Checked<Layout> {
        let size = source.size();
        if &fixed::<2>(source, 0, "a DOS header")? != b"MZ" {
            return Err(headers(0, "MZ"));
        }
        let pe = u64::from(u32_at(source, 0x3c, "the offset of the PE header")?);
        if &fixed::<4>(source, pe, "a PE header")? != b"PE\0\0" {
            return Err(headers(pe, "PE\\0\\0"));
        }
        let section_count = u16_at(source, pe + 6, "a COFF header")?;
        let optional_size = u64::from(u16_at(source, pe + 20, "a COFF header")?);
        let optional = pe + 24;
        let magic = u16_at(source, optional, "an optional header")?;
        let directories = match magic {
            0x10b => optional + 96,
            0x20b => optional + 112,
            other => return Err(headers(optional, format!("a magic of 0x10b or 0x20b, not {other:#x}"))),
        };
        let security_at = directories + 8 * SECURITY_INDEX;
        let count = u32_at(source, directories - 4, "NumberOfRvaAndSizes")?;
        let in_header = security_at + SECURITY_SIZE <= optional + optional_size;
        if u64::from(count) <= SECURITY_INDEX || !in_header {
            return Err(headers(directories - 4, "at least five data directories, which a signature needs"));
        }
        let headers_size = u64::from(u32_at(source, optional + 60, "SizeOfHeaders")?);
        let table_of_sections = optional + optional_size;
        let sections_end = table_of_sections + 40 * u64::from(section_count);
        if sections_end > headers_size || headers_size > size {
            return Err(headers(optional + 60, "SizeOfHeaders to cover the section table and to lie within the file"));
        }
        let mut sections = Vec::with_capacity(usize::from(section_count));
        let mut raw_end = headers_size;
        for index in 0..u64::from(section_count) {
            let at = table_of_sections + 40 * index + 16;
            let raw: [u8; 8] = fixed(source, at, "a section header")?;
            let raw = u64::from_le_bytes(raw);
            let (length, start) = (raw & 0xffff_ffff, raw >> 32);
            if length == 0 {
                continue;
            }
            if start + length > size {
                return Err(headers(at, "the section's raw data within the file"));
            }
            raw_end = raw_end.max(start + length);
            sections.push((start, length));
        }
        Ok(Layout {
            size,
            checksum_at: optional + 64,
            checksum: u32_at(source, optional + 64, "CheckSum")?,
            security_at,
            headers_size,
            section_alignment: u32_at(source, optional + 32, "SectionAlignment")?,
            sections,
            raw_end,
            table: (
                u64::from(u32_at(source, security_at, "the security directory")?),
                u64::from(u32_at(source, security_at + 4, "the security directory")?),
            ),
        })
    }

    /// Whether the security directory is empty.
    pub(crate) fn is_unsigned(&self) -> bool {
        self.table == (0, 0)
    }

    /// Verifiers agree about the digest only of files whose raw sections follow the headers and each other without gap
    /// or overlap.
    pub(crate) fn check_unambiguous(&self) -> Checked<()> {
        let mut sorted = self.sections.clone();
        sorted.sort_unstable();
        let mut end = self.headers_size;
        for (start, length) in sorted {
            if start != end {
                let expected = if start < end { "no overlap of raw sections" } else { "no gap before raw sections" };
                return Err(Fault::AmbiguousLayout { at: start.min(end), expected: expected.to_owned() });
            }
            end = start + length;
        }
        Ok(())
    }

    /// End of the bytes that are hashed: where the certificate table begins, or the end of the file.
    pub(crate) fn hashed_end(&self) -> u64 {
        if self.is_unsigned() { self.size } else { self.table.0 }
    }

    /// Reads and checks the certificate table: exactly one certificate, exact lengths, zero padding, the end of the file.
    ///
    /// # Errors
    /// [`Fault::Unsigned`] only if the directory is empty; anything else that is wrong is [`Fault::Malformed`].
    pub(crate) fn read_table(&self, source: &(impl Source + ?Sized)) -> Checked<Table> {
        if self.is_unsigned() {
            return Err(Fault::Unsigned);
        }
        let (at, size) = self.table;
        let directory = |expected: &str| Fault::malformed(Place::SecurityDirectory, self.security_at, expected);
        let wrong = |at: u64, expected: &str| Fault::malformed(Place::CertificateTable, at, expected);
        if at < self.raw_end {
            return Err(directory("a certificate table behind the last raw section"));
        }
        if at % TABLE_ALIGNMENT != 0 {
            return Err(directory("a certificate table at a multiple of 8"));
        }
        if at + size != self.size {
            return Err(directory("a certificate table that ends where the file ends"));
        }
        if size <= 8 || size > LARGEST_TABLE {
            return Err(directory("a certificate table of 9 bytes to 16 MiB"));
        }
        let mut bytes = vec![0; size as usize];
        source.read_at(at, &mut bytes).map_err(|_| wrong(at, "as many bytes as the directory says"))?;
        let length = u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        if u16::from_le_bytes([bytes[4], bytes[5]]) != 0x200 {
            return Err(wrong(at + 4, "revision 2.0"));
        }
        if u16::from_le_bytes([bytes[6], bytes[7]]) != 2 {
            return Err(wrong(at + 6, "a certificate of type 2 (PKCS#7 SignedData)"));
        }
        if length <= 8 || length > size || length.next_multiple_of(TABLE_ALIGNMENT) != size {
            return Err(wrong(at, "one certificate that fills the table"));
        }
        let (padding_in_table, content) = (&bytes[length as usize..], &bytes[8..length as usize]);
        let mut reader = crate::asn1::Reader::new(content, Place::SignedData);
        let der = reader.take(crate::asn1::tag::SEQUENCE, "a PKCS#7 ContentInfo")?.raw.to_vec();
        // CVE-2013-3900: whatever follows the signature is not signed.
        let padding = [reader.rest(), padding_in_table].concat();
        if padding.len() as u64 >= TABLE_ALIGNMENT || padding.iter().any(|b| *b != 0) {
            return Err(wrong(at + 8 + der.len() as u64, "at most seven zero bytes behind the signature"));
        }
        Ok(Table { at, der })
    }
}

/// The certificate table of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// File offset, bytes.
    pub(crate) at: u64,
    /// The PKCS#7 ContentInfo, without padding.
    pub(crate) der: Vec<u8>,
}

impl Table {
    /// The bytes of a table that holds this signature.
    pub(crate) fn encode(der: &[u8]) -> Option<Vec<u8>> {
        let length = (8 + der.len()).next_multiple_of(TABLE_ALIGNMENT as usize);
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
        bytes.extend_from_slice(&0x200u16.to_le_bytes());
        bytes.extend_from_slice(&2u16.to_le_bytes());
        bytes.extend_from_slice(der);
        bytes.resize(length, 0);
        Some(bytes)
    }
}
