//! What the format itself defines: built-in types and calling conventions.

/// `""` for the ordinary convention of the platform.
pub fn calling_convention(code: u8) -> &'static str {
    match code {
        0 => "",
        4 => "__fastcall ",
        7 => "__stdcall ",
        0x0b => "__thiscall ",
        0x18 => "__vectorcall ",
        0x19 => "__swiftcall ",
        _ => "__other_convention ",
    }
}

/// Text and size of a type that is built into the format: a kind in the low byte and a kind of pointer above it.
pub fn primitive(index: u32) -> (String, Option<u64>) {
    let (name, size) = match index & 0xff {
        0x00 => ("<no type>", None),
        0x03 => ("void", None),
        0x08 => ("HRESULT", Some(4)),
        0x10 => ("signed char", Some(1)),
        0x20 => ("unsigned char", Some(1)),
        0x70 => ("char", Some(1)),
        0x71 => ("wchar_t", Some(2)),
        0x7a => ("char16_t", Some(2)),
        0x7b => ("char32_t", Some(4)),
        0x7c => ("char8_t", Some(1)),
        0x68 => ("int8_t", Some(1)),
        0x69 => ("uint8_t", Some(1)),
        0x11 => ("short", Some(2)),
        0x21 => ("unsigned short", Some(2)),
        0x72 => ("int16_t", Some(2)),
        0x73 => ("uint16_t", Some(2)),
        0x12 => ("long", Some(4)),
        0x22 => ("unsigned long", Some(4)),
        0x74 => ("int", Some(4)),
        0x75 => ("unsigned int", Some(4)),
        0x13 | 0x76 => ("int64_t", Some(8)),
        0x23 | 0x77 => ("uint64_t", Some(8)),
        0x14 | 0x78 => ("int128_t", Some(16)),
        0x24 | 0x79 => ("uint128_t", Some(16)),
        0x46 => ("_Float16", Some(2)),
        0x40 => ("float", Some(4)),
        0x41 => ("double", Some(8)),
        0x42 => ("long double", Some(10)),
        0x43 => ("float128", Some(16)),
        0x50 => ("float _Complex", Some(8)),
        0x51 => ("double _Complex", Some(16)),
        0x30 => ("bool", Some(1)),
        0x31 => ("bool16", Some(2)),
        0x32 => ("bool32", Some(4)),
        0x33 => ("bool64", Some(8)),
        other => return (format!("<built-in type {other:#04x}>"), None),
    };
    match (index >> 8) & 0xf {
        0 => (name.to_owned(), size),
        4 => (format!("{name}*"), Some(4)),
        6 => (format!("{name}*"), Some(8)),
        mode => (format!("{name}* [kind {mode}]"), None),
    }
}
