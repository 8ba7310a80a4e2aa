//! Re-encoding code so that it reaches the base through slots alone.

use super::pieces::{Goal, Parts, PieceKind};
use super::{Input, refused};
use crate::error::Result;

/// Rewrite every near reference of the code.
///
/// # Errors
/// [`Error::Refused`](crate::Error::Refused) for the first reference that cannot be proven safe to rewrite.
pub(crate) fn reencode(_: &Input<'_>, parts: &mut Parts) -> Result<()> {
    for piece in &parts.pieces {
        if let Some(field) = piece.fields.iter().find(|f| matches!(f.goal, Goal::Base(_)) && f.width != 8) {
            let what = if matches!(piece.kind, PieceKind::Code(..)) { "code" } else { "data" };
            return Err(refused(
                "code.reach.near",
                format!("{what} at {:#x} of the new image reaches the base directly", piece.start + field.offset),
            ));
        }
    }
    Ok(())
}
