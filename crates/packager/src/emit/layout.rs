//! Positions: which section each piece lies in and at which RVA.

use super::Input;
use super::pieces::{Goal, Parts, PieceId, PieceKind};
use super::tables;
use crate::emit::internal;
use crate::error::Result;

/// Bytes of a slot.
pub(crate) const SLOT: u32 = 8;
/// Bytes of a thunk with its padding.
pub(crate) const THUNK: u32 = 16;
/// Filler before each function, at least, so that it can be redirected in its turn.
const PATCH_PADDING: u32 = 6;
const PAGE: u32 = 0x1000;
/// First RVA of the first section: behind the headers.
const FIRST: u32 = 0x1000;

/// Sections in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SectionId {
    /// Code.
    Text,
    /// Variables.
    Data,
    /// `.hgraft`, and behind it everything else that is only read: constants, tables, unwind data, imports, base
    /// relocations. One section, because each costs a row of the section table and half a file alignment.
    Graft,
}

/// Position and size of a section; a size of 0 means that it is not there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    pub(crate) rva: u32,
    /// Bytes in memory.
    pub(crate) size: u32,
}

/// All positions, RVAs in the patch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// Of each piece.
    pub(crate) pieces: Vec<u32>,
    pub(crate) thunks: u32,
    pub(crate) slots: u32,
    pub(crate) literals: Vec<u32>,
    pub(crate) load_config: u32,
    pub(crate) guard_table: u32,
    pub(crate) hot_patch: u32,
    /// RVA of each own import's slot.
    pub(crate) imports: Vec<u32>,
    pub(crate) text: Extent,
    pub(crate) data: Extent,
    /// Bytes of `data` that the file holds.
    pub(crate) data_initialised: u32,
    /// Read-only data, up to the base relocations.
    pub(crate) graft: Extent,
    pub(crate) pdata: Extent,
    pub(crate) idata: Extent,
    /// Behind all the others, its size is not known here.
    pub(crate) reloc: u32,
    /// Preferred load address of the patch.
    pub(crate) image_base: u64,
}

impl Layout {
    /// RVA of a goal in the patch; `None` if it lies in the base or has no counterpart in re-encoded code.
    pub(crate) fn goal(&self, parts: &Parts, goal: Goal) -> Option<i64> {
        Some(match goal {
            Goal::Piece(id, offset) => i64::from(self.pieces[id]) + parts.pieces[id].place(offset)?,
            Goal::Import(i) => i64::from(self.imports[i]),
            Goal::Slot(i) => i64::from(self.slots) + i as i64 * i64::from(SLOT),
            Goal::Thunk(i) => i64::from(self.thunks) + i as i64 * i64::from(THUNK),
            Goal::Literal(i, offset) => i64::from(self.literals[i]) + i64::from(offset),
            Goal::PatchBase => 0,
            Goal::Base(_) => return None,
        })
    }
}

/// A write position that grows.
struct Cursor {
    at: u64,
}

impl Cursor {
    fn take(&mut self, alignment: u32, residue: u32, size: u32) -> u32 {
        let (alignment, residue) = (u64::from(alignment), u64::from(residue));
        let behind = (residue + alignment - self.at % alignment) % alignment;
        self.at += behind;
        let out = self.at;
        self.at += u64::from(size);
        // Checked once at the end: sizes are bounded by two images of less than 4 GB each.
        out as u32
    }
}

/// Give everything a position.
pub(crate) fn place(input: &Input<'_>, parts: &Parts) -> Result<Layout> {
    // Sizes are asked for before positions are known; until then everything is far from 0, as negative addends need.
    let far = 1u32 << 30;
    let mut layout = Layout {
        pieces: vec![far; parts.pieces.len()],
        imports: vec![far; parts.imports.len()],
        literals: vec![far; parts.literals.len()],
        ..Layout::default()
    };
    let base = &input.old.image;
    layout.image_base = (base.image_base + u64::from(base.size_of_image)).next_multiple_of(0x10000);

    let mut cursor = Cursor { at: u64::from(FIRST) };
    for (id, piece) in parts.pieces.iter().enumerate() {
        if piece.kind.is_code() {
            cursor.at += u64::from(PATCH_PADDING);
            layout.pieces[id] = cursor.take(16, 0, piece.bytes.len() as u32);
        }
    }
    layout.thunks = cursor.take(16, 0, THUNK * parts.thunks.len() as u32);
    let mut next = section(&mut layout.text, FIRST, &mut cursor);

    place_data(parts, &mut layout, &mut cursor, |kind| kind == PieceKind::Variable);
    layout.data_initialised = (cursor.at - u64::from(next)) as u32;
    place_data(parts, &mut layout, &mut cursor, |kind| kind == PieceKind::Zero);
    next = section(&mut layout.data, next, &mut cursor);

    // The size of what tables say does not depend on positions, so it is known before the positions behind them.
    let graft = tables::graft(input, parts, &layout)?.to_bytes()?;
    cursor.take(4, 0, graft.len() as u32);
    place_data(parts, &mut layout, &mut cursor, |kind| kind == PieceKind::Constant);
    place_data(parts, &mut layout, &mut cursor, |kind| kind == PieceKind::Unwind);
    layout.slots = cursor.take(8, 0, SLOT * parts.slots.len() as u32);
    for (literal, at) in parts.literals.iter().zip(&mut layout.literals) {
        *at = cursor.take(64, literal.rva % 64, literal.bytes.len() as u32);
    }
    layout.load_config = cursor.take(8, 0, super::pe::load_config_size(input));
    layout.guard_table = cursor.take(4, 0, 4 * parts.call_targets.len() as u32);
    let table = tables::info(input, parts, &layout)?.to_bytes()?;
    layout.hot_patch = cursor.take(8, 0, table.len() as u32);
    let size = 12 * parts.runtime_functions.len() as u32;
    layout.pdata = Extent { rva: cursor.take(4, 0, size), size };
    let at = cursor.take(8, 0, 0);
    let imports = super::pe::imports(input, parts, at)?;
    layout.imports = imports.slots;
    let size = imports.bytes.len() as u32;
    layout.idata = Extent { rva: cursor.take(8, 0, size), size };
    layout.reloc = cursor.take(4, 0, 0);
    section(&mut layout.graft, next, &mut cursor);
    if cursor.at >= 1 << 31 {
        return Err(internal("the patch is larger than 2 GB"));
    }
    Ok(layout)
}

/// Close a section and return the RVA of the next.
fn section(extent: &mut Extent, start: u32, cursor: &mut Cursor) -> u32 {
    *extent = Extent { rva: start, size: (cursor.at - u64::from(start)) as u32 };
    cursor.at = cursor.at.next_multiple_of(u64::from(PAGE));
    cursor.at as u32
}

/// Place the data pieces of a kind. Alignment is not known, so an address keeps what it had in the new image: the same
/// remainder of 64, or of what it is a multiple of, up to a page. A group is placed as one.
fn place_data(parts: &Parts, layout: &mut Layout, cursor: &mut Cursor, wanted: impl Fn(PieceKind) -> bool) {
    let mut group_of: Vec<Option<usize>> = vec![None; parts.pieces.len()];
    for (i, group) in parts.groups.iter().enumerate() {
        group.iter().for_each(|id| group_of[*id] = Some(i));
    }
    for (id, group) in group_of.iter().enumerate() {
        let members: &[PieceId] = match group {
            Some(group) => &parts.groups[*group],
            None => &[id],
        };
        if members[0] != id || !wanted(section_kind(parts, members)) {
            continue;
        }
        let first = &parts.pieces[id];
        let last = &parts.pieces[members[members.len() - 1]];
        let (mut alignment, unwind) = (64, first.kind == PieceKind::Unwind);
        for member in members {
            let rva = parts.pieces[*member].start;
            alignment = alignment.max((1u32 << rva.trailing_zeros().min(12)).min(PAGE));
        }
        // Unwind data is aligned to 4, and handler data in it to 8 at most.
        let alignment = if unwind { 8 } else { alignment };
        let at = cursor.take(alignment, first.start % alignment, last.end - first.start);
        for member in members {
            layout.pieces[*member] = at + (parts.pieces[*member].start - first.start);
        }
    }
}

/// A group lies where its most demanding member must.
fn section_kind(parts: &Parts, members: &[PieceId]) -> PieceKind {
    let has = |kind| members.iter().any(|m| parts.pieces[*m].kind == kind);
    if members.len() > 1 && has(PieceKind::Variable) { PieceKind::Variable } else { parts.pieces[members[0]].kind }
}
