//! What is emitted, read again byte by byte.

#[allow(dead_code)]
#[path = "../rules/common.rs"]
mod common;
mod near;
mod parsed;
