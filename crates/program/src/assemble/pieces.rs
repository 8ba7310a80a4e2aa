//! Extents whose end is known, made disjoint.

use super::Conflict;
use crate::function::Evidence;
use crate::object::{Extent, ObjectKind};

/// An object in the making.
#[derive(Clone, Debug)]
pub struct Piece {
    /// First byte.
    pub rva: u32,
    /// First byte behind.
    pub end: u32,
    /// How the end is known.
    pub extent: Extent,
    /// What it is.
    pub kind: ObjectKind,
    /// Sources.
    pub evidence: Evidence,
    /// Index of the data symbol that gives name and type.
    pub symbol: Option<usize>,
}

/// Kinds of which neighbours are one object: their parts are found through the directory and not by address.
pub fn joins(kind: ObjectKind) -> bool {
    matches!(
        kind,
        ObjectKind::ImportTable
            | ObjectKind::ImportAddressTable
            | ObjectKind::ExportTable
            | ObjectKind::Resource
            | ObjectKind::BaseRelocations
            | ObjectKind::Debug
            | ObjectKind::RuntimeFunctions
            | ObjectKind::InitializerTable
    )
}

/// Tables of the linker and the loader rank before symbols: a symbol inside of one names a part of it.
fn rank(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Data | ObjectKind::TlsTemplate | ObjectKind::VTable | ObjectKind::Rtti => 1,
        _ => 0,
    }
}

/// Sorts pieces and makes them disjoint. What lies inside of another piece is dropped; what reaches into the next one is
/// cut there and reported.
pub fn disjoint(mut pieces: Vec<Piece>, conflicts: &mut Vec<Conflict>) -> Vec<Piece> {
    pieces.retain(|p| p.end > p.rva);
    // Among pieces at one address the most trusted and then the longest comes first.
    pieces.sort_by_key(|p| (p.rva, rank(p.kind), u32::MAX - p.end, p.symbol.is_none(), p.symbol));
    let mut out: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let Some(last) = out.last_mut() else {
            out.push(piece);
            continue;
        };
        if piece.kind == last.kind && joins(piece.kind) && piece.rva <= last.end {
            last.end = last.end.max(piece.end);
            last.evidence |= piece.evidence;
            last.symbol = last.symbol.or(piece.symbol.filter(|_| piece.rva == last.rva));
            continue;
        }
        if piece.rva >= last.end {
            out.push(piece);
            continue;
        }
        if piece.rva == last.rva {
            last.evidence |= piece.evidence;
            last.symbol = last.symbol.or(piece.symbol);
            if rank(last.kind) <= rank(piece.kind) && piece.end <= last.end {
                continue;
            }
            if piece.end > last.end && rank(piece.kind) >= rank(last.kind) {
                // The type says that the object is longer than the table: keep the longer extent under the table's kind.
                last.end = piece.end;
            }
            continue;
        }
        if piece.end <= last.end {
            if rank(piece.kind) < rank(last.kind) {
                conflicts.push((piece.rva, format!("a table lies inside of the object at {:#x}", last.rva)));
            }
            last.evidence |= piece.evidence & Evidence::PDB_SYMBOL;
            continue;
        }
        if joins(last.kind) && last.kind != piece.kind && rank(piece.kind) == 0 {
            // Linkers share bytes between tables, such as terminators; the later table begins where the earlier ends.
            let start = last.end;
            out.push(Piece { rva: start, ..piece });
            continue;
        }
        let text = format!("an object begins inside of the one at {:#x} that ends at {:#x}", last.rva, last.end);
        conflicts.push((piece.rva, text));
        last.end = piece.rva;
        last.extent = Extent::Boundary;
        out.push(piece);
    }
    out
}
