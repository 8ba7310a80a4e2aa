//! Can this image be hotpatched? What its headers say, with reasons and what to do. Machine and process have their own
//! checks where there are any (`windows`).

use serde::Serialize;

use crate::pe::{self, Directory, Headers, MACHINE_AMD64, PeError, SCN_EXECUTE, SCN_WRITE, u16_at, u32_at, u64_at};

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// No hindrance, but good to know.
    Note,
    /// It could not be found out.
    Unknown,
    /// Some patches will be refused, or placed in a less direct way.
    Limits,
    /// Nothing can be patched.
    Blocks,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable dotted key.
    pub key: &'static str,
    /// How much it weighs.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do about it.
    pub advice: Option<&'static str>,
}

impl Check {
    /// A finding without advice.
    pub fn new(key: &'static str, level: Level, text: impl Into<String>) -> Check {
        Check { key, level, text: text.into(), advice: None }
    }

    /// With what to do.
    pub fn advise(mut self, advice: &'static str) -> Check {
        self.advice = Some(advice);
        self
    }
}

/// The heaviest level; [`Level::Ok`] for none.
pub fn worst(checks: &[Check]) -> Level {
    checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok)
}

const DYNAMIC_BASE: u16 = 0x40;
const GUARD_CF: u16 = 0x4000;
const RELOCS_STRIPPED: u16 = 1;
const CET_COMPAT: u32 = 1;
/// Offsets in the load configuration of a 64-bit image.
const GUARD_FLAGS: u32 = 0x90;
const CHPE_METADATA: u32 = 0xc8;
const XFG_ENABLED: u64 = 0x0080_0000;
/// Bytes in front of an entry that the long jump and its alignment need.
const PADDING: u32 = 6;

/// Judge an image file.
///
/// # Errors
/// If the file is no PE image, or its headers contradict its size.
pub fn image(file: &[u8]) -> Result<Vec<Check>, PeError> {
    let mut checks = Vec::new();
    if let Some(machine) = other_machine(file)? {
        let text = format!("{machine}: this version patches x86-64 images only");
        checks.push(Check::new("image.machine", Level::Blocks, text).advise("update this image by a restart"));
        return Ok(checks);
    }
    let headers = Headers::parse(file)?;
    let image = pe::expand(file, &headers)?;
    checks.push(Check::new("image.machine", Level::Ok, "x86-64"));
    let facts = Facts { image: &image, headers: &headers };
    facts.hybrid(&mut checks);
    facts.managed(&mut checks);
    facts.placement(&mut checks);
    facts.guards(&mut checks);
    facts.sections(&mut checks);
    facts.debug(&mut checks);
    facts.padding(&mut checks);
    Ok(checks)
}

/// The name of the machine, if it is a PE image of one that is not served.
fn other_machine(file: &[u8]) -> Result<Option<String>, PeError> {
    if file.get(..2) != Some(b"MZ") {
        return Err(PeError { at: 0, expected: "MZ signature" });
    }
    let header = u32_at(file, 0x3c).map_or(0, |at| at as usize);
    let Some(machine) =
        u16_at(file, header.saturating_add(4)).filter(|_| file.get(header..header + 4) == Some(b"PE\0\0"))
    else {
        return Err(PeError { at: header as u64, expected: "PE signature" });
    };
    Ok(match machine {
        MACHINE_AMD64 => None,
        0x14c => Some("a 32-bit x86 image".into()),
        0xaa64 => Some("an ARM64 image".into()),
        0xa641 => Some("an ARM64EC image".into()),
        0xa64e => Some("an ARM64X image".into()),
        0x1c0 | 0x1c4 => Some("a 32-bit ARM image".into()),
        other => Some(format!("an image of machine {other:#06x}")),
    })
}

struct Facts<'a> {
    image: &'a [u8],
    headers: &'a Headers,
}

impl Facts<'_> {
    /// A field of the load configuration; `None` if it does not reach that far.
    fn load_config(&self, offset: u32, width: u32) -> Option<u64> {
        let (rva, _) = self.headers.directory(Directory::LoadConfig)?;
        let declared = u32_at(self.image, rva as usize)?;
        if offset + width > declared {
            return None;
        }
        let at = rva.checked_add(offset)? as usize;
        if width == 8 { u64_at(self.image, at) } else { u32_at(self.image, at).map(u64::from) }
    }

    fn hybrid(&self, checks: &mut Vec<Check>) {
        if self.load_config(CHPE_METADATA, 8).is_some_and(|at| at != 0) {
            let text = "ARM64EC or ARM64X: the image holds code for two machines (CHPE metadata)";
            checks.push(Check::new("image.chpe", Level::Blocks, text).advise("update this image by a restart"));
        } else {
            checks.push(Check::new("image.chpe", Level::Ok, "code for one machine only"));
        }
    }

    fn managed(&self, checks: &mut Vec<Check>) {
        let Some((rva, _)) = self.headers.directory(Directory::Clr) else {
            checks.push(Check::new("image.managed", Level::Ok, "no managed code"));
            return;
        };
        let flags = u32_at(self.image, rva as usize + 16).unwrap_or(1);
        checks.push(if flags & 1 != 0 {
            Check::new(
                "image.managed",
                Level::Blocks,
                "managed code: it is compiled in memory, where no file describes it",
            )
            .advise("update this image by a restart")
        } else {
            let text = "native and managed code: only native functions can be replaced";
            Check::new("image.managed", Level::Limits, text).advise("keep what needs quick fixes in native images")
        });
    }

    fn placement(&self, checks: &mut Vec<Check>) {
        let stripped = self.headers.characteristics & RELOCS_STRIPPED != 0;
        if stripped {
            let text = "base relocations are stripped: where the image holds addresses is not known";
            checks.push(
                Check::new("image.relocations", Level::Blocks, text)
                    .advise("link with /FIXED:NO (default with /DYNAMICBASE)"),
            );
        } else if self.headers.directory(Directory::BaseRelocation).is_some() {
            checks.push(Check::new("image.relocations", Level::Ok, "base relocations are present"));
        } else {
            checks.push(Check::new(
                "image.relocations",
                Level::Note,
                "no base relocations: the image holds no addresses",
            ));
        }
        checks.push(if self.headers.dll_characteristics & DYNAMIC_BASE != 0 {
            Check::new("image.aslr", Level::Ok, "may be loaded anywhere (/DYNAMICBASE)")
        } else {
            Check::new(
                "image.aslr",
                Level::Note,
                "is loaded at its preferred address where that is free (no /DYNAMICBASE)",
            )
            .advise("link with /DYNAMICBASE; hotpatching does not need it, but attackers like its absence")
        });
    }

    fn guards(&self, checks: &mut Vec<Check>) {
        checks.push(if self.headers.dll_characteristics & GUARD_CF != 0 {
            Check::new("image.cfg", Level::Ok, "control-flow guard: call targets of patches are registered")
        } else {
            Check::new("image.cfg", Level::Ok, "no control-flow guard")
        });
        if self.load_config(GUARD_FLAGS, 4).is_some_and(|flags| flags & XFG_ENABLED != 0) {
            let text =
                "extended flow guard: a hash lies in front of each address-taken entry, where the long jump would be";
            checks.push(
                Check::new("image.xfg", Level::Limits, text)
                    .advise("link without /guard:xfg, or rely on entries of five bytes"),
            );
        }
        checks.push(if self.extended_characteristics() & CET_COMPAT != 0 {
            Check::new(
                "image.cet",
                Level::Ok,
                "made for shadow stacks (/CETCOMPAT): redirects are jumps and keep them intact",
            )
        } else {
            Check::new(
                "image.cet",
                Level::Ok,
                "not marked for shadow stacks; redirects are jumps and would keep them intact",
            )
        });
    }

    /// The debug directory: (type, size, RVA of the data).
    fn debug_entries(&self) -> impl Iterator<Item = (u32, u32, u32)> + '_ {
        let table = self.headers.directory(Directory::Debug);
        let bytes = table.and_then(|(rva, size)| self.image.get(rva as usize..(rva as usize) + size as usize));
        bytes.unwrap_or_default().chunks_exact(28).take(64).map(|entry| {
            let field = |at| u32_at(entry, at).unwrap_or(0);
            (field(12), field(16), field(20))
        })
    }

    fn extended_characteristics(&self) -> u32 {
        let found = self.debug_entries().find(|&(kind, size, rva)| kind == 20 && size >= 4 && rva != 0);
        found.and_then(|(.., rva)| u32_at(self.image, rva as usize)).unwrap_or(0)
    }

    fn sections(&self, checks: &mut Vec<Check>) {
        let both = SCN_EXECUTE | SCN_WRITE;
        match self.headers.sections.iter().find(|section| section.characteristics & both == both) {
            Some(section) => checks.push(
                Check::new(
                    "image.code_writable",
                    Level::Limits,
                    format!(
                        "section {} is writable and executable: code that was changed in memory is refused",
                        section.name
                    ),
                )
                .advise("do not pack or self-modify images that are to be hotpatched"),
            ),
            None => checks.push(Check::new("image.code_writable", Level::Ok, "no section is writable and executable")),
        }
    }

    fn debug(&self, checks: &mut Vec<Check>) {
        let named = self.debug_entries().any(|(kind, size, rva)| {
            kind == 2 && size >= 24 && self.image.get(rva as usize..).is_some_and(|data| data.starts_with(b"RSDS"))
        });
        checks.push(if named {
            Check::new("image.pdb", Level::Ok, "names its PDB")
        } else {
            Check::new(
                "image.pdb",
                Level::Limits,
                "names no PDB: functions and data have no names, so most patches are refused",
            )
            .advise("link with /DEBUG and keep the PDB of every build that is shipped")
        });
    }

    /// Entries with unwind data of their own, exported ones and the image's own, that have room for the long jump in front.
    fn padding(&self, checks: &mut Vec<Check>) {
        let mut entries = self.function_table();
        entries.extend(self.exported());
        entries.push(self.headers.entry_point);
        entries.retain(|&rva| {
            self.headers.section_at(rva).is_some_and(|section| section.characteristics & SCN_EXECUTE != 0)
        });
        entries.sort_unstable();
        entries.dedup();
        let room = |rva: u32| {
            let front = rva.checked_sub(PADDING).and_then(|start| self.image.get(start as usize..rva as usize));
            front.is_some_and(|bytes| [0x90, 0xcc].iter().any(|&filler| bytes.iter().all(|&byte| byte == filler)))
        };
        let (all, with) = (entries.len(), entries.iter().filter(|&&rva| room(rva)).count());
        if all == 0 {
            let text = "no function table, no exports and no entry point: entries cannot be counted";
            checks.push(Check::new("image.functionpadmin", Level::Unknown, text));
            return;
        }
        let text = format!("{with} of {all} entries ({} %) have {PADDING} bytes of filler in front", with * 100 / all);
        checks.push(if with * 100 >= all * 95 {
            Check::new("image.functionpadmin", Level::Ok, text)
        } else {
            // The rest may still have room for a jump over their first five bytes.
            Check::new("image.functionpadmin", Level::Note, text)
                .advise("link with /FUNCTIONPADMIN:6 (lld-link /functionpadmin:6, gcc -fpatchable-function-entry=6,6)")
        });
    }

    /// RVAs of the RUNTIME_FUNCTIONs that begin a function.
    fn function_table(&self) -> Vec<u32> {
        let Some((rva, size)) = self.headers.directory(Directory::Exception) else {
            return Vec::new();
        };
        let table = self.image.get(rva as usize..rva as usize + size as usize).unwrap_or_default();
        let begins = table.chunks_exact(12).filter_map(|entry| {
            let (begin, unwind) = (u32_at(entry, 0)?, u32_at(entry, 8)?);
            // A chained fragment (UNW_FLAG_CHAININFO, or an odd pointer to another entry) begins none.
            let flags = self.image.get(unwind as usize)? >> 3;
            (begin != 0 && unwind & 1 == 0 && flags & 4 == 0).then_some(begin)
        });
        begins.collect()
    }

    fn exported(&self) -> Vec<u32> {
        let Some((rva, size)) = self.headers.directory(Directory::Export) else {
            return Vec::new();
        };
        let field = |at: u32| u32_at(self.image, rva as usize + at as usize).unwrap_or(0);
        let (count, table) = (field(20).min(1 << 16), field(28) as usize);
        let address = |index: u32| u32_at(self.image, table.checked_add(index as usize * 4)?);
        // An address inside the directory is the name of another DLL's function.
        (0..count).filter_map(address).filter(|&at| at != 0 && !(rva..rva.saturating_add(size)).contains(&at)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fixture(name: &str) -> Vec<u8> {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fixtures").join(name).join("old");
        let image = std::fs::read_dir(folder).unwrap().filter_map(|entry| entry.ok()).map(|entry| entry.path());
        let image = image.into_iter().find(|path| path.extension().is_some_and(|e| e == "dll" || e == "exe"));
        std::fs::read(image.unwrap()).unwrap()
    }

    fn level(checks: &[Check], key: &str) -> Option<Level> {
        checks.iter().find(|check| check.key == key).map(|check| check.level)
    }

    /// Where the optional header begins.
    fn optional(file: &[u8]) -> usize {
        u32_at(file, 0x3c).unwrap() as usize + 24
    }

    #[test]
    fn a_fixture_can_be_patched() {
        for name in ["plain", "seh", "service"] {
            let checks = image(&fixture(name)).unwrap();
            assert!(worst(&checks) < Level::Limits, "{name}: {checks:?}");
        }
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let good = fixture("plain");
        let at = optional(&good);
        let judged = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut file = good.clone();
            change(&mut file);
            image(&file).unwrap()
        };
        let arm = judged(&|file| file[at - 20..at - 18].copy_from_slice(&0xaa64u16.to_le_bytes()));
        assert_eq!(level(&arm, "image.machine"), Some(Level::Blocks));
        let stripped = judged(&|file| file[at - 2] |= 1);
        assert_eq!(level(&stripped, "image.relocations"), Some(Level::Blocks));
        assert_eq!(worst(&stripped), Level::Blocks);
        let fixed = judged(&|file| file[at + 70] &= !0x40);
        assert_eq!(level(&fixed, "image.aslr"), Some(Level::Note));
        // A CLR header that lies where the PE header does not set ILONLY, and one where it does.
        let clr = |rva: u32| {
            judged(&move |file: &mut Vec<u8>| {
                file[at + 112 + 14 * 8..][..4].copy_from_slice(&rva.to_le_bytes());
                file[at + 112 + 14 * 8 + 4..][..4].copy_from_slice(&72u32.to_le_bytes());
                file[0x40 + 16] = (rva == 0x40) as u8;
            })
        };
        assert_eq!(level(&clr(0x40), "image.managed"), Some(Level::Blocks));
        // No debug directory: no PDB.
        let nameless = judged(&|file| file[at + 112 + 6 * 8..][..8].fill(0));
        assert_eq!(level(&nameless, "image.pdb"), Some(Level::Limits));
        let writable = judged(&|file| {
            let table = at + u16_at(file, at - 4).unwrap() as usize;
            file[table + 39] |= 0x80;
        });
        assert_eq!(level(&writable, "image.code_writable"), Some(Level::Limits));
        // Nothing in front of the entries.
        let tight = judged(&|file| {
            let headers = Headers::parse(file).unwrap();
            let text = &headers.sections[0];
            let range = text.file_offset as usize..(text.file_offset + text.file_size) as usize;
            file[range].iter_mut().filter(|byte| [0xcc, 0x90].contains(*byte)).for_each(|byte| *byte = 0x50);
        });
        assert_eq!(level(&tight, "image.functionpadmin"), Some(Level::Note));
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        assert!(image(b"").is_err());
        assert!(image(b"MZ").is_err());
        assert!(image(&fixture("plain")[..0x200]).is_err());
    }

    proptest! {
        #[test]
        fn mutated_images_never_panic(changes in prop::collection::vec((0usize..0x400, any::<u8>()), 1..20)) {
            let mut file = fixture("plain");
            for (at, byte) in changes {
                file[at] = byte;
            }
            // The mutation may ask for much memory within the bound; then the check is of the parser alone.
            if Headers::parse(&file).is_ok_and(|headers| headers.image_size < 0x100_0000) {
                let _ = image(&file);
            }
        }
    }
}
