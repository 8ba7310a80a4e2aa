//! References: every place that holds an address, however it is encoded.

use crate::entity::Target;
use serde::Serialize;

/// How a field encodes an address. The stored value is `target - origin`, sign-extended from the field's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Direct call or jump displacement; origin is the end of the instruction.
    Branch,
    /// RIP-relative memory operand; origin is the end of the instruction.
    RipRelative,
    /// Virtual address under a base relocation; origin is 0 (the field holds image base + RVA).
    Absolute,
    /// 32-bit image-relative value in data; origin is the image base.
    ImageRelative,
    /// Displacement of a memory operand or `lea` whose base register holds `__ImageBase`; origin is the image base.
    ImageRelativeDisplacement,
    /// 32-bit difference in data; origin is the anchor (start of a jump table, the field itself for exception data).
    Relative,
}

/// One place that holds an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reference {
    /// RVA of the first byte of the field.
    pub site: u32,
    /// Bytes of the field: 1, 2, 4 or 8.
    pub width: u8,
    /// How it is encoded.
    pub form: Form,
    /// RVA that the value is relative to; 0 for the absolute and image-relative forms.
    pub origin: u32,
    /// RVA the field leads to (also where `target` is unknown).
    pub rva: u32,
    /// What that address means.
    pub target: Target,
}
