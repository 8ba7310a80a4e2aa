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

/// The type is used through pointers in `f`, which has this code and calls `helper` behind it.
fn pointed(s: Side, code: &[u8]) -> Side {
    let mut s = used(s, &["f"]);
    s.pointed = vec![UdtId(0)];
    s.function("helper", 1);
    s.f("f").calls("helper").code = code.to_vec();
    s
}

fn both(old: &[u8], new: &[u8]) -> crate::common::Pair {
    judged(pointed(side(1, before()), old), pointed(side(2, after()), new))
}

/// `mov dword ptr [rsp+n], 7` in a frame of 40 bytes.
fn in_frame(n: u8) -> Vec<u8> {
    [&[0x48, 0x83, 0xEC, 0x28][..], &[0xC7, 0x44, 0x24, n, 7, 0, 0, 0], &[0x48, 0x83, 0xC4, 0x28]].concat()
}

/// `mov dword ptr [rcx+n], 7`.
fn by_argument(n: u8) -> Vec<u8> {
    vec![0xC7, 0x41, n, 7, 0, 0, 0]
}

cases! {
    type_frames_changed = "type.frames.changed" {
        trips {
            let pair = both(&in_frame(0x14), &in_frame(0x18));
            pair.trips(KEY, Outcome::Patch);
            // The patch must not come while the function runs.
            let plan = pair.plan();
            assert_eq!(plan.functions.iter().map(|f| f.quiesce).collect::<Vec<_>>(), [true]);
            // Through a pointer into the frame, with an index: lea rax, [rsp+16]; mov dword ptr [rax+rdx*4+n], 7.
            let through = |n: u8| {
                let mut code = vec![0x48, 0x83, 0xEC, 0x28, 0x48, 0x8D, 0x44, 0x24, 0x10];
                code.extend([0xC7, 0x44, 0x90, n, 7, 0, 0, 0, 0x48, 0x83, 0xC4, 0x28]);
                code
            };
            both(&through(0), &through(4)).trips(KEY, Outcome::Patch);
            // Memory that is not in a frame is used in the same way by both.
            both(&[in_frame(0x14), by_argument(9)].concat(), &[in_frame(0x18), by_argument(9)].concat()).trips(KEY, Outcome::Patch);
            // Or where both layouts are the same: the first member of what an argument leads to.
            both(&in_frame(0x14), &[in_frame(0x18), vec![0x8B, 0x01]].concat()).trips(KEY, Outcome::Patch);
            // A parameter that only a user of the type passes, and always from its frame: lea rcx, [rsp+16].
            let passed = |body, udt, n: u8| {
                let mut s = used(side(body, udt), &["f"]);
                s.pointed = vec![UdtId(0)];
                s.function("fill", body).private().with(|f| f.udts = vec![UdtId(0)]).code = by_argument(n);
                s.f("f").calls("fill").code = vec![0x48, 0x83, 0xEC, 0x28, 0x48, 0x8D, 0x4C, 0x24, 0x10];
                s
            };
            judged(passed(1, before(), 4), passed(2, after(), 8)).trips(KEY, Outcome::Patch);
        }
        spares {
            let refused = |pair: crate::common::Pair| pair.spares(KEY, Decision::Refuse);
            refused(both(&by_argument(4), &by_argument(8)));
            // A function that names no such type and reaches an object through a cast.
            let cast = |body, udt, n: u8| {
                let mut s = used(side(body, udt), &["f"]);
                s.pointed = vec![UdtId(0)];
                s.f("f").code = in_frame(0x10 + n);
                s.function("cast", body + 1).code = by_argument(n);
                s
            };
            refused(judged(cast(1, before(), 4), cast(2, after(), 8)));
            // A new member of what lives elsewhere.
            refused(both(&in_frame(0x14), &[in_frame(0x18), by_argument(4)].concat()));
            refused(both(&in_frame(0x14), &[in_frame(0x18), vec![0x8B, 0x41, 0x04]].concat()));
            // An array elsewhere: add rcx, n; mov eax, [rcx].
            let walk = |n: u8| vec![0x48, 0x83, 0xC1, n, 0x8B, 0x01];
            refused(both(&walk(8), &walk(12)));
            // The same through memory: the stride is kept in the frame. mov eax, n; mov [rsp-8], rax; lea rdx, [rsp-8]; mov rax, [rsp-8]; mov eax, [rcx+rax].
            let kept = |n: u8| {
                vec![0xB8, n, 0, 0, 0, 0x48, 0x89, 0x44, 0x24, 0xF8, 0x48, 0x8D, 0x54, 0x24, 0xF8, 0x48, 0x8B, 0x44, 0x24, 0xF8, 0x8B, 0x04, 0x01]
            };
            refused(both(&kept(8), &kept(12)));
            // A copy of one that lives elsewhere: mov r8d, n; with rcx and rdx as they came.
            let copy = |n: u8| vec![0x41, 0xB8, n, 0, 0, 0];
            refused(both(&copy(8), &copy(12)));
            // What the frame holds is not the frame: mov rax, [rsp+16]; mov dword ptr [rax+n], 7.
            let held = |n: u8| vec![0x48, 0x8B, 0x44, 0x24, 0x10, 0xC7, 0x40, n, 7, 0, 0, 0];
            refused(both(&held(4), &held(8)));
            // The distance between an address and the frame leads elsewhere: lea rax, [rsp]; sub rcx, rax; add rax, rcx.
            let away = |n: u8| vec![0x48, 0x8D, 0x04, 0x24, 0x48, 0x29, 0xC1, 0x48, 0x01, 0xC8, 0xC7, 0x40, n, 7, 0, 0, 0];
            refused(both(&away(4), &away(8)));
            // Another layout of the same size cannot be told from the old one in a copy.
            let swapped = udt(UdtKind::Struct, 8, &[member("state", 0, "int"), member("id", 4, "int")]);
            refused(judged(pointed(side(1, before()), &in_frame(0x14)), pointed(side(2, swapped), &in_frame(0x18))));
            // Somebody else passes the parameter as well.
            let passed = |body, udt, n: u8| {
                let mut s = used(side(body, udt), &["f"]);
                s.pointed = vec![UdtId(0)];
                s.function("fill", body).private().with(|f| f.udts = vec![UdtId(0)]).code = by_argument(n);
                s.f("f").calls("fill").code = vec![0x48, 0x83, 0xEC, 0x28, 0x48, 0x8D, 0x4C, 0x24, 0x10];
                s.f("keeper").calls("fill");
                s
            };
            refused(judged(passed(1, before(), 4), passed(2, after(), 8)));
            // A function that only the new version has would run on when the patch is taken back.
            let mut new = pointed(side(2, after()), &in_frame(0x18));
            new.function("added", 1).f.udts = vec![UdtId(0)];
            new.f("f").calls("added");
            refused(judged(pointed(side(1, before()), &in_frame(0x14)), new));
        }
    }
    type_layout_changed = "type.layout.changed" {
        trips {
            judged(used(side(1, before()), &["f", "keeper"]), used(side(2, after()), &["f", "keeper"])).trips(KEY, Outcome::Refuse);
            // Behind a pointer may be an object that was made before.
            both(&by_argument(4), &by_argument(8)).trips(KEY, Outcome::Refuse);
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
