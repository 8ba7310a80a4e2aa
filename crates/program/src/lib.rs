//! An image without addresses.
//!
//! [`Program`] is what the rest of hotgraft sees of one PE image and its PDB: functions, data objects, imports,
//! exports, types, and every place in code or data that holds an address, turned into a [`Reference`] to an entity
//! plus addend. Everything is held in flat tables that are sorted by RVA and addressed by small index types, so a
//! `Program` can be shared between threads and walked in one order that never depends on hash maps or scheduling.
//!
//! Positions are RVAs (bytes from the image base) unless a name says otherwise.

mod assemble;
pub mod code;
pub mod entity;
pub mod error;
pub mod function;
pub mod image;
pub mod load;
pub mod object;
pub mod pdb;
pub mod pe;
pub mod program;
pub mod reference;
pub mod types;
pub mod unwind;

pub use entity::{Entity, FunctionId, ImportId, ModuleId, ObjectId, Target, UdtId};
pub use error::{Error, Result};
pub use function::{CodeRange, EntryKind, Evidence, Function, InlineSite, JumpTable, Linkage, Problem, RangeKind};
pub use image::{Architecture, Export, ExportTarget, Image, Import, ImportName, PdbIdentity, Section};
pub use load::{Mapped, PdbChoice};
pub use object::{Extent, Object, ObjectKind};
pub use program::{Module, Program, SectionCoverage, SourceLine, Span, SpanKind};
pub use reference::{Form, Reference};
pub use types::{Member, Types, Udt, UdtKind};
pub use unwind::{HandlerData, UnwindInfo};
