//! From [`HotPatchInfo`] to the bytes of IMAGE_HOT_PATCH_INFO and everything behind it.

use crate::error::{Error, Result};
use crate::info::{Base, Chunk, HotPatchInfo};
use crate::raw::{BASE_SIZE, CHUNK_COUNT, CHUNK_INVERSE, CHUNK_OBLIGATORY, HASHES_SIZE, info_size};

impl HotPatchInfo {
    /// The table as one blob: INFO, the list of bases, the bases, their hashes, their patch tables. All offsets are
    /// relative to the first byte, which must come to lie on a multiple of 4. Chunks of more than 0xFFF records are
    /// written as several chunks.
    ///
    /// Fails if a value has no field in this version, or if a record has not `extra_patch_size` extra words.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let fail = |why: String| Error::Write { what: "IMAGE_HOT_PATCH_INFO", why };
        let head = info_size(self.version).ok_or_else(|| fail(format!("there is no version {}", self.version)))?;
        for (value, since, name) in [
            (self.buffer_offset, 2, "BufferOffset"),
            (self.extra_patch_size, 3, "ExtraPatchSize"),
            (self.min_sequence, 4, "MinSequenceNumber"),
            (self.flags, 4, "Flags"),
        ] {
            if value != 0 && self.version < since {
                return Err(fail(format!("{name} needs version {since}")));
            }
        }
        if self.sequence == 0 {
            return Err(fail("the sequence number is 0".into()));
        }
        let count = u32::try_from(self.bases.len()).map_err(|_| fail("too many bases".into()))?;
        let tables = self.bases.iter().map(|b| self.patch_table(b)).collect::<Result<Vec<_>>>()?;

        // Positions first, so that the second pass only writes.
        let mut end = u64::from(head) + 4 * u64::from(count);
        let bases_at = end;
        end += u64::from(BASE_SIZE) * u64::from(count);
        let mut places = Vec::with_capacity(self.bases.len());
        for (base, table) in self.bases.iter().zip(&tables) {
            let hashes = base.hashes.is_some().then_some(end);
            end += if hashes.is_some() { u64::from(HASHES_SIZE) } else { 0 };
            places.push((hashes, end));
            end += table.len() as u64 * 4;
        }
        let size = u32::try_from(end).map_err(|_| fail("the tables exceed 4 GB".into()))?;

        let mut out: Vec<u8> = Vec::with_capacity(size as usize);
        let mut put = |word: u32| out.extend_from_slice(&word.to_le_bytes());
        let fields = [
            self.version,
            size,
            self.sequence,
            head,
            count,
            self.buffer_offset,
            self.extra_patch_size,
            self.min_sequence,
            self.flags,
        ];
        fields[..head as usize / 4].iter().for_each(|f| put(*f));
        for i in 0..count {
            put(bases_at as u32 + i * BASE_SIZE);
        }
        for (base, (hashes, table)) in self.bases.iter().zip(&places) {
            let hashes_size = if hashes.is_some() { HASHES_SIZE } else { 0 };
            [
                base.sequence,
                base.flags,
                base.original_timestamp,
                base.original_checksum,
                hashes.unwrap_or(0) as u32,
                hashes_size,
                *table as u32,
                base.buffer_offset,
            ]
            .iter()
            .for_each(|f| put(*f));
        }
        for (base, table) in self.bases.iter().zip(&tables) {
            if let Some(hashes) = &base.hashes {
                out.extend_from_slice(&hashes.sha256);
                out.extend_from_slice(&hashes.sha1);
            }
            table.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
        }
        debug_assert_eq!(out.len(), size as usize);
        Ok(out)
    }

    fn patch_table(&self, base: &Base) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        for chunk in &base.chunks {
            for records in chunk.records.chunks(CHUNK_COUNT as usize) {
                out.push(header(chunk, records.len()));
                for record in records {
                    if record.extra.len() != self.extra_patch_size as usize {
                        return Err(Error::Write {
                            what: "patch table record",
                            why: format!("{} extra words, not {}", record.extra.len(), self.extra_patch_size),
                        });
                    }
                    out.push(record.place);
                    out.push(record.target);
                    out.extend_from_slice(&record.extra);
                }
            }
        }
        out.push(0);
        Ok(out)
    }
}

fn header(chunk: &Chunk, count: usize) -> u32 {
    let inverse = if chunk.inverse { CHUNK_INVERSE } else { 0 };
    let obligatory = if chunk.obligatory { CHUNK_OBLIGATORY } else { 0 };
    chunk.kind as u32 | inverse | obligatory | count as u32
}
