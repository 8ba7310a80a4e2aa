//! Type records written by hand.

use super::*;
use crate::entity::UdtId;

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
    while !out.len().is_multiple_of(4) {
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
    let all: Vec<_> = node.members.iter().map(|m| (m.name.as_str(), m.offset, m.type_name.as_str(), m.bits)).collect();
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
    let two = |size: u64, outer: u64| vec![fields(&[member(0x74, 0, "a")]), structure(1, 0, outer - 2, size, &["s"])];
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
