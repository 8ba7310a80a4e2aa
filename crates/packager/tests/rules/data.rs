//! Rules about data.

use crate::cases;
use crate::common::{Side, pair};
use hotgraft_packager::verdict::{Decision, Outcome};
use hotgraft_program::*;

/// `f` (body as given) reads the constant `limits`, as `reader` does.
fn limits(body: u8, value: u8) -> Side {
    let mut s = Side::new();
    s.function("f", body).reads("limits");
    s.function("reader", 1).reads("limits");
    s.constant("limits", &[value; 8]);
    s
}

/// `f` reads the variable `state`.
fn state(body: u8, value: &[u8]) -> Side {
    let mut s = Side::new();
    s.function("f", body).reads("state");
    s.variable("state", value);
    s
}

/// Makes each `lea rax` of the third function a `lea rcx`: the first argument.
fn to_argument(p: &mut Program) {
    let range = p.functions[2].ranges[0];
    for at in range.rva as usize..range.end() as usize - 3 {
        if p.image.mapped[at..at + 3] == [0x48, 0x8D, 0x05] {
            p.image.mapped[at + 2] = 0x0D;
        }
    }
}

/// `f` reaches the variable `state` through `__ref_state`, which leads to `to`.
fn through_slot(body: u8, to: Option<&str>) -> Side {
    let mut s = state(body, &[1; 8]);
    s.variable("other", &[2; 8]);
    if let Some(to) = to {
        s.f("f").reads("__ref_state");
        s.constant("__ref_state", &[0; 8]).points(0, to);
    }
    s
}

cases! {
    data_slot_added = "data.slot.added" {
        trips {
            let p = pair(&through_slot(1, None), &through_slot(2, Some("state")));
            p.trips(KEY, Outcome::Patch);
            assert_eq!(p.verdict().decision, Decision::Patch);
            pair(&through_slot(1, None), &through_slot(2, Some("other"))).trips(KEY, Outcome::Refuse);
        }
        spares {
            let mut new = state(2, &[1; 8]);
            new.f("f").reads("table");
            new.constant("table", &[0; 8]);
            pair(&state(1, &[1; 8]), &new).spares(KEY, Decision::Patch);
        }
    }
    data_constant_changed = "data.constant.changed" {
        trips {
            let p = pair(&limits(1, 1), &limits(1, 2));
            p.trips(KEY, Outcome::Patch);
            assert_eq!(p.planned(), ["f", "reader"], "whoever reads it must read the new one");
            assert_eq!(p.copied(), ["limits"]);
        }
        spares {
            let p = pair(&limits(1, 1), &limits(2, 1));
            p.spares(KEY, Decision::Patch);
            assert!(p.copied().is_empty(), "an equal constant is shared with the base");
        }
    }
    data_constant_added = "data.constant.added" {
        trips {
            let mut new = limits(2, 1);
            new.constant("more", &[3; 4]);
            new.f("f").reads("more");
            let p = pair(&limits(1, 1), &new);
            p.trips(KEY, Outcome::Patch);
            assert_eq!(p.copied(), ["more"]);
        }
        spares {
            let mut new = limits(2, 1);
            new.constant("more", &[3; 4]);
            pair(&limits(1, 1), &new).spares(KEY, Decision::Patch);
        }
    }
    data_object_added_unreachable = "data.object.added_unreachable" {
        trips {
            let mut new = limits(2, 1);
            new.constant("more", &[3; 4]);
            pair(&limits(1, 1), &new).trips(KEY, Outcome::Harmless);
        }
        spares {
            let mut new = limits(2, 1);
            new.constant("more", &[3; 4]);
            new.f("f").reads("more");
            pair(&limits(1, 1), &new).spares(KEY, Decision::Patch);
        }
    }
    data_object_removed = "data.object.removed" {
        trips {
            let mut old = limits(1, 1);
            old.variable("gone", &[3; 4]);
            old.f("f").reads("gone");
            pair(&old, &limits(2, 1)).trips(KEY, Outcome::Harmless);
        }
        spares {
            pair(&limits(1, 1), &limits(2, 1)).spares(KEY, Decision::Patch);
        }
    }
    data_string_changed = "data.string.changed" {
        trips {
            let side = |text: &str| {
                let mut s = Side::new();
                s.function("f", 1).takes("text");
                s.string("text", text);
                s
            };
            let p = pair(&side("one"), &side("two"));
            p.trips(KEY, Outcome::Patch);
            assert_eq!((p.planned(), p.copied().len()), (vec!["f".to_owned()], 1));
        }
        spares {
            let side = |body| {
                let mut s = Side::new();
                s.function("f", body).takes("text");
                s.string("text", "one");
                s
            };
            pair(&side(1), &side(2)).spares(KEY, Decision::Patch);
        }
    }
    data_global_added = "data.global.added" {
        trips {
            let mut new = state(2, &[0; 8]);
            new.variable("count", &[0; 4]);
            new.f("f").reads("count");
            let p = pair(&state(1, &[0; 8]), &new);
            p.trips(KEY, Outcome::Patch);
            assert_eq!(p.copied(), ["count"], "the variable of the base is the base's");
        }
        spares {
            let mut new = state(2, &[0; 8]);
            new.variable("count", &[0; 4]);
            pair(&state(1, &[0; 8]), &new).spares(KEY, Decision::Patch);
        }
    }
    data_constant_escapes = "data.constant.escapes" {
        trips {
            let side = |value| {
                let mut s = limits(1, value);
                s.variable("current", &[0; 8]).points(0, "limits");
                s
            };
            pair(&side(1), &side(2)).trips(KEY, Outcome::Refuse);
            // Old code hands the address to a callee, which may keep it.
            let passed = |value| {
                let mut s = limits(1, value);
                s.f("reader").takes("limits").calls("main");
                s.edit.push(to_argument);
                s
            };
            pair(&passed(1), &passed(2)).trips(KEY, Outcome::Refuse);
        }
        spares {
            // The address is computed, and gone before anybody else could see it.
            let computed = |value| {
                let mut s = limits(1, value);
                s.f("reader").takes("limits").reads("limits").calls("main");
                s.edit.push(to_argument);
                s
            };
            pair(&computed(1), &computed(2)).trips(KEY, Outcome::Refuse);
            let used = |value| {
                let mut s = limits(1, value);
                s.f("reader").takes("limits").reads("limits");
                s
            };
            pair(&used(1), &used(2)).spares(KEY, Decision::Patch);
            // A constant that holds the address is copied too, with its readers.
            let side = |value| {
                let mut s = limits(1, value);
                s.constant("all", &[0; 8]).points(0, "limits");
                s.function("other", 1).reads("all");
                s
            };
            let p = pair(&side(1), &side(2));
            p.spares(KEY, Decision::Patch);
            assert_eq!(p.planned(), ["f", "reader", "other"]);
            assert_eq!(p.copied(), ["limits", "all"]);
        }
    }
    data_exported_changed = "data.exported.changed" {
        trips {
            let side = |value| {
                let mut s = limits(1, value);
                s.o("limits").with(|o| o.evidence |= Evidence::EXPORT);
                s
            };
            pair(&side(1), &side(2)).trips(KEY, Outcome::Refuse);
        }
        spares { pair(&limits(1, 1), &limits(1, 2)).spares(KEY, Decision::Patch); }
    }
    data_initialiser_changed = "data.initialiser.changed" {
        trips {
            let f = pair(&state(1, &[1; 4]), &state(2, &[2; 4])).trips(KEY, Outcome::Refuse);
            assert!(f.subject.contains("state"), "{}", f.subject);
        }
        spares { pair(&state(1, &[1; 4]), &state(2, &[1; 4])).spares(KEY, Decision::Patch); }
    }
    data_object_resized = "data.object.resized" {
        trips { pair(&state(1, &[1; 4]), &state(2, &[1; 8])).trips(KEY, Outcome::Refuse); }
        spares { pair(&state(1, &[1; 8]), &state(2, &[1; 8])).spares(KEY, Decision::Patch); }
    }
    data_section_changed = "data.section.changed" {
        trips {
            let mut old = Side::new();
            old.function("f", 1).reads("state");
            old.constant("state", &[1; 4]);
            pair(&old, &state(1, &[1; 4])).trips(KEY, Outcome::Refuse);
        }
        spares { pair(&state(1, &[1; 4]), &state(2, &[1; 4])).spares(KEY, Decision::Patch); }
    }
    data_pointer_table_changed = "data.pointer_table.changed" {
        trips {
            let side = |target| {
                let mut s = limits(1, 1);
                s.constant("operations", &[0; 8]).points(0, target);
                s.f("f").reads("operations");
                s
            };
            pair(&side("reader"), &side("main")).trips(KEY, Outcome::Refuse);
        }
        spares {
            let side = |target| {
                let mut s = limits(1, 1);
                s.constant("names", &[0; 8]).points(0, target);
                s.string("a", "a");
                s.string("b", "b");
                s.f("f").reads("names");
                s
            };
            pair(&side("a"), &side("b")).spares(KEY, Decision::Patch);
        }
    }
    data_reference_unknown = "data.reference.unknown" {
        trips {
            let mut new = limits(2, 1);
            new.constant("table", &[0; 8]).points.push((0, "limits".into(), 0x4000, Form::Absolute));
            new.f("f").reads("table");
            pair(&limits(1, 1), &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            let mut new = limits(2, 1);
            new.constant("table", &[0; 8]).points.push((0, "limits".into(), 4, Form::Absolute));
            new.f("f").reads("table");
            pair(&limits(1, 1), &new).spares(KEY, Decision::Patch);
        }
    }
}
