//! A small reader and writer for the tag-length-value layer of ASN.1.
//!
//! The typed decoders of the `der` crate are right for what we make ourselves, but signatures of others contain sets
//! with equal members, unsorted sets and long forms that a strict decoder refuses, and a verifier must hash the octets
//! as received. So reading works on borrowed octets: definite lengths only, bounds checked, nothing allocated.

mod read;
mod write;

pub(crate) use read::{Reader, Tlv};
pub(crate) use write::*;

/// Universal and context tags, as the identifier octet.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const NULL: u8 = 0x05;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const ENUMERATED: u8 = 0x0a;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;

    /// `[n]` constructed: explicit tags, and implicit ones of constructed types.
    pub(crate) const fn context(n: u8) -> u8 {
        0xa0 | n
    }

    /// `[n]` primitive: implicit tags of primitive types.
    pub(crate) const fn context_primitive(n: u8) -> u8 {
        0x80 | n
    }
}
