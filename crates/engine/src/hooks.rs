//! The developer's own code in a patch: called when it is applied and when it is rolled back.
//!
//! The functions take nothing and return 0. What comes before the change of the entries may veto it with anything else;
//! a `post_apply` that returns anything else says that the repair failed, and the patch is taken back.

use hotgraft_hotpatch::{Hook, HookPoint};

use crate::error::ApplyError;
use crate::space::AddressSpace;

/// Calls the hook of a point, if the patch at `patch` (VA) has one.
///
/// # Errors
/// If it vetoes, or could not be called or did not return in time.
pub(crate) fn run(
    space: &mut dyn AddressSpace,
    patch: u64,
    hooks: &[Hook],
    point: HookPoint,
) -> Result<(), ApplyError> {
    let Some(hook) = hooks.iter().find(|hook| hook.point == point) else { return Ok(()) };
    match space.call(patch + u64::from(hook.patch_rva))? {
        0 => Ok(()),
        value => Err(ApplyError::Veto { hook: point.symbol(), value }),
    }
}
