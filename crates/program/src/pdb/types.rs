//! Type records: their text, their size, and the layout of user-defined types.
//!
//! Text never contains type indices, so that the same type has the same text in every build.

use super::cursor::{Cursor, Damage, Records};
use crate::entity::UdtId;
use crate::types::{Member, Types, Udt, UdtKind};
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

/// Which [`UdtId`] a type index means after sorting.
pub struct UdtIndex {
    first: u32,
    ids: Vec<Vec<UdtId>>,
}

impl UdtIndex {
    /// The structures that a type index stands for: one, or several where a forward reference fits more than one
    /// definition of the same name.
    pub fn get(&self, index: u32) -> &[UdtId] {
        index.checked_sub(self.first).and_then(|i| self.ids.get(i as usize)).map_or(&[], Vec::as_slice)
    }
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

    /// Members of a field list with the type of each (0 where there is none).
    fn members(&self, list: u32) -> Result<Vec<(Member, u32)>, Damage> {
        let mut out = Vec::new();
        let mut next = list;
        for _ in 0..self.records.len().min(1 << 16) {
            let Some((0x1203, fields)) = self.record(next) else { break };
            match self.field_list(fields, &mut out) {
                Some(Some(more)) if more != next => next = more,
                Some(_) => return Ok(out),
                None => {
                    let at = (next - self.first) as usize;
                    return Err(Damage::new(TPI, at, "known members (the position is the record's number)"));
                }
            }
        }
        Ok(out)
    }

    /// Reads one list; the inner `Some` is the list that continues it.
    fn field_list(&self, fields: Cursor<'a>, out: &mut Vec<(Member, u32)>) -> Option<Option<u32>> {
        let mut c = fields;
        loop {
            // Members are aligned with bytes that say how many to skip.
            while let Some(&pad) = c.0.first().filter(|&&b| b >= 0xf0) {
                c.take(usize::from(pad & 15).max(1))?;
            }
            if c.0.is_empty() {
                return Some(None);
            }
            match c.u16()? {
                0x1400 | 0x151a => {
                    let (_, base, offset) = (c.u16()?, c.u32()?, c.number()?);
                    out.push((member(format!(": {}", self.text(base)), offset, self.text(base)), base));
                }
                0x1401 | 0x1402 => {
                    let (_, base, _, pointer, index) = (c.u16()?, c.u32()?, c.u32()?, c.number()?, c.number()?);
                    let name = format!(": virtual {} at table {pointer}", self.text(base));
                    out.push((member(name, index, self.text(base)), base));
                }
                0x1404 => {
                    c.u16()?;
                    return Some(Some(c.u32()?));
                }
                0x1409 => {
                    let (_, table) = (c.u16()?, c.u32()?);
                    out.push((member("vtable pointer".to_owned(), 0, self.text(table)), 0));
                }
                0x140c => {
                    let (_, table, offset) = (c.u16()?, c.u32()?, c.u32()?);
                    out.push((member("vtable pointer".to_owned(), offset.into(), self.text(table)), 0));
                }
                0x1502 => {
                    let (_, value, name) = (c.u16()?, c.number()?, c.name()?);
                    out.push((member(name, value, String::new()), 0));
                }
                0x150d => {
                    let (_, inner, offset, name) = (c.u16()?, c.u32()?, c.number()?, c.name()?);
                    let mut m = member(name, offset, self.text(inner));
                    if let Some((0x1205, mut bits)) = self.record(inner) {
                        let (_, length, first) = (bits.u32()?, bits.u8()?, bits.u8()?);
                        m.bits = Some((first, length));
                    }
                    out.push((m, inner));
                }
                // Static members, nested types and methods without a slot take no room.
                0x150e => {
                    c.take(6)?;
                    c.name()?;
                }
                0x1510 => {
                    c.take(6)?;
                    c.name()?;
                }
                0x1512 => {
                    c.take(6)?;
                    c.name()?;
                }
                0x150f => {
                    let (_, list, name) = (c.u16()?, c.u32()?, c.name()?);
                    if let Some((0x1206, mut methods)) = self.record(list) {
                        while !methods.0.is_empty() {
                            let (attributes, _, method) = (methods.u16()?, methods.u16()?, methods.u32()?);
                            let slot = if introduces_slot(attributes) { Some(methods.u32()?) } else { None };
                            out.extend(self.virtual_method(attributes, slot, method, &name));
                        }
                    }
                }
                0x1511 => {
                    let (attributes, method) = (c.u16()?, c.u32()?);
                    let slot = if introduces_slot(attributes) { Some(c.u32()?) } else { None };
                    let name = c.name()?;
                    out.extend(self.virtual_method(attributes, slot, method, &name));
                }
                _ => return None,
            }
        }
    }

    /// A virtual method as a member. Compilers that follow the Itanium ABI never say which methods introduce a slot: there
    /// the order of all virtual methods tells the slots.
    fn virtual_method(&self, attributes: u16, slot: Option<u32>, method: u32, name: &str) -> Option<(Member, u32)> {
        match (slot, (attributes >> 2) & 7) {
            (Some(slot), _) => Some((member(format!("vtable+{slot} {name}"), slot.into(), self.text(method)), 0)),
            (None, 1 | 5) => Some((member(format!("virtual {name}"), -1, self.text(method)), 0)),
            _ => None,
        }
    }

    /// All complete types, sorted by name and layout, and what type indices mean in that order.
    pub fn udts(&self) -> Result<(Types, UdtIndex), Damage> {
        struct Draft {
            index: u32,
            udt: Udt,
            inner: Vec<u32>,
        }
        let mut drafts = Vec::new();
        for i in 0..self.records.len() {
            let Some(head) = self.head(i).filter(|h| !h.forward) else { continue };
            let (members, inner) = self.members(head.fields)?.into_iter().unzip();
            let name = self.texts[i].to_string();
            let udt = Udt { name, unique_name: head.unique, kind: head.kind, size: head.size, members };
            drafts.push(Draft { index: self.first + i as u32, udt, inner });
        }
        // Two types are one if they and everything they contain by value are equal: the hash of what is contained
        // goes into the hash of what contains it. Contained types come earlier in the stream.
        let mut hashes: FxHashMap<u32, u64> = FxHashMap::default();
        for d in &drafts {
            let mut state = Sha256::new();
            for m in &d.udt.members {
                state.update(m.name.as_bytes());
                state.update([0]);
                state.update(m.type_name.as_bytes());
                state.update([0]);
                state.update(m.offset.to_le_bytes());
                let (first, length) = m.bits.unwrap_or_default();
                state.update([u8::from(m.bits.is_some()), first, length]);
            }
            for &inner in &d.inner {
                if let Some(contained) = self.udt(inner, false) {
                    state.update(hashes.get(&contained).copied().unwrap_or_default().to_le_bytes());
                }
            }
            state.update(d.udt.size.to_le_bytes());
            hashes.insert(d.index, short_digest(state));
        }
        drafts.sort_by(|a, b| {
            let key = |d: &Draft| (d.udt.kind as u8, d.udt.size, d.udt.members.len(), hashes[&d.index]);
            (&a.udt.name, &a.udt.unique_name, key(a), a.index).cmp(&(&b.udt.name, &b.udt.unique_name, key(b), b.index))
        });

        let mut types = Types::default();
        let mut inner_of: Vec<Vec<u32>> = Vec::new();
        let mut ids = vec![Vec::new(); self.records.len()];
        let mut last = None;
        for d in drafts {
            let hash = hashes[&d.index];
            let same = last == Some(hash)
                && types.udts.last().is_some_and(|u| {
                    u.name == d.udt.name && u.unique_name == d.udt.unique_name && u.kind == d.udt.kind
                });
            if !same {
                types.udts.push(d.udt);
                inner_of.push(d.inner);
            }
            last = Some(hash);
            ids[(d.index - self.first) as usize] = vec![UdtId::from(types.udts.len() - 1)];
        }
        for i in 0..self.records.len() {
            let Some(head) = self.head(i).filter(|h| h.forward) else { continue };
            let key = head.unique.unwrap_or(head.name);
            let mut all: Vec<UdtId> = Vec::new();
            for &complete in self.complete.get(key.as_str()).map_or(&[][..], Vec::as_slice) {
                all.extend(&ids[(complete - self.first) as usize]);
            }
            all.sort_unstable();
            all.dedup();
            ids[i] = all;
        }
        let index = UdtIndex { first: self.first, ids };
        for (udt, inner) in types.udts.iter_mut().zip(inner_of) {
            for (member, inner) in udt.members.iter_mut().zip(inner) {
                let first = |pointers| self.udt(inner, pointers).and_then(|u| index.get(u).first().copied());
                member.by_value = first(false);
                member.by_pointer = if member.by_value.is_none() { first(true) } else { None };
            }
        }
        Ok((types, index))
    }
}

fn member(name: String, offset: i64, type_name: String) -> Member {
    Member { name, offset, type_name, bits: None, by_value: None, by_pointer: None }
}

fn introduces_slot(attributes: u16) -> bool {
    matches!((attributes >> 2) & 7, 4 | 6)
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

/// `""` for the ordinary convention of the platform.
fn calling_convention(code: u8) -> &'static str {
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
fn primitive(index: u32) -> (String, Option<u64>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A TPI or IPI stream of records given without their lengths.
    fn stream(records: &[Vec<u8>]) -> Vec<u8> {
        let mut body = Vec::new();
        for r in records {
            body.extend_from_slice(&(r.len() as u16).to_le_bytes());
            body.extend_from_slice(r);
        }
        let mut out = Vec::new();
        for field in [20_040_203, 56, 0x1000, 0x1000 + records.len() as u32, body.len() as u32] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.resize(56, 0);
        out.extend(body);
        out
    }

    /// Fields of a record: (value, bytes).
    fn record(kind: u16, fields: &[(u64, usize)], text: &[&str]) -> Vec<u8> {
        let mut out = kind.to_le_bytes().to_vec();
        for (value, width) in fields {
            out.extend_from_slice(&value.to_le_bytes()[..*width]);
        }
        for t in text {
            out.extend_from_slice(t.as_bytes());
            out.push(0);
        }
        out
    }

    fn member(inner: u64, offset: u64, name: &str) -> Vec<u8> {
        let mut out = record(0x150d, &[(3, 2), (inner, 4), (offset, 2)], &[name]);
        // Padding bytes say how many are left.
        while out.len() % 4 != 0 {
            out.push(0xf0 | (4 - out.len() % 4) as u8);
        }
        out
    }

    fn fields(members: &[Vec<u8>]) -> Vec<u8> {
        let mut out = record(0x1203, &[], &[]);
        // Alignment counts from behind the kind.
        for m in members {
            out.extend_from_slice(m);
        }
        out
    }

    /// (count, properties, field list, derived, shape, size)
    fn structure(count: u64, properties: u64, list: u64, size: u64, names: &[&str]) -> Vec<u8> {
        record(0x1505, &[(count, 2), (properties, 2), (list, 4), (0, 4), (0, 4), (size, 2)], names)
    }

    #[test]
    fn text_sizes_and_layout() {
        let tpi = stream(&[
            structure(0, 0x80, 0, 0, &["node"]),                     // 0x1000, forward
            record(0x1002, &[(0x1000, 4), (0x1000c, 4)], &[]),       // 0x1001, node*
            record(0x1205, &[(0x75, 4), (3, 1), (2, 1)], &[]),       // 0x1002, unsigned:3
            record(0x1503, &[(0x70, 4), (0x23, 4), (12, 2)], &[""]), // 0x1003, char[12]
            fields(&[member(0x1001, 0, "next"), member(0x1002, 8, "bits"), member(0x1003, 12, "text")]), // 0x1004
            structure(3, 0, 0x1004, 24, &["node"]),                  // 0x1005
            record(0x1503, &[(0x1000, 4), (0x23, 4), (48, 2)], &[""]), // 0x1006, node[2]
            record(0x1201, &[(2, 4), (0x1001, 4), (0, 4)], &[]),     // 0x1007, (node*, ...)
            record(0x1008, &[(0x74, 4), (0, 1), (0, 1), (2, 2), (0x1007, 4)], &[]), // 0x1008
            record(0x1001, &[(0x1000, 4), (1, 2)], &[]),             // 0x1009, const node
        ]);
        let table = TypeTable::read(&tpi, &[]).expect("whole records");
        assert_eq!(table.text(0x1008), "int (node*, ...)");
        assert_eq!(table.text(0x1006), "node[2]");
        assert_eq!(table.text(0x1009), "const node");
        assert_eq!(table.size(0x1009), Some(24));
        assert_eq!(table.size(0x1001), Some(8));
        assert_eq!(table.size(0x1008), None);
        assert_eq!(table.udt(0x1001, false), None);
        let (types, index) = table.udts().expect("known members");
        assert_eq!(types.udts.len(), 1);
        assert_eq!(index.get(0x1000), index.get(0x1005));
        let node = &types.udts[0];
        let all: Vec<_> =
            node.members.iter().map(|m| (m.name.as_str(), m.offset, m.type_name.as_str(), m.bits)).collect();
        assert_eq!(
            all,
            [("next", 0, "node*", None), ("bits", 8, "unsigned int:3", Some((2, 3))), ("text", 12, "char[12]", None)]
        );
        assert_eq!(node.members[0].by_pointer, Some(UdtId(0)));
        assert_eq!(node.members[0].by_value, None);
        assert_eq!(table.signature(0x1008), [0x74, 0x1001, 0]);
    }

    #[test]
    fn types_of_one_name_with_two_layouts_are_two() {
        let two =
            |size: u64, outer: u64| vec![fields(&[member(0x74, 0, "a")]), structure(1, 0, outer - 2, size, &["s"])];
        let mut records = two(4, 0x1002);
        records.extend(two(8, 0x1004));
        records.extend(two(4, 0x1006));
        records.push(structure(0, 0x80, 0, 0, &["s"]));
        let tpi = stream(&records);
        let (types, index) = TypeTable::read(&tpi, &[]).expect("whole").udts().expect("known");
        assert_eq!(types.udts.iter().map(|u| u.size).collect::<Vec<_>>(), [4, 8]);
        assert_eq!(index.get(0x1001), index.get(0x1005));
        // The forward reference may mean either.
        assert_eq!(index.get(0x1006), [UdtId(0), UdtId(1)]);
    }

    #[test]
    fn what_a_type_contains_makes_it_another_type() {
        let inner = |name: &str, list: u64| structure(1, 0, list, 4, &[name]);
        let tpi = stream(&[
            fields(&[member(0x74, 0, "x")]),
            inner("in", 0x1000),
            fields(&[member(0x1001, 0, "i")]),
            structure(1, 0, 0x1002, 4, &["out"]),
            fields(&[member(0x40, 0, "x")]),
            inner("in", 0x1004),
            fields(&[member(0x1005, 0, "i")]),
            structure(1, 0, 0x1006, 4, &["out"]),
        ]);
        let (types, _) = TypeTable::read(&tpi, &[]).expect("whole").udts().expect("known");
        assert_eq!(types.udts.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(), ["in", "in", "out", "out"]);
    }

    #[test]
    fn unnamed_types_and_virtual_methods() {
        let enumerate = record(0x1502, &[(3, 2), (7, 2)], &["SEVEN"]);
        let slot = record(0x1511, &[(4 << 2 | 3, 2), (0x74, 4), (16, 4)], &["first"]);
        let later = record(0x1511, &[(1 << 2 | 3, 2), (0x74, 4)], &["second"]);
        let plain = record(0x1511, &[(3, 2), (0x74, 4)], &["third"]);
        let tpi = stream(&[
            fields(&[enumerate]),
            record(0x1507, &[(1, 2), (0, 2), (0x74, 4), (0x1000, 4)], &["<unnamed-tag>"]),
            fields(&[slot, later, plain]),
            structure(3, 0x200, 0x1002, 8, &["c", ".?AUc@@"]),
        ]);
        let (types, _) = TypeTable::read(&tpi, &[]).expect("whole").udts().expect("known");
        assert_eq!(types.udts[0].name, "<unnamed enum SEVEN>");
        assert_eq!((types.udts[0].size, types.udts[0].members[0].offset), (4, 7));
        assert_eq!(types.udts[1].unique_name.as_deref(), Some(".?AUc@@"));
        let names: Vec<_> = types.udts[1].members.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["vtable+16 first", "virtual second"]);
    }

    #[test]
    fn damage_is_an_error_and_cycles_end() {
        let unknown = stream(&[fields(&[record(0x7777, &[], &[])]), structure(1, 0, 0x1000, 4, &["s"])]);
        assert!(TypeTable::read(&unknown, &[]).expect("whole").udts().is_err());
        let short = stream(&[record(0x1505, &[(0, 2)], &[])]);
        assert!(TypeTable::read(&short, &[]).is_err());
        let cycle = stream(&[
            record(0x1001, &[(0x1001, 4), (0, 2)], &[]),
            record(0x1001, &[(0x1000, 4), (0, 2)], &[]),
            fields(&[record(0x1404, &[(0, 2), (0x1002, 4)], &[])]),
            structure(1, 0, 0x1002, 4, &["s"]),
        ]);
        let table = TypeTable::read(&cycle, &[]).expect("whole");
        assert_eq!(table.size(0x1000), None);
        assert_eq!(table.udt(0x1000, true), None);
        assert_eq!(table.udts().expect("known").0.udts.len(), 1);
        let huge = stream(&[record(0x1201, &[(0xffff_ffff, 4)], &[])]);
        assert!(TypeTable::read(&huge, &[]).is_err());
    }

    #[test]
    fn function_ids_have_qualified_names() {
        let ipi = stream(&[
            record(0x1605, &[(0, 4)], &["space"]),
            record(0x1601, &[(0x1000, 4), (0x1008, 4)], &["run"]),
            record(0x1601, &[(0, 4), (0x1008, 4)], &["walk"]),
        ]);
        let table = TypeTable::read(&[], &ipi).expect("whole");
        assert_eq!(table.id_name(0x1001).as_deref(), Some("space::run"));
        assert_eq!(table.id_name(0x1002).as_deref(), Some("walk"));
        assert_eq!((table.id_type(0x1001), table.id_type(0x1000)), (Some(0x1008), None));
        assert_eq!(table.id_name(0x2000), None);
    }
}
