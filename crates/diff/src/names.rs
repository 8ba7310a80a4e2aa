//! Names made comparable between builds: the parts of a symbol that a compiler numbers or hashes are taken out.

use std::borrow::Cow;

/// Separators of a name's words, for "a number of its own": `foo.1` yes, `sha256` no.
fn is_hex(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

/// Number of leading bytes of `s` that satisfy `p`.
fn span(s: &[u8], p: impl Fn(u8) -> bool) -> usize {
    s.iter().take_while(|b| p(**b)).count()
}

/// The name without unstable parts: anonymous namespaces (`?A0x12345678`), lambdas (`<lambda_1a2b...>`, `$_0`,
/// `lambda_1`), ThinLTO promotion (`.llvm.123`), Rust hashes (`17h<16 hex>E`, `::h<16 hex>`, v0 crate disambiguators),
/// numbered clones and static locals (`foo.1`, `foo.constprop.0`), scope numbers of MSVC static locals (`@?1??`).
/// Each such part becomes one `#`, so that a name that has one never equals a name that has none.
pub fn canonical(name: &str) -> Cow<'_, str> {
    let s = name.as_bytes();
    let mut out: Option<Vec<u8>> = None;
    let mut copied = 0;
    let mut at = 0;
    while at < s.len() {
        if let Some(len) = unstable(s, at).filter(|len| *len > 0) {
            let out = out.get_or_insert_default();
            out.extend_from_slice(&s[copied..at]);
            out.push(b'#');
            at += len;
            copied = at;
        } else {
            at += 1;
        }
    }
    match out {
        None => Cow::Borrowed(name),
        Some(mut out) => {
            out.extend_from_slice(&s[copied..]);
            Cow::Owned(String::from_utf8_lossy(&out).into_owned())
        }
    }
}

/// Length of the unstable part that starts at `at`, if one does.
fn unstable(s: &[u8], at: usize) -> Option<usize> {
    let rest = &s[at..];
    match rest[0] {
        b'.' => {
            if let Some(digits) = rest.strip_prefix(b".llvm.") {
                let n = span(digits, |b| b.is_ascii_digit());
                return (n > 0).then_some(6 + n);
            }
            // `.1` at the end of the name or before another suffix.
            let n = span(&rest[1..], |b| b.is_ascii_digit());
            (n > 0 && at > 0 && matches!(rest.get(1 + n), None | Some(b'.'))).then_some(1 + n)
        }
        b'?' => {
            if let Some(hex) = rest.strip_prefix(b"?A0x") {
                let n = span(hex, |b| b.is_ascii_hexdigit());
                return (n > 0).then_some(4 + n);
            }
            // `@?1??` and `@?BA@??`: the number of the scope that a static local lives in.
            if at > 0 && s[at - 1] == b'@' {
                let digit = usize::from(rest.get(1).is_some_and(u8::is_ascii_digit));
                if digit == 1 && rest.get(2..4) == Some(b"??") {
                    return Some(2);
                }
                let n = span(&rest[1..], |b| (b'A'..=b'P').contains(&b));
                if n > 0 && rest.get(1 + n) == Some(&b'@') && rest.get(2 + n..4 + n) == Some(b"??") {
                    return Some(2 + n);
                }
            }
            None
        }
        b'l' => {
            let tail = rest.strip_prefix(b"lambda_")?;
            let n = span(tail, is_hex);
            (n > 0).then_some(7 + n)
        }
        b'$' => {
            let tail = rest.strip_prefix(b"$_")?;
            let n = span(tail, |b| b.is_ascii_digit());
            (n > 0).then_some(2 + n)
        }
        b'1' => {
            // Rust's legacy mangling: 17h0123456789abcdefE
            let hex = rest.strip_prefix(b"17h")?;
            (span(hex, is_hex) >= 16 && hex.get(16) == Some(&b'E')).then_some(20)
        }
        b':' => {
            let hex = rest.strip_prefix(b"::h")?;
            (span(hex, is_hex) == 16 && hex.len() == 16).then_some(19)
        }
        b'C' => {
            // Rust's v0 mangling: Cs<base 62>_ before the crate's name.
            let tail = rest.strip_prefix(b"Cs")?;
            let n = span(tail, |b| b.is_ascii_alphanumeric());
            (s.starts_with(b"_R") && n > 0 && tail.get(n) == Some(&b'_')).then_some(3 + n)
        }
        _ => None,
    }
}

/// True for names that the compiler derives from the content of a constant (string literals, floating point and
/// vector literals, tables of a switch): the name is no identity, only another spelling of the content.
pub fn is_derived_from_content(name: &str) -> bool {
    ["??_C@", "__real@", "__xmm@", "__ymm@", "__zmm@", ".L", "switch.table.", ".Lswitch.table.", "__unnamed_", "$SG"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unstable_parts_are_taken_out() {
        let same = [
            ("foo.llvm.123", "foo.llvm.99"),
            ("?f@?A0x1234abcd@@YAXXZ", "?f@?A0xdeadbeef@@YAXXZ"),
            ("_ZN4core3fmt17h0123456789abcdefE", "_ZN4core3fmt17hfedcba9876543210E"),
            ("core::fmt::h0123456789abcdef", "core::fmt::hfedcba9876543210"),
            ("counter.1", "counter.23"),
            ("parse.constprop.0", "parse.constprop.1"),
            ("?x@?1??f@@YAXXZ@4HA", "?x@?2??f@@YAXXZ@4HA"),
            ("?x@?BA@??f@@YAXXZ@4HA", "?x@?2??f@@YAXXZ@4HA"),
            ("main::<lambda_0123abcd>::operator()", "main::<lambda_77>::operator()"),
            ("_RNvCs1234_3foo3bar", "_RNvCsabcd_3foo3bar"),
        ];
        for (a, b) in same {
            assert_eq!(canonical(a), canonical(b), "{a} {b}");
        }
    }

    #[test]
    fn stable_names_stay_as_they_are() {
        for name in ["sha256", "foo.cold", "md5.transform", "xmlParse1", "h0123", "?f@@YAXH@Z", "Cs_x", "a.1b"] {
            assert!(matches!(canonical(name), Cow::Borrowed(_)), "{name}");
        }
        assert_ne!(canonical("counter.1"), canonical("counter"));
    }
}
