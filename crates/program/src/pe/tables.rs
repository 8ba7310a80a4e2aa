//! TLS directory, load configuration and debug directory.

use super::bytes::Bytes;
use super::directories::Directories;
use crate::error::Result;
use crate::image::{Image, PdbIdentity};
use crate::object::ObjectKind;
use object::LittleEndian as LE;
use object::{U32, U64, pe};
use serde::Serialize;

/// TLS directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// RVA of the directory.
    pub directory: u32,
    /// First byte of the template, 0 if there is none.
    pub template: u32,
    /// Bytes of the template in the file.
    pub template_size: u32,
    /// Bytes of zeros behind the template in each thread's block.
    pub zero_fill: u32,
    /// RVA of the 4-byte variable that receives the index, 0 if there is none.
    pub index: u32,
    /// RVA of the zero-terminated callback array, 0 if there is none.
    pub callback_array: u32,
    /// RVAs of the callbacks, in order.
    pub callbacks: Vec<u32>,
    /// IMAGE_TLS_DIRECTORY.Characteristics (alignment).
    pub characteristics: u32,
}

/// A table of the load configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuardTable {
    /// First byte, 0 if absent.
    pub rva: u32,
    /// Bytes per entry.
    pub stride: u32,
    /// RVAs in the entries.
    pub targets: Vec<u32>,
}

/// Load configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LoadConfig {
    /// RVA of the directory.
    pub directory: u32,
    /// Its own idea of its size, bytes.
    pub size: u32,
    /// IMAGE_GUARD_* flags.
    pub guard_flags: u32,
    /// RVA of `__security_cookie`, 0 if absent.
    pub security_cookie: u32,
    /// Valid indirect call targets.
    pub guard_functions: GuardTable,
    /// Import slots whose address is taken.
    pub guard_iat: GuardTable,
    /// `longjmp` targets.
    pub guard_long_jumps: GuardTable,
    /// Exception continuation targets.
    pub guard_eh_continuations: GuardTable,
    /// RVAs of the pointers that the loader fills with guard functions (check, dispatch, XFG, ...), those present.
    pub guard_pointers: Vec<u32>,
    /// Bytes from the image base to IMAGE_HOT_PATCH_INFO, 0 if absent.
    pub hot_patch_table: u32,
    /// (section number from 1, offset in it) of the dynamic value relocations, if present.
    pub dynamic_relocations: Option<(u16, u32)>,
    /// RVA of the volatile metadata, 0 if absent.
    pub volatile_metadata: u32,
    /// RVA of the enclave configuration, 0 if absent.
    pub enclave: u32,
    /// RVA of the CHPE metadata, 0 if absent.
    pub chpe_metadata: u32,
}

/// One entry of the debug directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DebugEntry {
    /// RVA of the entry itself.
    pub at: u32,
    /// IMAGE_DEBUG_TYPE_*.
    pub kind: u32,
    /// RVA of the data, 0 if it is not mapped.
    pub rva: u32,
    /// Bytes of data.
    pub size: u32,
    /// RSDS record of a CodeView entry.
    pub pdb: Option<PdbIdentity>,
    /// IMAGE_DLLCHARACTERISTICS_EX_* of a type 20 entry.
    pub extended_characteristics: Option<u32>,
}

fn directory(image: &Image, index: usize) -> Option<(u32, u32)> {
    image.directories.get(index).copied().filter(|d| d.0 != 0)
}

/// A pointer field as an RVA; null stays 0.
fn pointer(bytes: &Bytes<'_>, image: &Image, what: &'static str, at: u64, va: u64) -> Result<u32> {
    if va == 0 {
        return Ok(0);
    }
    va.checked_sub(image.image_base)
        .filter(|&rva| rva <= u64::from(image.size_of_image))
        .map(|rva| rva as u32)
        .ok_or_else(|| bytes.malformed(what, at, format!("an address in the image, not {va:#x}")))
}

/// Reads the TLS directory.
pub fn tls(image: &Image, out: &mut Directories) -> Result<Option<Tls>> {
    const WHAT: &str = "TLS directory";
    let Some((at, _)) = directory(image, pe::IMAGE_DIRECTORY_ENTRY_TLS) else { return Ok(None) };
    let bytes = Bytes::mapped(image);
    let d: &pe::ImageTlsDirectory64 = bytes.get(WHAT, at.into())?;
    let rva = |offset: u64, va: u64| pointer(&bytes, image, WHAT, u64::from(at) + offset, va);
    let template = rva(0, d.start_address_of_raw_data.get(LE))?;
    let end = rva(8, d.end_address_of_raw_data.get(LE))?;
    let template_size = end.checked_sub(template).ok_or_else(|| {
        bytes.malformed(WHAT, u64::from(at) + 8, "an end of the template that is not before its start")
    })?;
    let index = rva(16, d.address_of_index.get(LE))?;
    let callback_array = rva(24, d.address_of_call_backs.get(LE))?;
    let mut callbacks = Vec::new();
    if callback_array != 0 {
        loop {
            let entry = u64::from(callback_array) + 8 * callbacks.len() as u64;
            let va: &U64<LE> = bytes.get("TLS callback array", entry)?;
            match pointer(&bytes, image, "TLS callback array", entry, va.get(LE))? {
                0 => break,
                rva => callbacks.push(rva),
            }
        }
        out.area(callback_array, 8 * (callbacks.len() as u64 + 1), ObjectKind::InitializerTable);
    }
    out.area(at, size_of::<pe::ImageTlsDirectory64>() as u64, ObjectKind::TlsDirectory);
    out.area(template, template_size.into(), ObjectKind::TlsTemplate);
    Ok(Some(Tls {
        directory: at,
        template,
        template_size,
        zero_fill: d.size_of_zero_fill.get(LE),
        index,
        callback_array,
        callbacks,
        characteristics: d.characteristics.get(LE),
    }))
}

/// The load configuration has grown over the years: a field exists if it lies within the stated size.
struct Fields<'a> {
    bytes: Bytes<'a>,
    image: &'a Image,
    at: u32,
    size: u32,
}

impl Fields<'_> {
    const WHAT: &'static str = "load configuration";

    fn u64(&self, offset: u32) -> Result<u64> {
        if offset + 8 > self.size {
            return Ok(0);
        }
        let v: &U64<LE> = self.bytes.get(Self::WHAT, u64::from(self.at) + u64::from(offset))?;
        Ok(v.get(LE))
    }

    fn u32(&self, offset: u32) -> Result<u32> {
        if offset + 4 > self.size {
            return Ok(0);
        }
        let v: &U32<LE> = self.bytes.get(Self::WHAT, u64::from(self.at) + u64::from(offset))?;
        Ok(v.get(LE))
    }

    fn pointer(&self, offset: u32) -> Result<u32> {
        pointer(&self.bytes, self.image, Self::WHAT, u64::from(self.at) + u64::from(offset), self.u64(offset)?)
    }

    fn table(&self, offset: u32, stride: u32, out: &mut Directories) -> Result<GuardTable> {
        const WHAT: &str = "guard table";
        let (rva, count) = (self.pointer(offset)?, self.u64(offset + 8)?);
        if rva == 0 || count == 0 {
            return Ok(GuardTable::default());
        }
        let size = count.checked_mul(stride.into()).filter(|&s| s <= self.image.size_of_image.into());
        let size = size.ok_or_else(|| self.bytes.malformed(WHAT, rva.into(), "a table inside the image"))?;
        let data = self.bytes.bytes(WHAT, rva.into(), size)?;
        let mut targets = Vec::with_capacity(count as usize);
        for (i, entry) in data.chunks_exact(stride as usize).enumerate() {
            let target = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            targets.push(target);
            out.image_relative(u64::from(rva) + u64::from(stride) * i as u64, target);
        }
        out.area(rva, size, ObjectKind::LoadConfig);
        Ok(GuardTable { rva, stride, targets })
    }
}

/// Reads the load configuration and its tables.
pub fn load_config(image: &Image, out: &mut Directories) -> Result<Option<LoadConfig>> {
    let Some((at, _)) = directory(image, pe::IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG) else { return Ok(None) };
    let bytes = Bytes::mapped(image);
    let own: &U32<LE> = bytes.get(Fields::WHAT, at.into())?;
    let size = own.get(LE);
    bytes.bytes(Fields::WHAT, at.into(), size.into())?;
    let f = Fields { bytes, image, at, size };
    let guard_flags = f.u32(0x90)?;
    let stride = 4 + (guard_flags >> 28);
    let mut guard_pointers = Vec::new();
    for offset in [0x70, 0x78, 0xd8, 0xe8, 0x118, 0x120, 0x128, 0x130, 0x138] {
        guard_pointers.push(f.pointer(offset)?);
    }
    guard_pointers.retain(|&p| p != 0);
    let dynamic = (f.u32(0xe4)? as u16, f.u32(0xe0)?);
    let config = LoadConfig {
        directory: at,
        size,
        guard_flags,
        security_cookie: f.pointer(0x58)?,
        guard_functions: f.table(0x80, stride, out)?,
        guard_iat: f.table(0xa0, stride, out)?,
        guard_long_jumps: f.table(0xb0, stride, out)?,
        guard_eh_continuations: f.table(0x108, stride, out)?,
        guard_pointers,
        hot_patch_table: f.u32(0xf0)?,
        dynamic_relocations: (dynamic.1 != 0).then_some(dynamic),
        volatile_metadata: f.pointer(0x100)?,
        enclave: f.pointer(0xf8)?,
        chpe_metadata: f.pointer(0xc8)?,
    };
    out.area(at, size.into(), ObjectKind::LoadConfig);
    if let Some((section, offset)) = config.dynamic_relocations {
        // Version and size, then that many bytes.
        let table = usize::from(section).checked_sub(1).and_then(|i| image.sections.get(i));
        if let Some(rva) = table.and_then(|s| s.rva.checked_add(offset)) {
            let size: &U32<LE> = bytes.get("dynamic value relocations", u64::from(rva) + 4)?;
            bytes.bytes("dynamic value relocations", rva.into(), 8 + u64::from(size.get(LE)))?;
            out.area(rva, 8 + u64::from(size.get(LE)), ObjectKind::LoadConfig);
        }
    }
    if config.volatile_metadata != 0 {
        volatile_metadata(&bytes, config.volatile_metadata, out)?;
    }
    for &slot in &config.guard_pointers {
        out.area(slot, 8, ObjectKind::LoadConfig);
    }
    Ok(Some(config))
}

/// IMAGE_VOLATILE_METADATA: size, version, and two tables by RVA and size.
fn volatile_metadata(bytes: &Bytes<'_>, at: u32, out: &mut Directories) -> Result<()> {
    const WHAT: &str = "volatile metadata";
    let fields: &[U32<LE>] = bytes.slice(WHAT, at.into(), 6)?;
    out.area(at, fields[0].get(LE).max(24).into(), ObjectKind::LoadConfig);
    for i in [2, 4] {
        let (rva, size) = (fields[i].get(LE), fields[i + 1].get(LE));
        bytes.bytes(WHAT, rva.into(), size.into())?;
        out.image_relative(u64::from(at) + 4 * i as u64, rva);
        out.area(rva, size.into(), ObjectKind::LoadConfig);
    }
    Ok(())
}

/// Reads the debug directory.
pub fn debug(image: &Image) -> Result<Vec<DebugEntry>> {
    const WHAT: &str = "debug directory";
    let Some((start, size)) = directory(image, pe::IMAGE_DIRECTORY_ENTRY_DEBUG) else { return Ok(Vec::new()) };
    let bytes = Bytes::mapped(image);
    let each = size_of::<pe::ImageDebugDirectory>() as u32;
    let entries: &[pe::ImageDebugDirectory] = bytes.slice(WHAT, start.into(), (size / each).into())?;
    entries
        .iter()
        .enumerate()
        .map(|(i, e)| {
            let kind = e.typ.get(LE).0;
            let (rva, size) = (e.address_of_raw_data.get(LE), e.size_of_data.get(LE));
            // Data outside of the mapped image belongs to the linker's own tools.
            let data = if rva == 0 { &[][..] } else { bytes.bytes("debug data", rva.into(), size.into())? };
            let pdb = if kind == pe::IMAGE_DEBUG_TYPE_CODEVIEW.0 { rsds(&bytes, rva, data)? } else { None };
            let extended = pe::IMAGE_DEBUG_TYPE_EX_DLLCHARACTERISTICS.0;
            let extended_characteristics =
                data.first_chunk::<4>().filter(|_| kind == extended).map(|v| u32::from_le_bytes(*v));
            Ok(DebugEntry { at: start + each * i as u32, kind, rva, size, pdb, extended_characteristics })
        })
        .collect()
}

/// The record that names the PDB. Older records (NB10) give nothing.
fn rsds(bytes: &Bytes<'_>, rva: u32, data: &[u8]) -> Result<Option<PdbIdentity>> {
    if !data.starts_with(b"RSDS") {
        return Ok(None);
    }
    let (Some(guid), Some(age)) = (data.get(4..20), data.get(20..24)) else {
        return Err(bytes.malformed("RSDS record", rva.into(), "at least 24 bytes"));
    };
    let path = &data[24..];
    let end = path.iter().position(|&b| b == 0).unwrap_or(path.len());
    let mut identity = PdbIdentity { guid: [0; 16], age: 0, path: String::from_utf8_lossy(&path[..end]).into_owned() };
    identity.guid.copy_from_slice(guid);
    identity.age = u32::from_le_bytes([age[0], age[1], age[2], age[3]]);
    Ok(Some(identity))
}
