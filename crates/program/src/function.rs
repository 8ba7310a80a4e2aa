//! Functions: entry, ranges, and what is known of them.

use crate::entity::{FunctionId, ModuleId, ObjectId, UdtId};
use bitflags::bitflags;
use serde::Serialize;

bitflags! {
    /// Where a fact was learned. A function or object has one bit per independent source that names its address.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Evidence: u16 {
        /// S_GPROC32 / S_LPROC32 of the PDB, or a data symbol with a type.
        const PDB_SYMBOL = 1;
        /// S_PUB32 of the PDB.
        const PDB_PUBLIC = 1 << 1;
        /// RUNTIME_FUNCTION that is not a chained fragment.
        const PDATA = 1 << 2;
        /// Export address table.
        const EXPORT = 1 << 3;
        /// Guard function table of the load configuration.
        const GUARD_TABLE = 1 << 4;
        /// Direct call target.
        const CALL_TARGET = 1 << 5;
        /// AddressOfEntryPoint or a TLS callback.
        const ENTRY_POINT = 1 << 6;
        /// A pointer under a base relocation leads here.
        const BASE_RELOCATION = 1 << 7;
        /// An address-taking instruction leads here.
        const CODE_REFERENCE = 1 << 8;
        /// A recovered jump table.
        const JUMP_TABLE = 1 << 9;
        /// A PE directory describes it (imports, exports, unwind, TLS, load configuration, debug, resources).
        const DIRECTORY = 1 << 10;
        /// Section contribution of the PDB.
        const CONTRIBUTION = 1 << 11;
        /// Exception handler or scope table.
        const UNWIND = 1 << 12;
        /// A direct jump from another function leads here (tail call).
        const JUMP_TARGET = 1 << 13;
    }
}

impl Serialize for Evidence {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter_names().map(|(name, _)| name.to_ascii_lowercase()))
    }
}

/// Visibility of a symbol at link time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Linkage {
    /// External symbol (S_GPROC32, S_GDATA32, S_PUB32).
    Global,
    /// Static / private (S_LPROC32, S_LDATA32).
    Local,
    /// No symbol says.
    Unknown,
}

/// Which part of a function a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RangeKind {
    /// The range with the entry.
    Entry,
    /// Split cold part (S_SEPCODE, chained unwind data).
    Cold,
    /// Exception filter, `__finally`, `catch` or destructor funclet with unwind data of its own.
    Funclet,
}

/// A contiguous run of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CodeRange {
    /// First byte.
    pub rva: u32,
    /// Bytes, without trailing padding.
    pub size: u32,
    /// What it is.
    pub kind: RangeKind,
}

impl CodeRange {
    /// First byte behind the range.
    pub fn end(&self) -> u32 {
        self.rva.saturating_add(self.size)
    }
    /// True if `rva` lies inside.
    pub fn contains(&self, rva: u32) -> bool {
        rva.checked_sub(self.rva).is_some_and(|d| d < self.size)
    }
}

/// A recovered jump table. Its entries are ordinary references of the table's object.
#[derive(Clone, Debug, Serialize)]
pub struct JumpTable {
    /// The object that holds the entries (kind `JumpTable`); may lie in an executable section.
    pub object: ObjectId,
    /// RVA of the indirect jump that uses it.
    pub jump: u32,
    /// Number of entries.
    pub entries: u32,
    /// Bytes per entry.
    pub width: u8,
    /// True if the number of entries was proven from a comparison that dominates the jump.
    pub bound_proven: bool,
}

/// One inlined call, from S_INLINESITE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InlineSite {
    /// Name of the inlined function.
    pub name: String,
}

/// How control can be taken at the entry without touching a second instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// At least 6 bytes of filler before the entry that nothing refers to, and a first instruction of 2 bytes or
    /// more that no branch of the function leads into or to.
    PaddedShortJump,
    /// No padding, but at least 5 bytes of whole instructions at the entry that nothing branches into; needs
    /// all threads outside of those bytes.
    NearJump,
    /// Neither.
    None,
}

/// What is wrong with a function, so that nothing that depends on it may be patched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where.
    pub rva: u32,
    /// Stable dotted key, such as `code.undecodable` or `code.jump_table.unbounded`.
    pub key: &'static str,
    /// One sentence.
    pub text: String,
}

/// A function: one entry point and all its ranges.
#[derive(Clone, Debug, Serialize)]
pub struct Function {
    /// Name as in the PDB's procedure record (undecorated for C), the public symbol, or the export.
    pub name: Option<String>,
    /// Decorated (linker) name where known.
    pub decorated: Option<String>,
    /// Further names at the same entry (aliases, identical code folding).
    pub aliases: Vec<String>,
    /// `ranges[0]` is the entry range; the others are sorted by RVA.
    pub ranges: Vec<CodeRange>,
    /// Compiland.
    pub module: Option<ModuleId>,
    /// Link-time visibility.
    pub linkage: Linkage,
    /// Sources that name this entry.
    pub evidence: Evidence,
    /// Prototype as text, from the PDB's procedure type.
    pub prototype: Option<String>,
    /// Structures used by parameters, locals and the return value, from the PDB, sorted.
    pub udts: Vec<UdtId>,
    /// Functions inlined into this one, in site order.
    pub inlined: Vec<InlineSite>,
    /// Indices into [`Program::unwind`](crate::Program::unwind) for the entries that cover this function's ranges.
    pub unwind: Vec<u32>,
    /// Functions that run this one on their own frame, through their unwind data (exception filter, clean-up action, catch
    /// block); sorted. Empty for a function that is called in the ordinary way.
    pub funclet_of: Vec<FunctionId>,
    /// Jump tables used by this function.
    pub jump_tables: Vec<JumpTable>,
    /// Marked as not returning by the PDB.
    pub no_return: bool,
    /// Marked by the compiler as one that a secure hot patch replaces (S_HOTPATCHFUNC).
    pub hotpatched: bool,
    /// How the entry can be redirected.
    pub entry_kind: EntryKind,
    /// Whatever could not be understood. Empty for a function that may take part in a patch.
    pub problems: Vec<Problem>,
}

impl Function {
    /// True if the compiler named it as a part of another function that runs on that one's frame: Visual C++ as in
    /// `` `f'::`1'::dtor$0 ``, clang as in `?catch$2@?0?f@4HA`.
    pub fn is_named_as_funclet(&self) -> bool {
        let part = |name: &str| {
            let last = name.rsplit("::").next().unwrap_or(name);
            let last = last.strip_prefix('?').unwrap_or(last);
            ["dtor$", "catch$", "filt$", "fin$"]
                .iter()
                .any(|part| last.strip_prefix(part).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
        };
        [&self.name, &self.decorated].into_iter().flatten().any(|name| part(name))
    }

    /// RVA of the entry.
    pub fn rva(&self) -> u32 {
        self.ranges[0].rva
    }
    /// Bytes of all ranges.
    pub fn size(&self) -> u32 {
        self.ranges.iter().map(|r| r.size).sum()
    }
}
