//! What is emitted, read again byte by byte.

mod any;
#[allow(dead_code)]
#[path = "../rules/common.rs"]
mod common;
mod fixtures;
mod handlers;
mod near;
mod parsed;
mod tools;
