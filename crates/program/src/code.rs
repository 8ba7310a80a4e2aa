//! Reading the code of one function: instructions, the addresses they hold, jump tables, and where control can go.
//!
//! Nothing here knows entities; the loader turns the raw references into [`Reference`](crate::Reference)s. Only the
//! modules below that are named after an instruction set know one.
//!
//! The work for one function: recursive descent from its entry, landing pads and jump-table targets
//! (`descent`), a forward dataflow that knows which registers hold which image addresses and how far an index can go
//! (`flow`, `values`, `transfer`), and jump tables from what the dataflow knows at each indirect jump (`tables`),
//! repeated until no new code turns up.

mod access;
mod analysis;
mod base;
mod cfg;
mod counted;
mod descent;
mod entry;
mod flow;
mod image_base;
mod local;
mod needs;
mod own;
mod sorted_map;
mod tables;
mod taint;
mod transfer;
mod trial;
mod values;
pub(crate) mod x64;

pub use access::Access;
pub use analysis::{Context, analyse, analyse_function};
pub use cfg::{Block, Cfg, EdgeKind, Exit};
pub use counted::is_counted;
pub use entry::entry_kind;

use crate::function::Problem;
use crate::image::Image;
use crate::reference::Form;
use serde::Serialize;

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

impl RawJumpTable {
    /// First byte behind the last entry.
    pub fn end(&self) -> u32 {
        self.table.saturating_add(self.entries.saturating_mul(u32::from(self.width)))
    }

    /// The address in one entry, or `None` behind the end or outside of the image.
    pub fn entry(&self, image: &Image, index: u32) -> Option<RawReference> {
        if index >= self.entries {
            return None;
        }
        let site = self.table.checked_add(index.checked_mul(u32::from(self.width))?)?;
        let rva = tables::entry_target(image, site, self.form, self.anchor)?;
        Some(RawReference { site, width: self.width, form: self.form, origin: self.anchor, rva })
    }

    /// The addresses in all entries.
    pub fn references<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = RawReference> + 'a {
        (0..self.entries).map_while(|i| self.entry(image, i))
    }
}

/// A table of offsets or numbers that selects an entry of a jump table, or a table of 32-bit differences to data
/// (LLVM's relative lookup tables). No base relocation covers either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOffsetTable {
    /// RVA of the first entry.
    pub table: u32,
    /// RVA of the instruction that reads it.
    pub load: u32,
    /// Entries.
    pub entries: u32,
    /// Bytes per entry.
    pub width: u8,
    /// `None` for plain numbers (index tables); else `Relative` or `ImageRelative`.
    pub form: Option<Form>,
    /// RVA that entries are relative to.
    pub anchor: u32,
    /// True if the number of entries follows from a comparison that dominates the load.
    pub bound_proven: bool,
}

impl RawOffsetTable {
    /// The addresses in the entries; none for an index table.
    pub fn references<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = RawReference> + 'a {
        self.form.into_iter().flat_map(move |form| {
            (0..self.entries).map_while(move |i| {
                let site = self.table.checked_add(i.checked_mul(u32::from(self.width))?)?;
                let rva = tables::entry_target(image, site, form, self.anchor)?;
                Some(RawReference { site, width: self.width, form, origin: self.anchor, rva })
            })
        })
    }
}

/// Where control goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// To the next instruction only.
    Next,
    /// To this RVA only.
    Branch(u32),
    /// To this RVA or the next instruction.
    ConditionalBranch(u32),
    /// Into the function at this RVA, then to the next instruction unless that function does not return.
    Call(u32),
    /// Into a function not named here, then to the next instruction.
    IndirectCall,
    /// Wherever a register or memory says.
    IndirectJump,
    /// Back to the caller.
    Return,
    /// Nowhere: an instruction that always faults (`ud2`, `__fastfail`).
    Trap,
    /// A breakpoint: filler or `__debugbreak`.
    Breakpoint,
}

impl Flow {
    /// True if the next instruction may run after this one.
    pub fn falls_through(self) -> bool {
        matches!(self, Flow::Next | Flow::ConditionalBranch(_) | Flow::Call(_) | Flow::IndirectCall)
    }
}

/// A part of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldPart {
    /// Bytes from the start of the instruction.
    pub offset: u8,
    /// Bytes.
    pub width: u8,
}

/// A field of an instruction that encodes an address by itself (without base relocation or dataflow).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressField {
    /// Bytes from the start of the instruction.
    pub offset: u8,
    /// Bytes: 1, 2 or 4.
    pub width: u8,
    /// `Branch` or `RipRelative`; the origin of both is the end of the instruction.
    pub form: Form,
    /// RVA.
    pub target: u32,
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Decoded {
    /// Bytes.
    pub length: u8,
    /// Where control goes.
    pub flow: Flow,
    /// The address it holds, if any. No instruction holds more than one.
    pub address: Option<AddressField>,
    /// Displacement of the memory operand, RIP-relative or not.
    pub displacement: Option<FieldPart>,
    /// First immediate operand, or the displacement of a branch.
    pub immediate: Option<FieldPart>,
}

impl Decoded {
    /// The address field as a reference, for an instruction at `rva`.
    pub fn reference(&self, rva: u32) -> Option<RawReference> {
        self.address.map(|a| RawReference {
            site: rva.wrapping_add(u32::from(a.offset)),
            width: a.width,
            form: a.form,
            origin: rva.wrapping_add(u32::from(self.length)),
            rva: a.target,
        })
    }
}

/// Decodes the x86-64 instruction at the start of `bytes`, which stand at `rva`. `None` if the bytes are no
/// instruction or end inside of one.
pub fn decode_at(bytes: &[u8], rva: u32) -> Option<Decoded> {
    x64::decode(bytes, rva)
}

/// Bytes of filler (`int3`, zero bytes, one- and multi-byte no-ops) at the start of `bytes`.
pub fn filler_length(bytes: &[u8]) -> usize {
    let mut length = 0;
    while let n @ 1.. = x64::filler_length(&bytes[length..]) {
        length += n;
    }
    length
}

/// What a run of bytes inside of a code range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeSpanKind {
    /// Instructions.
    Code,
    /// A jump table or offset table.
    Table,
    /// Filler that control does not reach.
    Padding,
    /// Bytes that are none of these; there is a problem for each such run.
    Unknown,
}

/// A run of bytes inside of a code range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeSpan {
    /// First byte.
    pub rva: u32,
    /// Bytes.
    pub size: u32,
    /// What it is.
    pub kind: CodeSpanKind,
}

/// What is known of one contiguous range of code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeFacts {
    /// Every field that holds an address outside of the range, and every RIP-relative, absolute or image-relative field
    /// wherever it leads; direct branches inside of the range are left out. Sorted by site.
    pub references: Vec<RawReference>,
    /// Jump tables of the indirect jumps in this range, by jump.
    pub jump_tables: Vec<RawJumpTable>,
    /// Index tables and relative lookup tables that this range reads, by table; a table may be read several times.
    pub offset_tables: Vec<RawOffsetTable>,
    /// Targets of direct calls, sorted, without repetition.
    pub calls: Vec<u32>,
    /// Targets of direct jumps (conditional ones too) that leave all ranges of the function, likewise.
    pub tail_jumps: Vec<u32>,
    /// Indirect jumps that leave the function: through an import or pointer slot, or through a register once the frame
    /// is gone.
    pub indirect_tail_jumps: Vec<u32>,
    /// Targets of direct jumps (conditional ones too) that stay within the function, likewise.
    pub branches: Vec<u32>,
    /// Start of each instruction, sorted.
    pub instructions: Vec<u32>,
    /// Every byte of the range, sorted, without gaps.
    pub spans: Vec<CodeSpan>,
    /// The memory operands with fixed addresses, in the order of the code.
    pub accesses: Vec<Access>,
    /// Whatever could not be understood, by RVA.
    pub problems: Vec<Problem>,
}

#[cfg(test)]
mod tests;
