//! All data directories of one image, with the bytes they occupy and the addresses they hold.

use super::bytes::Budget;
use super::{exports, imports, resources, tables};
use crate::code::RawReference;
use crate::error::Result;
use crate::image::{Export, Image, Import};
use crate::object::ObjectKind;
use crate::reference::Form;
use object::pe;

/// A run of bytes that a directory describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First byte.
    pub rva: u32,
    /// Bytes.
    pub size: u32,
    /// What it is.
    pub kind: ObjectKind,
}

/// What the data directories of an image say.
#[derive(Clone, Debug, Default)]
pub struct Directories {
    /// All import slots, sorted by slot.
    pub imports: Vec<Import>,
    /// All exports, sorted by ordinal, then name.
    pub exports: Vec<Export>,
    /// Name of the image in its export directory.
    pub export_name: Option<String>,
    /// TLS directory.
    pub tls: Option<tables::Tls>,
    /// Load configuration.
    pub load_config: Option<tables::LoadConfig>,
    /// Debug directory.
    pub debug: Vec<tables::DebugEntry>,
    /// Leaves of the resource tree, in the order of the tree.
    pub resources: Vec<resources::Resource>,
    /// Bytes of the directories and of what they point to, in no particular order; areas may touch but overlap only
    /// where the linker shares bytes.
    pub areas: Vec<Area>,
    /// Image-relative and relative fields in the directories. Fields under base relocations are not repeated here.
    pub references: Vec<RawReference>,
}

impl Directories {
    /// Adds an area; empty ones are dropped.
    pub(super) fn area(&mut self, rva: u32, size: u64, kind: ObjectKind) {
        if size != 0 && rva != 0 {
            self.areas.push(Area { rva, size: u32::try_from(size).unwrap_or(u32::MAX), kind });
        }
    }

    /// Adds a 32-bit image-relative field unless it is null.
    pub(super) fn image_relative(&mut self, site: u64, rva: u32) {
        if rva != 0 {
            self.references.push(RawReference {
                site: site as u32,
                width: 4,
                form: Form::ImageRelative,
                origin: 0,
                rva,
            });
        }
    }
}

/// Reads every directory that this tool knows.
pub fn read(image: &Image) -> Result<Directories> {
    let mut out = Directories::default();
    let mut budget = Budget::new(image);
    imports::read(image, &mut budget, &mut out)?;
    imports::read_delayed(image, &mut budget, &mut out)?;
    out.imports.sort_by(|a, b| a.slot.cmp(&b.slot).then_with(|| (&a.dll, &a.name).cmp(&(&b.dll, &b.name))));
    exports::read(image, &mut budget, &mut out)?;
    out.tls = tables::tls(image, &mut out)?;
    out.load_config = tables::load_config(image, &mut out)?;
    out.debug = tables::debug(image)?;
    for i in 0..out.debug.len() {
        let (rva, size, at) = (out.debug[i].rva, out.debug[i].size, out.debug[i].at);
        out.area(rva, size.into(), ObjectKind::Debug);
        out.image_relative(u64::from(at) + 20, rva);
    }
    resources::read(image, &mut budget, &mut out)?;
    for (index, kind) in [
        (pe::IMAGE_DIRECTORY_ENTRY_EXPORT, ObjectKind::ExportTable),
        (pe::IMAGE_DIRECTORY_ENTRY_RESOURCE, ObjectKind::Resource),
        (pe::IMAGE_DIRECTORY_ENTRY_EXCEPTION, ObjectKind::RuntimeFunctions),
        (pe::IMAGE_DIRECTORY_ENTRY_BASERELOC, ObjectKind::BaseRelocations),
        (pe::IMAGE_DIRECTORY_ENTRY_DEBUG, ObjectKind::Debug),
        (pe::IMAGE_DIRECTORY_ENTRY_IAT, ObjectKind::ImportAddressTable),
    ] {
        if let Some(&(rva, size)) = image.directories.get(index) {
            out.area(rva, size.into(), kind);
        }
    }
    Ok(out)
}
