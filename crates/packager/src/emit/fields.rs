//! Writing each address for the positions that the layout gave.

use super::layout::Layout;
use super::pieces::{Field, Goal, Origin, Parts, Piece, PieceId};
use super::{internal, refused};
use crate::error::Result;
use hotgraft_hotpatch::NearReference;
use hotgraft_program::Form;

/// What the fields of the patch demand of the loader, all sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demands {
    /// RVAs of 8-byte fields that hold addresses within the patch.
    pub(crate) relocations: Vec<u32>,
    /// 8-byte fields that hold addresses in the base: (RVA in the patch, RVA in the base).
    pub(crate) absolute: Vec<(u32, u32)>,
    pub(crate) near: Vec<NearReference>,
}

/// What a field's bytes become.
enum Value {
    /// This value, in its width, checked to fit.
    Signed(i64),
    /// The 8-byte address of an RVA in the patch.
    Address(u32),
    /// Zero, with what fills it.
    Near(u32),
    Absolute(u32),
}

/// The demands of all fields. Positions are those of `layout`; before it is final, only the numbers of entries are right.
pub(crate) fn demands(parts: &Parts, layout: &Layout) -> Result<Demands> {
    let mut out = Demands::default();
    for (id, piece) in parts.pieces.iter().enumerate() {
        for field in &piece.fields {
            let site = layout.pieces[id] + field.offset;
            match value(parts, layout, id, field)? {
                Value::Signed(_) => {}
                Value::Address(_) => out.relocations.push(site),
                Value::Absolute(target) => out.absolute.push((site, target)),
                Value::Near(target) => {
                    let origin = origin(parts, layout, id, field)?;
                    let origin = u32::try_from(origin).map_err(|_| internal("an origin outside of the patch"))?;
                    out.near.push(NearReference { site, origin, target });
                }
            }
        }
    }
    out.relocations.sort_unstable();
    out.absolute.sort_unstable();
    out.near.sort_unstable();
    Ok(out)
}

/// The bytes of a piece with all its fields written.
pub(crate) fn bytes(parts: &Parts, layout: &Layout, id: PieceId) -> Result<Vec<u8>> {
    let piece: &Piece = &parts.pieces[id];
    let mut out = piece.bytes.clone();
    for field in &piece.fields {
        let width = usize::from(field.width);
        let at = field.offset as usize;
        let slot = out.get_mut(at..at + width).ok_or_else(|| internal("a field outside of its piece"))?;
        let value = match value(parts, layout, id, field)? {
            Value::Near(_) | Value::Absolute(_) => 0,
            Value::Address(rva) => (layout.image_base + u64::from(rva)) as i64,
            Value::Signed(value) => {
                let bits = 8 * u32::from(field.width);
                let fits = field.width == 8 || (-(1i64 << (bits - 1))..1i64 << (bits - 1)).contains(&value);
                if !fits {
                    return Err(refused(
                        "code.reference.out_of_reach",
                        format!(
                            "the {width}-byte field at {:#x} of the new image cannot hold {value:#x}",
                            piece.start + field.offset
                        ),
                    ));
                }
                value
            }
        };
        slot.copy_from_slice(&value.to_le_bytes()[..width]);
    }
    Ok(out)
}

fn origin(parts: &Parts, layout: &Layout, id: PieceId, field: &Field) -> Result<i64> {
    match field.origin {
        Origin::None => Ok(0),
        Origin::Here(offset) => Ok(i64::from(layout.pieces[id]) + i64::from(offset)),
        Origin::Piece(other, offset) => layout
            .goal(parts, Goal::Piece(other, offset))
            .ok_or_else(|| refused("code.reference.interior", "an offset counts from the middle of an instruction")),
    }
}

fn value(parts: &Parts, layout: &Layout, id: PieceId, field: &Field) -> Result<Value> {
    let here = || format!("the field at {:#x} of the new image", parts.pieces[id].start + field.offset);
    let goal = match field.goal {
        Goal::Base(rva) => Err(rva),
        goal => Ok(layout
            .goal(parts, goal)
            .ok_or_else(|| refused("code.reference.interior", format!("{} leads into an instruction", here())))?),
    };
    match (field.form, field.width, goal) {
        (Form::Branch | Form::RipRelative | Form::Relative, 4, Err(rva)) => Ok(Value::Near(rva)),
        (Form::Absolute, 8, Err(rva)) => Ok(Value::Absolute(rva)),
        (_, _, Err(rva)) => Err(refused(
            "code.reference.out_of_reach",
            format!("{} ({:?}, {} bytes) leads to {rva:#x} of the base", here(), field.form, field.width),
        )),
        (Form::Branch | Form::RipRelative | Form::Relative, 1 | 2 | 4, Ok(rva)) => {
            Ok(Value::Signed(rva - origin(parts, layout, id, field)?))
        }
        (Form::ImageRelative | Form::ImageRelativeDisplacement, 4, Ok(rva)) => Ok(Value::Signed(rva)),
        (Form::Absolute, 8, Ok(rva)) => {
            Ok(Value::Address(u32::try_from(rva).map_err(|_| internal(format!("{} leads before the patch", here())))?))
        }
        (form, width, Ok(_)) => Err(refused(
            "code.reference.form",
            format!("{} is {width} bytes wide, which {form:?} does not have", here()),
        )),
    }
}
