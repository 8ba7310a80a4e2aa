//! Names by address, before there are functions.

use crate::code::{Flow, decode_at};
use crate::image::{ExportTarget, Image, ImportName};
use crate::pdb::Pdb;
use crate::pe::Directories;
use crate::reference::Form;
use rustc_hash::FxHashMap;

/// Names of code and imports by address.
pub struct Names<'a> {
    image: &'a Image,
    directories: &'a Directories,
    publics: FxHashMap<u32, Vec<&'a str>>,
    exports: FxHashMap<u32, Vec<&'a str>>,
    procedures: FxHashMap<u32, &'a str>,
}

impl<'a> Names<'a> {
    /// Collects names; lists keep the order of the sources, which is sorted.
    pub fn new(image: &'a Image, pdb: &'a Pdb, directories: &'a Directories) -> Self {
        let mut publics: FxHashMap<u32, Vec<&str>> = FxHashMap::default();
        for p in &pdb.publics {
            publics.entry(p.rva).or_default().push(&p.name);
        }
        let mut exports: FxHashMap<u32, Vec<&str>> = FxHashMap::default();
        for e in &directories.exports {
            if let (ExportTarget::Rva(rva), Some(name)) = (&e.target, &e.name) {
                exports.entry(*rva).or_default().push(name);
            }
        }
        let procedures = pdb.procedures.iter().rev().filter(|p| !p.name.is_empty()).map(|p| (p.rva, p.name.as_str()));
        Names { image, directories, publics, exports, procedures: procedures.collect() }
    }

    /// Public symbols at an address, sorted.
    pub fn publics(&self, rva: u32) -> &[&'a str] {
        self.publics.get(&rva).map_or(&[], Vec::as_slice)
    }

    /// Export names of an address.
    pub fn exports(&self, rva: u32) -> &[&'a str] {
        self.exports.get(&rva).map_or(&[], Vec::as_slice)
    }

    /// Name of an exception handler: of the function itself, or of the import that it jumps to.
    pub fn handler(&self, rva: u32) -> Option<String> {
        let own = self.procedures.get(&rva).copied();
        let own = own.or_else(|| self.publics(rva).first().copied()).or_else(|| self.exports(rva).first().copied());
        if let Some(name) = own {
            return Some(name.to_owned());
        }
        let bytes = self.image.mapped.get(rva as usize..)?;
        let jump = decode_at(&bytes[..bytes.len().min(15)], rva)?;
        let slot = jump.address.filter(|a| a.form == Form::RipRelative && jump.flow == Flow::IndirectJump)?.target;
        let i = self.directories.imports.binary_search_by_key(&slot, |i| i.slot).ok()?;
        match &self.directories.imports[i].name {
            ImportName::Name(name) => Some(name.clone()),
            ImportName::Ordinal(_) => None,
        }
    }
}
