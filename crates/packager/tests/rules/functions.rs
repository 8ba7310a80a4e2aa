//! Rules about functions.

use crate::cases;
use crate::common::{How, Side, pair};
use hotgraft_diff::comparison::Rung;
use hotgraft_packager::verdict::{Decision, Outcome};
use hotgraft_packager::{Destination, Plan};
use hotgraft_program::*;

/// `caller` calls `f`; `f` has this body.
fn simple(body: u8) -> Side {
    let mut s = Side::new();
    s.function("caller", 1).calls("f");
    s.function("f", body);
    s
}

fn destination(plan: &Plan, new: &Program, function: &str, nth: usize) -> Destination {
    let f = new.functions.iter().find(|f| f.name.as_deref() == Some(function)).unwrap();
    let r = new.references_in(f.ranges[0].rva, f.ranges[0].end())[nth];
    plan.destination(r.site).unwrap()
}

cases! {
    code_hotpatch_unmarked = "code.hotpatch.unmarked" {
        trips {
            let mut new = Side::new();
            new.function("f", 2).f.hotpatched = true;
            new.function("g", 2);
            let mut old = Side::new();
            old.function("f", 1);
            old.function("g", 1);
            let f = pair(&old, &new).trips(KEY, Outcome::Refuse);
            assert!(f.subject.starts_with("g "), "{}", f.subject);
        }
        spares {
            let mut old = Side::new();
            old.function("f", 1);
            let mut new = Side::new();
            new.function("f", 2).f.hotpatched = true;
            new.f("f").calls("helper");
            new.function("helper", 1);
            pair(&old, &new).spares(KEY, Decision::Patch);
            // Nothing is marked, so nothing has to be.
            new.f("f").f.hotpatched = false;
            pair(&old, &new).spares(KEY, Decision::Patch);
        }
    }
    code_function_changed = "code.function.changed" {
        trips {
            let p = pair(&simple(1), &simple(2));
            p.trips(KEY, Outcome::Patch);
            // The caller keeps its call to the old entry, and the redirect does the rest.
            assert_eq!(p.planned(), ["f"]);
            let plan = p.plan();
            assert_eq!(plan.functions[0].method, Some(hotgraft_hotpatch::EntryMethod::PaddedShortJump));
        }
        spares {
            let moved = Side { shift: 0x40, ..simple(1) };
            pair(&simple(1), &moved).spares(KEY, Decision::Nothing);
        }
    }
    code_function_added = "code.function.added" {
        trips {
            let mut new = simple(2);
            new.f("f").calls("helper");
            new.function("helper", 9).calls("inner");
            new.function("inner", 9).calls("main");
            let p = pair(&simple(1), &new);
            p.trips(KEY, Outcome::Patch);
            assert_eq!(p.planned(), ["f", "helper", "inner"]);
            let plan = p.plan();
            assert!(matches!(destination(&plan, &p.new, "f", 0), Destination::Patch(Target { entity: Entity::Function(_), addend: 0 })));
            assert!(matches!(destination(&plan, &p.new, "inner", 0), Destination::Base(Target { entity: Entity::Function(_), addend: 0 })));
        }
        spares {
            let mut new = simple(2);
            new.function("helper", 9);
            pair(&simple(1), &new).spares(KEY, Decision::Patch);
        }
    }
    code_funclet_unused = "code.funclet.unused" {
        trips {
            let side = |body| { let mut s = simple(body); s.function("`f'::`1'::dtor$0", body); s };
            let p = pair(&side(1), &side(2));
            p.trips(KEY, Outcome::Harmless);
            assert_eq!(p.planned(), ["f"]);
        }
        spares {
            let side = |body| { let mut s = simple(body); s.function("`f'::`1'::dtor", body); s };
            let p = pair(&side(1), &side(2));
            p.spares(KEY, Decision::Patch);
            assert_eq!(p.planned(), ["f", "`f'::`1'::dtor"]);
        }
    }
    code_function_added_unreachable = "code.function.added_unreachable" {
        trips {
            let mut new = simple(2);
            new.function("helper", 9);
            let p = pair(&simple(1), &new);
            p.trips(KEY, Outcome::Harmless);
            assert_eq!(p.planned(), ["f"]);
        }
        spares {
            let mut new = simple(2);
            new.f("f").calls("helper");
            new.function("helper", 9);
            pair(&simple(1), &new).spares(KEY, Decision::Patch);
        }
    }
    code_function_removed = "code.function.removed" {
        trips {
            let mut old = simple(1);
            old.function("gone", 1);
            old.f("f").calls("gone");
            let p = pair(&old, &simple(2));
            p.trips(KEY, Outcome::Harmless);
            assert_eq!(p.planned(), ["f"]);
        }
        spares {
            pair(&simple(1), &simple(2)).spares(KEY, Decision::Patch);
        }
    }
    code_function_included = "code.function.included" {
        trips {
            let mut old = simple(1);
            old.f("f").private().with(|f| f.entry_kind = EntryKind::None);
            let mut new = simple(2);
            new.f("f").private();
            let p = pair(&old, &new);
            p.trips(KEY, Outcome::Patch);
            assert_eq!(p.planned(), ["caller", "f"]);
            let plan = p.plan();
            assert!(matches!(destination(&plan, &p.new, "caller", 0), Destination::Patch(_)));
            assert_eq!(plan.functions[1].method, None);
        }
        spares {
            pair(&simple(1), &simple(2)).spares(KEY, Decision::Patch);
        }
    }
    code_match_ambiguous = "code.match.ambiguous" {
        trips {
            let (mut old, mut new) = (simple(1), simple(2));
            for s in [&mut old, &mut new] {
                s.variable("callback", &[0; 8]).points(0, "f");
            }
            pair(&old, &new).match_function("f", Rung::Similarity, 0.7).trips(KEY, Outcome::Refuse);
        }
        spares {
            pair(&simple(1), &simple(2)).match_function("f", Rung::Referrer, 0.95).spares(KEY, Decision::Patch);
        }
    }
    code_undecodable = "code.undecodable" {
        trips {
            let mut new = simple(2);
            new.f("f").with(|f| f.problems.push(Problem { rva: 1, key: "code.undecodable", text: "Bytes.".into() }));
            pair(&simple(1), &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            // Code that the patch leaves alone may be as strange as it likes.
            let problem = |f: &mut Function| f.problems.push(Problem { rva: 1, key: "code.undecodable", text: "Bytes.".into() });
            let (mut old, mut new) = (simple(1), simple(2));
            old.f("caller").with(problem);
            new.f("caller").with(problem);
            pair(&old, &new).spares(KEY, Decision::Patch);
        }
    }
    code_jump_table_changed = "code.jump_table.changed" {
        trips {
            let side = |body, entry| {
                let mut s = simple(body);
                s.constant("t", &[0; 4]).owner = Some("f".into());
                s.o("t").points.push((0, "f".into(), entry, Form::Relative));
                s.f("f").takes("t").reads("t");
                s
            };
            let p = pair(&side(1, 2), &side(1, 9));
            p.trips(KEY, Outcome::Patch);
            assert_eq!(p.planned(), ["f"]);
            assert_eq!(p.plan().objects.len(), 1);
        }
        spares {
            let side = |body| {
                let mut s = simple(body);
                s.constant("t", &[0; 4]).owner = Some("f".into());
                s.o("t").points.push((0, "f".into(), 2, Form::Relative));
                s.f("f").takes("t");
                s
            };
            let p = pair(&side(1), &side(2));
            p.spares(KEY, Decision::Patch);
            assert_eq!(p.plan().objects.len(), 1, "an equal table comes along too, its entries lead into the copy");
        }
    }
    code_jump_table_unbounded = "code.jump_table.unbounded" {
        trips {
            let side = |body| {
                let mut s = simple(body);
                s.constant("t", &[0; 4]).owner = Some("f".into());
                s.f("f").takes("t");
                s.edit.push(|p| for f in &mut p.functions { for t in &mut f.jump_tables { t.bound_proven = false; } });
                s
            };
            pair(&side(1), &side(2)).trips(KEY, Outcome::Refuse);
        }
        spares {
            let side = |body| {
                let mut s = simple(body);
                s.constant("t", &[0; 4]).owner = Some("f".into());
                s.f("f").takes("t");
                s
            };
            pair(&side(1), &side(2)).spares(KEY, Decision::Patch);
        }
    }
    code_unwind_changed = "code.unwind.changed" {
        trips {
            let mut new = simple(2);
            new.special("$unwind$f", &[1; 8], ObjectKind::Unwind, false);
            new.f("f").unwind.push((HandlerData::None, vec![]));
            new.edit.push(|p| { let rva = p.objects[0].rva; p.unwind[0].info = rva; });
            pair(&simple(1), &new).trips(KEY, Outcome::Patch);
        }
        spares {
            let mut new = simple(2);
            new.special("$unwind$main", &[1; 8], ObjectKind::Unwind, false);
            pair(&simple(1), &new).spares(KEY, Decision::Patch);
        }
    }
    code_throw_added = "code.throw.added" {
        trips {
            let mut new = simple(2);
            new.f("f").takes("_TI1H");
            new.constant("_TI1H", &[0; 16]).with(|o| o.decorated = Some("_TI1H".into()));
            pair(&simple(1), &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            // What the base throws already is described there.
            let side = |body| {
                let mut s = simple(body);
                s.f("f").takes("_TI1H");
                s.constant("_TI1H", &[0; 16]).with(|o| o.decorated = Some("_TI1H".into()));
                s
            };
            pair(&side(1), &side(2)).spares(KEY, Decision::Patch);
        }
    }
    code_unwind_unknown = "code.unwind.unknown" {
        trips {
            let mut new = simple(2);
            new.f("f").unwind.push((HandlerData::Unknown, vec![]));
            pair(&simple(1), &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            let (mut old, mut new) = (simple(1), simple(2));
            for s in [&mut old, &mut new] {
                s.f("f").unwind.push((HandlerData::ScopeTable, vec!["caller".into()]));
                s.f("main").unwind.push((HandlerData::Unknown, vec![]));
            }
            pair(&old, &new).spares(KEY, Decision::Patch);
        }
    }
    code_assembly = "code.assembly" {
        trips {
            let edit = |p: &mut Program| {
                let masm = Module { name: "b.obj".into(), compiler: None, language: Some("masm".into()), lto: false };
                p.modules.push(masm);
                p.functions[2].module = Some(ModuleId(1));
            };
            let (mut old, mut new) = (simple(1), simple(2));
            old.edit.push(edit);
            new.edit.push(edit);
            pair(&old, &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            let edit = |p: &mut Program| {
                let masm = Module { name: "b.obj".into(), compiler: None, language: Some("masm".into()), lto: false };
                p.modules.push(masm);
                p.functions[1].module = Some(ModuleId(1));
            };
            let (mut old, mut new) = (simple(1), simple(2));
            old.edit.push(edit);
            new.edit.push(edit);
            pair(&old, &new).spares(KEY, Decision::Patch);
        }
    }
    code_contract_changed = "code.contract.changed" {
        trips {
            // The old version takes nothing; the new one moves its first argument.
            let (mut old, mut new) = (simple(1), simple(2));
            for s in [&mut old, &mut new] {
                s.f("f").private();
            }
            new.edit.push(|p| { let at = p.functions[2].rva() as usize; p.image.mapped[at..at + 2].copy_from_slice(&[0x89, 0xC8]); });
            // A caller that did not change would prove that both take the same.
            pair(&old, &new).spares(KEY, Decision::Patch);
            new.f("caller").body = 2;
            let p = pair(&old, &new);
            p.trips(KEY, Outcome::Patch);
            assert_eq!(p.planned(), ["caller", "f"]);
            assert_eq!(p.plan().functions[1].method, None, "old callers keep the old version");
        }
        spares {
            // Both versions take the argument.
            let edit = |p: &mut Program| { let at = p.functions[2].rva() as usize; p.image.mapped[at..at + 2].copy_from_slice(&[0x89, 0xC8]); };
            let (mut old, mut new) = (simple(1), simple(2));
            for s in [&mut old, &mut new] {
                s.f("f").private();
                s.edit.push(edit);
            }
            let p = pair(&old, &new);
            p.spares(KEY, Decision::Patch);
            assert_eq!(p.planned(), ["f"]);
            // Who can be called from anywhere keeps to the platform's convention.
            let mut open = simple(2);
            open.edit.push(edit);
            pair(&simple(1), &open).spares(KEY, Decision::Patch);
        }
    }
    code_fold_diverged = "code.fold.diverged" {
        trips {
            let mut old = simple(1);
            old.f("f").with(|f| f.aliases.push("g".into()));
            let mut new = simple(2);
            new.function("g", 1);
            pair(&old, &new).trips(KEY, Outcome::Refuse);
            // The name that got the fix is known by its export alone, and nothing else differs.
            let mut new = simple(1);
            new.function("g", 2).with(|f| f.evidence |= Evidence::EXPORT);
            pair(&old, &new).trips(KEY, Outcome::Refuse);
            // The other way: two become one by the fix, and one of them was exported.
            let mut old = simple(1);
            old.function("g", 1).with(|f| f.evidence |= Evidence::EXPORT);
            let mut new = simple(2);
            new.f("f").with(|f| f.aliases.push("g".into()));
            pair(&old, &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            let (mut old, mut new) = (simple(1), simple(2));
            old.f("f").with(|f| f.aliases.push("g".into()));
            new.f("f").with(|f| f.aliases.push("g".into()));
            pair(&old, &new).spares(KEY, Decision::Patch);
            // The linker folds no more, and the code is equal.
            let mut new = simple(1);
            new.function("g", 1).with(|f| f.evidence |= Evidence::EXPORT);
            pair(&old, &new).spares(KEY, Decision::Nothing);
        }
    }
    code_signature_changed = "code.signature.changed" {
        trips {
            let (mut old, mut new) = (simple(1), simple(2));
            new.f("f").private().with(|f| f.prototype = Some("void (int)".into()));
            for s in [&mut old, &mut new] {
                s.variable("callback", &[0; 8]).points(0, "f");
            }
            pair(&old, &new).trips(KEY, Outcome::Refuse);
        }
        spares {
            let (mut old, mut new) = (simple(1), simple(2));
            for s in [&mut old, &mut new] {
                s.variable("callback", &[0; 8]).points(0, "f");
            }
            new.f("f").with(|f| f.prototype = Some("void  (void)".into()));
            pair(&old, &new).spares(KEY, Decision::Patch);
        }
    }
    code_unattributed = "code.unattributed" {
        trips {
            let mut p = pair(&simple(1), &simple(2));
            let changed = p.cmp.functions.iter_mut().find(|f| !f.changes.is_empty()).unwrap();
            changed.changes[0].key = "weather.changed";
            p.trips(KEY, Outcome::Refuse);
            pair(&simple(1), &simple(1)).image("weather.changed").trips(KEY, Outcome::Refuse);
        }
        spares {
            pair(&simple(1), &simple(2)).image("image.timestamp").spares(KEY, Decision::Patch);
        }
    }
}

#[test]
fn a_function_without_a_certain_counterpart_is_a_new_one() {
    let p = pair(&simple(1), &simple(2)).match_function("f", Rung::Similarity, 0.7);
    p.spares("code.match.ambiguous", Decision::Patch);
    assert_eq!(p.planned(), ["caller", "f"]);
    let plan = p.plan();
    assert!(plan.functions[0].old.is_some() && plan.functions[1].old.is_none());
    assert!(matches!(destination(&plan, &p.new, "caller", 0), Destination::Patch(_)));
}

#[test]
fn a_private_signature_change_is_kept_inside_of_the_patch() {
    let (mut old, mut new) = (simple(1), simple(2));
    old.f("f").private();
    new.f("f").private().with(|f| f.prototype = Some("void (int)".into()));
    let p = pair(&old, &new);
    p.trips("code.signature.changed", Outcome::Patch);
    assert_eq!(p.planned(), ["caller", "f"]);
    let plan = p.plan();
    assert!(plan.functions.iter().any(|f| f.method.is_none() && f.old.is_some()));
}

#[test]
fn a_taken_address_means_the_base_entry_and_a_call_the_copy() {
    let side = |body| {
        let mut s = Side::new();
        s.function("f", body).calls("g").takes("g").calls("f").uses(How::Jump, "g", 0);
        s.function("g", body);
        s
    };
    let p = pair(&side(1), &side(2));
    let plan = p.plan();
    assert!(matches!(destination(&plan, &p.new, "f", 0), Destination::Patch(_)));
    assert!(matches!(destination(&plan, &p.new, "f", 1), Destination::Base(_)));
    assert!(matches!(destination(&plan, &p.new, "f", 2), Destination::Patch(_)));
    assert!(matches!(destination(&plan, &p.new, "f", 3), Destination::Patch(_)));
}

#[test]
fn nothing_is_nothing() {
    let p = pair(&simple(1), &simple(1));
    assert_eq!(p.verdict().decision, Decision::Nothing);
}

#[test]
fn equal_inputs_give_equal_plans() {
    let p = pair(&simple(1), &simple(2));
    let json = |p: &Plan| serde_json::to_string(p).unwrap();
    assert_eq!(json(&p.plan()), json(&p.plan()));
}

/// `filt` runs on the frame of `f`, which `main` calls.
fn with_funclet(f: u8, filt: u8) -> Side {
    let mut s = Side::new();
    s.function("f", f).unwind.push((HandlerData::ScopeTable, vec!["filt".into()]));
    s.function("filt", filt);
    s.f("main").calls("f");
    s.edit.push(|p| {
        let at = |name: &str| p.functions.iter().position(|f| f.name.as_deref() == Some(name)).unwrap();
        let (owner, part) = (FunctionId::from(at("f")), at("filt"));
        p.functions[part].funclet_of.push(owner);
    });
    s
}

#[test]
fn a_part_that_runs_on_the_frame_of_a_function_moves_with_it_and_keeps_its_old_entry() {
    let places = |p: &crate::common::Pair| -> Vec<(String, bool, bool)> {
        let name = |id: FunctionId| p.new.functions[id.index()].name.clone().unwrap();
        p.plan().functions.iter().map(|f| (name(f.new), f.old.is_some(), f.method.is_some())).collect()
    };
    let (f, filt) = ("f".to_owned(), "filt".to_owned());
    // The function changed: its part comes along and replaces nothing.
    let p = pair(&with_funclet(1, 1), &with_funclet(2, 1));
    assert_eq!(places(&p), [(f.clone(), true, true), (filt.clone(), false, false)]);
    // The part changed: old frames keep the old one, and the function is replaced for the sake of the new one.
    let p = pair(&with_funclet(1, 1), &with_funclet(1, 2));
    assert_eq!(places(&p), [(f.clone(), true, true), (filt, true, false)]);
    p.trips("code.function.included", Outcome::Patch);
    // Beside it: a handler that is called in the ordinary way is redirected like any function.
    let ordinary = |body| {
        let mut s = with_funclet(1, body);
        s.edit.clear();
        s
    };
    let p = pair(&ordinary(1), &ordinary(2));
    assert_eq!(places(&p), [("filt".to_owned(), true, true)]);
}

#[test]
fn a_part_of_a_function_that_others_call_as_well_is_refused() {
    let called = |body| {
        let mut s = with_funclet(1, body);
        s.f("main").calls("filt");
        s
    };
    pair(&called(1), &called(2)).trips("code.fold.diverged", Outcome::Refuse);
    let named = |body| {
        let mut s = Side::new();
        s.function("f", 1).calls("?filt$0@0@f@@");
        s.function("?filt$0@0@f@@", body);
        s
    };
    pair(&named(1), &named(2)).trips("code.unwind.unknown", Outcome::Refuse);
}
