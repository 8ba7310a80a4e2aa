//! What changed, with stable keys and evidence.

pub(crate) mod function;
pub(crate) mod image;
pub(crate) mod object;
mod resources;
pub(crate) mod types;
