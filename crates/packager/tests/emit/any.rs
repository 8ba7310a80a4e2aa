//! The way through slots: what each access becomes, and that whatever cannot be proven is refused.

use crate::common::{How, Pair, Side, pair};
use crate::parsed::*;
use hotgraft_hotpatch::{ChunkKind, Structure};
use hotgraft_packager::{Error, Reach, emit};
use hotgraft_program::Program;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};

/// A function `changed` with these bytes in place of its body; `fields` are the offsets of 4-byte fields behind whose
/// instruction (of which `tail` more bytes follow the field) the named thing is found.
fn hand(code: &'static [u8], fields: &[(u32, u32, &str)]) -> Pair {
    let mut old = Side::new();
    old.import("kernel32.dll", "Sleep");
    old.function("other", 3);
    old.variable("counter", &[1; 64]);
    old.constant("table", &[5; 64]);
    old.function("changed", 2).calls("other").reads("counter").reads("table").reads("Sleep");
    let mut new = old.clone();
    new.shift = 0x40;
    new.f("changed").body = 4;
    let mut pair = pair(&old, &new);
    let p = &mut pair.new;
    let id = p.functions.iter().position(|f| f.name.as_deref() == Some("changed")).unwrap();
    let start = p.functions[id].rva();
    p.image.mapped[start as usize..][..code.len()].copy_from_slice(code);
    p.functions[id].ranges[0].size = code.len() as u32;
    p.references.retain(|r| !(start..start + 0x80).contains(&r.site));
    for (offset, tail, name) in fields {
        let rva = find(p, name);
        let (site, origin) = (start + offset, start + offset + 4 + tail);
        p.image.mapped[site as usize..][..4].copy_from_slice(&rva.wrapping_sub(origin).to_le_bytes());
        let branch =
            matches!(p.image.mapped[site as usize - 1], 0xE8 | 0xE9 | 0x80..=0x8F) && p.function_entry(rva).is_some();
        let form = if branch { hotgraft_program::Form::Branch } else { hotgraft_program::Form::RipRelative };
        let target = p.resolve(rva);
        p.references.push(hotgraft_program::Reference { site, width: 4, form, origin, rva, target });
    }
    p.references.sort_unstable_by_key(|r| r.site);
    pair
}

fn find(p: &Program, name: &str) -> u32 {
    let function = p.functions.iter().find(|f| f.name.as_deref() == Some(name)).map(|f| f.rva());
    let object = p.objects.iter().find(|o| o.name.as_deref() == Some(name)).map(|o| o.rva);
    let import = p.imports.iter().find(|i| i.name.to_string() == name).map(|i| i.slot);
    function.or(object).or(import).unwrap()
}

fn decode(out: &Emitted) -> Vec<Instruction> {
    let start = out.function("changed");
    let size = out.graft().functions.iter().find(|f| f.name == "changed").unwrap().patch_size;
    let bytes = &out.memory[start as usize..][..size as usize];
    Decoder::with_ip(64, bytes, PATCH_AT + u64::from(start), DecoderOptions::NONE).into_iter().collect()
}

/// What the 8 bytes hold that an instruction's RIP-relative operand leads to.
fn held(out: &Emitted, instruction: &Instruction) -> u64 {
    assert!(instruction.is_ip_rel_memory_operand(), "{instruction:?}");
    out.u64((instruction.ip_rel_memory_address() - PATCH_AT) as u32)
}

fn base(pair: &Pair, name: &str) -> u64 {
    BASE_AT + u64::from(find(&pair.old, name))
}

fn emitted(pair: &Pair) -> Emitted {
    let out = Emitted::of(pair, Reach::Any);
    assert_eq!(out.patch.structure(), Structure::Windows);
    out
}

fn refused(pair: &Pair) {
    let mut options = pair.options.clone();
    options.reach = Some(Reach::Any);
    let done = emit::emit(&pair.old, &pair.new, &pair.cmp, &pair.plan(), &options);
    assert!(matches!(done, Err(Error::Refused { key: "code.reach.near", .. })), "{done:?}");
    options.reach = None;
    let file = emit::emit(&pair.old, &pair.new, &pair.cmp, &pair.plan(), &options).expect("the near way is left");
    assert_eq!(hotgraft_hotpatch::read(&file).unwrap().structure(), Structure::Near);
}

#[test]
fn calls_and_jumps_go_through_slots() {
    // call other; je other; jmp other
    let pair = hand(
        &[0xE8, 0, 0, 0, 0, 0x0F, 0x84, 0, 0, 0, 0, 0xE9, 0, 0, 0, 0],
        &[(1, 0, "other"), (7, 0, "other"), (12, 0, "other")],
    );
    let out = emitted(&pair);
    let code = decode(&out);
    let kinds: Vec<Code> = code.iter().map(|i| i.code()).collect();
    assert_eq!(kinds, [Code::Call_rm64, Code::Jne_rel8_64, Code::Jmp_rm64, Code::Jmp_rm64]);
    for i in [0, 2, 3] {
        assert_eq!(held(&out, &code[i]), base(&pair, "other"));
    }
    assert_eq!(code[1].near_branch_target(), code[3].ip(), "the opposite condition jumps over");
    assert_eq!(out.records(ChunkKind::Absolute).len(), 1, "one slot for one address");
}

#[test]
fn an_address_becomes_a_load_and_a_read_goes_through_the_register_it_fills() {
    // lea r9, [counter]; mov ebx, [counter]; movzx r12d, byte [counter]; mov r13, [counter]; ret
    let pair = hand(
        &[
            0x4C, 0x8D, 0x0D, 0, 0, 0, 0, 0x8B, 0x1D, 0, 0, 0, 0, 0x44, 0x0F, 0xB6, 0x25, 0, 0, 0, 0, 0x4C, 0x8B, 0x2D,
            0, 0, 0, 0, 0xC3,
        ],
        &[(3, 0, "counter"), (9, 0, "counter"), (17, 0, "counter"), (24, 0, "counter")],
    );
    let out = emitted(&pair);
    let code = decode(&out);
    let text: Vec<(Code, Register, Register)> =
        code.iter().map(|i| (i.code(), i.op0_register(), i.memory_base())).collect();
    assert_eq!(
        text,
        [
            (Code::Mov_r64_rm64, Register::R9, Register::RIP),
            (Code::Mov_r64_rm64, Register::RBX, Register::RIP),
            (Code::Mov_r32_rm32, Register::EBX, Register::RBX),
            (Code::Mov_r64_rm64, Register::R12, Register::RIP),
            (Code::Movzx_r32_rm8, Register::R12D, Register::R12),
            (Code::Mov_r64_rm64, Register::R13, Register::RIP),
            (Code::Mov_r64_rm64, Register::R13, Register::R13),
            (Code::Retnq, Register::None, Register::None),
        ]
    );
    assert!(code.iter().filter(|i| i.is_ip_rel_memory_operand()).all(|i| held(&out, i) == base(&pair, "counter")));
    assert!(code.iter().filter(|i| i.memory_base() != Register::RIP).all(|i| i.memory_displacement64() == 0));
}

#[test]
fn imports_and_constants_are_copied() {
    // call [Sleep]; movaps xmm1, [table]; ret
    let pair = hand(&[0xFF, 0x15, 0, 0, 0, 0, 0x0F, 0x28, 0x0D, 0, 0, 0, 0, 0xC3], &[(2, 0, "Sleep"), (9, 0, "table")]);
    let out = emitted(&pair);
    let code = decode(&out);
    assert_eq!(code.len(), 3);
    let slot = (code[0].ip_rel_memory_address() - PATCH_AT) as u32;
    let indirect = out.records(ChunkKind::Indirect);
    assert_eq!(indirect.iter().map(|r| (r.place, r.target)).collect::<Vec<_>>(), [(slot, pair.old.imports[0].slot)]);
    let constant = code[1].ip_rel_memory_address();
    assert_eq!(constant % 16, 0);
    assert_eq!(out.memory[(constant - PATCH_AT) as usize..][..16], [5; 16]);
}

#[test]
fn a_constant_pointer_is_read_from_a_slot_with_its_value() {
    let mut pair = hand(&[0x48, 0x8B, 0x0D, 0, 0, 0, 0, 0xC3], &[(3, 0, "table")]);
    // The first 8 bytes of the table lead to `counter`, in both images.
    for p in [&mut pair.old, &mut pair.new] {
        let (site, rva) = (find(p, "table"), find(p, "counter"));
        let value = p.image.image_base + u64::from(rva);
        p.image.mapped[site as usize..][..8].copy_from_slice(&value.to_le_bytes());
        p.image.base_relocations.push(site);
        let target = p.resolve(rva);
        let form = hotgraft_program::Form::Absolute;
        p.references.push(hotgraft_program::Reference { site, width: 8, form, origin: 0, rva, target });
        p.references.sort_unstable_by_key(|r| r.site);
    }
    let out = emitted(&pair);
    let code = decode(&out);
    assert_eq!(code.len(), 2);
    assert_eq!(held(&out, &code[0]), base(&pair, "counter"));
}

#[test]
fn other_accesses_take_a_register_that_is_overwritten_on_every_way() {
    // mov [counter], ecx; test edx, edx; je +5; mov eax, 1; xor eax, eax; ret
    let pair =
        hand(&[0x89, 0x0D, 0, 0, 0, 0, 0x85, 0xD2, 0x74, 5, 0xB8, 1, 0, 0, 0, 0x31, 0xC0, 0xC3], &[(2, 0, "counter")]);
    // `xor eax, eax` reads eax in form only; the liveness knows it by the decoder's information.
    let out = emitted(&pair);
    let code = decode(&out);
    assert_eq!((code[0].code(), code[0].op0_register()), (Code::Mov_r64_rm64, Register::RAX));
    assert_eq!(
        (code[1].code(), code[1].memory_base(), code[1].op1_register()),
        (Code::Mov_rm32_r32, Register::RAX, Register::ECX)
    );
    assert_eq!(held(&out, &code[0]), base(&pair, "counter"));
}

#[test]
fn without_a_free_register_it_is_refused() {
    // mov [counter], ecx; ret: rax and all others may be read by the caller.
    refused(&hand(&[0x89, 0x0D, 0, 0, 0, 0, 0xC3], &[(2, 0, "counter")]));
    // The same, and rax is overwritten on one of two ways only.
    refused(&hand(&[0x89, 0x0D, 0, 0, 0, 0, 0x85, 0xD2, 0x74, 5, 0xB8, 1, 0, 0, 0, 0xC3], &[(2, 0, "counter")]));
    // Overwritten in part only: mov [counter], ecx; mov al, 1; ret
    refused(&hand(&[0x89, 0x0D, 0, 0, 0, 0, 0xB0, 1, 0xC3], &[(2, 0, "counter")]));
    // Overwritten behind a call that may read it: mov [counter], ecx; call other; xor eax, eax; ret
    refused(&hand(
        &[0x89, 0x0D, 0, 0, 0, 0, 0xE8, 0, 0, 0, 0, 0x31, 0xC0, 0xC3],
        &[(2, 0, "counter"), (7, 0, "other")],
    ));
}

#[test]
fn branches_follow_what_moved_and_get_longer_where_they_must() {
    // je over 20 calls to the end (100 bytes become 120: still short), then over 25 (125 become 150: long); jmp back.
    for (calls, long) in [(20usize, false), (25, true)] {
        let mut code = vec![0x74, (5 * calls) as u8];
        let mut fields = Vec::new();
        for _ in 0..calls {
            fields.push((code.len() as u32 + 1, 0, "other"));
            code.extend_from_slice(&[0xE8, 0, 0, 0, 0]);
        }
        code.push(0xE9);
        let back = -(code.len() as i32 + 4);
        code.extend_from_slice(&back.to_le_bytes());
        let pair = hand(code.leak(), &fields);
        let out = emitted(&pair);
        let code = decode(&out);
        let branch = if long { Code::Je_rel32_64 } else { Code::Je_rel8_64 };
        assert_eq!(code[0].code(), branch);
        assert_eq!(code[0].near_branch_target(), code[calls + 1].ip());
        assert_eq!(code[calls + 1].op0_kind(), OpKind::NearBranch64);
        assert_eq!(code[calls + 1].near_branch_target(), code[0].ip());
    }
}

#[test]
fn jump_tables_follow_what_moved() {
    let mut old = Side::new();
    old.function("other", 3);
    old.function("changed", 2).takes("jumps").calls("other").uses(How::Jump, "changed", 2);
    let jumps =
        old.special("jumps", &[0; 8], hotgraft_program::ObjectKind::JumpTable(hotgraft_program::FunctionId(0)), false);
    jumps.owner = Some("changed".into());
    jumps.points.push((0, "changed".into(), 9, hotgraft_program::Form::Relative));
    jumps.points.push((4, "changed".into(), 14, hotgraft_program::Form::Relative));
    let mut new = old.clone();
    new.shift = 0x50;
    new.f("changed").body = 4;
    let out = emitted(&pair(&old, &new).accept("runtime.loop.endless"));
    let changed = out.function("changed");
    let table = (out.follow(changed + 5) - PATCH_AT) as u32;
    let entry = |i: u32| {
        table.wrapping_add_signed(i32::from_le_bytes(out.memory[(table + 4 * i) as usize..][..4].try_into().unwrap()))
    };
    assert_eq!([entry(0), entry(1)], [changed + 9, changed + 15], "the call before the second target is a byte longer");
}
