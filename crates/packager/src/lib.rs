//! From a comparison to a verdict, from the verdict to a plan, from the plan to the bytes of a hotpatch image.
//!
//! Three pure functions: [`verdict::judge`], [`plan::plan`] and [`emit::emit`].

pub mod access;
pub mod closure;
pub mod context;
pub mod contract;
pub mod emit;
pub mod error;
pub mod escape;
mod frames;
pub mod plan;
pub mod resolve;
pub mod rules;
pub mod uses;
pub mod verdict;

pub use error::{Error, Result};
pub use plan::{Destination, Plan, PlannedFunction, PlannedObject, PlannedReference};
pub use verdict::{Decision, Finding, Options, Outcome, Reach, Verdict};
