//! Reading the code of one function: instructions, the addresses they hold, jump tables, and where control can go.
//!
//! Nothing here knows entities; [`crate::load`] turns the raw references into [`Reference`](crate::Reference)s.

use crate::reference::Form;

/// A field that holds an address, before it is known what the address means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawReference {
    /// RVA of the first byte of the field.
    pub site: u32,
    /// Bytes of the field.
    pub width: u8,
    /// Encoding.
    pub form: Form,
    /// RVA the value is relative to.
    pub origin: u32,
    /// RVA it leads to.
    pub rva: u32,
}

/// A jump table found behind an indirect jump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawJumpTable {
    /// RVA of the first entry.
    pub table: u32,
    /// RVA of the indirect jump.
    pub jump: u32,
    /// Entries.
    pub entries: u32,
    /// Bytes per entry.
    pub width: u8,
    /// How entries are encoded: `Relative` (to `anchor`), `ImageRelative` or `Absolute`.
    pub form: Form,
    /// RVA that entries are relative to (0 for the other forms).
    pub anchor: u32,
    /// True if the number of entries follows from a comparison that dominates the jump.
    pub bound_proven: bool,
}
