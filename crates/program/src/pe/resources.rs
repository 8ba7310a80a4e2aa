//! The resource tree.

use super::bytes::{Budget, Bytes};
use super::directories::Directories;
use crate::error::Result;
use crate::image::Image;
use crate::object::ObjectKind;
use object::LittleEndian as LE;
use object::{U16, pe};
use serde::Serialize;

/// Windows uses three levels: type, name, language.
const DEPTH_LIMIT: usize = 8;

/// Name of a node of the resource tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceId {
    /// By number; types below 256 are the RT_* constants.
    Id(u32),
    /// By name (UTF-16 in the file; unpaired surrogates are replaced).
    Name(String),
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// Names from the root to the leaf: type, name, language.
    pub path: Vec<ResourceId>,
    /// First byte of the data.
    pub rva: u32,
    /// Bytes of data.
    pub size: u32,
    /// Code page for the data.
    pub code_page: u32,
}

/// Reads all leaves in the order of the tree.
pub fn read(image: &Image, budget: &mut Budget, out: &mut Directories) -> Result<()> {
    let Some(&(start, size)) = image.directories.get(pe::IMAGE_DIRECTORY_ENTRY_RESOURCE).filter(|d| d.0 != 0) else {
        return Ok(());
    };
    let bytes = Bytes::mapped(image);
    bytes.bytes("resource directory", start.into(), size.into())?;
    let mut tree = Tree { bytes, start, budget, path: Vec::new(), out, left: size / 8 };
    tree.node(0)
}

struct Tree<'a, 'b> {
    bytes: Bytes<'a>,
    start: u32,
    budget: &'b mut Budget,
    path: Vec<ResourceId>,
    out: &'b mut Directories,
    /// Entries that the directory has room for: a tree that shares nodes would exceed it.
    left: u32,
}

impl Tree<'_, '_> {
    fn node(&mut self, offset: u32) -> Result<()> {
        const WHAT: &str = "resource directory";
        let at = u64::from(self.start) + u64::from(offset);
        if self.path.len() >= DEPTH_LIMIT {
            return Err(self.bytes.malformed(WHAT, at, format!("a tree of at most {DEPTH_LIMIT} levels")));
        }
        let d: &pe::ImageResourceDirectory = self.bytes.get(WHAT, at)?;
        let count = u32::from(d.number_of_named_entries.get(LE)) + u32::from(d.number_of_id_entries.get(LE));
        self.left = self
            .left
            .checked_sub(count)
            .ok_or_else(|| self.bytes.malformed(WHAT, at, "no more entries than the directory has room for"))?;
        let entries: &[pe::ImageResourceDirectoryEntry] = self.bytes.slice(WHAT, at + 16, count.into())?;
        for entry in entries {
            let id = self.id(entry.name_or_id.get(LE))?;
            self.path.push(id);
            let target = entry.offset_to_data_or_directory.get(LE);
            if target & pe::IMAGE_RESOURCE_DATA_IS_DIRECTORY != 0 {
                self.node(target & !pe::IMAGE_RESOURCE_DATA_IS_DIRECTORY)?;
            } else {
                self.leaf(target)?;
            }
            self.path.pop();
        }
        Ok(())
    }

    fn id(&mut self, name: u32) -> Result<ResourceId> {
        const WHAT: &str = "resource name";
        if name & pe::IMAGE_RESOURCE_NAME_IS_STRING == 0 {
            return Ok(ResourceId::Id(name));
        }
        let at = u64::from(self.start) + u64::from(name & !pe::IMAGE_RESOURCE_NAME_IS_STRING);
        let length: &U16<LE> = self.bytes.get(WHAT, at)?;
        let units: &[U16<LE>] = self.bytes.slice(WHAT, at + 2, length.get(LE).into())?;
        if !self.budget.take(2 * units.len() + 2) {
            return Err(self.bytes.malformed(WHAT, at, "less text than twice the image"));
        }
        let units: Vec<u16> = units.iter().map(|u| u.get(LE)).collect();
        Ok(ResourceId::Name(String::from_utf16_lossy(&units)))
    }

    fn leaf(&mut self, offset: u32) -> Result<()> {
        const WHAT: &str = "resource data entry";
        let at = u64::from(self.start) + u64::from(offset);
        let data: &pe::ImageResourceDataEntry = self.bytes.get(WHAT, at)?;
        let (rva, size) = (data.offset_to_data.get(LE), data.size.get(LE));
        self.bytes.bytes("resource data", rva.into(), size.into())?;
        if !self.budget.take(64) {
            return Err(self.bytes.malformed(WHAT, at, "fewer resources than the image has room for"));
        }
        self.out.image_relative(at, rva);
        self.out.area(rva, size.into(), ObjectKind::Resource);
        let code_page = data.code_page.get(LE);
        self.out.resources.push(Resource { path: self.path.clone(), rva, size, code_page });
        Ok(())
    }
}
