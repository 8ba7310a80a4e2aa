//! Rules about types.

use crate::cases;
use crate::common::{Side, pair};
use hotgraft_packager::verdict::{Decision, Outcome};
use hotgraft_program::*;

fn member(name: &str, offset: i64, type_name: &str) -> Member {
    Member { name: name.into(), offset, type_name: type_name.into(), bits: None, by_value: None, by_pointer: None }
}

fn udt(kind: UdtKind, size: u64, members: &[Member]) -> Udt {
    Udt { name: "session".into(), unique_name: None, kind, size, members: members.to_vec() }
}

/// `f` is changed, `keeper` is not; neither uses the type unless the test says so.
fn side(body: u8, udt: Udt) -> Side {
    let mut s = Side::new();
    s.function("f", body);
    s.function("keeper", 1);
    s.types.push(udt);
    s
}

fn before() -> Udt {
    udt(UdtKind::Struct, 8, &[member("id", 0, "int"), member("state", 4, "int")])
}

fn after() -> Udt {
    udt(UdtKind::Struct, 12, &[member("id", 0, "int"), member("failures", 4, "int"), member("state", 8, "int")])
}

fn colours(values: &[(&str, i64)]) -> Udt {
    udt(UdtKind::Enum, 4, &values.iter().map(|(n, v)| member(n, *v, "")).collect::<Vec<_>>())
}

const KIND: &str = "image.type.layout.changed";

/// Uses the type in the named functions, on both sides.
fn used(mut s: Side, functions: &[&str]) -> Side {
    for f in functions {
        s.f(f).f.udts = vec![UdtId(0)];
    }
    s
}

fn judged(old: Side, new: Side) -> crate::common::Pair {
    pair(&old, &new).image_of(KIND, "session")
}

cases! {
    type_layout_changed = "type.layout.changed" {
        trips {
            judged(used(side(1, before()), &["f", "keeper"]), used(side(2, after()), &["f", "keeper"])).trips(KEY, Outcome::Refuse);
            // Behind a pointer may be an object that was made before.
            let pointed = |s: Side| Side { pointed: vec![UdtId(0)], ..used(s, &["f"]) };
            judged(pointed(side(1, before())), pointed(side(2, after()))).trips(KEY, Outcome::Refuse);
            // A variable.
            let variable = |s: Side| { let mut s = used(s, &["f"]); s.variable("one", &[0; 8]).with(|o| o.udt = Some(UdtId(0))); s };
            judged(variable(side(1, before())), variable(side(2, after()))).trips(KEY, Outcome::Refuse);
            let pointer = |s: Side| { let mut s = used(s, &["f"]); s.variable("one", &[0; 8]).with(|o| o.type_name = Some("session *".into())); s };
            judged(pointer(side(1, before())), pointer(side(2, after()))).trips(KEY, Outcome::Refuse);
            // Contained in another type that is used.
            let contained = |s: Side| {
                let mut s = s;
                let mut m = member("inner", 0, "session");
                m.by_value = Some(UdtId(0));
                s.types.push(Udt { name: "table".into(), unique_name: None, kind: UdtKind::Struct, size: 64, members: vec![m] });
                s.f("keeper").f.udts = vec![UdtId(1)];
                s
            };
            judged(contained(side(1, before())), contained(side(2, after()))).trips(KEY, Outcome::Refuse);
        }
        spares {
            judged(used(side(1, before()), &["f"]), used(side(2, after()), &["f"])).spares(KEY, Decision::Patch);
        }
    }
    type_local_changed = "type.local.changed" {
        trips { judged(used(side(1, before()), &["f"]), used(side(2, after()), &["f"])).trips(KEY, Outcome::Harmless); }
        spares {
            judged(used(side(1, before()), &["f", "keeper"]), used(side(2, after()), &["f", "keeper"])).spares(KEY, Decision::Refuse);
        }
    }
    type_renamed = "type.renamed" {
        trips {
            let constant = udt(UdtKind::Struct, 8, &[member("id", 0, "const int"), member("state", 4, "int")]);
            judged(used(side(1, before()), &["f", "keeper"]), used(side(2, constant), &["f", "keeper"])).trips(KEY, Outcome::Harmless);
        }
        spares {
            // Another meaning of the same bytes is another layout.
            let float = udt(UdtKind::Struct, 8, &[member("id", 0, "float"), member("state", 4, "int")]);
            judged(used(side(1, before()), &["f", "keeper"]), used(side(2, float), &["f", "keeper"])).spares(KEY, Decision::Refuse);
        }
    }
    type_enum_appended = "type.enum.appended" {
        trips {
            let (a, b) = (colours(&[("RED", 0)]), colours(&[("RED", 0), ("BLUE", 1)]));
            judged(used(side(1, a), &["keeper"]), used(side(2, b), &["keeper"])).trips(KEY, Outcome::Harmless);
        }
        spares {
            let (a, b) = (colours(&[("RED", 0)]), colours(&[("BLUE", 0), ("RED", 1)]));
            judged(used(side(1, a), &["keeper"]), used(side(2, b), &["keeper"])).spares(KEY, Decision::Refuse);
        }
    }
    type_enum_renumbered = "type.enum.renumbered" {
        trips {
            let (a, b) = (colours(&[("RED", 0)]), colours(&[("BLUE", 0), ("RED", 1)]));
            judged(used(side(1, a), &["keeper"]), used(side(2, b), &["keeper"])).trips(KEY, Outcome::Refuse);
        }
        spares {
            let (a, b) = (colours(&[("RED", 0)]), colours(&[("RED", 0), ("BLUE", 1)]));
            judged(used(side(1, a), &["keeper"]), used(side(2, b), &["keeper"])).spares(KEY, Decision::Patch);
        }
    }
    type_added = "type.added" {
        trips { pair(&side(1, before()), &side(2, before())).image("image.type.added").trips(KEY, Outcome::Harmless); }
        spares { pair(&side(1, before()), &side(2, before())).spares(KEY, Decision::Patch); }
    }
    type_removed = "type.removed" {
        trips { pair(&side(1, before()), &side(2, before())).image("image.type.removed").trips(KEY, Outcome::Harmless); }
        spares { pair(&side(1, before()), &side(2, before())).spares(KEY, Decision::Patch); }
    }
    type_vtable_changed = "type.vtable.changed" {
        trips {
            let table = |slots: &[&str]| {
                let mut s = side(1, before());
                let bytes = vec![0; 8 * slots.len()];
                let t = s.special("vtable", &bytes, ObjectKind::VTable, false);
                for (i, slot) in slots.iter().enumerate() {
                    t.points(8 * i as u32, slot);
                }
                s.f("f").takes("vtable");
                s
            };
            pair(&table(&["f", "keeper"]), &table(&["keeper", "f"])).trips(KEY, Outcome::Refuse);
            pair(&table(&["f"]), &table(&["f", "keeper"])).trips(KEY, Outcome::Refuse);
        }
        spares {
            // A slot that leads to a changed function is the same slot.
            let table = |body| {
                let mut s = side(body, before());
                s.special("vtable", &[0; 8], ObjectKind::VTable, false).points(0, "f");
                s.f("keeper").takes("vtable");
                s
            };
            pair(&table(1), &table(2)).spares(KEY, Decision::Patch);
        }
    }
    data_type_changed = "data.type.changed" {
        trips {
            let typed = |t: &str| { let mut s = side(2, before()); s.variable("v", &[0; 4]).with(|o| o.type_name = Some(t.into())); s };
            pair(&typed("int"), &typed("float")).trips(KEY, Outcome::Refuse);
        }
        spares {
            let typed = |body, t: &str| { let mut s = side(body, before()); s.variable("v", &[0; 4]).with(|o| o.type_name = Some(t.into())); s };
            pair(&typed(1, "int"), &typed(2, "const int")).spares(KEY, Decision::Patch);
        }
    }
    data_type_renamed = "data.type.renamed" {
        trips {
            let typed = |body, t: &str| { let mut s = side(body, before()); s.variable("v", &[0; 4]).with(|o| o.type_name = Some(t.into())); s };
            pair(&typed(1, "int"), &typed(2, "volatile int")).trips(KEY, Outcome::Harmless);
        }
        spares {
            let typed = |body, t: &str| { let mut s = side(body, before()); s.variable("v", &[0; 4]).with(|o| o.type_name = Some(t.into())); s };
            pair(&typed(1, "int"), &typed(2, "int")).spares(KEY, Decision::Patch);
        }
    }
}
