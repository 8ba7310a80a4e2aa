//! PE headers and directories, read from file bytes or from a mapped image: the few facts that applying a patch needs.

/// Largest image that is read or mapped, bytes.
pub const MAX_IMAGE: u32 = 0x7000_0000;
/// Largest patch image, bytes.
pub const MAX_PATCH: u32 = 0x1000_0000;
/// IMAGE_FILE_MACHINE_AMD64.
pub const MACHINE_AMD64: u16 = 0x8664;

/// IMAGE_SCN_MEM_EXECUTE.
pub const SCN_EXECUTE: u32 = 0x2000_0000;
/// IMAGE_SCN_MEM_WRITE.
pub const SCN_WRITE: u32 = 0x8000_0000;

/// Index of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)]
pub enum Directory {
    Export = 0,
    Import = 1,
    Exception = 3,
    BaseRelocation = 5,
    Debug = 6,
    Tls = 9,
    LoadConfig = 10,
    DelayImport = 13,
    Clr = 14,
}

/// Bytes that are not what a PE image has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed image at {at:#x}: {expected}")]
pub struct PeError {
    /// Offset from the start of the image: file offset for headers, else RVA. Bytes.
    pub at: u64,
    /// What was expected there.
    pub expected: &'static str,
}

fn fault<T>(at: usize, expected: &'static str) -> Result<T, PeError> {
    Err(PeError { at: at as u64, expected })
}

/// A section header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Name, trailing zeros removed, not UTF-8 bytes replaced.
    pub name: String,
    /// RVA.
    pub rva: u32,
    /// Bytes in memory.
    pub size: u32,
    /// File offset of the raw data.
    pub file_offset: u32,
    /// Bytes of raw data.
    pub file_size: u32,
    /// IMAGE_SCN_* flags.
    pub characteristics: u32,
}

/// What the headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// IMAGE_FILE_MACHINE_*.
    pub machine: u16,
    /// FileHeader.TimeDateStamp.
    pub timestamp: u32,
    /// FileHeader.Characteristics.
    pub characteristics: u16,
    /// OptionalHeader.CheckSum.
    pub checksum: u32,
    /// OptionalHeader.ImageBase: the preferred base in a file, the actual one in memory.
    pub image_base: u64,
    /// OptionalHeader.SizeOfImage.
    pub image_size: u32,
    /// OptionalHeader.SizeOfHeaders.
    pub headers_size: u32,
    /// OptionalHeader.SectionAlignment.
    pub section_alignment: u32,
    /// OptionalHeader.AddressOfEntryPoint (RVA, 0 if there is none).
    pub entry_point: u32,
    /// OptionalHeader.DllCharacteristics.
    pub dll_characteristics: u16,
    /// Data directories: (RVA, bytes).
    pub directories: Vec<(u32, u32)>,
    /// Section table.
    pub sections: Vec<Section>,
}

/// Little-endian u16 at `at`.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Little-endian u32 at `at`.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Little-endian u64 at `at`.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Zero-terminated string at `at`, at most `limit` bytes, ASCII only.
pub fn ascii_at(bytes: &[u8], at: usize, limit: usize) -> Option<&str> {
    let tail = bytes.get(at..)?;
    let end = tail.iter().take(limit).position(|&byte| byte == 0)?;
    std::str::from_utf8(&tail[..end]).ok().filter(|text| text.is_ascii())
}

impl Headers {
    /// Parse the headers of a PE32+ image from its first bytes.
    pub fn parse(bytes: &[u8]) -> Result<Headers, PeError> {
        if bytes.get(..2) != Some(b"MZ") {
            return fault(0, "MZ signature");
        }
        let Some(pe) = u32_at(bytes, 0x3c).map(|offset| offset as usize) else {
            return fault(0x3c, "offset of the PE header");
        };
        if pe > bytes.len() || bytes.get(pe..pe + 4) != Some(b"PE\0\0") {
            return fault(pe, "PE signature");
        }
        let file = pe + 4;
        let optional = file + 20;
        let parsed = (|| {
            let machine = u16_at(bytes, file)?;
            let count = u16_at(bytes, file + 2)? as usize;
            let timestamp = u32_at(bytes, file + 4)?;
            let optional_size = u16_at(bytes, file + 16)? as usize;
            let characteristics = u16_at(bytes, file + 18)?;
            let magic = u16_at(bytes, optional)?;
            Some((machine, count, timestamp, optional_size, characteristics, magic))
        })();
        let Some((machine, count, timestamp, optional_size, characteristics, magic)) = parsed else {
            return fault(file, "file header");
        };
        if magic != 0x20b {
            return fault(optional, "PE32+ optional header");
        }
        if optional_size < 112 {
            return fault(file + 16, "optional header of at least 112 bytes");
        }
        let fields = (|| {
            Some(Headers {
                machine,
                timestamp,
                characteristics,
                entry_point: u32_at(bytes, optional + 16)?,
                image_base: u64_at(bytes, optional + 24)?,
                section_alignment: u32_at(bytes, optional + 32)?,
                image_size: u32_at(bytes, optional + 56)?,
                headers_size: u32_at(bytes, optional + 60)?,
                checksum: u32_at(bytes, optional + 64)?,
                dll_characteristics: u16_at(bytes, optional + 70)?,
                directories: {
                    let stated = u32_at(bytes, optional + 108)?.min(16) as usize;
                    (0..stated.min((optional_size - 112) / 8))
                        .map(|index| {
                            let at = optional + 112 + index * 8;
                            Some((u32_at(bytes, at)?, u32_at(bytes, at + 4)?))
                        })
                        .collect::<Option<Vec<_>>>()?
                },
                sections: Vec::new(),
            })
        })();
        let Some(mut headers) = fields else {
            return fault(optional, "optional header");
        };
        if headers.image_size == 0 || headers.image_size > MAX_IMAGE {
            return fault(optional + 56, "SizeOfImage within bounds");
        }
        if headers.headers_size > headers.image_size {
            return fault(optional + 60, "SizeOfHeaders within SizeOfImage");
        }
        let table = optional + optional_size;
        for index in 0..count {
            let at = table + index * 40;
            let section = (|| {
                let name = bytes.get(at..at + 8)?;
                let end = name.iter().position(|&byte| byte == 0).unwrap_or(8);
                let virtual_size = u32_at(bytes, at + 8)?;
                let file_size = u32_at(bytes, at + 16)?;
                Some(Section {
                    name: String::from_utf8_lossy(&name[..end]).into_owned(),
                    rva: u32_at(bytes, at + 12)?,
                    size: if virtual_size == 0 { file_size } else { virtual_size },
                    file_offset: u32_at(bytes, at + 20)?,
                    file_size,
                    characteristics: u32_at(bytes, at + 36)?,
                })
            })();
            let Some(section) = section else {
                return fault(at, "section header");
            };
            if section.rva as u64 + section.size as u64 > headers.image_size as u64 {
                return fault(at + 12, "section within SizeOfImage");
            }
            headers.sections.push(section);
        }
        Ok(headers)
    }

    /// A data directory that is there: (RVA, bytes), inside the image.
    pub fn directory(&self, directory: Directory) -> Option<(u32, u32)> {
        let (rva, size) = *self.directories.get(directory as usize)?;
        (rva != 0 && size != 0 && rva as u64 + size as u64 <= self.image_size as u64).then_some((rva, size))
    }

    /// The section that holds `rva`.
    pub fn section_at(&self, rva: u32) -> Option<&Section> {
        self.sections.iter().find(|section| rva.checked_sub(section.rva).is_some_and(|offset| offset < section.size))
    }
}

/// Lay the sections of a file out as in memory: `image_size` bytes.
pub fn expand(file: &[u8], headers: &Headers) -> Result<Vec<u8>, PeError> {
    let mut image = vec![0; headers.image_size as usize];
    let header_bytes = (headers.headers_size as usize).min(file.len());
    image[..header_bytes].copy_from_slice(&file[..header_bytes]);
    for section in &headers.sections {
        let size = section.file_size.min(section.size) as usize;
        if size == 0 {
            continue;
        }
        let from = section.file_offset as usize;
        let Some(raw) = from.checked_add(size).and_then(|end| file.get(from..end)) else {
            return fault(from, "raw data of a section within the file");
        };
        // `parse` has checked that the section lies within the image.
        image[section.rva as usize..section.rva as usize + size].copy_from_slice(raw);
    }
    Ok(image)
}

/// Places of 8-byte base relocations in a relocation directory (`table`, from `rva`), sorted.
pub fn relocations(table: &[u8], rva: u32, image_size: u32) -> Result<Vec<u32>, PeError> {
    let mut places = Vec::new();
    let mut at = 0;
    while let (Some(page), Some(size)) = (u32_at(table, at), u32_at(table, at + 4)) {
        // Linkers end the table early with zeros.
        if size == 0 {
            break;
        }
        let size = size as usize;
        let Some(entries) = (size >= 8).then(|| table.get(at + 8..at.checked_add(size)?)).flatten() else {
            return fault(rva as usize + at + 4, "size of a base relocation block within the directory");
        };
        for (index, entry) in entries.chunks_exact(2).enumerate() {
            let entry = u16::from_le_bytes([entry[0], entry[1]]);
            match entry >> 12 {
                0 => {}
                10 => match page.checked_add((entry & 0xfff) as u32) {
                    Some(place) if place as u64 + 8 <= image_size as u64 => places.push(place),
                    _ => return fault(rva as usize + at + 8 + index * 2, "base relocation within the image"),
                },
                _ => return fault(rva as usize + at + 8 + index * 2, "base relocation of type DIR64 or ABSOLUTE"),
            }
        }
        at += size;
    }
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

/// Add `delta` to every 8-byte field of a laid-out image that has a base relocation.
pub fn relocate(image: &mut [u8], headers: &Headers, delta: u64) -> Result<(), PeError> {
    let Some((rva, size)) = headers.directory(Directory::BaseRelocation) else {
        return Ok(());
    };
    let places = relocations(&image[rva as usize..(rva + size) as usize], rva, headers.image_size)?;
    for place in places {
        let at = place as usize;
        let value = u64_at(image, at).unwrap_or(0).wrapping_add(delta);
        image[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    Ok(())
}

/// One imported function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// DLL name as written.
    pub dll: String,
    /// Function name, or `#N` for an ordinal.
    pub name: String,
    /// RVA of the 8-byte slot.
    pub slot: u32,
}

/// The import directory of a laid-out image.
pub fn imports(image: &[u8], headers: &Headers) -> Result<Vec<Import>, PeError> {
    let Some((table, _)) = headers.directory(Directory::Import) else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for descriptor in (table as usize..).step_by(20) {
        let fields =
            (|| Some((u32_at(image, descriptor)?, u32_at(image, descriptor + 12)?, u32_at(image, descriptor + 16)?)))();
        let Some((lookup, name, slots)) = fields else {
            return fault(descriptor, "import descriptor");
        };
        if name == 0 || slots == 0 {
            return Ok(all);
        }
        let Some(dll) = ascii_at(image, name as usize, 260) else {
            return fault(name as usize, "name of an imported DLL");
        };
        let lookup = if lookup == 0 { slots } else { lookup };
        for index in 0.. {
            let Some(entry) = u64_at(image, lookup as usize + index * 8) else {
                return fault(lookup as usize + index * 8, "import lookup entry");
            };
            if entry == 0 {
                break;
            }
            let slot = slots as usize + index * 8;
            if slot + 8 > image.len() {
                return fault(slot, "import slot within the image");
            }
            let name = if entry >> 63 == 1 {
                format!("#{}", entry as u16)
            } else {
                let at = (entry as u32 & 0x7fff_ffff) as usize + 2;
                match ascii_at(image, at, 4096) {
                    Some(name) if !name.is_empty() => name.to_owned(),
                    _ => return fault(at, "name of an imported function"),
                }
            };
            all.push(Import { dll: dll.to_owned(), name, slot: slot as u32 });
            // Overlapping tables of a hostile file could otherwise repeat without end.
            if all.len() > 1 << 16 {
                return fault(descriptor, "at most 65536 imports");
            }
        }
    }
    Ok(all)
}
