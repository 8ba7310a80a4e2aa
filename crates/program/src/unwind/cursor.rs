//! Reading unwind data byte by byte, with every address noted where it stands.

use crate::code::RawReference;
use crate::image::Image;
use crate::reference::Form;

/// Why handler data could not be read: where, and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// RVA.
    pub(super) rva: u32,
    /// In words.
    pub(super) expected: &'static str,
}

/// A position in the mapped image. Reads never leave the section it started in.
pub(super) struct Cursor<'a> {
    image: &'a Image,
    /// Next byte to read, RVA.
    pub(super) rva: u32,
    end: u32,
}

/// Result of one read.
pub(super) type Read<T> = Result<T, Damage>;

impl<'a> Cursor<'a> {
    /// Starts at `rva`.
    pub(super) fn new(image: &'a Image, rva: u32) -> Read<Self> {
        let section = image.section_at(rva).ok_or(Damage { rva, expected: "an address inside of a section" })?;
        let mapped = u32::try_from(image.mapped.len()).unwrap_or(u32::MAX);
        let end = section.rva.saturating_add(section.size).min(mapped);
        Ok(Self { image, rva, end })
    }

    /// Bytes left in the section.
    pub(super) fn remaining(&self) -> u32 {
        self.end.saturating_sub(self.rva)
    }

    /// Steps over `len` bytes and returns them.
    pub(super) fn take(&mut self, len: u32) -> Read<&'a [u8]> {
        if len > self.remaining() {
            return Err(Damage { rva: self.rva, expected: "more bytes before the end of the section" });
        }
        let bytes = self
            .image
            .bytes(self.rva, len as usize)
            .ok_or(Damage { rva: self.rva, expected: "bytes inside of the image" })?;
        self.rva += len;
        Ok(bytes)
    }

    /// Checks that `count` elements of at least `width` bytes each can follow.
    pub(super) fn expect(&self, count: u32, width: u32) -> Read<()> {
        if u64::from(count) * u64::from(width) > u64::from(self.remaining()) {
            return Err(Damage { rva: self.rva, expected: "a count that fits into the section" });
        }
        Ok(())
    }

    /// One byte.
    pub(super) fn u8(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    /// Little-endian u32.
    pub(super) fn u32(&mut self) -> Read<u32> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// Little-endian unsigned number of `width` bytes (at most 8).
    pub(super) fn unsigned(&mut self, width: u32) -> Read<u64> {
        let bytes = self.take(width)?;
        Ok(bytes.iter().rev().fold(0, |v, b| (v << 8) | u64::from(*b)))
    }

    /// ULEB128, at most 64 bits.
    pub(super) fn uleb(&mut self) -> Read<u64> {
        let start = self.rva;
        let mut value = 0u64;
        for shift in (0..).step_by(7) {
            let byte = self.u8()?;
            let low = u64::from(byte & 0x7F);
            if shift >= 64 || (shift == 63 && low > 1) {
                return Err(Damage { rva: start, expected: "a ULEB128 number of at most 64 bits" });
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(value)
    }

    /// SLEB128, at most 64 bits.
    pub(super) fn sleb(&mut self) -> Read<i64> {
        let start = self.rva;
        let mut value = 0i64;
        let mut shift = 0;
        loop {
            let byte = self.u8()?;
            if shift >= 64 {
                return Err(Damage { rva: start, expected: "an SLEB128 number of at most 64 bits" });
            }
            value |= i64::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                if shift < 64 && byte & 0x40 != 0 {
                    value |= -1 << shift;
                }
                return Ok(value);
            }
        }
    }

    /// An image-relative address, noted in `references` unless it is 0.
    pub(super) fn image_relative(&mut self, references: &mut Vec<RawReference>) -> Read<u32> {
        let site = self.rva;
        let rva = self.u32()?;
        if rva != 0 {
            if rva as usize >= self.image.mapped.len() {
                return Err(Damage { rva: site, expected: "an address inside of the image" });
            }
            references.push(RawReference { site, width: 4, form: Form::ImageRelative, origin: 0, rva });
        }
        Ok(rva)
    }

    /// An image-relative address of code (0 allowed), noted in `references`.
    pub(super) fn code(&mut self, references: &mut Vec<RawReference>) -> Read<u32> {
        let site = self.rva;
        let rva = self.image_relative(references)?;
        if rva != 0 && !self.image.section_at(rva).is_some_and(|s| s.is_executable()) {
            return Err(Damage { rva: site, expected: "an address in an executable section" });
        }
        Ok(rva)
    }
}
