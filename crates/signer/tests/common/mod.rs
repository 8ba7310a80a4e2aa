//! What the tests of this crate share: PE files made from nothing, a PKI, and the tools they are checked with.
#![allow(dead_code)]

pub mod der;
pub mod forge;
pub mod pe;
pub mod pki;
pub mod tools;
pub mod tsa;
