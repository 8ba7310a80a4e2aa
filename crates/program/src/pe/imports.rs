//! Imports and delay-loaded imports.

use super::bytes::{Budget, Bytes};
use super::directories::Directories;
use crate::error::{Error, Result};
use crate::image::{Image, Import, ImportName};
use crate::object::ObjectKind;
use object::LittleEndian as LE;
use object::{U32, pe};

const ORDINAL: u64 = 1 << 63;

/// One list of slots and the list of names beside it.
struct Thunks<'a> {
    dll: &'a str,
    /// RVA of the name list (the slots themselves where the linker wrote none).
    names: u32,
    /// RVA of the first slot.
    slots: u32,
    delayed: bool,
}

/// Reads the import directory.
pub fn read(image: &Image, budget: &mut Budget, out: &mut Directories) -> Result<()> {
    const WHAT: &str = "import descriptor";
    let Some(&(start, _)) = image.directories.get(pe::IMAGE_DIRECTORY_ENTRY_IMPORT).filter(|d| d.0 != 0) else {
        return Ok(());
    };
    let bytes = Bytes::mapped(image);
    let mut at = u64::from(start);
    loop {
        let d: &pe::ImageImportDescriptor = bytes.get(WHAT, at)?;
        // The loader stops here, whatever size the directory claims.
        if d.name.get(LE) == 0 || d.first_thunk.get(LE) == 0 {
            break;
        }
        let dll = text(&bytes, budget, "name of an imported DLL", d.name.get(LE))?;
        let lookup = d.original_first_thunk.get(LE);
        let names = if lookup == 0 { d.first_thunk.get(LE) } else { lookup };
        out.image_relative(at, lookup);
        out.image_relative(at + 12, d.name.get(LE));
        out.image_relative(at + 16, d.first_thunk.get(LE));
        out.area(d.name.get(LE), dll.len() as u64 + 1, ObjectKind::ImportTable);
        back_pointers(&bytes, at as u32, d.name.get(LE), out);
        let thunks = Thunks { dll, names, slots: d.first_thunk.get(LE), delayed: false };
        list(image, &bytes, budget, &thunks, out)?;
        at += size_of::<pe::ImageImportDescriptor>() as u64;
    }
    let size = at - u64::from(start) + size_of::<pe::ImageImportDescriptor>() as u64;
    out.area(start, size, ObjectKind::ImportTable);
    Ok(())
}

/// GNU import libraries put a word with the descriptor's RVA before the name of the DLL for each import. Nothing reads
/// them, but they hold addresses.
fn back_pointers(bytes: &Bytes<'_>, descriptor: u32, name: u32, out: &mut Directories) {
    let mut at = name & !3;
    while let Some(before) = at.checked_sub(4) {
        match bytes.get::<U32<LE>>("import library word", before.into()) {
            Ok(word) if word.get(LE) == descriptor => out.image_relative(before.into(), descriptor),
            _ => break,
        }
        at = before;
    }
    out.area(at, u64::from((name & !3) - at), ObjectKind::ImportTable);
}

/// Reads the delay-load directory.
pub fn read_delayed(image: &Image, budget: &mut Budget, out: &mut Directories) -> Result<()> {
    const WHAT: &str = "delay-load descriptor";
    let Some(&(start, _)) = image.directories.get(pe::IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT).filter(|d| d.0 != 0) else {
        return Ok(());
    };
    let bytes = Bytes::mapped(image);
    let mut at = u64::from(start);
    loop {
        let d: &pe::ImageDelayloadDescriptor = bytes.get(WHAT, at)?;
        if d.is_null() || d.dll_name_rva.get(LE) == 0 {
            break;
        }
        if d.attributes.get(LE) & pe::IMAGE_DELAYLOAD_RVA_BASED == 0 {
            let what = format!("a delay-load descriptor with absolute addresses (at RVA {at:#x})");
            return Err(Error::Unsupported { file: image.path.clone(), what });
        }
        let dll = text(&bytes, budget, "name of a delay-loaded DLL", d.dll_name_rva.get(LE))?;
        for (i, field) in [
            d.dll_name_rva,
            d.module_handle_rva,
            d.import_address_table_rva,
            d.import_name_table_rva,
            d.bound_import_address_table_rva,
            d.unload_information_table_rva,
        ]
        .iter()
        .enumerate()
        {
            out.image_relative(at + 4 + 4 * i as u64, field.get(LE));
        }
        out.area(d.dll_name_rva.get(LE), dll.len() as u64 + 1, ObjectKind::ImportTable);
        let (names, slots) = (d.import_name_table_rva.get(LE), d.import_address_table_rva.get(LE));
        list(image, &bytes, budget, &Thunks { dll, names, slots, delayed: true }, out)?;
        at += size_of::<pe::ImageDelayloadDescriptor>() as u64;
    }
    let size = at - u64::from(start) + size_of::<pe::ImageDelayloadDescriptor>() as u64;
    out.area(start, size, ObjectKind::ImportTable);
    Ok(())
}

fn text<'a>(bytes: &Bytes<'a>, budget: &mut Budget, what: &'static str, rva: u32) -> Result<&'a str> {
    let text = bytes.text(what, rva.into())?;
    if !budget.take(text.len() + 1) {
        return Err(bytes.malformed(what, rva.into(), "less text than twice the image"));
    }
    Ok(text)
}

fn list(
    image: &Image,
    bytes: &Bytes<'_>,
    budget: &mut Budget,
    thunks: &Thunks<'_>,
    out: &mut Directories,
) -> Result<()> {
    const WHAT: &str = "import name table";
    let mut n = 0_u64;
    loop {
        let at = u64::from(thunks.names) + 8 * n;
        let slot = u64::from(thunks.slots) + 8 * n;
        let thunk: &pe::ImageThunkData64 = bytes.get(WHAT, at)?;
        let value = thunk.0.get(LE);
        if value == 0 {
            break;
        }
        bytes.bytes("import slot", slot, 8)?;
        if out.imports.len() >= image.mapped.len() / 8 || !budget.take(thunks.dll.len()) {
            return Err(bytes.malformed(WHAT, at, "fewer imports than the image has room for"));
        }
        let name = if value & ORDINAL != 0 {
            ImportName::Ordinal(value as u16)
        } else {
            let hint = u32::try_from(value & !ORDINAL)
                .map_err(|_| bytes.malformed(WHAT, at, "a 31-bit RVA of a hint and name"))?;
            let name = text(bytes, budget, "import name", hint.saturating_add(2))?;
            // Hint, name and terminator, and the byte that keeps the next hint aligned.
            out.area(hint, (3 + name.len() as u64).next_multiple_of(2), ObjectKind::ImportTable);
            out.image_relative(at, hint);
            if thunks.names != thunks.slots
                && !thunks.delayed
                && bytes.bytes(WHAT, slot, 8)? == thunk.0.get(LE).to_le_bytes()
            {
                out.image_relative(slot, hint);
            }
            ImportName::Name(name.to_owned())
        };
        out.imports.push(Import { dll: thunks.dll.to_owned(), name, slot: slot as u32, delayed: thunks.delayed });
        n += 1;
    }
    let size = 8 * (n + 1);
    if thunks.names != thunks.slots {
        out.area(thunks.names, size, ObjectKind::ImportTable);
    }
    out.area(thunks.slots, size, ObjectKind::ImportAddressTable);
    Ok(())
}
