//! Type records: their text, their size, and the layout of user-defined types.
//!
//! Text never contains type indices, so that the same type has the same text in every build.

mod builtin;
mod layout;
#[cfg(test)]
mod tests;

pub use layout::UdtIndex;

use super::cursor::{Cursor, Damage, Records};
use crate::types::UdtKind;
use builtin::{calling_convention, primitive};
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};
use std::fmt::Write;

const TPI: &str = "TPI";
const IPI: &str = "IPI";
/// Longest text of a type, bytes; the rest is replaced by its hash. Only function types with very many parameters
/// come near it.
const TEXT_LIMIT: usize = 8192;
/// Links followed from a type to what it is made of, before the chain is taken for damaged.
const CHAIN_LIMIT: usize = 64;

/// One record behind its kind.
type Record<'a> = (u16, Cursor<'a>);

/// The types and ids of a PDB.
pub struct TypeTable<'a> {
    first: u32,
    records: Vec<Record<'a>>,
    first_id: u32,
    ids: Vec<Record<'a>>,
    texts: Vec<Box<str>>,
    /// Complete definitions by unique name (or name where there is none), in index order.
    complete: FxHashMap<Box<str>, Vec<u32>>,
}

/// Head of a class, structure, union or enumeration.
struct Head {
    kind: UdtKind,
    forward: bool,
    fields: u32,
    size: u64,
    name: String,
    unique: Option<String>,
}

fn stream<'a>(name: &'static str, data: &'a [u8]) -> Result<(u32, Vec<Record<'a>>), Damage> {
    if data.is_empty() {
        return Ok((0x1000, Vec::new()));
    }
    let mut header = Cursor(data);
    let fields = (|| {
        header.u32()?;
        Some((header.u32()?, header.u32()?, header.u32()?, header.u32()?))
    })();
    let Some((header_size, first, _, size)) = fields else {
        return Err(Damage::new(name, 0, "a header of 56 bytes"));
    };
    let start = header_size as usize;
    let Some(records) = start.checked_add(size as usize).and_then(|end| data.get(..end)).filter(|d| d.len() >= start)
    else {
        return Err(Damage::new(name, 16, "records that lie inside the stream"));
    };
    let records = Records::new(name, records, start);
    let records = records.map(|r| r.map(|(_, kind, payload)| (kind, payload))).collect::<Result<_, _>>()?;
    Ok((first, records))
}

impl<'a> TypeTable<'a> {
    /// Reads both streams and makes the text of every type.
    pub fn read(types: &'a [u8], ids: &'a [u8]) -> Result<Self, Damage> {
        let (first, records) = stream(TPI, types)?;
        let (first_id, ids) = stream(IPI, ids)?;
        let mut table = TypeTable { first, records, first_id, ids, texts: Vec::new(), complete: FxHashMap::default() };
        for i in 0..table.records.len() {
            // No forward reference can mean a type without a name.
            if let Some(head) = table.head(i).filter(|h| !h.forward && (h.unique.is_some() || !unnamed(&h.name))) {
                let key = head.unique.unwrap_or(head.name);
                table.complete.entry(key.into()).or_default().push(table.first + i as u32);
            }
        }
        table.texts.reserve_exact(table.records.len());
        for i in 0..table.records.len() {
            let mut text = table
                .describe(i)
                .ok_or_else(|| Damage::new(TPI, i, "a whole record (the position is the record's number)"))?;
            if text.len() > TEXT_LIMIT {
                let mut cut = TEXT_LIMIT;
                while !text.is_char_boundary(cut) {
                    cut -= 1;
                }
                let rest = short_hash(&text.as_bytes()[cut..]);
                text.truncate(cut);
                let _ = write!(text, "...{rest:016x}");
            }
            table.texts.push(text.into());
        }
        Ok(table)
    }

    fn record(&self, index: u32) -> Option<Record<'a>> {
        self.records.get(index.checked_sub(self.first)? as usize).copied()
    }

    /// Text of a type.
    pub fn text(&self, index: u32) -> String {
        match index.checked_sub(self.first) {
            Some(i) if index >= 0x1000 => {
                self.texts.get(i as usize).map_or_else(|| "<unknown type>".to_owned(), |t| t.to_string())
            }
            _ => primitive(index).0,
        }
    }

    /// Text of record `i`. Records refer to earlier ones, whose text is there already; what refers forward in spite
    /// of that is named as unknown and not followed, which also ends every cycle.
    fn describe(&self, i: usize) -> Option<String> {
        let (kind, mut c) = self.records[i];
        let text = |index: u32| self.text(index);
        Some(match kind {
            0x1001 => {
                let (inner, flags) = (c.u32()?, c.u16()?);
                let mut out = String::new();
                for (bit, word) in [(1, "const "), (2, "volatile "), (4, "__unaligned ")] {
                    if flags & bit != 0 {
                        out.push_str(word);
                    }
                }
                out + &text(inner)
            }
            0x1002 => {
                let (inner, attributes) = (c.u32()?, c.u32()?);
                let mut out = text(inner);
                match (attributes >> 5) & 7 {
                    1 => out.push('&'),
                    4 => out.push_str("&&"),
                    2 | 3 => {
                        let class = c.u32()?;
                        let _ = write!(out, " {}::*", text(class));
                    }
                    _ => out.push('*'),
                }
                for (bit, word) in
                    [(0x400, " const"), (0x200, " volatile"), (0x800, " __unaligned"), (0x1000, " __restrict")]
                {
                    if attributes & bit != 0 {
                        out.push_str(word);
                    }
                }
                out
            }
            0x1008 => {
                let (result, convention, attributes, _, arguments) = (c.u32()?, c.u8()?, c.u8()?, c.u16()?, c.u32()?);
                let special = if attributes & 1 != 0 { " [returns by hidden pointer]" } else { "" };
                format!("{} {}({}){special}", text(result), calling_convention(convention), text(arguments))
            }
            0x1009 => {
                let (result, class, this, convention, _, _, arguments, adjust) =
                    (c.u32()?, c.u32()?, c.u32()?, c.u8()?, c.u8()?, c.u16()?, c.u32()?, c.u32()?);
                let this = if this == 0 { "static".to_owned() } else { text(this) };
                let adjust = if adjust == 0 { String::new() } else { format!(" this+{}", adjust as i32) };
                let convention = calling_convention(convention);
                format!("{} {convention}{}::({this}; {}){adjust}", text(result), text(class), text(arguments))
            }
            0x1201 => {
                let count = c.u32()?;
                let mut out = String::new();
                for n in 0..count {
                    let argument = c.u32()?;
                    if n != 0 {
                        out.push_str(", ");
                    }
                    // A last argument without type stands for the ellipsis.
                    if argument == 0 {
                        out.push_str("...");
                    } else {
                        out.push_str(&text(argument));
                    }
                }
                out
            }
            0x1205 => {
                let (inner, length) = (c.u32()?, c.u8()?);
                format!("{}:{length}", text(inner))
            }
            0x1503 => {
                let (element, _, size) = (c.u32()?, c.u32()?, c.number()? as u64);
                match self.size(element) {
                    Some(each) if each != 0 && size % each == 0 => format!("{}[{}]", text(element), size / each),
                    _ => format!("{}[{size} bytes]", text(element)),
                }
            }
            0x1504..=0x1507 | 0x1519 | 0x1608 | 0x1609 | 0x160a => {
                let head = self.head(i)?;
                if unnamed(&head.name) && !head.forward { self.name_from_members(&head) } else { head.name }
            }
            0x000a => format!("<vtable of {} slots>", c.u16()?),
            0x1203 | 0x1206 | 0x151d => String::new(),
            other => format!("<type record {other:#06x}>"),
        })
    }

    fn head(&self, i: usize) -> Option<Head> {
        let (kind, mut c) = self.records[i];
        let (udt, properties, fields, size) = match kind {
            0x1504 | 0x1505 | 0x1519 => {
                let (_, properties, fields) = (c.u16()?, c.u16()?, c.u32()?);
                c.take(8)?;
                (UdtKind::Struct, properties, fields, c.number()?)
            }
            // The form of newer compilers with 32 bits of properties.
            0x1608..=0x160a => {
                let (properties, fields) = (c.u32()? as u16, c.u32()?);
                c.take(10)?;
                (UdtKind::Struct, properties, fields, c.number()?)
            }
            0x1506 => {
                let (_, properties, fields) = (c.u16()?, c.u16()?, c.u32()?);
                (UdtKind::Union, properties, fields, c.number()?)
            }
            0x1507 => {
                let (_, properties, inner, fields) = (c.u16()?, c.u16()?, c.u32()?, c.u32()?);
                (UdtKind::Enum, properties, fields, self.size(inner).unwrap_or(0) as i64)
            }
            _ => return None,
        };
        let name = c.name()?;
        let unique = if properties & 0x200 != 0 { c.name() } else { None };
        Some(Head { kind: udt, forward: properties & 0x80 != 0, fields, size: size as u64, name, unique })
    }

    /// The first member stands for the rest: a name made from all of them would change with each that is added, and
    /// with it the text of everything that mentions the type.
    fn name_from_members(&self, head: &Head) -> String {
        let kind = match head.kind {
            UdtKind::Struct => "struct",
            UdtKind::Union => "union",
            UdtKind::Enum => "enum",
        };
        let members = self.members(head.fields).unwrap_or_default();
        let first = members.first().map_or("", |m| m.0.name.as_str());
        format!("<unnamed {kind} {first}>")
    }

    /// Bytes of a value of the type; `None` for functions, incomplete types and damaged chains.
    pub fn size(&self, index: u32) -> Option<u64> {
        let mut index = index;
        for _ in 0..CHAIN_LIMIT {
            if index < 0x1000 {
                return primitive(index).1;
            }
            let (kind, mut c) = self.record(index)?;
            match kind {
                0x1001 => index = c.u32()?,
                0x1002 => {
                    let attributes = c.0.get(4..8)?;
                    let stated = (u32::from_le_bytes(attributes.try_into().ok()?) >> 13) & 0x3f;
                    return Some(if stated == 0 { 8 } else { stated.into() });
                }
                0x1503 => {
                    c.take(8)?;
                    return Some(c.number()? as u64);
                }
                0x1205 => index = c.u32()?,
                _ => {
                    let head = self.head((index - self.first) as usize)?;
                    if !head.forward {
                        return Some(head.size);
                    }
                    let key = head.unique.unwrap_or(head.name);
                    let next = *self.complete.get(key.as_str())?.first()?;
                    if next == index {
                        return None;
                    }
                    index = next;
                }
            }
        }
        None
    }

    /// The structure behind modifiers and arrays and, if `pointers`, behind pointers.
    pub fn udt(&self, index: u32, pointers: bool) -> Option<u32> {
        let mut index = index;
        for _ in 0..CHAIN_LIMIT {
            if index < 0x1000 {
                return None;
            }
            let (kind, mut c) = self.record(index)?;
            match kind {
                0x1001 | 0x1503 | 0x1205 => index = c.u32()?,
                0x1002 if pointers => index = c.u32()?,
                0x1504..=0x1507 | 0x1519 | 0x1608 | 0x1609 | 0x160a => return Some(index),
                _ => return None,
            }
        }
        None
    }

    /// Result and parameter types of a function type.
    pub fn signature(&self, index: u32) -> Vec<u32> {
        let read = || {
            let (kind, mut c) = self.record(index)?;
            let mut out = vec![c.u32()?];
            match kind {
                0x1008 => c.take(4)?,
                0x1009 => {
                    out.push(c.u32()?);
                    c.take(8)?
                }
                _ => return None,
            };
            let (kind, mut c) = self.record(c.u32()?)?;
            if kind == 0x1201 {
                let count = (c.u32()? as usize).min(c.0.len() / 4);
                out.extend((0..count).filter_map(|_| c.u32()));
            }
            Some(out)
        };
        read().unwrap_or_default()
    }

    fn id(&self, index: u32) -> Option<Record<'a>> {
        self.ids.get(index.checked_sub(self.first_id)? as usize).copied()
    }

    /// Function type behind a function id.
    pub fn id_type(&self, index: u32) -> Option<u32> {
        let (kind, mut c) = self.id(index)?;
        c.u32()?;
        matches!(kind, 0x1601 | 0x1602).then(|| c.u32())?
    }

    /// Qualified name of a function id, as used by inline sites.
    pub fn id_name(&self, index: u32) -> Option<String> {
        let (kind, mut c) = self.id(index)?;
        let (scope, _, name) = (c.u32()?, c.u32()?, c.name()?);
        match kind {
            0x1601 if scope != 0 => {
                let scope = self.id(scope).filter(|r| r.0 == 0x1605).and_then(|(_, mut c)| {
                    c.u32()?;
                    c.name()
                });
                Some(scope.map_or_else(|| name.clone(), |s| format!("{s}::{name}")))
            }
            0x1601 => Some(name),
            0x1602 => Some(format!("{}::{name}", self.text(scope))),
            _ => None,
        }
    }
}

fn unnamed(name: &str) -> bool {
    name.is_empty()
        || name.ends_with("<unnamed-tag>")
        || name.contains("<unnamed-type-")
        || name.contains("<anonymous-")
        || name.ends_with("__unnamed")
}

fn short_hash(bytes: &[u8]) -> u64 {
    short_digest(Sha256::new().chain_update(bytes))
}

fn short_digest(state: Sha256) -> u64 {
    let digest = state.finalize();
    u64::from_le_bytes(*digest.first_chunk().expect("SHA-256 has 32 bytes"))
}
