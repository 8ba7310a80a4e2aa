//! The container: pages of the file, the parts of a compiland's stream, names, and section addresses.

use crate::image::Image;
use pdb2::{DBIModuleInfo, PDB, Source, SourceSlice, SourceView};
use std::io;

/// A PDB file in memory.
#[derive(Debug)]
pub struct BytesSource<'s>(pub &'s [u8]);

/// The bytes of one stream. The reader wants views without a lifetime, so they are copies.
#[derive(Debug)]
struct View(Vec<u8>);

impl<'s> SourceView<'s> for View {
    fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl<'s> Source<'s> for BytesSource<'s> {
    fn view(&mut self, slices: &[SourceSlice]) -> io::Result<Box<dyn SourceView<'s> + Send + Sync>> {
        let part = |s: &SourceSlice| {
            usize::try_from(s.offset)
                .ok()
                .and_then(|start| self.0.get(start..start.checked_add(s.size)?))
                .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, format!("no page at {:#x}", s.offset)))
        };
        // A page may be listed more than once in a damaged file, but no stream is longer than the file.
        let total = slices.iter().try_fold(0_usize, |sum, s| sum.checked_add(s.size)).unwrap_or(usize::MAX);
        if total > self.0.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a stream of {total} bytes")));
        }
        let mut bytes = Vec::with_capacity(total);
        for slice in slices {
            bytes.extend_from_slice(part(slice)?);
        }
        Ok(Box::new(View(bytes)))
    }
}

/// Symbols (without the signature) and C13 lines of a compiland's stream. `None` if they do not fit into it or the
/// signature is not that of C13 symbols.
pub fn cut_module(stream: &[u8], info: &DBIModuleInfo) -> Option<(Vec<u8>, Vec<u8>)> {
    let (symbols, rest) = stream.split_at_checked(info.symbols_size as usize)?;
    let rest = rest.get(info.lines_size as usize..)?;
    let lines = rest.get(..info.c13_lines_size as usize)?;
    let symbols = match symbols.first_chunk::<4>() {
        None if symbols.is_empty() => symbols,
        Some([4, 0, 0, 0]) => &symbols[4..],
        _ => return None,
    };
    Some((symbols.to_vec(), lines.to_vec()))
}

/// Number of the stream with the global symbol records, from the header of the DBI stream.
pub fn symbol_records_stream(dbi: &[u8]) -> Option<u16> {
    let field = dbi.get(20..22)?;
    Some(u16::from_le_bytes([field[0], field[1]])).filter(|&n| n != u16::MAX)
}

/// The `/names` stream: text addressed by byte offset.
#[derive(Debug, Default)]
pub struct Strings(Vec<u8>);

impl Strings {
    /// Takes the stream: signature, version, bytes of text, text, and a hash table that is not needed.
    pub fn new(stream: &[u8]) -> Self {
        let size = stream.get(8..12).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])) as usize;
        let text = stream.get(12..).unwrap_or_default();
        Strings(text[..size.min(text.len())].to_vec())
    }

    /// The text at a byte offset.
    pub fn get(&self, offset: u32) -> Option<String> {
        let rest = self.0.get(offset as usize..)?;
        let end = rest.iter().position(|&b| b == 0)?;
        Some(String::from_utf8_lossy(&rest[..end]).into_owned())
    }
}

/// How section and offset of the PDB become RVAs of the image.
pub enum Places {
    /// The sections are those of the image.
    Direct,
    /// The image was rearranged after linking (OMAP): (start in the linker's address space, RVA or 0), sorted, with
    /// the linker's section starts.
    Moved(Vec<u32>, Vec<(u32, u32)>),
}

impl Places {
    /// Reads the OMAP streams where there are any.
    pub fn read<'s>(pdb: &mut PDB<'s, BytesSource<'s>>) -> pdb2::Result<Self> {
        let Some(streams) = DebugStreams::read(pdb)? else { return Ok(Places::Direct) };
        let (Some(omap), Some(sections)) = (streams.omap_from_source, streams.original_sections) else {
            return Ok(Places::Direct);
        };
        let starts = sections.chunks_exact(40).map(|h| u32::from_le_bytes([h[12], h[13], h[14], h[15]])).collect();
        let mut moves: Vec<(u32, u32)> = omap
            .chunks_exact(8)
            .map(|r| (u32::from_le_bytes([r[0], r[1], r[2], r[3]]), u32::from_le_bytes([r[4], r[5], r[6], r[7]])))
            .collect();
        moves.sort_unstable();
        Ok(Places::Moved(starts, moves))
    }

    /// RVA of an address, `None` for addresses in no section or removed code.
    pub fn rva(&self, image: &Image, section: u16, offset: u32) -> Option<u32> {
        let index = usize::from(section).checked_sub(1)?;
        match self {
            Places::Direct => image.sections.get(index)?.rva.checked_add(offset),
            Places::Moved(starts, moves) => {
                let from = starts.get(index)?.checked_add(offset)?;
                let i = moves.partition_point(|m| m.0 <= from).checked_sub(1)?;
                let (start, to) = moves[i];
                if to == 0 { None } else { to.checked_add(from - start) }
            }
        }
    }
}

/// The optional debug streams that matter here.
struct DebugStreams {
    omap_from_source: Option<Vec<u8>>,
    original_sections: Option<Vec<u8>>,
}

impl DebugStreams {
    fn read<'s>(pdb: &mut PDB<'s, BytesSource<'s>>) -> pdb2::Result<Option<Self>> {
        let Some(dbi) = pdb.raw_stream(pdb2::StreamIndex(3))? else { return Ok(None) };
        let dbi = dbi.as_slice();
        let u32_at = |at: usize| Some(u32::from_le_bytes(*dbi.get(at..)?.first_chunk()?) as usize);
        // Header fields: sizes of the substreams in front of the optional debug header, then its own size.
        let list = || {
            let mut at = 64_usize;
            for field in [24, 28, 32, 36, 40, 52] {
                at = at.checked_add(u32_at(field)?)?;
            }
            dbi.get(at..at.checked_add(u32_at(48)?)?)
        };
        let Some(list) = list() else { return Ok(None) };
        let mut stream = |n: usize| -> pdb2::Result<Option<Vec<u8>>> {
            let Some(index) = list.get(2 * n..2 * n + 2).map(|b| u16::from_le_bytes([b[0], b[1]])) else {
                return Ok(None);
            };
            Ok(pdb.raw_stream(pdb2::StreamIndex(index))?.map(|s| s.as_slice().to_vec()))
        };
        Ok(Some(DebugStreams { omap_from_source: stream(4)?, original_sections: stream(10)? }))
    }
}
