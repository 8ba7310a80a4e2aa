//! Members of structures, and all structures in one order.

use super::{TPI, TypeTable, short_digest};
use crate::entity::UdtId;
use crate::pdb::cursor::{Cursor, Damage};
use crate::types::{Member, Types, Udt};
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

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

impl<'a> TypeTable<'a> {
    /// Members of a field list with the type of each (0 where there is none).
    pub(super) fn members(&self, list: u32) -> Result<Vec<(Member, u32)>, Damage> {
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
