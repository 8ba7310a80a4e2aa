//! Text in data.

use crate::object::ObjectKind;

/// Characters before the terminator from which on bytes are taken for text even where they could be a number.
const CERTAIN: usize = 4;

/// Recognises zero-terminated text that fills `bytes` but for zeros behind the terminator. Gives the kind and the bytes
/// of text and terminator.
///
/// `aligned` tells that a number could be stored here; short text is then not distinguished from one, because a
/// number that was cut like text would lose its upper bytes in a copy.
pub fn recognise(bytes: &[u8], aligned: bool) -> Option<(ObjectKind, u32)> {
    narrow(bytes, aligned).or_else(|| wide(bytes))
}

fn narrow(bytes: &[u8], aligned: bool) -> Option<(ObjectKind, u32)> {
    let len = bytes.iter().position(|&b| b == 0)?;
    // A single zero byte is the empty text, or a number that is equal to it.
    if bytes.len() == 1 {
        return Some((ObjectKind::String, 1));
    }
    if len == 0 || bytes[len..].iter().any(|&b| b != 0) {
        return None;
    }
    let text = std::str::from_utf8(&bytes[..len]).ok()?;
    if !text.chars().all(printable) {
        return None;
    }
    let number = aligned && len < CERTAIN && bytes.len() >= CERTAIN;
    (!number).then_some((ObjectKind::String, len as u32 + 1))
}

fn wide(bytes: &[u8]) -> Option<(ObjectKind, u32)> {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|u| u16::from_le_bytes([u[0], u[1]])).collect();
    let len = units.iter().position(|&u| u == 0)?;
    if len < CERTAIN || bytes[2 * len..].iter().any(|&b| b != 0) {
        return None;
    }
    let text: String = char::decode_utf16(units[..len].iter().copied()).collect::<Result<_, _>>().ok()?;
    // Tables of small numbers are valid UTF-16 too, but seldom in the range of letters and digits.
    let ascii = text.chars().filter(|c| c.is_ascii() && printable(*c)).count();
    let plausible = text.chars().all(printable) && 4 * ascii >= 3 * text.chars().count();
    plausible.then_some((ObjectKind::WideString, 2 * len as u32 + 2))
}

fn printable(c: char) -> bool {
    !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\x07' | '\x08' | '\x0b' | '\x0c' | '\x1b')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_at_its_terminator() {
        assert_eq!(recognise(b"hello\0", false), Some((ObjectKind::String, 6)));
        assert_eq!(recognise(b"\0", true), Some((ObjectKind::String, 1)));
        assert_eq!(recognise(b"hello\0\0\0", true), Some((ObjectKind::String, 6)));
        assert_eq!(recognise("Gr\u{fc}\u{df}e\0".as_bytes(), false), Some((ObjectKind::String, 8)));
        assert_eq!(recognise(b"h\0e\0l\0l\0o\0\0\0", true), Some((ObjectKind::WideString, 12)));
    }

    #[test]
    fn what_could_be_more_than_text_is_not_cut() {
        assert_eq!(recognise(b"one\0two\0", false), None);
        assert_eq!(recognise(b"no terminator", false), None);
        assert_eq!(recognise(b"\0\0\0\0", true), None);
        assert_eq!(recognise(b"\x01\x02\x03\x04\0", false), None);
        assert_eq!(recognise(b"\xff\xfe\xfd\xfc\0", false), None);
    }

    #[test]
    fn short_text_where_a_number_fits_stays_a_number() {
        assert_eq!(recognise(b"A\0\0\0", true), None);
        assert_eq!(recognise(b"A\0\0\0", false), Some((ObjectKind::String, 2)));
        assert_eq!(recognise(b"%s\0", true), Some((ObjectKind::String, 3)));
        assert_eq!(recognise(&[0x41, 0, 0x5a, 0, 0x61, 0, 0, 0], true), None);
    }
}
