//! Checked access to bytes with errors that say where.

use crate::error::{Error, Result};
use crate::image::Image;
use object::pod::{self, Pod};

/// Longest name accepted in imports, exports and resources, bytes. The longest decorated names that compilers emit
/// are 4096 bytes.
const NAME_LIMIT: usize = 8192;

/// Bytes of a file or of a mapped image; positions are file offsets or RVAs accordingly.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    /// File name for messages.
    pub file: &'a str,
    /// The bytes.
    pub data: &'a [u8],
}

impl<'a> Bytes<'a> {
    /// The mapped image; positions are RVAs.
    pub fn mapped(image: &'a Image) -> Self {
        Bytes { file: &image.path, data: &image.mapped }
    }

    /// An error at a position.
    pub fn malformed(&self, what: &'static str, at: u64, expected: impl Into<String>) -> Error {
        Error::Malformed { file: self.file.to_owned(), what, at, expected: expected.into() }
    }

    /// `len` bytes at `at`.
    pub fn bytes(&self, what: &'static str, at: u64, len: u64) -> Result<&'a [u8]> {
        usize::try_from(at)
            .ok()
            .zip(usize::try_from(len).ok())
            .and_then(|(start, len)| self.data.get(start..start.checked_add(len)?))
            .ok_or_else(|| self.malformed(what, at, format!("{len} bytes, of {} in all", self.data.len())))
    }

    /// One structure at `at`.
    pub fn get<T: Pod>(&self, what: &'static str, at: u64) -> Result<&'a T> {
        let bytes = self.bytes(what, at, size_of::<T>() as u64)?;
        pod::from_bytes(bytes).map(|(v, _)| v).map_err(|()| self.malformed(what, at, "an aligned structure"))
    }

    /// `count` structures at `at`.
    pub fn slice<T: Pod>(&self, what: &'static str, at: u64, count: u64) -> Result<&'a [T]> {
        let size = count
            .checked_mul(size_of::<T>() as u64)
            .ok_or_else(|| self.malformed(what, at, format!("a possible number of entries, not {count}")))?;
        let bytes = self.bytes(what, at, size)?;
        pod::slice_from_bytes(bytes, count as usize)
            .map(|(v, _)| v)
            .map_err(|()| self.malformed(what, at, "aligned structures"))
    }

    /// Zero-terminated UTF-8 text at `at`, without the terminator.
    pub fn text(&self, what: &'static str, at: u64) -> Result<&'a str> {
        let rest = usize::try_from(at).ok().and_then(|start| self.data.get(start..));
        let rest = rest.ok_or_else(|| self.malformed(what, at, "text inside the image"))?;
        let len = rest
            .iter()
            .take(NAME_LIMIT)
            .position(|&b| b == 0)
            .ok_or_else(|| self.malformed(what, at, format!("text that ends within {NAME_LIMIT} bytes")))?;
        std::str::from_utf8(&rest[..len]).map_err(|_| self.malformed(what, at, "UTF-8 text"))
    }
}

/// Bounds the text taken from tables whose entries may all point at the same long name.
pub struct Budget {
    left: usize,
}

impl Budget {
    /// Room for every byte of the image to be used twice.
    pub fn new(image: &Image) -> Self {
        Budget { left: image.mapped.len().saturating_mul(2).saturating_add(NAME_LIMIT) }
    }

    /// Takes `n` bytes, or false if there is no room left.
    pub fn take(&mut self, n: usize) -> bool {
        match self.left.checked_sub(n) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}
