//! Page hashes: a hash for each page of the file, so that a page can be checked when it is read.
//!
//! The table holds, for the headers and for each 4096-byte page of each section, the file offset (u32) and the hash of
//! the page; the last page of a section is filled with zeros, the headers page is filled up as well, and the checksum
//! and security directory are left out. An entry with the end of the last section and a zero hash ends the table.

use crate::digest::{DigestAlgorithm, Hasher};
use crate::fault::{Checked, Fault, Place};
use crate::pe::{CHECKSUM_SIZE, Layout, SECURITY_SIZE};
use crate::scan::without;

/// The only page size that is written and read: that of the machines Windows runs on.
pub(crate) const PAGE: u64 = 4096;

/// The algorithm of page hashes (`SPC_PAGE_HASHES_V2`). V1 is SHA-1.
const ALGORITHM: DigestAlgorithm = DigestAlgorithm::Sha256;

/// One page: where its bytes are and how many zeros fill it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    start: u64,
    end: u64,
    fill: u64,
}

/// Computes the table in one pass over the file.
pub(crate) struct PageHasher {
    pages: Vec<Page>,
    /// Index of the first page that is not finished.
    next: usize,
    hasher: Hasher,
    table: Vec<u8>,
    end: u64,
}

impl PageHasher {
    /// # Errors
    /// [`Fault::Unsupported`] when sections are not aligned to pages of 4096 bytes in memory, or the headers are larger
    /// than a page.
    pub(crate) fn new(layout: &Layout) -> Checked<PageHasher> {
        if u64::from(layout.section_alignment) != PAGE || layout.headers_size > PAGE {
            let form = "sections aligned to other than 4096 bytes, or headers of more than a page";
            return Err(Fault::unsupported(Place::PageHashes, form));
        }
        layout.check_unambiguous()?;
        let mut sections = layout.sections.clone();
        sections.sort_unstable();
        let mut pages = vec![Page { start: 0, end: layout.headers_size, fill: PAGE - layout.headers_size }];
        for (start, length) in sections {
            let mut done = 0;
            while done < length {
                let size = PAGE.min(length - done);
                pages.push(Page { start: start + done, end: start + done + size, fill: PAGE - size });
                done += size;
            }
        }
        let table = Vec::with_capacity((pages.len() + 1) * (4 + ALGORITHM.size()));
        Ok(PageHasher { pages, next: 0, hasher: Hasher::new(ALGORITHM), table, end: layout.raw_end })
    }

    /// Takes the next bytes of the file, which begin at `at`.
    pub(crate) fn update(&mut self, chunk: &[u8], at: u64, holes: &[(u64, u64); 2]) {
        debug_assert_eq!([CHECKSUM_SIZE, SECURITY_SIZE], holes.map(|h| h.1));
        let chunk_end = at + chunk.len() as u64;
        while let Some(page) = self.pages.get(self.next).copied() {
            let (from, to) = (page.start.max(at), page.end.min(chunk_end));
            if from >= chunk_end {
                return;
            }
            let part = &chunk[(from - at) as usize..(to - at) as usize];
            if self.next == 0 {
                for piece in without(part, from, holes) {
                    self.hasher.update(piece);
                }
            } else {
                self.hasher.update(part);
            }
            if page.end > chunk_end {
                return;
            }
            self.hasher.update(&vec![0; page.fill as usize]);
            let done = std::mem::replace(&mut self.hasher, Hasher::new(ALGORITHM));
            self.push(page.start, &done.finish());
            self.next += 1;
        }
    }

    fn push(&mut self, offset: u64, hash: &[u8]) {
        // Raw offsets are 32-bit fields of the section header.
        self.table.extend_from_slice(&(offset as u32).to_le_bytes());
        self.table.extend_from_slice(hash);
    }

    /// The table, its last entry included.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let end = self.end;
        self.push(end, &[0; 32]);
        self.table
    }
}

/// Compares the table of a signature with that of the file.
///
/// # Errors
/// [`Fault::PageHashMismatch`] with the first page that differs; [`Fault::Malformed`] for a table of other pages.
pub(crate) fn compare(stated: &[u8], computed: &[u8]) -> Checked<()> {
    let entry = 4 + ALGORITHM.size();
    if stated.len() != computed.len() {
        let expected = format!("{} entries of {entry} bytes", computed.len() / entry);
        return Err(Fault::malformed(Place::PageHashes, 0u64, expected));
    }
    for (index, (a, b)) in stated.chunks_exact(entry).zip(computed.chunks_exact(entry)).enumerate() {
        let offset = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        if a[..4] != b[..4] {
            let expected = format!("an entry for file offset {offset:#x}");
            return Err(Fault::malformed(Place::PageHashes, index * entry, expected));
        }
        if a != b {
            return Err(Fault::PageHashMismatch { offset: u64::from(offset) });
        }
    }
    Ok(())
}
