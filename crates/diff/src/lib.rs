//! Compare two programs: which function and object of the old image is which of the new one, and what changed.
//!
//! The comparison is the greatest fixed point: every matched pair is assumed equal, pairs whose bodies differ once
//! references are read through the correspondence are dropped, and what that affects is looked at again until nothing
//! changes. A call to a changed function is not a change.

pub mod comparison;

pub use comparison::{Change, Comparison, FunctionPair, ImageChange, Match, ObjectPair, Rung, Status};
