//! Pairs that differ in one thing, and pairs just beside them that do not.

mod common;

use common::*;
use hotgraft_diff::{Comparison, Options, Status, compare};
use hotgraft_program::{Member, ObjectKind, Program, Types, Udt, UdtKind};

/// Names and keys of everything that is not identical: `name status key key`.
fn findings(old: &Program, new: &Program, c: &Comparison) -> Vec<String> {
    let mut all = Vec::new();
    let keys = |changes: &[hotgraft_diff::Change]| changes.iter().map(|c| format!(" {}", c.key)).collect::<String>();
    for p in c.functions.iter().filter(|p| p.status != Status::Identical) {
        let name = p.new.map(|id| hotgraft_diff::label::function(new, id));
        let name = name.or_else(|| p.old.map(|id| hotgraft_diff::label::function(old, id))).expect("one side");
        all.push(format!("{name} {:?}{}", p.status, keys(&p.changes)));
    }
    for p in c.objects.iter().filter(|p| p.status != Status::Identical) {
        let name = p.new.map(|id| hotgraft_diff::label::object(new, id));
        let name = name.or_else(|| p.old.map(|id| hotgraft_diff::label::object(old, id))).expect("one side");
        all.push(format!("{name} {:?}{}", p.status, keys(&p.changes)));
    }
    all.extend(c.image.iter().map(|i| format!("{} {}", i.key, i.subject)));
    all
}

fn diff_with(old: &Spec, new: &Spec, options: &Options) -> Vec<String> {
    let (a, b) = (old.build(), new.build());
    let c = compare(&a, &b, options);
    findings(&a, &b, &c)
}

fn diff(old: &Spec, new: &Spec) -> Vec<String> {
    diff_with(old, new, &Options::default())
}

fn none() -> Vec<String> {
    Vec::new()
}

/// A small image with one of everything.
fn sample() -> Spec {
    spec(
        vec![
            f("main", vec![call("work"), lea("greeting"), call("k.dll!Print"), call("helper"), number(7), ret()]),
            f("work", vec![load("counter"), call("helper"), lea("table"), call("twin_a"), call("twin_b"), ret()])
                .unwind(&[1, 4, 1, 0, 4, 0x42, 0, 0], Some("helper")),
            f("helper", vec![load("limits"), number(40), lea("farewell"), raw(&[0x90; 8]), ret()]),
            f("twin_a", vec![lea("state_a"), number(1), raw(&[0x90; 8]), ret()]),
            f("twin_b", vec![lea("state_b"), number(1), raw(&[0x90; 8]), ret()]),
        ],
        vec![
            string("greeting", "hello"),
            string("farewell", "good bye"),
            constant("limits", &[1, 0, 0, 0, 2, 0, 0, 0]),
            constant("table", &[0; 16]).pointer(0, "work").pointer(8, "greeting"),
            variable("counter", &[5, 0, 0, 0, 0, 0, 0, 0]),
            variable("state_a", &[0; 8]),
            variable("state_b", &[0; 8]),
        ],
    )
    .import("k.dll", "Print")
    .export("main", "main")
}

fn relaid(mut s: Spec) -> Spec {
    s.functions.reverse();
    let turn = 2.min(s.data.len());
    s.data.rotate_left(turn);
    s.data.insert(0, literal("filler", &[9; 40]).boundary());
    s.padding = 13;
    s.folder = "D:\\other\\place".to_owned();
    s
}

#[test]
fn the_same_image_has_no_difference() {
    let structure = Options { structure_only: true, ..Options::default() };
    assert_eq!(diff(&sample(), &sample()), none());
    assert_eq!(diff_with(&sample(), &sample(), &structure), none());
}

#[test]
fn layout_is_no_difference() {
    assert_eq!(diff(&sample(), &relaid(sample())), ["const_40000 Added"]);
    let mut stripped = sample();
    stripped.pdb = false;
    let mut moved = relaid(sample());
    moved.pdb = false;
    assert_eq!(diff(&stripped, &moved), ["const_40000 Added"]);
}

#[test]
fn twins_are_told_apart_by_their_referrers() {
    let structure = Options { structure_only: true, ..Options::default() };
    let (a, b) = (sample().build(), relaid(sample()).build());
    let c = compare(&a, &b, &structure);
    for pair in &c.functions {
        let (old, new) = (pair.old.expect("matched"), pair.new.expect("matched"));
        assert_eq!(a.functions[old.index()].name, b.functions[new.index()].name, "{:?}", pair.matched);
    }
    for pair in c.objects.iter().filter(|p| p.old.is_some()) {
        let (old, new) = (pair.old.expect("old"), pair.new.expect("matched"));
        assert_eq!(a.objects[old.index()].name, b.objects[new.index()].name, "{:?}", pair.matched);
    }
}

#[test]
fn a_constant_in_the_code() {
    let mut new = relaid(sample());
    let helper = new.functions.iter_mut().find(|f| f.label == "helper").expect("helper");
    helper.code[1] = number(41);
    assert_eq!(diff(&sample(), &new), ["helper Changed function.instruction.changed", "const_40000 Added"]);
    let structure = Options { structure_only: true, ..Options::default() };
    let found = diff_with(&sample(), &new, &structure);
    assert_eq!(found, ["helper Changed function.instruction.changed", "const_40000 Added"]);
}

#[test]
fn a_string_without_identity_counts_against_its_reader() {
    let mut new = sample();
    new.data[1] = string("farewell", "good night");
    assert_eq!(
        diff(&sample(), &new),
        ["helper Changed function.string.changed", "\"good night\" Changed object.content.changed"]
    );
}

#[test]
fn a_string_inside_another_one_is_the_same_text() {
    let mut new = sample();
    new.data[1] = string("farewell", "a very good bye");
    new.functions[2].code[2] = lea_at("farewell", 7);
    let found = diff(&sample(), &new);
    assert!(found.iter().all(|f| !f.contains("helper")), "{found:?}");
}

#[test]
fn a_literal_counts_against_its_reader_and_a_named_constant_does_not() {
    let with = |name: Option<&str>, byte: u8| {
        spec(
            vec![f("g", vec![load("c"), ret()]), f("h", vec![number(3), ret()])],
            vec![constant("c", &[byte, 0, 0, 0, 1, 1, 1, 1]).named(name)],
        )
    };
    assert_eq!(
        diff(&with(None, 1), &with(None, 2)),
        ["g Changed function.constant.changed", "const_40000 Changed object.content.changed"]
    );
    assert_eq!(diff(&with(Some("c"), 1), &with(Some("c"), 2)), ["c Changed object.content.changed"]);
    // A name that the compiler made from the content is no identity.
    assert_eq!(
        diff(&with(Some("__real@1"), 1), &with(Some("__real@2"), 2)),
        ["g Changed function.constant.changed", "__real@2 Changed object.content.changed"]
    );
}

#[test]
fn initial_bytes_of_a_variable_count_against_the_variable() {
    let mut new = sample();
    new.data[4] = variable("counter", &[6, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(diff(&sample(), &new), ["counter Changed object.content.changed"]);
}

#[test]
fn a_call_to_another_function() {
    let mut new = sample();
    new.functions[0].code[3] = call("twin_a");
    assert_eq!(diff(&sample(), &new), ["main Changed function.reference.changed"]);
}

#[test]
fn a_call_to_a_changed_function_is_no_change() {
    let mut new = sample();
    new.functions[2].code.insert(0, raw(&[0x90, 0x90]));
    assert_eq!(diff(&sample(), &new), ["helper Changed function.instruction.inserted"]);
}

#[test]
fn use_of_another_variable() {
    let mut new = sample();
    new.functions[3].code[0] = lea("state_b");
    assert_eq!(diff(&sample(), &new), ["twin_a Changed function.reference.changed"]);
}

#[test]
fn statics_of_the_same_name() {
    let two = |folder: &str, second: u32| {
        let mut s = spec(
            vec![
                f("x", vec![number(1), raw(&[0x90; 12]), ret()]).named("init", "a/util.obj"),
                f("y", vec![number(second), raw(&[0x90; 12]), ret()]).named("init", "b/util.obj"),
            ],
            vec![],
        );
        s.folder = folder.to_owned();
        s
    };
    assert_eq!(diff(&two("/one", 2), &two("C:\\two", 2)), none());
    let mut turned = two("C:\\two", 3);
    turned.functions.reverse();
    let (a, b) = (two("/one", 2).build(), turned.build());
    let c = compare(&a, &b, &Options::default());
    let changed: Vec<_> = c.functions.iter().filter(|p| p.status == Status::Changed).collect();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].old.map(|id| id.0), Some(1));
}

#[test]
fn folding_of_equal_functions_is_no_change() {
    let body = |n| vec![number(n), raw(&[0x90; 12]), ret()];
    let callers = vec![f("c1", vec![call("a"), number(1), ret()]), f("c2", vec![call("b"), number(2), ret()])];
    let apart = |n| {
        let mut all = callers.clone();
        all.extend([f("a", body(5)), f("b", body(n))]);
        spec(all, vec![])
    };
    let mut all = callers.clone();
    all.push(f("a", body(5)).alias("b"));
    all[1].code[0] = call("a");
    let folded = spec(all, vec![]);
    assert_eq!(diff(&apart(5), &folded), ["b Removed"]);
    assert_eq!(diff(&folded, &apart(5)), ["b Added"]);
    // Where the fold falls apart because one of them changed, its caller changes: the old entry serves both names.
    assert_eq!(diff(&folded, &apart(6)), ["c2 Changed function.reference.changed", "b Added"]);
}

#[test]
fn a_pointer_table() {
    let mut new = relaid(sample());
    let table = new.data.iter_mut().find(|d| d.label == "table").expect("table");
    table.pointers[0].1 = "helper".to_owned();
    assert_eq!(diff(&sample(), &new), ["table Changed object.pointer.changed", "const_40000 Added"]);
}

#[test]
fn one_past_the_end_of_a_table() {
    let image = |after: &[&str], read: &str| {
        let mut data = vec![constant("items", &[1; 24])];
        data.extend(after.iter().enumerate().map(|(i, label)| constant(label, &[i as u8 + 9; 8])));
        data.push(constant("reader", &[3; 8]));
        spec(
            vec![
                // rax holds the end and is compared with rcx.
                f("walk", vec![lea("items"), lea_at("items", 24), raw(&[0x48, 0x39, 0xc1]), ret()]),
                f("other", vec![load("reader"), load(read), ret()]),
            ],
            data,
        )
    };
    // What follows the table differs, its end does not.
    let (mut old, mut new) = (image(&["p", "q"], "p"), image(&["q", "p"], "p"));
    for s in [&mut old, &mut new] {
        for (label, byte) in [("p", 9), ("q", 10)] {
            let d = s.data.iter_mut().find(|d| d.label == label).expect("there");
            d.bytes.fill(byte);
        }
    }
    assert_eq!(diff(&old, &new), none());
    // Handed on, it may as well be what follows.
    for s in [&mut old, &mut new] {
        s.functions[0].code[2] = raw(&[0x50, 0x58, 0x90]);
    }
    assert_eq!(diff(&old, &new), ["walk Changed function.reference.changed"]);
    // A constant that was replaced by another one at the same place is not an end.
    let use_of = |label: &str| {
        spec(
            vec![f("walk", vec![lea("items"), lea(label), raw(&[0x48, 0x39, 0xc1]), ret()])],
            vec![constant("items", &[1; 24]), constant(label, &[label.len() as u8; 8])],
        )
    };
    let found = diff(&use_of("p"), &use_of("pp"));
    assert!(found.iter().any(|f| f == "walk Changed function.reference.changed"), "{found:?}");
}

#[test]
fn a_text_behind_the_same_text_may_change() {
    let image =
        |text: &str| spec(vec![f("g", vec![lea("a"), lea("b"), ret()])], vec![string("a", "first"), string("b", text)]);
    let found = diff(&image("second"), &image("third"));
    assert!(found.iter().any(|f| f == "g Changed function.string.changed"), "{found:?}");
}

#[test]
fn a_constant_that_is_read_directly_counts_as_far_as_it_is_read() {
    let image = |code: Code, bytes: &[u8]| {
        spec(
            vec![f("g", vec![code, ret()]), f("h", vec![lea("x"), ret()])],
            vec![literal("c", bytes), literal("x", &[7; 8])],
        )
    };
    let (a, b) = ([1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 5, 6, 7, 9]);
    assert_eq!(diff(&image(load("c"), &a), &image(load("c"), &b)), ["const_40000 Changed object.content.changed"]);
    let found = diff(&image(lea("c"), &a), &image(lea("c"), &b));
    assert!(found.iter().any(|f| f == "g Changed function.constant.changed"), "{found:?}");
    // The same bytes at another offset of a larger object.
    let mut moved = image(Code::Load("c".to_owned(), 8), &[[9; 8], a].concat());
    moved.data[1].bytes = vec![7; 8];
    let found = diff(&image(load("c"), &a), &moved);
    assert!(found.iter().all(|f| !f.starts_with("g ")), "{found:?}");
}

#[test]
fn padding_behind_an_object_of_unknown_end() {
    let image = |size: usize, last: u8| {
        let mut bytes = vec![1, 2, 3, 4];
        bytes.resize(size, 0);
        if let Some(b) = bytes.last_mut() {
            *b |= last;
        }
        spec(vec![f("g", vec![lea("c"), ret()])], vec![literal("c", &bytes).boundary()])
    };
    assert_eq!(diff(&image(8, 0), &image(24, 0)), none());
    assert_eq!(diff(&image(24, 0), &image(8, 0)), none());
    let found = diff(&image(8, 0), &image(24, 1));
    assert!(found.iter().any(|f| f == "g Changed function.constant.changed"), "{found:?}");
}

#[test]
fn unwind_codes_and_handlers() {
    let mut new = sample();
    new.functions[1].unwind = Some((vec![1, 4, 1, 0, 4, 0x62, 0, 0], Some("helper".to_owned())));
    assert_eq!(diff(&sample(), &new), ["work Changed function.unwind.changed"]);
    let mut new = sample();
    new.functions[1].unwind = Some((vec![1, 4, 1, 0, 4, 0x42, 0, 0], Some("twin_a".to_owned())));
    assert_eq!(diff(&sample(), &new), ["work Changed function.unwind.changed"]);
}

#[test]
fn a_jump_table() {
    let image = |second: i64| {
        spec(
            vec![f("sw", vec![lea("t"), raw(&[0x90; 20]), ret()]).table("t"), f("next", vec![number(1), ret()])],
            vec![
                literal("t", &[0; 8])
                    .kind(ObjectKind::JumpTable(hotgraft_program::FunctionId(0)))
                    .entry(0, "sw", 7)
                    .entry(4, "sw", second),
            ],
        )
    };
    assert_eq!(diff(&image(9), &relaid(image(9))), ["const_40000 Added"]);
    // An entry that cannot be reached leads to the end of the function, whatever comes there.
    assert_eq!(diff(&image(28), &relaid(image(28))), ["const_40000 Added"]);
    let found = diff(&image(9), &image(10));
    assert_eq!(found, ["sw Changed function.jump_table.changed", "jump_table_40000 Changed object.pointer.changed"]);
}

#[test]
fn static_locals_go_by_their_function() {
    let image = |turned: bool| {
        let mut data = vec![
            variable("x", &[1; 8]).named(Some("count")).scope("g"),
            variable("y", &[2; 8]).named(Some("count")).scope("h"),
        ];
        if turned {
            data.reverse();
        }
        spec(vec![f("g", vec![load("x"), ret()]), f("h", vec![load("y"), ret()])], data)
    };
    assert_eq!(diff(&image(false), &image(true)), none());
}

#[test]
fn objects_that_change_their_kind_of_place() {
    let mut new = sample();
    new.data[2].writable = true;
    let found = diff(&sample(), &new);
    assert!(found.iter().any(|f| f.starts_with("limits Changed object.section.changed")), "{found:?}");
    let mut new = sample();
    new.data[4].bytes.push(0);
    assert_eq!(diff(&sample(), &new), ["counter Changed object.size.changed"]);
    let (mut old, mut new) = (sample(), sample());
    old.data[4].type_name = Some("int".to_owned());
    new.data[4].type_name = Some("unsigned".to_owned());
    assert_eq!(diff(&old, &new), ["counter Changed object.type.changed"]);
}

#[test]
fn imports_and_exports() {
    let new = sample().import("k.dll", "Other").import("l.dll", "More").export("extra", "work");
    assert_eq!(
        diff(&sample(), &new),
        [
            "image.export.added extra",
            "image.import.added k.dll!Other",
            "image.import.added l.dll!More",
            "image.import.dll.added l.dll"
        ]
    );
    let mut new = sample();
    new.exports[0].1 = "work".to_owned();
    assert_eq!(diff(&sample(), &new), ["image.export.changed main"]);
}

#[test]
fn headers_and_sections() {
    let (a, mut b) = (sample().build(), sample().build());
    b.image.timestamp = 2;
    b.image.dll_characteristics = 0;
    b.image.sections[1].characteristics |= 0x8000_0000;
    b.image.sections.pop();
    let c = compare(&a, &b, &Options::default());
    assert_eq!(
        findings(&a, &b, &c),
        [
            "image.header.dll_characteristics DllCharacteristics",
            "image.section.flags .rdata",
            "image.section.removed .xdata",
            "image.timestamp TimeDateStamp"
        ]
    );
}

#[test]
fn layout_of_types() {
    let udt = |offset: i64| Udt {
        name: "point".to_owned(),
        unique_name: None,
        kind: UdtKind::Struct,
        size: 16,
        members: vec![Member {
            name: "x".to_owned(),
            offset,
            type_name: "int".to_owned(),
            bits: None,
            by_value: None,
            by_pointer: None,
        }],
    };
    let with = |offset| {
        let mut s = sample();
        s.types = Types { udts: vec![udt(offset)], ..Types::default() };
        s
    };
    assert_eq!(diff(&with(0), &with(0)), none());
    assert_eq!(diff(&with(0), &with(8)), ["image.type.layout.changed point"]);
    assert_eq!(diff(&sample(), &with(8)), ["image.type.added point"]);
}

#[test]
fn a_prototype_without_other_code() {
    let (mut old, mut new) = (sample(), sample());
    old.functions[2].prototype = Some("int (int)".to_owned());
    new.functions[2].prototype = Some("int (long)".to_owned());
    assert_eq!(diff(&old, &new), ["image.prototype.changed helper"]);
    new.functions[2].code[1] = number(9);
    assert_eq!(diff(&old, &new), ["helper Changed function.instruction.changed function.prototype.changed"]);
}

#[test]
fn functions_that_come_and_go() {
    let mut new = sample();
    new.functions.push(f("fresh", vec![number(99), raw(&[0x50, 0x53, 0x55, 0x5d, 0x5b, 0x58]), ret()]));
    assert_eq!(diff(&sample(), &new), ["fresh Added"]);
    assert_eq!(diff(&new, &sample()), ["fresh Removed"]);
}

#[test]
fn an_address_that_nothing_explains_is_a_difference() {
    let with = |n| spec(vec![f("g", vec![load("c"), lea_at("c", n), ret()])], vec![constant("c", &[1; 8])]);
    let found = diff(&with(0x2000), &with(0x2000));
    assert_eq!(found, ["g Changed function.reference.changed"]);
}

#[test]
fn reports_name_everything() {
    let mut new = sample();
    new.functions[2].code[1] = number(41);
    let (a, b) = (sample().build(), new.build());
    let c = compare(&a, &b, &Options::default());
    let text = hotgraft_diff::report::text(&a, &b, &c, 0.5);
    assert!(text.contains("4 identical, 1 changed, 0 added, 0 removed"), "{text}");
    assert!(text.contains("mov eax, 0x28` became `mov eax, 0x29"), "{text}");
    let value = serde_json::to_value(hotgraft_diff::report::json(&a, &b, &c, 0.5)).expect("serialises");
    assert_eq!(value["schema"], "hotgraft.diff/1");
    assert_eq!(value["functions"].as_array().map(Vec::len), Some(5));
    assert_eq!(value["summary"]["changed"], 1);
    let changed = &value["functions"][2];
    assert_eq!(changed["status"], "changed");
    assert_eq!(changed["match"]["by"], "name_and_module");
    assert!(changed["changes"][0]["at"]["old_rva"].is_u64());
}

/// Which functions are changed where nothing has a name and no constant says where it ends: "texts" reads a table of texts,
/// "text" one of them, "table" a table of functions.
fn readers_changed(texts: [&str; 2], more: bool) -> Vec<&'static str> {
    let side = |text: &str, more: bool| {
        let mut entries = constant("entries", &[0; 32]).pointer(0, "first").pointer(8, "other").boundary();
        let mut functions = vec![
            f("texts", vec![lea("texts"), number(1), raw(&[0x90; 8]), ret()]),
            f("text", vec![lea("text"), number(2), raw(&[0x90; 16]), ret()]),
            f("table", vec![lea("entries"), number(3), raw(&[0x90; 24]), ret()]),
            f("first", vec![number(4), raw(&[0x90; 32]), ret()]),
            f("other", vec![number(5), raw(&[0x90; 40]), ret()]),
        ];
        if more {
            entries.bytes.extend([0; 8]);
            entries = entries.pointer(32, "added");
            functions.push(f("added", vec![number(6), raw(&[0x90; 48]), load("entries"), ret()]));
        }
        let data = vec![
            constant("texts", &[0; 16]).pointer(0, "text").pointer(8, "fixed"),
            string("text", text).boundary(),
            string("fixed", "the same on both sides"),
            entries,
        ];
        spec(functions, data).build()
    };
    let (old, new) = (side(texts[0], false), side(texts[1], more));
    let c = compare(&old, &new, &Options { structure_only: true, ..Options::default() });
    let is_changed = |(n, _): &(usize, &&str)| {
        let pair = c.functions.iter().find(|p| p.old.is_some_and(|id| id.index() == *n)).expect("every function");
        pair.status != Status::Identical
    };
    ["texts", "text", "table", "first", "other"].iter().enumerate().filter(is_changed).map(|(_, name)| *name).collect()
}

#[test]
fn a_text_that_differs_only_at_its_end_is_another_one() {
    assert_eq!(readers_changed(["MAX_FUNCTION_ARG=127", "MAX_FUNCTION_ARG=1000"], false), ["texts", "text"]);
    assert!(readers_changed(["MAX_FUNCTION_ARG=127"; 2], false).is_empty());
}

#[test]
fn a_table_that_got_another_function_counts_against_its_reader() {
    assert_eq!(readers_changed(["text"; 2], true), ["table"]);
}
