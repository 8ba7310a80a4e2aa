//! How many bytes code reads or writes where.

/// A memory operand at a fixed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// First byte.
    pub rva: u32,
    /// Bytes; 0 if only the address is taken.
    pub size: u32,
}
