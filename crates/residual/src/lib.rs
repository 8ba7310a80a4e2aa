//! What still differs between a patched address space and the new image.
//!
//! The check does not trust the packager. It loads the base image into a buffer, lets the engine apply the patch there, and
//! then walks the patched memory and the new image side by side: two addresses are *related* if executing (or reading) at the
//! one in patched memory is the same as executing (or reading) at the other in the new image. Starting from every function and
//! every writable object that both builds have, each pair is assumed related, its bytes are compared, and whatever its fields
//! lead to becomes a further pair: a bisimulation. What cannot be shown equal remains, and a patch with remains is not shipped.
//!
//! Every field that holds an address is found twice: in the new program's reference table, and by decoding the instructions
//! again. A field that only the second way finds is reported too, because it would have been copied as if it were a constant.

mod code;
mod data;
mod liveness;
mod reencoded;
mod related;
mod walk;
mod world;

use hotgraft_diff::Comparison;
use hotgraft_engine::{ApplyOptions, BufferSpace, PatchFile, Trust, apply, memory};
use hotgraft_program::Program;
use serde::Serialize;

pub use related::{Code, Related, relate};
pub use world::World;

/// One thing that is not as in the new image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Remaining {
    /// Stable dotted key: `residual.code`, `residual.data`, `residual.reference`, `residual.unwind`, `residual.identity`,
    /// `residual.unaccounted`.
    pub key: &'static str,
    /// Function or object of the new image.
    pub subject: String,
    /// RVA in the new image.
    pub new_rva: u32,
    /// One sentence.
    pub text: String,
}

/// The result of a residual check.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Residual {
    /// What remains, sorted. Empty for a right patch.
    pub remaining: Vec<Remaining>,
    /// Code ranges that were compared.
    pub ranges: usize,
    /// Objects that were compared.
    pub objects: usize,
    /// Replaced entries that lead to the patch.
    pub redirected: usize,
}

/// The check could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine did not apply the patch to the base in a buffer.
    #[error("the patch does not apply to the base image in a buffer")]
    Apply(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The patch image cannot be read.
    #[error("the patch image cannot be read")]
    Patch(#[from] hotgraft_program::Error),
    /// Memory of the patched buffer cannot be read.
    #[error("the patched buffer cannot be read")]
    Memory(#[from] hotgraft_engine::SpaceError),
}

/// How far from its preferred address the base is loaded for the check, so that base relocations are exercised (bytes).
const DISPLACEMENT: u64 = 0x1234_0000;

/// Load the base in a buffer, apply the patch, and compare the patched memory with the new image.
///
/// `base_file` and `patch_file` are the files' bytes; `old` and `new` the programs that `comparison` was made from.
pub fn check(
    old: &Program,
    new: &Program,
    comparison: &Comparison,
    base_file: &[u8],
    patch_file: &[u8],
) -> Result<Residual, Error> {
    let (space, base, applied) = lay_out(old, base_file, patch_file)?;
    let lifted = Program::from_bytes("the patch image", patch_file, None)?;
    let read =
        |address: u64, size: u32| -> Result<Vec<u8>, Error> { Ok(memory::read_bytes(&space, address, size as usize)?) };
    let base_memory = read(base, old.image.size_of_image)?;
    let patch_memory = read(applied.patch_address, lifted.image.size_of_image)?;
    let world = World::new(old, (base, base_memory), Some((applied.patch_address, patch_memory, &lifted)));
    Ok(walk::walk(&world, new, comparison).0)
}

/// A buffer with the base in it and the patch applied: the buffer, the load address of the base, what the engine did.
fn lay_out(
    old: &Program,
    base_file: &[u8],
    patch_file: &[u8],
) -> Result<(BufferSpace, u64, hotgraft_engine::Applied), Error> {
    let mut space = BufferSpace::new();
    let base = old.image.image_base.wrapping_add(DISPLACEMENT) & 0x7fff_ffff_0000;
    space.load(&file_name(&old.image.path), base_file, base).map_err(|e| Error::Apply(Box::new(e)))?;
    let patch = PatchFile::parse(patch_file).map_err(|e| Error::Apply(Box::new(e)))?;
    let options = ApplyOptions { trust: Trust { allow_unsigned: true, ..Trust::default() }, ..ApplyOptions::default() };
    let applied = apply(&mut space, base, &patch, &options).map_err(|e| Error::Apply(Box::new(e)))?;
    Ok((space, base, applied))
}

/// Compare the base as it is, without any patch: what a patch has to change.
pub fn unpatched(old: &Program, new: &Program, comparison: &Comparison) -> Residual {
    let world = World::new(old, (old.image.image_base, old.image.mapped.clone()), None);
    walk::walk(&world, new, comparison).0
}

fn file_name(path: &str) -> String {
    path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned()
}
