//! Rules about addresses that the patch holds.

use crate::cases;
use crate::common::{How, Side, pair};
use hotgraft_diff::comparison::Rung;
use hotgraft_packager::Destination;
use hotgraft_packager::verdict::{Decision, Outcome};
use hotgraft_program::*;

/// `f` (body as given) takes the end of `first`, which is the start of `second`.
fn ends(body: u8) -> Side {
    let mut s = Side::new();
    s.function("f", body).takes("first").takes_at("first", 8);
    s.variable("first", &[0; 8]);
    s.variable("second", &[0; 8]).packed();
    s
}

cases! {
    code_reference_ambiguous = "code.reference.ambiguous" {
        trips {
            // The new image has something else between the two, so that the readings lead to different places.
            let mut new = ends(2);
            new.o("second").packed = false;
            new.objects.insert(1, { let mut s = Side::new(); s.variable("between", &[0; 8]).packed(); s.objects.remove(0) });
            pair(&ends(1), &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            // Both variables are the base's, at the same distance.
            pair(&ends(1), &ends(2)).spares(KEY, Decision::Patch);
        }
    }
    code_reference_unknown = "code.reference.unknown" {
        trips {
            let mut new = ends(2);
            new.f("f").takes_at("second", 0x2000);
            pair(&ends(1), &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            // One past the end of the last variable, which the function uses.
            let mut new = ends(2);
            new.f("f").takes("second").takes_at("second", 8);
            pair(&ends(1), &new).spares(KEY, Decision::Patch);
        }
    }
    code_reference_interior = "code.reference.interior" {
        trips {
            let mut new = ends(2);
            new.f("f").uses(How::Jump, "main", 2);
            pair(&ends(1), &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            let mut new = ends(2);
            new.f("f").uses(How::Jump, "main", 0).uses(How::Jump, "f", 2);
            pair(&ends(1), &new).spares(KEY, Decision::Patch);
        }
    }
    code_reference_image_relative = "code.reference.image_relative" {
        trips {
            let mut new = ends(2);
            new.f("f").takes("__ImageBase").uses(How::ImageRelative, "first", 0);
            pair(&ends(1), &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            // A constant can come along, and then both are relative to the patch.
            let (mut old, mut new) = (ends(1), ends(2));
            for s in [&mut old, &mut new] {
                s.constant("table", &[1; 8]);
                s.f("f").takes("__ImageBase").uses(How::ImageRelative, "table", 0);
            }
            let p = pair(&old, &new);
            p.spares(KEY, Decision::Patch);
            assert_eq!(p.copied(), ["table"]);
            let plan = p.plan();
            assert!(plan.references.iter().any(|r| r.destination == Destination::PatchImageBase));
        }
    }
}

#[test]
fn an_end_is_a_start_if_the_code_never_speaks_of_the_former() {
    let side = |body| {
        let mut s = Side::new();
        s.function("f", body).takes("second");
        s.variable("first", &[0; 8]);
        s.variable("second", &[0; 8]).packed();
        s
    };
    let mut new = side(2);
    new.o("second").packed = false;
    new.objects.insert(1, {
        let mut s = Side::new();
        s.variable("between", &[0; 8]).packed();
        s.objects.remove(0)
    });
    pair(&side(1), &new).spares("code.reference.ambiguous", Decision::Patch);
}

#[test]
fn reading_an_address_means_what_starts_there() {
    let mut old = ends(1);
    old.f("f").uses.clear();
    old.f("f").takes("first").reads("second");
    let mut new = ends(2);
    new.f("f").uses.clear();
    new.f("f").takes("first").reads("between");
    new.o("second").packed = false;
    new.objects.insert(1, {
        let mut s = Side::new();
        s.variable("between", &[0; 8]).packed();
        s.objects.remove(0)
    });
    let p = pair(&old, &new);
    p.spares("code.reference.ambiguous", Decision::Patch);
    assert_eq!(p.copied(), ["between"]);
}

#[test]
fn adjacent_literals_are_copied_together() {
    let mut old = Side::new();
    old.function("f", 1).takes("one");
    old.string("one", "1234567");
    let mut new = Side::new();
    new.function("f", 2).takes("one").takes("two");
    new.string("one", "1234567");
    new.string("two", "89").packed();
    let p = pair(&old, &new);
    assert_eq!(p.verdict().decision, Decision::Patch);
    let plan = p.plan();
    assert_eq!(plan.groups, [vec![ObjectId(0), ObjectId(1)]]);
    assert_eq!(plan.objects.len(), 2);
}

#[test]
fn a_variable_is_not_taken_on_weak_evidence() {
    let p = pair(&ends(1), &ends(2)).match_object("first", Rung::Content, 1.0);
    p.trips("code.match.ambiguous", Outcome::Refuse);
    let p = pair(&ends(1), &ends(2)).match_object("first", Rung::Referrer, 0.95);
    assert_eq!(p.verdict().decision, Decision::Patch);
}

#[test]
fn every_reference_of_the_patch_has_a_destination() {
    let (mut old, mut new) = (ends(1), ends(2));
    for s in [&mut old, &mut new] {
        s.import("a.dll", "ImportedThing");
        s.f("f").reads("ImportedThing").calls("main");
        s.f("f").unwind.push((HandlerData::ScopeTable, vec!["main".into(), "f".into()]));
    }
    let p = pair(&old, &new);
    let plan = p.plan();
    let f = &p.new.functions[1];
    let code = p.new.references_in(f.ranges[0].rva, f.ranges[0].end()).len();
    assert_eq!(plan.references.len(), code + 2);
    let import = plan
        .references
        .iter()
        .find(|r| matches!(r.destination, Destination::Base(Target { entity: Entity::Import(_), .. })));
    assert!(import.is_some());
    // The handler is the base's, the place in the function the patch's.
    let unwind: Vec<_> = p.new.unwind[0].references.iter().map(|r| plan.destination(r.site).unwrap()).collect();
    assert!(matches!(unwind[..], [Destination::Base(_), Destination::Patch(_)]), "{unwind:?}");
}
