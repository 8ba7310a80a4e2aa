//! Placing instructions that changed their size: offsets, branches that must become longer, fields.

use super::pieces::{Field, Origin, Piece};
use super::{internal, refused, slots};
use crate::error::Result;
use iced_x86::{FlowControl, Instruction};

/// What an instruction of the new image becomes.
pub(crate) enum Body {
    /// These bytes; offsets in the field count from the first of them.
    Copy { bytes: Vec<u8>, field: Option<Field> },
    /// A direct branch within the piece, to an offset in the new image's terms.
    Branch {
        target: u32,
        /// Opcode of the 1-byte form, if there is one.
        short: Option<u8>,
        /// Opcode of the 4-byte form, if there is one.
        near: Option<Vec<u8>>,
        /// True for the 4-byte form.
        wide: bool,
    },
}

impl Body {
    /// A direct branch within the piece; `None` for one with prefixes or of another kind.
    pub(crate) fn branch(bytes: &[u8], instruction: &Instruction, target: u32) -> Option<Body> {
        let conditional = instruction.flow_control() == FlowControl::ConditionalBranch;
        Some(match *bytes {
            [0xEB, _] => Body::Branch { target, short: Some(0xEB), near: Some(vec![0xE9]), wide: false },
            [0xE9, _, _, _, _] => Body::Branch { target, short: Some(0xEB), near: Some(vec![0xE9]), wide: true },
            [0xE8, _, _, _, _] => Body::Branch { target, short: None, near: Some(vec![0xE8]), wide: true },
            [cc @ 0x70..=0x7F, _] if conditional => {
                Body::Branch { target, short: Some(cc), near: Some(vec![0x0F, cc + 0x10]), wide: false }
            }
            [0x0F, cc @ 0x80..=0x8F, _, _, _, _] if conditional => {
                Body::Branch { target, short: Some(cc - 0x10), near: Some(vec![0x0F, cc]), wide: true }
            }
            // loop, loope, loopne, jrcxz: there is no longer form.
            [opcode @ 0xE0..=0xE3, _] => Body::Branch { target, short: Some(opcode), near: None, wide: false },
            _ => return None,
        })
    }

    fn len(&self) -> u32 {
        match self {
            Body::Copy { bytes, .. } => bytes.len() as u32,
            Body::Branch { near: Some(near), wide: true, .. } => near.len() as u32 + 4,
            Body::Branch { .. } => 2,
        }
    }
}

/// Build the piece from the bodies of its instructions, each with its offset in the new image's piece.
pub(crate) fn place(piece: &Piece, mut bodies: Vec<(u32, Body)>) -> Result<Piece> {
    let end = piece.end - piece.start;
    // Branches only ever grow, so this ends.
    let moved = loop {
        let mut moved: Vec<(u32, u32)> = Vec::with_capacity(bodies.len() + 1);
        let mut at = 0;
        for (offset, body) in &bodies {
            moved.push((*offset, at));
            at += body.len();
        }
        moved.push((end, at));
        let mut grown = false;
        for i in 0..bodies.len() {
            let next = moved[i + 1].1;
            if let Body::Branch { target, near, wide, .. } = &mut bodies[i].1
                && !*wide
                && i8::try_from(i64::from(find(&moved, *target)?) - i64::from(next)).is_err()
            {
                if near.is_none() {
                    let at = piece.start + bodies[i].0;
                    return Err(refused(slots::KEY, format!("the loop at {at:#x} of the new image gets too long")));
                }
                (*wide, grown) = (true, true);
            }
        }
        if !grown {
            break moved;
        }
    };
    let mut out = Piece { bytes: Vec::with_capacity(end as usize + 16), fields: Vec::new(), ..piece.clone() };
    for (i, (_, body)) in bodies.into_iter().enumerate() {
        let (at, next) = (moved[i].1, moved[i + 1].1);
        match body {
            Body::Copy { bytes, field } => {
                out.bytes.extend_from_slice(&bytes);
                out.fields.extend(field.map(|f| Field {
                    offset: at + f.offset,
                    origin: match f.origin {
                        Origin::Here(origin) => Origin::Here(at + origin),
                        other => other,
                    },
                    ..f
                }));
            }
            Body::Branch { target, short, near, wide } => {
                let distance = i64::from(find(&moved, target)?) - i64::from(next);
                match (wide, short, near) {
                    (true, _, Some(near)) => {
                        out.bytes.extend_from_slice(&near);
                        out.bytes.extend_from_slice(&(distance as i32).to_le_bytes());
                    }
                    (false, Some(short), _) => out.bytes.extend_from_slice(&[short, distance as i8 as u8]),
                    _ => return Err(internal("a branch without an encoding")),
                }
            }
        }
        if out.bytes.len() != next as usize {
            return Err(internal("an instruction was not placed where it was laid out"));
        }
    }
    out.moved = Some(moved);
    Ok(out)
}

fn find(moved: &[(u32, u32)], offset: u32) -> Result<u32> {
    let i = moved.binary_search_by_key(&offset, |m| m.0);
    i.map(|i| moved[i].1).map_err(|_| internal("a branch into an instruction"))
}
