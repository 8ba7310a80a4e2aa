//! `hotgraft release`: a year of releases played through with real images, and machines that take part, miss months, are
//! hooked by others, or never restart. Each month what is said of each machine is held against what its memory really has,
//! and every document against independent validators.

mod documents;
mod machines;
mod pipeline;
mod proof;
mod vendor;
mod year;
