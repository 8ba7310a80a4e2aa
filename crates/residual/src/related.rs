//! The relation that the check found, for those who compare in another way: by running both sides.

use crate::walk::{self, Pair};
use crate::world::World;
use crate::{Error, lay_out};
use hotgraft_diff::Comparison;
use hotgraft_engine::{BufferSpace, memory};
use hotgraft_program::{FunctionId, ObjectId, Program};

/// A patched address space, and what is what there.
pub struct Related {
    /// The base with the patch applied.
    pub space: BufferSpace,
    /// Load address of the base.
    pub base: u64,
    /// Load address and size of the patch.
    pub patch: (u64, u32),
    /// Code in the patch: sorted by address.
    pub code: Vec<Code>,
    /// Data in the patch, with the object of the new image that it is: sorted.
    pub data: Vec<(u64, ObjectId)>,
}

/// A run of code in the patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code {
    /// First byte.
    pub address: u64,
    /// Bytes up to the next one, filler included.
    pub size: u32,
    /// The function of the new image that it is.
    pub function: FunctionId,
    /// Which range of that function.
    pub range: u16,
}

/// Lay the patched address space out, and say what of the new image is where in the patch.
///
/// # Errors
/// As [`check`](crate::check()).
pub fn relate(
    old: &Program,
    new: &Program,
    comparison: &Comparison,
    base_file: &[u8],
    patch_file: &[u8],
) -> Result<Related, Error> {
    let (space, base, applied) = lay_out(old, base_file, patch_file)?;
    let lifted = Program::from_bytes("the patch image", patch_file, None)?;
    let size = lifted.image.size_of_image;
    let read = |address: u64, size: u32| memory::read_bytes(&space, address, size as usize);
    let base_memory = read(base, old.image.size_of_image)?;
    let patch_memory = read(applied.patch_address, size)?;
    let world = World::new(old, (base, base_memory), Some((applied.patch_address, patch_memory, &lifted)));
    let (_, pairs) = walk::walk(&world, new, comparison);
    let patch = applied.patch_address..=applied.patch_address + u64::from(size);
    let (mut code, mut data) = (Vec::new(), Vec::new());
    for pair in pairs {
        match pair {
            Pair::Range { va, function, range } if patch.contains(&va) => {
                code.push(Code { address: va, size: 0, function, range });
            }
            Pair::Object { va, object } if patch.contains(&va) => data.push((va, object)),
            _ => {}
        }
    }
    code.sort_unstable();
    let ends: Vec<u64> = code.iter().skip(1).map(|next| next.address).chain([u64::MAX]).collect();
    for (one, next) in code.iter_mut().zip(ends) {
        let rva = (one.address - applied.patch_address) as u32;
        let section = lifted.image.section_at(rva).map_or(rva, |section| section.rva + section.size);
        one.size = next.saturating_sub(one.address).min(u64::from(section - rva)) as u32;
    }
    data.sort_unstable();
    Ok(Related { space, base, patch: (applied.patch_address, size), code, data })
}
