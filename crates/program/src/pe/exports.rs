//! The export directory.

use super::bytes::{Budget, Bytes};
use super::directories::Directories;
use crate::error::Result;
use crate::image::{Export, ExportTarget, Image};
use crate::object::ObjectKind;
use object::LittleEndian as LE;
use object::{U16, U32, pe};

/// Reads exports, sorted by ordinal and then name.
pub fn read(image: &Image, budget: &mut Budget, out: &mut Directories) -> Result<()> {
    let Some(&(start, size)) = image.directories.get(pe::IMAGE_DIRECTORY_ENTRY_EXPORT).filter(|d| d.0 != 0) else {
        return Ok(());
    };
    let bytes = Bytes::mapped(image);
    let inside = |rva: u32| rva.checked_sub(start).is_some_and(|d| d < size);
    let mut text = |what: &'static str, rva: u32| {
        let text = bytes.text(what, rva.into())?;
        if budget.take(text.len() + 1) {
            Ok(text)
        } else {
            Err(bytes.malformed(what, rva.into(), "less text than twice the image"))
        }
    };

    let d: &pe::ImageExportDirectory = bytes.get("export directory", start.into())?;
    out.area(start, size_of::<pe::ImageExportDirectory>() as u64, ObjectKind::ExportTable);
    if d.name.get(LE) != 0 {
        let name = text("name in the export directory", d.name.get(LE))?;
        out.image_relative(u64::from(start) + 12, d.name.get(LE));
        out.area(d.name.get(LE), name.len() as u64 + 1, ObjectKind::ExportTable);
        out.export_name = Some(name.to_owned());
    }
    let functions_at = d.address_of_functions.get(LE);
    let functions: &[U32<LE>] =
        bytes.slice("export address table", functions_at.into(), d.number_of_functions.get(LE).into())?;
    let (names_at, count) = (d.address_of_names.get(LE), d.number_of_names.get(LE));
    let names: &[U32<LE>] = bytes.slice("export name table", names_at.into(), count.into())?;
    let ordinals_at = d.address_of_name_ordinals.get(LE);
    let ordinals: &[U16<LE>] = bytes.slice("export ordinal table", ordinals_at.into(), count.into())?;
    for (field, rva, size) in [
        (28, functions_at, 4 * functions.len()),
        (32, names_at, 4 * names.len()),
        (36, ordinals_at, 2 * ordinals.len()),
    ] {
        out.image_relative(u64::from(start) + field, rva);
        out.area(rva, size as u64, ObjectKind::ExportTable);
    }

    // (index into the address table, name), so that names of one address stand together.
    let mut named: Vec<(u16, &str)> = Vec::with_capacity(names.len());
    for (i, (name, ordinal)) in names.iter().zip(ordinals).enumerate() {
        let at = u64::from(names_at) + 4 * i as u64;
        if usize::from(ordinal.get(LE)) >= functions.len() {
            let expected = format!("an index below {}", functions.len());
            return Err(bytes.malformed("export ordinal table", u64::from(ordinals_at) + 2 * i as u64, expected));
        }
        let rva = name.get(LE);
        let name = text("export name", rva)?;
        out.image_relative(at, rva);
        out.area(rva, name.len() as u64 + 1, ObjectKind::ExportTable);
        named.push((ordinal.get(LE), name));
    }
    named.sort_unstable();
    let mut named = named.into_iter().peekable();
    for (i, function) in functions.iter().enumerate() {
        let rva = function.get(LE);
        let mut names = Vec::new();
        while let Some((_, name)) = named.next_if(|n| usize::from(n.0) == i) {
            names.push(Some(name.to_owned()));
        }
        if rva == 0 {
            continue;
        }
        out.image_relative(u64::from(functions_at) + 4 * i as u64, rva);
        let target = if inside(rva) {
            let name = text("export forwarder", rva)?;
            out.area(rva, name.len() as u64 + 1, ObjectKind::ExportTable);
            ExportTarget::Forwarder(name.to_owned())
        } else {
            bytes.bytes("exported address", rva.into(), 1)?;
            ExportTarget::Rva(rva)
        };
        if names.is_empty() {
            names.push(None);
        }
        let ordinal = d.base.get(LE).wrapping_add(i as u32);
        out.exports.extend(names.into_iter().map(|name| Export { ordinal, name, target: target.clone() }));
    }
    Ok(())
}
