//! The program database that belongs to an image.
//!
//! The container (streams and pages) and the table of compilands are read by the `pdb2` crate. Records inside the
//! streams (symbols, types, lines) are read here with a cursor that checks every length, because they are many, most
//! of them are not needed, and a damaged one must give an error and not a panic or a huge allocation.

mod cursor;
mod lines;
mod source;
mod symbols;
mod types;

pub use lines::LineTable;
pub use symbols::{Contribution, DataSymbol, ProcedureSymbol, PublicSymbol, SeparatedCode, SwitchTable, ThreadSymbol};

use crate::entity::ModuleId;
use crate::error::{Error, Result};
use crate::image::{Image, PdbIdentity};
use crate::program::Module;
use crate::types::Types;
use cursor::Damage;
use pdb2::{FallibleIterator, PDB};
use rayon::prelude::*;
use source::BytesSource;
use std::panic::{AssertUnwindSafe, catch_unwind};
use symbols::ModuleSymbols;

/// Everything that is taken from a PDB. Positions are RVAs of the image.
#[derive(Debug, Default)]
pub struct Pdb {
    /// Compilands in the order of the PDB.
    pub modules: Vec<Module>,
    /// Procedures and thunks, sorted by RVA, then module.
    pub procedures: Vec<ProcedureSymbol>,
    /// Parts of procedures that lie elsewhere, sorted by RVA.
    pub separated: Vec<SeparatedCode>,
    /// Functions that the compiler marked for secure hot-patching: compiland and the linker's name.
    pub hotpatched: Vec<(ModuleId, String)>,
    /// Data symbols, sorted by RVA; a symbol that the PDB lists twice appears once.
    pub data: Vec<DataSymbol>,
    /// Thread-local variables, sorted by RVA (their place in the template).
    pub threads: Vec<ThreadSymbol>,
    /// Public symbols, sorted by RVA, then name.
    pub publics: Vec<PublicSymbol>,
    /// Section contributions that are not empty, sorted by RVA.
    pub contributions: Vec<Contribution>,
    /// Jump tables that the compiler described.
    pub switch_tables: Vec<SwitchTable>,
    /// Line numbers.
    pub lines: LineTable,
    /// User-defined types.
    pub types: Types,
}

/// Reads a PDB and checks that it belongs to `image`.
///
/// `name` is used in messages. Fails with [`Error::PdbMismatch`] for the PDB of another build and with
/// [`Error::Pdb`], naming the stream, for everything that cannot be read.
pub fn read(name: &str, bytes: &[u8], image: &Image) -> Result<Pdb> {
    let file = |stream: &str, message: String| Error::Pdb { file: name.to_owned(), stream: stream.to_owned(), message };
    let parts = guarded(name, || Container::read(name, bytes, image))?;
    let place = |section: u16, offset: u32| parts.place(image, section, offset);

    let types = types::TypeTable::read(&parts.types, &parts.ids).map_err(|d| file(d.stream, d.message))?;
    // Names of types and functions are made once, in parallel by compiland, and merged in the compilands' order.
    let read: Vec<ModuleSymbols> = parts
        .modules
        .par_iter()
        .enumerate()
        .map(|(index, module)| {
            let damage = |d: Damage| file(&format!("{} of module {}", d.stream, module.name), d.message);
            symbols::module(index, module, &types, &place, &parts.strings).map_err(damage)
        })
        .collect::<Result<_>>()?;
    let globals = symbols::globals(&parts.symbols, &types, &place).map_err(|d| file(d.stream, d.message))?;
    let (udts, index) = types.udts().map_err(|d| file(d.stream, d.message))?;

    let mut pdb = Pdb { types: udts, ..Pdb::default() };
    pdb.contributions = parts.contributions(image);
    symbols::merge(&mut pdb, parts.modules, read, globals, &index);
    Ok(pdb)
}

/// Runs `f`, turning a panic of the container reader into an error. The known causes are checked beforehand; this is
/// for the unknown ones, since a damaged file must never end the process.
fn guarded<T>(name: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| {
        Err(Error::Pdb {
            file: name.to_owned(),
            stream: "container".to_owned(),
            message: "the streams contradict each other".to_owned(),
        })
    })
}

/// A compiland's own stream, cut into its parts.
struct ModuleStream {
    name: String,
    symbols: Vec<u8>,
    lines: Vec<u8>,
}

/// The streams of a PDB, still unread.
struct Container {
    modules: Vec<ModuleStream>,
    types: Vec<u8>,
    ids: Vec<u8>,
    symbols: Vec<u8>,
    strings: source::Strings,
    raw_contributions: Vec<pdb2::DBISectionContribution>,
    map: source::Places,
}

impl Container {
    fn read(name: &str, bytes: &[u8], image: &Image) -> Result<Self> {
        let fail = |stream: &str| {
            let (file, stream) = (name.to_owned(), stream.to_owned());
            move |e: pdb2::Error| Error::Pdb { file, stream, message: e.to_string() }
        };
        let mut pdb = PDB::open(BytesSource(bytes)).map_err(fail("header"))?;
        let info = pdb.pdb_information().map_err(fail("PDB information"))?;
        let dbi = pdb.debug_information().map_err(fail("DBI"))?;
        check_identity(name, image, &info, dbi.age())?;

        let mut modules = Vec::new();
        let mut iter = dbi.modules().map_err(fail("DBI modules"))?;
        while let Some(module) = iter.next().map_err(fail("DBI modules"))? {
            let title = module.module_name().into_owned();
            let stream = pdb.raw_stream(module.info().stream).map_err(fail(&format!("module {title}")))?;
            let (symbols, lines) = match &stream {
                None => (Vec::new(), Vec::new()),
                Some(stream) => source::cut_module(stream.as_slice(), module.info()).ok_or_else(|| Error::Pdb {
                    file: name.to_owned(),
                    stream: format!("module {title}"),
                    message: format!("the parts do not fit into {} bytes", stream.as_slice().len()),
                })?,
            };
            modules.push(ModuleStream { name: title, symbols, lines });
        }
        let mut raw_contributions = Vec::new();
        let mut iter = dbi.section_contributions().map_err(fail("DBI section contributions"))?;
        while let Some(c) = iter.next().map_err(fail("DBI section contributions"))? {
            raw_contributions.push(c);
        }
        let mut whole = |index: u16, what: &str| -> Result<Vec<u8>> {
            match pdb.raw_stream(pdb2::StreamIndex(index)) {
                Ok(stream) => Ok(stream.map(|s| s.as_slice().to_vec()).unwrap_or_default()),
                Err(pdb2::Error::StreamNotFound(_)) => Ok(Vec::new()),
                Err(e) => Err(fail(what)(e)),
            }
        };
        // The numbers of the type and id streams are fixed by the format.
        let types = whole(2, "TPI")?;
        let ids = whole(4, "IPI")?;
        let records = source::symbol_records_stream(&whole(3, "DBI")?);
        let symbols = records.map_or(Ok(Vec::new()), |index| whole(index, "symbol records"))?;
        let strings = whole_names(&mut pdb).map_err(fail("names"))?;
        let map = source::Places::read(&mut pdb).map_err(fail("section headers"))?;
        Ok(Container { modules, types, ids, symbols, strings, raw_contributions, map })
    }

    /// RVA of an address of the PDB if it lies in the image.
    fn place(&self, image: &Image, section: u16, offset: u32) -> Option<u32> {
        let rva = self.map.rva(image, section, offset)?;
        (rva < image.size_of_image).then_some(rva)
    }

    fn contributions(&self, image: &Image) -> Vec<Contribution> {
        let mut out: Vec<Contribution> = self
            .raw_contributions
            .iter()
            .filter(|c| c.size != 0)
            .filter_map(|c| {
                let rva = self.place(image, c.offset.section, c.offset.offset)?;
                let size = c.size.min(image.size_of_image - rva);
                let module = (c.module < self.modules.len()).then(|| c.module.into());
                Some(Contribution { rva, size, module, characteristics: c.characteristics.0 })
            })
            .collect();
        out.sort_by_key(|c| (c.rva, c.size, c.module));
        out.dedup();
        out
    }
}

fn whole_names<'s>(pdb: &mut PDB<'s, BytesSource<'s>>) -> pdb2::Result<source::Strings> {
    match pdb.named_stream(b"/names") {
        Ok(stream) => Ok(source::Strings::new(stream.as_slice())),
        Err(pdb2::Error::StreamNameNotFound | pdb2::Error::StreamNotFound(_)) => Ok(source::Strings::default()),
        Err(e) => Err(e),
    }
}

/// GUIDs must be equal. The age in the image is that of the DBI stream; writers that never raise ages leave 1 in all
/// places, and a tool that only annotates the PDB raises the age of the information stream alone.
fn check_identity(name: &str, image: &Image, info: &pdb2::PDBInformation<'_>, dbi_age: Option<u32>) -> Result<()> {
    let found = PdbIdentity {
        guid: info.guid.to_bytes_le(),
        age: dbi_age.filter(|&a| a != 0).unwrap_or(info.age),
        path: String::new(),
    };
    let matches = image
        .pdb
        .as_ref()
        .is_some_and(|p| p.guid == found.guid && (p.age == found.age || (p.age == info.age && dbi_age == Some(0))));
    if matches {
        return Ok(());
    }
    Err(Error::PdbMismatch {
        pdb: name.to_owned(),
        image: image.path.clone(),
        expected: image
            .pdb
            .as_ref()
            .map_or_else(|| "no PDB (it has no RSDS record)".to_owned(), PdbIdentity::to_string),
        found: found.to_string(),
    })
}
