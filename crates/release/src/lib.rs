//! Releases: baselines and the hotpatches on them in one signed catalog, what each machine has to do next, and the truth
//! about its patch state in the formats that scanners read.
//!
//! Nothing here compares images or makes patches: [`chain`] judges what others made, [`tuf`] signs and trusts catalogs,
//! [`plan`] and [`truth`] hold machines against them. No function reads a clock; times come from the caller.
#![forbid(unsafe_code)]

pub mod canonical;
pub mod catalog;
pub mod chain;
pub mod documents;
pub mod error;
pub mod files;
pub mod machine;
pub mod observe;
pub mod plan;
pub mod proof;
pub mod report;
pub mod rollout;
pub mod store;
pub mod time;
pub mod truth;
pub mod tuf;
pub mod workshop;

pub use catalog::Catalog;
pub use error::{Error, Result};
pub use time::Time;
