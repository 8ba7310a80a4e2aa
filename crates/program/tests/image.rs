//! What the headers and directories of a hand-written image say.

mod support;

use hotgraft_program::pe::{self, ResourceId};
use hotgraft_program::{Entity, Error, ExportTarget, Form, ImportName, ObjectKind, Program, SpanKind};
use support::{BASE, CODE, DATA, Pe, RDATA, put16, put32, put64, relocations};

/// `ret`, then filler.
const RET: [u8; 16] = [0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc];

fn load(file: &[u8]) -> Program {
    Program::from_bytes("test.dll", file, None).expect("a valid image")
}

fn error(file: &[u8]) -> String {
    Program::from_bytes("test.dll", file, None).expect_err("a refused image").to_string()
}

#[test]
fn sections_are_mapped_and_long_names_resolved() {
    let mut pe = Pe::new();
    let text = pe.section(".text", CODE, &RET);
    let long = pe.section("/4", RDATA, &[7; 5]);
    let bss = pe.section(".bss", DATA, &[]);
    pe.sections[2].size = 0x30;
    pe.strings = b".debug_something\0".to_vec();
    pe.entry_point = text;
    let p = load(&pe.build());
    assert_eq!(
        p.image.sections.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
        [".text", ".debug_something", ".bss"]
    );
    assert_eq!(p.image.bytes(long, 5), Some(&[7; 5][..]));
    assert_eq!(p.image.bytes(bss, 0x30), Some(&[0; 0x30][..]));
    assert_eq!(p.image.image_base, BASE);
    assert!(p.image.is_dll());
    assert_eq!(p.function_entry(text).map(|id| p.functions[id.index()].ranges[0].size), Some(1));
}

#[test]
fn other_machines_and_managed_images_are_named_in_the_refusal() {
    let mut pe = Pe::new();
    pe.section(".text", CODE, &RET);
    for (machine, word) in [(0xaa64, "ARM64"), (0x14c, "x86"), (0x1c4, "ARM Thumb-2"), (0x1234, "0x1234")] {
        pe.machine = machine;
        let text = error(&pe.build());
        assert!(text.contains(word) && text.contains("not supported"), "{text}");
    }
    pe.machine = 0x8664;
    pe.directories[14] = (0x1000, 72);
    assert!(error(&pe.build()).contains(".NET"));
}

#[test]
fn sections_that_the_loader_would_not_map_are_refused() {
    let mut pe = Pe::new();
    pe.section(".text", CODE, &RET);
    pe.section(".data", DATA, &[1; 16]);

    let mut overlapping = pe.clone();
    overlapping.sections[1].rva = 0x1008;
    assert!(error(&overlapping.build()).contains("section header"));

    let mut beyond = pe.clone();
    beyond.sections[1].size = 0x10_0000;
    beyond.size_of_image = Some(0x3000);
    assert!(error(&beyond.build()).contains("SizeOfImage"));

    let mut huge = pe.clone();
    huge.size_of_image = Some(0xf000_0000);
    assert!(error(&huge.build()).contains("SizeOfImage"));

    let mut implausible = pe.clone();
    implausible.size_of_image = Some(0x7fff_0000);
    assert!(error(&implausible.build()).contains("SizeOfImage"));

    let mut file = pe.build();
    file.truncate(file.len() - 0x200);
    assert!(error(&file).contains(".data"));
    assert!(matches!(Program::from_bytes("x", b"", None), Err(Error::Malformed { at: 0, .. })));
}

#[test]
fn imports_by_name_and_ordinal_and_delayed() {
    let mut pe = Pe::new();
    let mut d = vec![0; 0x200];
    // One descriptor, two thunks, name table before address table.
    for (at, v) in [(0, 0x2040), (12, 0x2080), (16, 0x2060)] {
        put32(&mut d, at, v);
    }
    for table in [0x40, 0x60] {
        put64(&mut d, table, 0x2090);
        put64(&mut d, table + 8, 1 << 63 | 42);
    }
    d[0x80..0x88].copy_from_slice(b"one.dll\0");
    d[0x92..0x98].copy_from_slice(b"First\0");
    // A delay-load descriptor.
    for (at, v) in [(0x100, 1), (0x104, 0x21a0), (0x108, 0x21f0), (0x10c, 0x2180), (0x110, 0x2160)] {
        put32(&mut d, at, v);
    }
    put64(&mut d, 0x160, 0x21b0);
    put64(&mut d, 0x180, BASE + 0x1000);
    d[0x1a0..0x1a8].copy_from_slice(b"two.dll\0");
    d[0x1b2..0x1b9].copy_from_slice(b"Second\0");
    pe.section(".text", CODE, &RET);
    pe.section(".idata", DATA, &d);
    pe.directories[1] = (0x2000, 40);
    pe.directories[13] = (0x2100, 64);
    let p = load(&pe.build());
    let all: Vec<_> = p.imports.iter().map(|i| (i.dll.as_str(), i.name.to_string(), i.slot, i.delayed)).collect();
    assert_eq!(
        all,
        [
            ("one.dll", "First".to_owned(), 0x2060, false),
            ("one.dll", "#42".to_owned(), 0x2068, false),
            ("two.dll", "Second".to_owned(), 0x2180, true),
        ]
    );
    assert_eq!(p.imports[1].name, ImportName::Ordinal(42));
    assert!(matches!(p.resolve(0x2068).entity, Entity::Import(id) if id.0 == 1));
    assert_eq!(p.object_at(0x2092).map(|id| p.objects[id.index()].kind), Some(ObjectKind::ImportTable));
    assert!(p.references.iter().any(|r| r.site == 0x2040 && r.form == Form::ImageRelative && r.rva == 0x2090));
}

#[test]
fn an_import_list_without_end_is_an_error() {
    let mut pe = Pe::new();
    let mut d = vec![0xff; 0x1000];
    for (at, v) in [(0, 0), (12, 0x2ff0), (16, 0x2010)] {
        put32(&mut d, at, v);
    }
    d[0xff0..0xff4].copy_from_slice(b"a\0\0\0");
    pe.section(".text", CODE, &RET);
    pe.section(".idata", DATA, &d);
    pe.directories[1] = (0x2000, 40);
    assert!(error(&pe.build()).contains("import name table"));
}

fn with_exports(patch: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut pe = Pe::new();
    let mut d = vec![0; 0xa0];
    // Name, base 5, three functions of which one is missing, two names, tables.
    for (at, v) in [(12, 0x2060), (16, 5), (20, 4), (24, 2), (28, 0x2028), (32, 0x2040), (36, 0x2048)] {
        put32(&mut d, at, v);
    }
    put32(&mut d, 0x28, 0x1000);
    put32(&mut d, 0x2c, 0x2070);
    put32(&mut d, 0x34, 0x1000);
    put32(&mut d, 0x40, 0x2080);
    put32(&mut d, 0x44, 0x2088);
    put16(&mut d, 0x48, 0);
    put16(&mut d, 0x4a, 1);
    d[0x60..0x69].copy_from_slice(b"test.dll\0");
    d[0x70..0x7a].copy_from_slice(b"other.Name");
    d[0x80..0x86].copy_from_slice(b"alpha\0");
    d[0x88..0x8d].copy_from_slice(b"beta\0");
    patch(&mut d);
    pe.section(".text", CODE, &RET);
    pe.section(".edata", RDATA, &d);
    pe.directories[0] = (0x2000, 0xa0);
    pe.build()
}

#[test]
fn exports_with_forwarders_ordinals_and_names() {
    let p = load(&with_exports(|_| {}));
    let all: Vec<_> = p.exports.iter().map(|e| (e.ordinal, e.name.as_deref(), e.target.clone())).collect();
    assert_eq!(
        all,
        [
            (5, Some("alpha"), ExportTarget::Rva(0x1000)),
            (6, Some("beta"), ExportTarget::Forwarder("other.Name".to_owned())),
            (8, None, ExportTarget::Rva(0x1000)),
        ]
    );
    assert_eq!(p.functions[0].name.as_deref(), Some("alpha"));
    assert_eq!(pe::directories(&p.image).expect("readable").export_name.as_deref(), Some("test.dll"));
}

#[test]
fn an_export_ordinal_outside_of_the_table_is_an_error() {
    assert!(error(&with_exports(|d| put16(d, 0x4a, 4))).contains("export ordinal table"));
    assert!(error(&with_exports(|d| put32(d, 20, 0x4000_0000))).contains("export address table"));
}

#[test]
fn tls_load_configuration_and_relocations() {
    let mut pe = Pe::new();
    let mut text = RET.to_vec();
    text.extend_from_slice(&RET);
    text.extend_from_slice(&RET);
    pe.section(".text", CODE, &text);
    let mut d = vec![0; 0x300];
    // TLS: template, index, callbacks.
    for (i, rva) in [0x2100_u64, 0x2108, 0x2180, 0x2140].into_iter().enumerate() {
        put64(&mut d, 8 * i, BASE + rva);
    }
    put32(&mut d, 32, 16);
    put64(&mut d, 0x140, BASE + 0x1010);
    d[0x100] = 9;
    // Load configuration of 0x94 bytes with one function in a table of 5-byte entries.
    put32(&mut d, 0x200, 0x94);
    put64(&mut d, 0x258, BASE + 0x2188);
    put64(&mut d, 0x280, BASE + 0x22a0);
    put64(&mut d, 0x288, 1);
    put32(&mut d, 0x290, 0x1000_0500);
    put32(&mut d, 0x2a0, 0x1020);
    pe.section(".data", DATA, &d);
    let sites = [0x2000, 0x2008, 0x2010, 0x2018, 0x2140, 0x2258, 0x2280];
    let r = relocations(&sites);
    let reloc = pe.section(".reloc", RDATA, &r);
    pe.directories[9] = (0x2000, 40);
    pe.directories[10] = (0x2200, 0x94);
    pe.directories[5] = (reloc, r.len() as u32);
    let p = load(&pe.build());
    assert_eq!(p.image.base_relocations, sites);
    let directories = pe::directories(&p.image).expect("readable");
    let tls = directories.tls.expect("a TLS directory");
    assert_eq!((tls.template, tls.template_size, tls.zero_fill), (0x2100, 8, 16));
    assert_eq!(tls.callbacks, [0x1010]);
    let config = directories.load_config.expect("a load configuration");
    assert_eq!((config.security_cookie, config.guard_functions.stride), (0x2188, 5));
    assert_eq!(config.guard_functions.targets, [0x1020]);
    for entry in [0x1010, 0x1020] {
        assert!(p.function_entry(entry).is_some(), "no function at {entry:#x}");
    }
    let template = p.object_at(0x2100).expect("an object");
    assert_eq!(p.objects[template.index()].kind, ObjectKind::TlsTemplate);
    let pointer = p.references.iter().find(|r| r.site == 0x2018).expect("a reference");
    assert_eq!((pointer.form, pointer.width, pointer.rva), (Form::Absolute, 8, 0x2140));
}

#[test]
fn an_unknown_kind_of_base_relocation_is_refused() {
    let mut pe = Pe::new();
    pe.section(".text", CODE, &RET);
    let mut r = relocations(&[0x1000]);
    put16(&mut r, 8, 5 << 12);
    pe.section(".reloc", RDATA, &r);
    pe.directories[5] = (0x2000, r.len() as u32);
    assert!(error(&pe.build()).contains("base relocation type 5"));
    put32(&mut r, 4, 0x1000);
    pe.sections[1].bytes = r;
    assert!(error(&pe.build()).contains("base relocation block"));
}

#[test]
fn resources_by_path_and_a_tree_that_bites_its_tail() {
    let mut pe = Pe::new();
    pe.section(".text", CODE, &RET);
    let mut d = vec![0; 0x80];
    put16(&mut d, 14, 1);
    put32(&mut d, 16, 11);
    put32(&mut d, 20, 0x8000_0018);
    put16(&mut d, 0x18 + 12, 1);
    put32(&mut d, 0x28, 0x8000_0060);
    put32(&mut d, 0x2c, 0x40);
    put32(&mut d, 0x40, 0x2070);
    put32(&mut d, 0x44, 4);
    put16(&mut d, 0x60, 2);
    put16(&mut d, 0x62, u16::from(b'o'));
    put16(&mut d, 0x64, u16::from(b'k'));
    pe.section(".rsrc", RDATA, &d);
    pe.directories[2] = (0x2000, 0x80);
    let p = load(&pe.build());
    let resources = pe::directories(&p.image).expect("readable").resources;
    assert_eq!(resources.len(), 1);
    assert_eq!(resources[0].path, [ResourceId::Id(11), ResourceId::Name("ok".to_owned())]);
    assert_eq!((resources[0].rva, resources[0].size), (0x2070, 4));

    put32(&mut d, 0x2c, 0x8000_0000);
    pe.sections[1].bytes = d;
    assert!(error(&pe.build()).contains("resource directory"));
}

#[test]
fn filler_that_something_points_into_is_not_padding() {
    let mut pe = Pe::new();
    pe.entry_point = 0x1000;
    pe.section(".text", CODE, &RET);
    let mut d = vec![0; 32];
    put64(&mut d, 0, BASE + 0x1008);
    pe.section(".rdata", RDATA, &d);
    let r = relocations(&[0x2000]);
    pe.section(".reloc", RDATA, &r);
    pe.directories[5] = (0x3000, r.len() as u32);
    let p = load(&pe.build());
    let at = |rva: u32| p.spans.iter().find(|s| s.rva <= rva && rva < s.rva + s.size).map(|s| s.kind);
    assert_eq!(at(0x1001), Some(SpanKind::Padding));
    assert_ne!(at(0x1008), Some(SpanKind::Padding));
}

#[test]
fn without_a_pdb_filler_before_an_aligned_address_ends_a_function() {
    let functions = |code: &[u8]| {
        let mut pe = Pe::new();
        pe.entry_point = 0x1000;
        pe.section(".text", CODE, code);
        load(&pe.build()).functions.iter().map(|f| f.rva()).collect::<Vec<_>>()
    };
    let padded = |head: &[u8]| {
        let mut code = head.to_vec();
        code.resize(16, 0xcc);
        code.extend_from_slice(&[0x31, 0xc0, 0xc3]);
        code
    };
    // ret
    assert_eq!(functions(&padded(&[0xc3])), [0x1000, 0x1010]);
    // jz 0x1010; ret
    assert_eq!(functions(&padded(&[0x74, 0x0e, 0xc3])), [0x1000]);
    // No-ops as filler, and several functions in a row.
    let mut code = padded(&[0xc3]);
    code[1..16].fill(0x90);
    assert_eq!(functions(&code), [0x1000, 0x1010]);
    let row: Vec<u8> = (0..100).flat_map(|_| padded(&[0xc3])[..16].to_vec()).collect();
    assert_eq!(functions(&row).len(), 100);
    // No filler is needed where control does not run on.
    let mut code = vec![0x90; 15];
    code.extend_from_slice(&[0xc3, 0x31, 0xc0, 0xc3]);
    assert_eq!(functions(&code), [0x1000, 0x1010]);
    // nop runs into the aligned address.
    let mut code = vec![0x90; 16];
    code.extend_from_slice(&[0x31, 0xc0, 0xc3]);
    assert_eq!(functions(&code), [0x1000]);
    // Filler up to an address that is not aligned.
    assert_eq!(functions(&[0xc3, 0xcc, 0xcc, 0x31, 0xc0, 0xc3]), [0x1000]);
    // jmp rdx, which may lead anywhere.
    assert_eq!(functions(&padded(&[0x48, 0x31, 0xd2, 0x48, 0x31, 0xca, 0xff, 0xe2])), [0x1000]);
}

/// Code that does one thing to each address: `lea rax`, or reads 4, 8 or 16 bytes of it.
fn code_for(uses: &[(u32, u32)]) -> Vec<u8> {
    let mut code = Vec::new();
    for &(target, size) in uses {
        let opcode: &[u8] = match size {
            0 => &[0x48, 0x8d, 0x05],
            4 => &[0x8b, 0x05],
            8 => &[0x48, 0x8b, 0x05],
            16 => &[0x0f, 0x28, 0x05],
            _ => unreachable!("no instruction for {size} bytes"),
        };
        code.extend_from_slice(opcode);
        let end = 0x1000 + code.len() as u32 + 4;
        code.extend_from_slice(&target.wrapping_sub(end).to_le_bytes());
    }
    code.push(0xc3);
    code
}

fn data(uses: &[(u32, u32)], bytes: &[u8]) -> Program {
    let mut pe = Pe::new();
    pe.entry_point = 0x1000;
    pe.section(".text", CODE, &code_for(uses));
    pe.section(".rdata", RDATA, bytes);
    load(&pe.build())
}

/// (offset, size, kind) of all objects of `.rdata`.
fn objects(p: &Program) -> Vec<(u32, u32, ObjectKind)> {
    p.objects.iter().map(|o| (o.rva - 0x2000, o.size, o.kind)).collect()
}

#[test]
fn text_numbers_and_end_pointers() {
    let mut d = vec![0; 0x20];
    d[..6].copy_from_slice(b"hello\0");
    put32(&mut d, 0x10, 65);
    put32(&mut d, 0x18, 0x1234);
    let p = data(&[(0x2000, 0), (0x2010, 4), (0x2018, 4)], &d);
    use ObjectKind::{Data, String};
    assert_eq!(objects(&p), [(0, 6, String), (0x10, 8, Data), (0x18, 8, Data)]);
    let end = p.resolve(0x2006);
    assert_eq!(end, hotgraft_program::Target { entity: Entity::Object(p.object_at(0x2000).expect("text")), addend: 6 });
    assert_eq!(p.rva_of(end), 0x2006);
    assert_eq!(p.resolve(0x2008).entity, Entity::Unknown);
    assert!(p.references.iter().all(|r| r.target.entity != Entity::Unknown));
}

#[test]
fn what_code_reads_as_one_is_one_object() {
    use ObjectKind::{Data, String};
    let mut d = vec![0; 0x20];
    d[..5].copy_from_slice(b"abcd\0");
    d[8..16].fill(0x11);
    // Eight bytes are read where the text has five.
    assert_eq!(objects(&data(&[(0x2000, 8), (0x2008, 8)], &d))[0], (0, 8, Data));
    assert_eq!(objects(&data(&[(0x2000, 0), (0x2008, 8)], &d))[0], (0, 5, String));
    // The upper half of sixteen bytes is read alone too.
    assert_eq!(objects(&data(&[(0x2000, 16), (0x2008, 8)], &d)), [(0, 32, Data)]);
    // More zeros than alignment needs belong to a longer array.
    let mut long = vec![0; 0x40];
    long[..5].copy_from_slice(b"abcd\0");
    long[0x20..].fill(0x22);
    assert_eq!(objects(&data(&[(0x2000, 0), (0x2020, 0)], &long))[0], (0, 0x20, Data));
    // A table whose address is taken reaches over the fields that are read directly.
    let table = vec![0x33; 0x40];
    assert_eq!(objects(&data(&[(0x2000, 0), (0x2010, 4), (0x2030, 0)], &table)), [(0, 0x30, Data), (0x30, 0x10, Data)]);
}
