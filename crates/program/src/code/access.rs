//! How many bytes code reads or writes where.

use super::{CodeFacts, x64};
use crate::image::Image;
use crate::reference::Form;

/// A memory operand at a fixed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// First byte.
    pub rva: u32,
    /// Bytes; 0 if only the address is taken.
    pub size: u32,
}

/// The memory operands with fixed addresses of one range, in the order of the code.
pub fn accesses<'a>(image: &'a Image, facts: &'a CodeFacts) -> impl Iterator<Item = Access> + 'a {
    facts.references.iter().filter(|r| r.form != Form::Branch).map(move |r| {
        let at = facts.instructions.partition_point(|&start| start <= r.site).checked_sub(1);
        let size = at.and_then(|i| {
            let rva = facts.instructions[i];
            let bytes = image.bytes(rva, x64::MAX_LENGTH).or_else(|| image.mapped.get(rva as usize..))?;
            x64::access_size(bytes, rva, r.rva)
        });
        Access { rva: r.rva, size: size.unwrap_or(0) }
    })
}
