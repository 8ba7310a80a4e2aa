//! Unwind data of the patch: which fields of it have a meaning that the address alone does not tell, and the table of
//! RUNTIME_FUNCTIONs.
//!
//! The end of a protected range is also the start of whatever follows it, so ends cannot be resolved by what lies at
//! their address. They are known by their place in the structure instead, as are handlers and chained entries.

use super::pieces::{Goal, Parts, PieceKind, RuntimeFunction};
use super::{Input, internal, refused};
use crate::error::Result;
use crate::plan::Destination;
use hotgraft_program::{HandlerData, Program, Reference, UnwindInfo};
use std::collections::BTreeMap;

/// A field of unwind data by its place in the structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// Exception handler.
    Handler,
    /// First byte of code.
    Begin,
    /// First byte behind code.
    End,
    /// UNWIND_INFO of the chained entry.
    Info,
}

/// An unwind entry of a planned function.
pub(crate) fn entry(new: &Program, index: u32) -> Result<&UnwindInfo> {
    let entry = new.unwind.get(index as usize).ok_or_else(|| internal(format!("there is no unwind entry {index}")))?;
    if entry.handler_data == HandlerData::Unknown {
        return Err(refused(
            "code.unwind.handler_unknown",
            format!("the exception handler data of the code at {:#x} is of an unknown kind", entry.begin),
        ));
    }
    if entry.size == 0 {
        return Err(internal(format!("the unwind entry of {:#x} has no data", entry.begin)));
    }
    Ok(entry)
}

/// Offset of what stands behind the unwind codes.
fn behind_codes(new: &Program, info: &UnwindInfo) -> Result<u32> {
    let head = new.image.bytes(info.info, 4).ok_or_else(|| internal("unwind data outside of the image"))?;
    Ok(4 + 2 * u32::from(head[2]).next_multiple_of(2))
}

/// The special fields of the unwind data in `[start, end)` of the new image, by site.
pub(crate) fn special_fields(new: &Program, start: u32, end: u32) -> Result<BTreeMap<u32, Special>> {
    let mut out = BTreeMap::new();
    for info in new.unwind.iter().filter(|u| (start..end).contains(&u.info)) {
        let head = new.image.bytes(info.info, 4).ok_or_else(|| internal("unwind data outside of the image"))?;
        let tail = info.info + behind_codes(new, info)?;
        let flags = head[0] >> 3;
        if info.chained {
            out.insert(tail, Special::Begin);
            out.insert(tail + 4, Special::End);
            out.insert(tail + 8, Special::Info);
        } else if flags & 3 != 0 {
            out.insert(tail, Special::Handler);
            // `GsCheck` may stand behind a scope table or behind the address of FuncInfo; only a scope table has the
            // exact size that its count gives.
            let count = new.image.u32(tail + 4).unwrap_or(0);
            let scopes = match info.handler_data {
                HandlerData::ScopeTable => count,
                HandlerData::GsCheck if has_scope_table(info, tail, count) => count,
                _ => 0,
            };
            for i in 0..scopes {
                let record = tail + 8 + 16 * i;
                if record + 16 > info.info + info.size {
                    return Err(internal(format!("the scope table at {tail:#x} is larger than its unwind data")));
                }
                out.insert(record, Special::Begin);
                out.insert(record + 4, Special::End);
            }
        }
    }
    Ok(out)
}

fn has_scope_table(info: &UnwindInfo, tail: u32, count: u32) -> bool {
    let behind = (info.info + info.size).saturating_sub(tail + 4);
    let table = 4 + 16 * u64::from(count);
    let rest = u64::from(behind).checked_sub(table);
    // GS data has 4 or 12 bytes; the first reference behind the handler must be the first begin.
    let first = info.references.iter().map(|r| r.site).find(|site| *site > tail);
    matches!(rest, Some(4 | 12)) && count > 0 && first == Some(tail + 8)
}

/// Where a special field leads.
pub(crate) fn special_goal(input: &Input<'_>, parts: &mut Parts, r: &Reference, special: Special) -> Result<Goal> {
    let outside =
        || internal(format!("the unwind field at {:#x} leads to {:#x}, which is not in the patch", r.site, r.rva));
    let at = |rva: u32, code: bool| {
        let piece = parts.piece_at(rva).ok_or_else(outside)?;
        let is_code = matches!(parts.pieces[piece].kind, PieceKind::Code(..));
        if is_code == code { Ok(piece) } else { Err(outside()) }
    };
    let (piece, rva) = match special {
        Special::Begin => (at(r.rva, true)?, r.rva),
        Special::End => (at(r.rva.wrapping_sub(1), true)?, r.rva),
        Special::Info => (at(r.rva, false)?, r.rva),
        Special::Handler => return handler(input, parts, r),
    };
    Ok(Goal::Piece(piece, i64::from(rva) - i64::from(parts.pieces[piece].start)))
}

fn handler(input: &Input<'_>, parts: &mut Parts, r: &Reference) -> Result<Goal> {
    match input.plan.destination(r.site) {
        Some(Destination::Patch(target)) => super::pieces::patch_goal(parts, input.new, target),
        Some(Destination::Base(target)) => {
            parts.base_uses.insert((target, false));
            u32::try_from(input.old.rva_of(target))
                .map(Goal::Base)
                .map_err(|_| internal("a handler outside of the base"))
        }
        other => Err(internal(format!("the handler at {:#x} leads to {other:?}", r.site))),
    }
}

/// Fill [`Parts::runtime_functions`].
pub(crate) fn complete(input: &Input<'_>, parts: &mut Parts) -> Result<()> {
    let mut out = Vec::new();
    for planned in &input.plan.functions {
        for &index in &input.new.functions[planned.new.index()].unwind {
            let u = entry(input.new, index)?;
            let piece = |rva: u32| {
                parts
                    .piece_at(rva)
                    .ok_or_else(|| internal(format!("unwind entry of {:#x}: {rva:#x} is not copied", u.begin)))
            };
            let (code, info) = (piece(u.begin)?, piece(u.info)?);
            let run = &parts.pieces[code];
            if u.end > run.end || !matches!(run.kind, PieceKind::Code(..)) {
                return Err(internal(format!("the unwind entry {:#x}..{:#x} leaves its code", u.begin, u.end)));
            }
            out.push(RuntimeFunction {
                code,
                begin: u.begin - run.start,
                end: u.end - run.start,
                info,
                info_offset: u.info - parts.pieces[info].start,
            });
        }
    }
    out.sort_by_key(|r| (r.code, r.begin));
    out.dedup_by_key(|r| (r.code, r.begin));
    parts.runtime_functions = out;
    Ok(())
}
