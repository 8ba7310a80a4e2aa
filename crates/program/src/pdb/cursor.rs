//! A cursor over the little-endian records of a PDB stream.

/// What is wrong with a stream.
#[derive(Debug)]
pub struct Damage {
    /// The stream or substream.
    pub stream: &'static str,
    /// One sentence with the byte offset in it.
    pub message: String,
}

impl Damage {
    /// A record at byte `at` of `stream` is not what it should be.
    pub fn new(stream: &'static str, at: usize, expected: &str) -> Self {
        Damage { stream, message: format!("expected {expected} at byte {at:#x}") }
    }
}

/// Reads fields one after the other; `None` where the bytes end.
#[derive(Clone, Copy)]
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    /// Next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    /// Next 16-bit field.
    pub fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
    }

    /// Next 32-bit field.
    pub fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// Next zero-terminated name. Bytes that are not UTF-8 are replaced.
    pub fn name(&mut self) -> Option<String> {
        let end = self.0.iter().position(|&b| b == 0)?;
        let text = self.take(end + 1)?;
        Some(String::from_utf8_lossy(&text[..end]).into_owned())
    }

    /// Next CodeView number: a 16-bit value, or a leaf that says how the value is stored. Values beyond 64 bits keep
    /// their low 64 bits.
    pub fn number(&mut self) -> Option<i64> {
        Some(match self.u16()? {
            small @ 0..=0x7fff => i64::from(small),
            0x8000 => i64::from(self.u8()? as i8),
            0x8001 => i64::from(self.u16()? as i16),
            0x8002 => i64::from(self.u16()?),
            0x8003 => i64::from(self.u32()? as i32),
            0x8004 => i64::from(self.u32()?),
            0x8009 | 0x800a => i64::from_le_bytes(self.take(8)?.try_into().ok()?),
            0x8017 | 0x8018 => i64::from_le_bytes(self.take(16)?[..8].try_into().ok()?),
            _ => return None,
        })
    }

    /// The rest begins at the next multiple of four bytes counted from `start`.
    pub fn align(&mut self, start: &'a [u8]) {
        let used = start.len() - self.0.len();
        let skip = (used.next_multiple_of(4) - used).min(self.0.len());
        self.0 = &self.0[skip..];
    }
}

/// Splits a stream into length-prefixed records. Yields the byte offset, the kind and the payload behind the kind.
pub struct Records<'a> {
    stream: &'static str,
    data: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// Records from byte `at` on.
    pub fn new(stream: &'static str, data: &'a [u8], at: usize) -> Self {
        Records { stream, data, at }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(usize, u16, Cursor<'a>), Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        if at >= self.data.len() {
            return None;
        }
        let mut cursor = Cursor(&self.data[at..]);
        let record = cursor.u16().and_then(|len| Some((usize::from(len), cursor.take(len.into())?)));
        let Some((len, record)) = record else {
            self.at = self.data.len();
            return Some(Err(Damage::new(self.stream, at, "a record inside the stream")));
        };
        if len < 2 {
            self.at = self.data.len();
            return Some(Err(Damage::new(self.stream, at, "a record of at least 2 bytes")));
        }
        self.at = at + 2 + len;
        let kind = u16::from_le_bytes([record[0], record[1]]);
        Some(Ok((at, kind, Cursor(&record[2..]))))
    }
}
