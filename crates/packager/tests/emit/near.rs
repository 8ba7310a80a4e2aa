//! The near way, on programs made by hand.

use crate::common::{How, Side, pair};
use crate::parsed::*;
use hotgraft_hotpatch::{ChunkKind, GuardedKind, Structure};
use hotgraft_packager::{Error, Reach, emit};
use hotgraft_program::{Form, ObjectKind};

/// `changed` uses something of every kind; the new image is shifted so that nothing lies where it was.
pub fn sides() -> (Side, Side) {
    let mut old = Side::new();
    old.import("kernel32.dll", "Sleep");
    old.function("other", 3);
    old.variable("counter", &[1; 8]);
    old.constant("table", &[5; 24]);
    old.function("changed", 2).calls("other").calls("changed").reads("counter").reads("Sleep").takes("other");
    let mut new = old.clone();
    new.shift = 0x40;
    new.import("kernel32.dll", "Beep");
    new.import("user32.dll", "MessageBoxA");
    new.function("added", 7).calls("other");
    new.string("text", "new text");
    new.constant("pointers", &[0; 24]).points(0, "other").points(8, "added").points(16, "text");
    new.variable("fresh", &[9; 4]);
    new.variable("empty", &[0; 32]).with(|o| o.zero_fill = true);
    new.f("changed").body = 4;
    new.f("changed").calls("added").reads("pointers").reads("fresh").reads("empty").reads("table");
    new.f("changed").reads("Beep").reads("MessageBoxA").takes("changed").takes("text");
    (old, new)
}

/// RVA in the patch of the n-th use of `changed` (each use is an opcode of `len` bytes and a 4-byte field).
fn use_fields(side: &Side, start: u32) -> Vec<u32> {
    let mut at = start + 2;
    let mut out = Vec::new();
    for (how, ..) in &side.functions.iter().find(|f| f.name == "changed").unwrap().uses {
        at += match how {
            How::Call | How::Jump => 1,
            How::Read | How::ImageRelative => 2,
            How::Take => 3,
        };
        out.push(at);
        at += 4;
    }
    out
}

#[test]
fn every_reference_leads_where_the_plan_says() {
    let (old, new) = sides();
    let pair = pair(&old, &new).accept("image.import.new_dll");
    let out = Emitted::of(&pair, Reach::Near);
    let base = |name: &str| {
        let p = &pair.old;
        let rva = p.functions.iter().find(|f| f.name.as_deref() == Some(name)).map(|f| f.rva());
        BASE_AT
            + u64::from(
                rva.or_else(|| p.objects.iter().find(|o| o.name.as_deref() == Some(name)).map(|o| o.rva)).unwrap(),
            )
    };
    let patch = |name: &str| PATCH_AT + u64::from(out.function(name));
    let fields = use_fields(&new, out.function("changed"));
    let goals: Vec<u64> = fields.iter().map(|f| out.follow(*f)).collect();
    let byte = |va: u64| out.memory[(va - PATCH_AT) as usize];
    assert_eq!(goals[0], base("other"), "a call of a function that stays");
    assert_eq!(goals[1], patch("changed"), "a direct call of a replaced function goes to the copy");
    assert_eq!(goals[2], base("counter"), "a variable of the base is the base's");
    assert_eq!(goals[3], BASE_AT + u64::from(pair.old.imports[0].slot), "an import of the base goes through its slot");
    assert_eq!(goals[4], base("other"), "an address taken is the base's");
    assert_eq!(goals[5], patch("added"));
    let pointers = (goals[6] - PATCH_AT) as u32;
    assert_eq!(out.u64(pointers), base("other"));
    assert_eq!(out.u64(pointers + 8), patch("added"));
    assert_eq!(out.u64(pointers + 16), goals[13], "one copy of the text, whoever refers to it");
    assert_eq!([byte(goals[7]), byte(goals[7] + 3)], [9, 9], "a new variable");
    assert_eq!(goals[8] % 16, u64::from(pair.new.objects.last().unwrap().rva % 16), "alignment is kept");
    assert_eq!(goals[9], base("table"), "an equal constant is the base's");
    assert_eq!(goals[12], base("changed"), "the identity of a replaced function is its old entry");
    assert_eq!(&out.memory[(goals[13] - PATCH_AT) as usize..][..9], b"new text\0");
    // Data directory 12 is the import address table.
    let (table, size) = out.directory(12);
    for goal in &goals[10..12] {
        assert!((PATCH_AT + u64::from(table)..PATCH_AT + u64::from(table + size)).contains(goal), "an own import");
    }
    let (data, size) = out.section(".data").unwrap();
    for goal in &goals[7..9] {
        assert!(
            (PATCH_AT + u64::from(data)..PATCH_AT + u64::from(data + size)).contains(goal),
            "a new variable is writable"
        );
    }
}

#[test]
fn bytes_outside_of_fields_are_copied() {
    let (old, new) = sides();
    let pair = pair(&old, &new).accept("image.import.new_dll");
    let out = Emitted::of(&pair, Reach::Near);
    for planned in &out.plan.functions {
        let function = &pair.new.functions[planned.new.index()];
        let (start, at) = (function.rva(), out.function(function.name.as_deref().unwrap()));
        assert_eq!(at % 16, 0);
        assert_eq!(out.memory[at as usize - 6..at as usize], [0xCC; 6], "a patched function can be patched again");
        let references = pair.new.references_in(start, start + function.size());
        for offset in 0..function.size() {
            let rva = start + offset;
            if !references.iter().any(|r| (r.site..r.site + u32::from(r.width)).contains(&rva)) {
                assert_eq!(out.memory[(at + offset) as usize], pair.new.image.mapped[rva as usize], "{rva:#x}");
            }
        }
    }
}

#[test]
fn tables_say_what_the_base_must_do() {
    let (old, new) = sides();
    let pair = pair(&old, &new).accept("image.import.new_dll");
    let out = Emitted::of(&pair, Reach::Near);
    assert_eq!(out.patch.structure(), Structure::Near);
    let functions = out.records(ChunkKind::Function);
    let changed = pair.old.functions.iter().find(|f| f.name.as_deref() == Some("changed")).unwrap().rva();
    assert_eq!(functions.len(), 1);
    assert_eq!((functions[0].place, functions[0].target), (changed, out.function("changed")));
    assert_eq!(functions[0].extra, [0x02B0], "the first two bytes of the old function");
    assert_eq!(out.records(ChunkKind::Absolute).len(), 1, "one pointer in data leads into the base");
    assert_eq!(out.records(ChunkKind::CallTarget), [], "the base has no guard table");
    let kinds =
        |kind| out.graft().guarded.iter().filter(|g| g.kind == kind).map(|g| g.name.as_str()).collect::<Vec<_>>();
    assert_eq!(kinds(GuardedKind::Replaced), ["changed"]);
    assert_eq!(kinds(GuardedKind::Function), ["other"]);
    assert_eq!(kinds(GuardedKind::Constant), ["table"]);
    assert_eq!(out.graft().base, out.plan.base);
}

#[test]
fn a_jump_table_counts_from_its_copy() {
    let mut old = Side::new();
    old.function("changed", 2).takes("jumps").uses(How::Jump, "changed", 2);
    let jumps = old.special("jumps", &[0; 8], ObjectKind::JumpTable(hotgraft_program::FunctionId(0)), false);
    jumps.owner = Some("changed".into());
    jumps.points.push((0, "changed".into(), 2, Form::Relative));
    jumps.points.push((4, "changed".into(), 9, Form::Relative));
    let mut new = old.clone();
    new.shift = 0x50;
    new.f("changed").body = 4;
    let pair = pair(&old, &new).accept("runtime.loop.endless");
    let out = Emitted::of(&pair, Reach::Near);
    let changed = out.function("changed");
    let table = (out.follow(changed + 5) - PATCH_AT) as u32;
    let entry = |i: u32| {
        table.wrapping_add_signed(i32::from_le_bytes(out.memory[(table + 4 * i) as usize..][..4].try_into().unwrap()))
    };
    assert_eq!([entry(0), entry(1)], [changed + 2, changed + 9]);
    assert_eq!(out.graft().near, [], "nothing leads into the base");
}

#[test]
fn a_plan_without_a_resolved_reference_is_not_emitted() {
    let (old, new) = sides();
    let pair = pair(&old, &new).accept("image.import.new_dll");
    let mut plan = pair.plan();
    plan.references.remove(3);
    let done = emit::emit(&pair.old, &pair.new, &pair.cmp, &plan, &pair.options);
    assert!(matches!(done, Err(Error::Internal(_))), "{done:?}");
}

#[test]
fn a_field_that_holds_something_else_is_not_emitted() {
    let (old, new) = sides();
    let mut pair = pair(&old, &new).accept("image.import.new_dll");
    let plan = pair.plan();
    let site = plan.references[0].site as usize;
    pair.new.image.mapped[site] ^= 1;
    let done = emit::emit(&pair.old, &pair.new, &pair.cmp, &plan, &pair.options);
    assert!(matches!(done, Err(Error::Internal(_))), "{done:?}");
}

#[test]
fn a_relocated_field_without_a_reference_is_not_emitted() {
    let (old, new) = sides();
    let mut pair = pair(&old, &new).accept("image.import.new_dll");
    let plan = pair.plan();
    let rva = pair.new.objects[plan.objects[0].new.index()].rva;
    pair.new.image.base_relocations.push(rva + 1);
    pair.new.image.base_relocations.sort_unstable();
    let done = emit::emit(&pair.old, &pair.new, &pair.cmp, &plan, &pair.options);
    assert!(matches!(done, Err(Error::Internal(_))), "{done:?}");
}

#[test]
fn code_that_runs_out_of_its_end_is_refused() {
    let (old, new) = sides();
    let mut pair = pair(&old, &new).accept("image.import.new_dll");
    let plan = pair.plan();
    let function = &mut pair.new.functions[plan.functions[0].new.index()];
    function.ranges[0].size -= 1; // without its `ret`
    let done = emit::emit(&pair.old, &pair.new, &pair.cmp, &plan, &pair.options);
    assert!(matches!(done, Err(Error::Refused { key: "code.function.falls_through", .. })), "{done:?}");
}
