//! The PE32+ file: headers, sections and the mapped image, and what the data directories say.
//!
//! Layout knowledge comes from the structures of the `object` crate; every access is checked here, so that an error
//! names the file and the position. Nothing in this module allocates by a length that the file claims without
//! comparing that length with what the file can hold.

mod bytes;
mod directories;
mod exports;
mod headers;
mod imports;
mod relocations;
mod resources;
mod tables;

pub use directories::{Area, Directories};
pub use resources::{Resource, ResourceId};
pub use tables::{DebugEntry, GuardTable, LoadConfig, Tls};

use crate::error::Result;
use crate::image::Image;

/// Parses the bytes of a PE file into a mapped image.
///
/// `name` is only used in messages. Fails with [`Error::Unsupported`](crate::Error::Unsupported) for machines other
/// than x86-64 and for managed images, and with [`Error::Malformed`](crate::Error::Malformed) for everything that the
/// loader would not map.
pub fn image(name: &str, file: &[u8]) -> Result<Image> {
    let mut image = headers::map(name, file)?;
    image.base_relocations = relocations::read(&image)?;
    let debug = tables::debug(&image)?;
    image.pdb = debug.iter().find_map(|e| e.pdb.clone());
    image.extended_dll_characteristics = debug.iter().find_map(|e| e.extended_characteristics).unwrap_or(0);
    Ok(image)
}

/// Reads all data directories of a mapped image.
///
/// Errors name the RVA at which a directory stops making sense.
pub fn directories(image: &Image) -> Result<Directories> {
    directories::read(image)
}
