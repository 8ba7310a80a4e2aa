//! What a machine's files say of themselves: content and the version that scanners of files read.

use crate::machine::File;
use object::read::pe::{ImageNtHeaders, PeFile, PeFile32, PeFile64, ResourceDirectoryEntryData};
use sha2::{Digest, Sha256};

/// RT_VERSION, the type of the version resource (winuser.h).
const RT_VERSION: u16 = 16;
/// `dwSignature` of VS_FIXEDFILEINFO (verrsrc.h).
const SIGNATURE: u32 = 0xFEEF_04BD;

/// A file of the product: its name without folder, and its bytes. Any bytes are taken: what is not an image, or has no
/// version, states none.
pub fn file(name: &str, bytes: &[u8]) -> File {
    let digest = Sha256::digest(bytes);
    File { name: name.to_owned(), sha256: hotgraft_hotpatch::hex::text(&digest), version: version(bytes) }
}

/// `FileVersion` of the fixed part of the version resource, as `1.2.3.4`.
pub fn version(image: &[u8]) -> Option<String> {
    if let Ok(pe) = PeFile64::parse(image) { of_pe(&pe) } else { of_pe(&PeFile32::parse(image).ok()?) }
}

fn of_pe<Pe: ImageNtHeaders>(pe: &PeFile<'_, Pe>) -> Option<String> {
    let sections = pe.section_table();
    let directory = pe.data_directories().resource_directory(pe.data(), &sections).ok()??;
    let kinds = directory.root().ok()?;
    let kind = kinds.entries.iter().find(|entry| entry.name_or_id().id() == Some(RT_VERSION))?;
    let mut found = kind.data(directory).ok()?;
    // Type, name, language: the first of each.
    for _ in 0..2 {
        let ResourceDirectoryEntryData::Table(table) = found else { break };
        found = table.entries.first()?.data(directory).ok()?;
    }
    let entry = found.data()?;
    let (rva, size) = (entry.offset_to_data.get(object::LittleEndian), entry.size.get(object::LittleEndian));
    let bytes = sections.pe_data_at(pe.data(), rva)?;
    let bytes = bytes.get(..size as usize).unwrap_or(bytes);
    fixed(bytes)
}

/// VS_VERSIONINFO: three words, the key `VS_VERSION_INFO` in UTF-16 with its end, padding to four bytes, and then
/// VS_FIXEDFILEINFO, whose third and fourth words of four bytes are the version.
fn fixed(resource: &[u8]) -> Option<String> {
    const AT: usize = (6 + 2 * 16_usize).next_multiple_of(4);
    let word = |at: usize| Some(u32::from_le_bytes(resource.get(at..at + 4)?.try_into().ok()?));
    if word(AT)? != SIGNATURE {
        return None;
    }
    let (high, low) = (word(AT + 8)?, word(AT + 12)?);
    Some(format!("{}.{}.{}.{}", high >> 16, high & 0xffff, low >> 16, low & 0xffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(signature: u32) -> Vec<u8> {
        let mut bytes = vec![0; 6];
        bytes.extend("VS_VERSION_INFO\0".encode_utf16().flat_map(u16::to_le_bytes));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        for word in [signature, 0x1_0000, 0x000a_0002, 0x6580_0d39] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn the_fixed_part_states_the_version() {
        assert_eq!(fixed(&resource(SIGNATURE)).as_deref(), Some("10.2.25984.3385"));
        assert_eq!(fixed(&resource(SIGNATURE + 1)), None, "no such structure");
        let whole = resource(SIGNATURE);
        for length in 0..whole.len() {
            assert_eq!(fixed(&whole[..length]), None, "cut after {length} bytes");
        }
    }

    #[test]
    fn what_is_no_image_states_none() {
        let file = file("notes.txt", b"abc");
        assert_eq!(file.version, None);
        assert_eq!(file.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
