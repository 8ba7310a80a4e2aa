//! Data objects: a global, a static local, a literal, a vtable, a jump table, a table of the loader.

use crate::entity::{FunctionId, ModuleId, UdtId};
use crate::function::{Evidence, Linkage};
use serde::Serialize;

/// What an object is. Decides how it is compared and whether a patch may copy it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// Ordinary data (a variable or table); whether it is writable is said by its section.
    Data,
    /// Zero-terminated text in 1-byte units.
    String,
    /// Zero-terminated text in 2-byte units.
    WideString,
    /// Jump table of one function.
    JumpTable(FunctionId),
    /// C++ virtual function table.
    VTable,
    /// C++ run-time type information.
    Rtti,
    /// Unwind information and handler data (.xdata); compared through [`Program::unwind`](crate::Program::unwind).
    Unwind,
    /// The RUNTIME_FUNCTION table (.pdata).
    RuntimeFunctions,
    /// Import descriptors, lookup tables and names.
    ImportTable,
    /// Import address table.
    ImportAddressTable,
    /// Export directory, tables and names.
    ExportTable,
    /// TLS directory.
    TlsDirectory,
    /// TLS template (the initial bytes of each thread's block) or a variable in it.
    TlsTemplate,
    /// Load configuration directory and the tables it points to.
    LoadConfig,
    /// Debug directory and its records.
    Debug,
    /// Resource directory and data.
    Resource,
    /// Base relocation blocks.
    BaseRelocations,
    /// Array of pointers collected by the linker and run by the C runtime (.CRT$X*, .ctors, .dtors).
    InitializerTable,
    /// Runtime pseudo relocations of mingw.
    PseudoRelocations,
}

/// How the end of an object is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// From a type, a directory, a terminator or a proven bound.
    Exact,
    /// Up to the next known boundary: at least as long as the object, perhaps with padding or unreferenced data.
    Boundary,
}

/// One datum. Objects are disjoint and sorted by RVA.
#[derive(Clone, Debug, Serialize)]
pub struct Object {
    /// Name from the PDB, undecorated.
    pub name: Option<String>,
    /// Decorated (linker) name where known.
    pub decorated: Option<String>,
    /// First byte.
    pub rva: u32,
    /// Bytes.
    pub size: u32,
    /// How the size is known.
    pub extent: Extent,
    /// What it is.
    pub kind: ObjectKind,
    /// True if its section is writable at run time.
    pub writable: bool,
    /// True if no bytes of it are in the file (zero initialised).
    pub zero_fill: bool,
    /// Compiland.
    pub module: Option<ModuleId>,
    /// Function whose static local it is.
    pub scope: Option<FunctionId>,
    /// Link-time visibility.
    pub linkage: Linkage,
    /// Sources that name this address.
    pub evidence: Evidence,
    /// Type as text, from the PDB.
    pub type_name: Option<String>,
    /// The structure it is (or is an array of).
    pub udt: Option<UdtId>,
}

impl Object {
    /// First byte behind the object.
    pub fn end(&self) -> u32 {
        self.rva.saturating_add(self.size)
    }
    /// True if `rva` lies inside.
    pub fn contains(&self, rva: u32) -> bool {
        rva.checked_sub(self.rva).is_some_and(|d| d < self.size)
    }
    /// True for what Visual C++'s `throw` passes to the run-time (`_ThrowInfo`): `_TI`, letters for const, volatile and
    /// unaligned, then the number of types that it can be caught as.
    pub fn is_throw_info(&self) -> bool {
        let rest = self.decorated.as_deref().and_then(|name| name.strip_prefix("_TI"));
        rest.is_some_and(|rest| rest.trim_start_matches(['C', 'V', 'U']).starts_with(|c: char| c.is_ascii_digit()))
    }
}
