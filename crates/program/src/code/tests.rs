//! Small functions in the shapes that compilers emit, and hostile bytes.

mod base;

use super::*;
use crate::function::{CodeRange, EntryKind, RangeKind};
use crate::image::{Architecture, Section};
use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, Code, Instruction, MemoryOperand, Register};
use proptest::prelude::*;

const TEXT: u32 = 0x1000;
const RDATA: u32 = 0x3000;
const DATA: u32 = 0x4000;
const OTHER: u64 = 0x2000;

/// A function at 0x1000, constants at 0x3000 and variables at 0x4000.
struct Fixture {
    image: Image,
    size: u32,
}

fn section(name: &str, rva: u32, size: u32, characteristics: u32) -> Section {
    Section { name: name.into(), rva, size, file_offset: 0, file_size: 0, characteristics }
}

impl Fixture {
    fn new(code: &[u8]) -> Self {
        let mut mapped = vec![0; 0x5000];
        mapped[TEXT as usize..RDATA as usize].fill(0xCC);
        mapped[TEXT as usize..][..code.len()].copy_from_slice(code);
        let image = Image {
            path: "test".into(),
            architecture: Architecture::X64,
            image_base: 0x1_4000_0000,
            timestamp: 0,
            checksum: 0,
            size_of_image: 0x5000,
            size_of_headers: 0x400,
            section_alignment: 0x1000,
            entry_point: 0,
            characteristics: 0x22,
            dll_characteristics: 0,
            extended_dll_characteristics: 0,
            subsystem: 3,
            directories: vec![(0, 0); 16],
            sections: vec![
                section(".text", TEXT, 0x2000, 0x6000_0020),
                section(".rdata", RDATA, 0x1000, 0x4000_0040),
                section(".data", DATA, 0x1000, 0xC000_0040),
            ],
            mapped,
            file_size: 0,
            sha256: [0; 32],
            sha1: [0; 20],
            base_relocations: Vec::new(),
            pdb: None,
        };
        Self { image, size: code.len() as u32 }
    }

    /// Code from an assembler, and the addresses of labels in it.
    fn assemble(a: &mut CodeAssembler, labels: &[CodeLabel]) -> (Self, Vec<u32>) {
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let result = a.assemble_options(u64::from(TEXT), options).expect("the code assembles");
        let labels = labels.iter().map(|l| result.label_ip(l).expect("a label") as u32).collect();
        (Self::new(&result.inner.code_buffer), labels)
    }

    fn put32(&mut self, rva: u32, values: impl IntoIterator<Item = u32>) {
        for (i, value) in values.into_iter().enumerate() {
            let at = rva as usize + 4 * i;
            self.image.mapped[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }

    fn pointers(&mut self, rva: u32, values: impl IntoIterator<Item = u32>) {
        for (i, value) in values.into_iter().enumerate() {
            let at = rva + 8 * i as u32;
            let value = self.image.image_base + u64::from(value);
            self.image.mapped[at as usize..at as usize + 8].copy_from_slice(&value.to_le_bytes());
            self.image.base_relocations.push(at);
        }
        self.image.base_relocations.sort_unstable();
    }

    fn range(&self) -> CodeRange {
        CodeRange { rva: TEXT, size: self.size, kind: RangeKind::Entry }
    }

    fn facts(&self) -> CodeFacts {
        self.facts_with(&Context::default())
    }

    fn facts_with(&self, context: &Context<'_>) -> CodeFacts {
        let mut facts = analyse_function(&self.image, &[self.range()], context);
        assert_eq!(facts.len(), 1);
        let facts = facts.swap_remove(0);
        // Every byte is accounted for, once.
        let mut at = TEXT;
        for span in &facts.spans {
            assert_eq!(span.rva, at);
            at += span.size;
        }
        assert_eq!(at, TEXT + self.size);
        facts
    }
}

fn lea(a: &mut CodeAssembler, register: Register, target: u32) {
    let memory = MemoryOperand::with_base_displ(Register::RIP, i64::from(target));
    a.add_instruction(Instruction::with2(Code::Lea_r64_m, register, memory).unwrap()).unwrap();
}

fn keys(facts: &CodeFacts) -> Vec<&str> {
    facts.problems.iter().map(|p| p.key).collect()
}

fn tables(facts: &CodeFacts) -> Vec<(u32, u32, Form, bool)> {
    facts.jump_tables.iter().map(|t| (t.table, t.entries, t.form, t.bound_proven)).collect()
}

/// Three cases that return, each at its own label.
fn cases(a: &mut CodeAssembler, out: &mut CodeLabel, n: usize) -> Vec<CodeLabel> {
    let labels: Vec<CodeLabel> = (0..n)
        .map(|i| {
            let mut label = a.create_label();
            a.set_label(&mut label).unwrap();
            a.mov(eax, i as i32 + 1).unwrap();
            a.jmp(*out).unwrap();
            label
        })
        .collect();
    a.set_label(out).unwrap();
    labels
}

fn relative(targets: &[u32], anchor: u32) -> Vec<u32> {
    targets.iter().map(|t| t.wrapping_sub(anchor)).collect()
}

#[test]
fn table_address_hoisted_out_of_a_loop_and_spilled() {
    let mut a = CodeAssembler::new(64).unwrap();
    let (mut top, mut out) = (a.create_label(), a.create_label());
    a.push(rbx).unwrap();
    a.sub(rsp, 0x30).unwrap();
    lea(&mut a, Register::RAX, RDATA);
    a.mov(qword_ptr(rsp + 0x28), rax).unwrap();
    a.set_label(&mut top).unwrap();
    a.call(OTHER).unwrap();
    a.mov(ebx, dword_ptr(rax + 8)).unwrap();
    a.lea(ecx, ptr(rbx - 3)).unwrap();
    a.cmp(ecx, 2).unwrap();
    a.ja(out).unwrap();
    a.call(OTHER).unwrap();
    a.lea(eax, ptr(rbx - 3)).unwrap();
    a.cmp(eax, 2).unwrap();
    a.ja(top).unwrap();
    a.mov(rdx, qword_ptr(rsp + 0x28)).unwrap();
    a.movsxd(rax, dword_ptr(rdx + rax * 4)).unwrap();
    a.add(rax, rdx).unwrap();
    a.jmp(rax).unwrap();
    let labels = cases(&mut a, &mut out, 3);
    a.add(rsp, 0x30).unwrap();
    a.pop(rbx).unwrap();
    a.ret().unwrap();
    let (mut f, at) = Fixture::assemble(&mut a, &labels);
    f.put32(RDATA, relative(&at, RDATA));
    // Bytes behind the table that would be valid entries as well.
    f.put32(RDATA + 12, relative(&at, RDATA));
    let facts = f.facts();
    assert_eq!(keys(&facts), [""; 0]);
    assert_eq!(tables(&facts), [(RDATA, 3, Form::Relative, true)]);
    let found: Vec<u32> = facts.jump_tables[0].references(&f.image).map(|r| r.rva).collect();
    assert_eq!(found, at);
    assert_eq!(facts.calls, [OTHER as u32]);
}

#[test]
fn bound_on_one_path_only_is_no_bound() {
    let mut a = CodeAssembler::new(64).unwrap();
    let (mut join, mut out) = (a.create_label(), a.create_label());
    a.mov(eax, ecx).unwrap();
    a.test(edx, edx).unwrap();
    a.je(join).unwrap();
    a.cmp(eax, 2).unwrap();
    a.ja(out).unwrap();
    a.set_label(&mut join).unwrap();
    lea(&mut a, Register::RDX, RDATA);
    a.movsxd(rax, dword_ptr(rdx + rax * 4)).unwrap();
    a.add(rax, rdx).unwrap();
    a.jmp(rax).unwrap();
    let labels = cases(&mut a, &mut out, 3);
    a.ret().unwrap();
    let (mut f, at) = Fixture::assemble(&mut a, &labels);
    f.put32(RDATA, relative(&at, RDATA));
    f.put32(RDATA + 12, [0x7FFF_FFFF]);
    let facts = f.facts();
    assert_eq!(tables(&facts), [(RDATA, 3, Form::Relative, false)]);
}

#[test]
fn bound_of_an_earlier_turn_does_not_hold_for_a_later_value() {
    // rbx keeps the value that was compared; the index is a new one from the same instruction.
    let mut a = CodeAssembler::new(64).unwrap();
    let (mut top, mut out) = (a.create_label(), a.create_label());
    a.xor(ebx, ebx).unwrap();
    lea(&mut a, Register::R15, RDATA);
    a.set_label(&mut top).unwrap();
    a.cmp(ebx, 2).unwrap();
    a.ja(out).unwrap();
    a.mov(ecx, ebx).unwrap();
    a.mov(esi, dword_ptr(rdi)).unwrap();
    a.mov(ebx, esi).unwrap();
    a.cmp(ecx, 1).unwrap();
    a.je(top).unwrap();
    a.movsxd(rax, dword_ptr(r15 + rsi * 4)).unwrap();
    a.add(rax, r15).unwrap();
    a.jmp(rax).unwrap();
    let labels = cases(&mut a, &mut out, 3);
    a.ret().unwrap();
    let (mut f, at) = Fixture::assemble(&mut a, &labels);
    f.put32(RDATA, relative(&at, RDATA));
    f.put32(RDATA + 12, [0x7FFF_FFFF]);
    assert_eq!(tables(&f.facts()), [(RDATA, 3, Form::Relative, false)]);
}

#[test]
fn unproven_table_ends_where_something_else_begins() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut out = a.create_label();
    a.mov(eax, ecx).unwrap();
    lea(&mut a, Register::RDX, RDATA);
    a.movsxd(rax, dword_ptr(rdx + rax * 4)).unwrap();
    a.add(rax, rdx).unwrap();
    a.jmp(rax).unwrap();
    let labels = cases(&mut a, &mut out, 3);
    a.ret().unwrap();
    let (mut f, at) = Fixture::assemble(&mut a, &labels);
    f.put32(RDATA, relative(&[at[0], at[1], at[2], at[0], at[0]], RDATA));
    let context = Context { boundaries: &[RDATA + 12], ..Context::default() };
    assert_eq!(tables(&f.facts_with(&context)), [(RDATA, 3, Form::Relative, false)]);
}

#[test]
fn mask_is_no_proof_of_length() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut out = a.create_label();
    a.and(ecx, 7).unwrap();
    lea(&mut a, Register::RDX, RDATA);
    a.movsxd(rax, dword_ptr(rdx + rcx * 4)).unwrap();
    a.add(rax, rdx).unwrap();
    a.jmp(rax).unwrap();
    let labels = cases(&mut a, &mut out, 3);
    a.ret().unwrap();
    let (mut f, at) = Fixture::assemble(&mut a, &labels);
    f.put32(RDATA, relative(&at, RDATA));
    f.put32(RDATA + 12, [0x7FFF_FFFF]);
    let facts = f.facts();
    assert_eq!(tables(&facts), [(RDATA, 3, Form::Relative, false)]);
    assert_eq!(keys(&facts), [""; 0]);
}

#[test]
fn compared_table_with_a_bad_entry_is_refused() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut out = a.create_label();
    a.cmp(ecx, 3).unwrap();
    a.ja(out).unwrap();
    a.mov(eax, ecx).unwrap();
    lea(&mut a, Register::RDX, RDATA);
    a.movsxd(rax, dword_ptr(rdx + rax * 4)).unwrap();
    a.add(rax, rdx).unwrap();
    a.jmp(rax).unwrap();
    let labels = cases(&mut a, &mut out, 3);
    a.ret().unwrap();
    let (mut f, at) = Fixture::assemble(&mut a, &labels);
    f.put32(RDATA, relative(&at, RDATA));
    f.put32(RDATA + 12, [0x7FFF_FFFF]);
    assert!(keys(&f.facts()).contains(&"code.jump_table.unbounded"));
}

/// `lea rdx, [__ImageBase]; mov ecx, [rdx+rax*4+table]; add rcx, rdx; jmp rcx`, its index perhaps from a byte table.
fn image_relative(two_levels: bool) -> (Fixture, Vec<u32>, u32) {
    let mut a = CodeAssembler::new(64).unwrap();
    let (mut out, mut end) = (a.create_label(), a.create_label());
    // The tables stand behind the code, in the range; their address is known once the code has been measured.
    let build = |a: &mut CodeAssembler, out: &mut CodeLabel, end: &mut CodeLabel, table: i32| {
        lea(a, Register::RDX, 0);
        a.cmp(ecx, 5).unwrap();
        a.ja(*out).unwrap();
        a.movsxd(rax, ecx).unwrap();
        if two_levels {
            a.movzx(eax, byte_ptr(rdx + rax + (table + 12))).unwrap();
        }
        a.mov(ecx, dword_ptr(rdx + rax * 4 + table)).unwrap();
        a.add(rcx, rdx).unwrap();
        a.jmp(rcx).unwrap();
        let labels = cases(a, out, 3);
        a.ret().unwrap();
        a.set_label(end).unwrap();
        a.db(&[0x66, 0x90]).unwrap();
        labels
    };
    let labels = build(&mut a, &mut out, &mut end, 0x1100);
    let (mut f, mut at) = Fixture::assemble(&mut a, &[&labels[..], &[end]].concat());
    let table = 0x1100;
    assert!(at.pop().unwrap() < table);
    f.size = table + 24 - TEXT;
    let targets = if two_levels { at.clone() } else { [&at[..], &at[..]].concat() };
    f.put32(table, targets);
    if two_levels {
        f.put32(table + 12, [0x0201_0200, 0xCCCC_0001]);
    }
    (f, at, table)
}

#[test]
fn image_relative_table_in_the_range() {
    let (f, at, table) = image_relative(false);
    let facts = f.facts();
    assert_eq!(keys(&facts), [""; 0]);
    assert_eq!(tables(&facts), [(table, 6, Form::ImageRelative, true)]);
    assert_eq!(facts.jump_tables[0].entry(&f.image, 4).unwrap().rva, at[1]);
    let displacements: Vec<_> =
        facts.references.iter().filter(|r| r.form == Form::ImageRelativeDisplacement).map(|r| r.rva).collect();
    assert_eq!(displacements, [table]);
    assert_eq!(facts.spans.last().unwrap().kind, CodeSpanKind::Table);
}

#[test]
fn two_level_table() {
    let (f, _, table) = image_relative(true);
    let facts = f.facts();
    assert_eq!(keys(&facts), [""; 0]);
    assert_eq!(tables(&facts), [(table, 3, Form::ImageRelative, true)]);
    let index = &facts.offset_tables[0];
    assert_eq!((index.table, index.entries, index.width, index.form), (table + 12, 6, 1, None));
    let displacements: Vec<_> =
        facts.references.iter().filter(|r| r.form == Form::ImageRelativeDisplacement).map(|r| r.rva).collect();
    assert_eq!(displacements, [table + 12, table]);
}

#[test]
fn absolute_table_under_base_relocations() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut out = a.create_label();
    a.cmp(ecx, 2).unwrap();
    a.ja(out).unwrap();
    a.mov(eax, ecx).unwrap();
    lea(&mut a, Register::RDX, RDATA);
    a.jmp(qword_ptr(rdx + rax * 8)).unwrap();
    let labels = cases(&mut a, &mut out, 3);
    a.ret().unwrap();
    let (mut f, at) = Fixture::assemble(&mut a, &labels);
    let without = f.facts();
    assert_eq!(keys(&without), ["code.jump_table.unbounded"]);
    f.pointers(RDATA, at);
    let facts = f.facts();
    assert_eq!(keys(&facts), [""; 0]);
    assert_eq!(tables(&facts), [(RDATA, 3, Form::Absolute, true)]);
    // The same shape over pointers to other functions is a tail call.
    f.image.base_relocations.clear();
    f.pointers(RDATA, [OTHER as u32; 3]);
    let facts = f.facts();
    assert_eq!(facts.jump_tables, []);
    assert_eq!(facts.indirect_tail_jumps.len(), 1);
}

#[test]
fn relative_lookup_table_of_data() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut out = a.create_label();
    a.cmp(ecx, 3).unwrap();
    a.ja(out).unwrap();
    a.mov(eax, ecx).unwrap();
    lea(&mut a, Register::RDX, RDATA);
    a.movsxd(rax, dword_ptr(rdx + rax * 4)).unwrap();
    a.add(rax, rdx).unwrap();
    a.set_label(&mut out).unwrap();
    a.ret().unwrap();
    let (mut f, _) = Fixture::assemble(&mut a, &[]);
    f.put32(RDATA, [0x100, 0x110, 0x120, 0x130, 0x140]);
    let facts = f.facts();
    assert_eq!(keys(&facts), [""; 0]);
    let table = &facts.offset_tables[0];
    assert_eq!((table.table, table.entries, table.form, table.bound_proven), (RDATA, 4, Some(Form::Relative), true));
    let found: Vec<u32> = table.references(&f.image).map(|r| r.rva).collect();
    assert_eq!(found, [RDATA + 0x100, RDATA + 0x110, RDATA + 0x120, RDATA + 0x130]);
}

#[test]
fn relative_lookup_table_that_a_loop_reads_by_bytes() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut again = a.create_label();
    a.xor(edi, edi).unwrap();
    lea(&mut a, Register::RBX, RDATA);
    a.set_label(&mut again).unwrap();
    a.movsxd(rdx, dword_ptr(rdi + rbx)).unwrap();
    a.add(rdx, rbx).unwrap();
    a.mov(qword_ptr(rcx + rdi * 2), rdx).unwrap();
    a.add(rdi, 4).unwrap();
    a.cmp(rdi, 12).unwrap();
    a.jb(again).unwrap();
    a.ret().unwrap();
    let (mut f, _) = Fixture::assemble(&mut a, &[]);
    f.put32(RDATA, [0x100, 0x110, 0x120, 0x130]);
    let facts = f.facts();
    assert_eq!(facts.offset_tables.len(), 1);
    let table = &facts.offset_tables[0];
    assert_eq!((table.table, table.entries, table.form), (RDATA, 3, Some(Form::Relative)));
}

#[test]
fn bound_from_a_combination_of_conditions() {
    let build = |and: bool| {
        let mut a = CodeAssembler::new(64).unwrap();
        let (mut out, mut go) = (a.create_label(), a.create_label());
        a.test(rdx, rdx).unwrap();
        if and {
            a.setne(al).unwrap();
            a.cmp(ecx, 4).unwrap();
            a.setb(r8b).unwrap();
            a.and(r8b, al).unwrap();
            a.jne(go).unwrap();
            a.jmp(out).unwrap();
        } else {
            a.sete(al).unwrap();
            a.cmp(ecx, 4).unwrap();
            a.setae(r8b).unwrap();
            a.or(r8b, al).unwrap();
            a.jne(out).unwrap();
        }
        a.set_label(&mut go).unwrap();
        a.mov(eax, ecx).unwrap();
        lea(&mut a, Register::RDX, RDATA);
        a.movsxd(rax, dword_ptr(rdx + rax * 4)).unwrap();
        a.add(rax, rdx).unwrap();
        a.set_label(&mut out).unwrap();
        a.ret().unwrap();
        let (mut f, _) = Fixture::assemble(&mut a, &[]);
        f.put32(RDATA, [0x100; 8]);
        let facts = f.facts();
        facts.offset_tables.iter().map(|t| (t.table, t.entries, t.bound_proven)).collect::<Vec<_>>()
    };
    assert_eq!(build(false), [(RDATA, 4, true)]);
    assert_eq!(build(true), [(RDATA, 4, true)]);
}

#[test]
fn negated_combination_is_no_bound() {
    // The access happens where one of the conditions fails, not where both hold.
    let mut a = CodeAssembler::new(64).unwrap();
    let mut out = a.create_label();
    a.test(rdx, rdx).unwrap();
    a.sete(al).unwrap();
    a.cmp(ecx, 4).unwrap();
    a.setb(r8b).unwrap();
    a.or(r8b, al).unwrap();
    a.je(out).unwrap();
    a.mov(eax, ecx).unwrap();
    lea(&mut a, Register::RDX, RDATA);
    a.movsxd(rax, dword_ptr(rdx + rax * 4)).unwrap();
    a.add(rax, rdx).unwrap();
    a.set_label(&mut out).unwrap();
    a.ret().unwrap();
    let (f, _) = Fixture::assemble(&mut a, &[]);
    assert_eq!(keys(&f.facts()), ["data.relative_table.unbounded"]);
}

#[test]
fn bound_of_the_low_half_of_a_sign_extended_index() {
    for byte in [false, true] {
        let mut a = CodeAssembler::new(64).unwrap();
        let mut out = a.create_label();
        lea(&mut a, Register::R11, 0);
        if byte {
            a.movsx(r10, byte_ptr(rcx)).unwrap();
        } else {
            a.movsxd(r10, dword_ptr(rcx)).unwrap();
        }
        a.cmp(r10d, 2).unwrap();
        a.ja(out).unwrap();
        a.mov(ecx, dword_ptr(r11 + r10 * 4 + RDATA as i32)).unwrap();
        a.add(rcx, r11).unwrap();
        a.jmp(rcx).unwrap();
        let labels = cases(&mut a, &mut out, 3);
        a.ret().unwrap();
        let (mut f, at) = Fixture::assemble(&mut a, &labels);
        f.put32(RDATA, at.clone());
        f.put32(RDATA + 12, at);
        assert_eq!(tables(&f.facts()), [(RDATA, 3, Form::ImageRelative, true)]);
    }
}

#[test]
fn signed_comparison_leaves_negative_indices() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut out = a.create_label();
    a.movsxd(rax, ecx).unwrap();
    a.cmp(ecx, 2).unwrap();
    a.jg(out).unwrap();
    lea(&mut a, Register::RDX, RDATA);
    a.movsxd(rax, dword_ptr(rdx + rax * 4)).unwrap();
    a.add(rax, rdx).unwrap();
    a.jmp(rax).unwrap();
    let labels = cases(&mut a, &mut out, 3);
    a.ret().unwrap();
    let (mut f, at) = Fixture::assemble(&mut a, &labels);
    f.put32(RDATA, relative(&at, RDATA));
    f.put32(RDATA + 12, [0x7FFF_FFFF]);
    assert_eq!(tables(&f.facts()), [(RDATA, 3, Form::Relative, false)]);
}

#[test]
fn unlisted_function_behind_another_may_end_in_a_tail_call() {
    // ret; int3...; (16) mov rax, [rcx]; jmp rax
    let mut code = vec![0xC3];
    code.resize(16, 0xCC);
    code.extend([0x48, 0x8B, 0x01, 0xFF, 0xE0]);
    let facts = Fixture::new(&code).facts();
    assert_eq!(keys(&facts), [""; 0]);
    assert_eq!(facts.indirect_tail_jumps, [TEXT + 19]);
}

#[test]
fn index_from_many_constants() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut join = a.create_label();
    for n in 0..40 {
        a.mov(eax, n).unwrap();
        a.cmp(ecx, n).unwrap();
        a.je(join).unwrap();
    }
    a.xor(eax, eax).unwrap();
    a.set_label(&mut join).unwrap();
    lea(&mut a, Register::RDX, RDATA);
    a.movsxd(rax, dword_ptr(rdx + rax * 4)).unwrap();
    a.add(rax, rdx).unwrap();
    a.ret().unwrap();
    let (mut f, _) = Fixture::assemble(&mut a, &[]);
    f.put32(RDATA, [0x100; 60]);
    let facts = f.facts();
    let found: Vec<_> = facts.offset_tables.iter().map(|t| (t.table, t.entries, t.bound_proven)).collect();
    assert_eq!(found, [(RDATA, 40, true)]);
}

fn displacements(facts: &CodeFacts) -> Vec<u32> {
    facts.references.iter().filter(|r| r.form == Form::ImageRelativeDisplacement).map(|r| r.rva).collect()
}

#[test]
fn image_base_survives_calls_in_saved_registers_and_slots() {
    let mut a = CodeAssembler::new(64).unwrap();
    a.push(rbx).unwrap();
    a.sub(rsp, 0x30).unwrap();
    lea(&mut a, Register::RBX, 0);
    a.mov(qword_ptr(rsp + 0x28), rbx).unwrap();
    a.call(OTHER).unwrap();
    a.mov(eax, dword_ptr(rbx + rax * 4 + 0x3010)).unwrap();
    a.mov(r10, qword_ptr(rsp + 0x28)).unwrap();
    a.lea(rdx, ptr(r10 + 0x4020)).unwrap();
    a.movzx(eax, word_ptr(r10 + 0x3C)).unwrap();
    a.call(OTHER).unwrap();
    // r10 is lost in the call: this is no displacement from the image base.
    a.mov(eax, dword_ptr(r10 + 0x3030)).unwrap();
    a.add(rsp, 0x30).unwrap();
    a.pop(rbx).unwrap();
    a.ret().unwrap();
    let (f, _) = Fixture::assemble(&mut a, &[]);
    let facts = f.facts();
    assert_eq!(keys(&facts), [""; 0]);
    assert_eq!(displacements(&facts), [0x3010, 0x4020]);
}

#[test]
fn image_base_on_some_paths_only_is_a_problem() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut join = a.create_label();
    a.mov(rdx, rcx).unwrap();
    a.test(r8d, r8d).unwrap();
    a.je(join).unwrap();
    lea(&mut a, Register::RDX, 0);
    a.set_label(&mut join).unwrap();
    a.mov(eax, dword_ptr(rdx + 0x3010)).unwrap();
    a.ret().unwrap();
    let (f, _) = Fixture::assemble(&mut a, &[]);
    assert_eq!(keys(&f.facts()), ["code.image_base.untracked"]);
}

#[test]
fn image_base_with_an_unknown_part_is_a_problem() {
    let mut a = CodeAssembler::new(64).unwrap();
    lea(&mut a, Register::RDX, 0);
    a.add(rdx, rcx).unwrap();
    a.mov(eax, dword_ptr(rdx + 0x3010)).unwrap();
    a.ret().unwrap();
    let (f, _) = Fixture::assemble(&mut a, &[]);
    assert_eq!(keys(&f.facts()), ["code.image_base.untracked"]);
}

/// `lea rbx, [__ImageBase]`, what the test adds, then an operand relative to rbx.
fn anchored(and: impl FnOnce(&mut CodeAssembler)) -> CodeFacts {
    let mut a = CodeAssembler::new(64).unwrap();
    a.push(rbx).unwrap();
    a.sub(rsp, 0x30).unwrap();
    lea(&mut a, Register::RBX, 0);
    and(&mut a);
    a.mov(eax, dword_ptr(rbx + 0x3010)).unwrap();
    a.add(rsp, 0x30).unwrap();
    a.pop(rbx).unwrap();
    a.ret().unwrap();
    let (f, _) = Fixture::assemble(&mut a, &[]);
    f.facts()
}

#[test]
fn image_base_as_anchor_and_as_value_is_a_problem() {
    let problem = ["code.image_base.untracked"];
    // An argument, a fifth argument, a global, a comparison, a difference, a sum.
    let argument = |a: &mut CodeAssembler| {
        a.mov(rcx, rbx).unwrap();
        a.call(OTHER).unwrap();
    };
    assert_eq!(keys(&anchored(argument)), problem);
    let fifth = |a: &mut CodeAssembler| {
        a.mov(qword_ptr(rsp + 0x20), rbx).unwrap();
        a.call(OTHER).unwrap();
    };
    assert_eq!(keys(&anchored(fifth)), problem);
    assert_eq!(keys(&anchored(|a| a.mov(qword_ptr(rsi + 8), rbx).unwrap())), problem);
    assert_eq!(keys(&anchored(|a| a.cmp(rcx, rbx).unwrap())), problem);
    assert_eq!(keys(&anchored(|a| a.sub(rcx, rbx).unwrap())), problem);
    let sum = |a: &mut CodeAssembler| {
        a.add(rcx, rbx).unwrap();
        a.mov(edx, dword_ptr(rcx)).unwrap();
    };
    assert_eq!(keys(&anchored(sum)), problem);
    // Beside it: the base in a register that the callee keeps, and a slot that the function reads again.
    assert_eq!(keys(&anchored(|a| a.call(OTHER).unwrap())), [""; 0]);
    let spilled = |a: &mut CodeAssembler| {
        a.mov(qword_ptr(rsp + 0x28), rbx).unwrap();
        a.call(OTHER).unwrap();
        a.mov(rbx, qword_ptr(rsp + 0x28)).unwrap();
    };
    assert_eq!(keys(&anchored(spilled)), [""; 0]);
}

#[test]
fn image_base_as_a_value_alone_is_none() {
    let mut a = CodeAssembler::new(64).unwrap();
    a.sub(rsp, 0x28).unwrap();
    lea(&mut a, Register::RCX, 0);
    a.call(OTHER).unwrap();
    a.add(rsp, 0x28).unwrap();
    a.ret().unwrap();
    let (f, _) = Fixture::assemble(&mut a, &[]);
    assert_eq!(keys(&f.facts()), [""; 0]);
}

#[test]
fn tail_calls_give_back_what_belongs_to_the_caller() {
    let build = |pop: bool, computed: bool| {
        let mut a = CodeAssembler::new(64).unwrap();
        a.push(rbx).unwrap();
        a.sub(rsp, 0x20).unwrap();
        a.mov(rbx, rcx).unwrap();
        a.call(OTHER).unwrap();
        a.mov(rax, qword_ptr(rbx + 0x18)).unwrap();
        if computed {
            a.add(rax, rbx).unwrap();
        }
        a.add(rsp, 0x20).unwrap();
        if pop {
            a.pop(rbx).unwrap();
        } else {
            a.pop(rdx).unwrap();
        }
        a.jmp(rax).unwrap();
        let (f, _) = Fixture::assemble(&mut a, &[]);
        let facts = f.facts();
        (facts.indirect_tail_jumps.len(), keys(&facts).join(","))
    };
    assert_eq!(build(true, false), (1, String::new()));
    assert_eq!(build(false, false), (0, "code.indirect_jump.unresolved".into()));
    assert_eq!(build(true, true), (0, "code.indirect_jump.unresolved".into()));
}

#[test]
fn jump_through_an_unknown_array_depends_on_pointers_into_the_function() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut inner = a.create_label();
    a.jmp(qword_ptr(rcx + rdx * 8)).unwrap();
    a.set_label(&mut inner).unwrap();
    a.mov(eax, 1).unwrap();
    a.ret().unwrap();
    let (f, at) = Fixture::assemble(&mut a, &[inner]);
    assert_eq!(f.facts().indirect_tail_jumps.len(), 1);
    let facts = f.facts_with(&Context { pointer_targets: &at, ..Context::default() });
    assert_eq!(keys(&facts), ["code.indirect_jump.unresolved"]);
}

#[test]
fn jump_through_an_import_slot() {
    let f = Fixture::new(&[0xFF, 0x25, 0xFA, 0x1F, 0, 0]);
    let facts = f.facts();
    assert_eq!(facts.indirect_tail_jumps, [TEXT]);
    let expected = RawReference { site: TEXT + 2, width: 4, form: Form::RipRelative, origin: TEXT + 6, rva: RDATA };
    assert_eq!(facts.references, [expected]);
}

#[test]
fn base_relocations_must_cover_fields() {
    let mut code = vec![0x48, 0xB8];
    code.extend(0x1_4000_3008u64.to_le_bytes());
    code.push(0xC3);
    let mut f = Fixture::new(&code);
    f.image.base_relocations = vec![TEXT + 2];
    let expected = RawReference { site: TEXT + 2, width: 8, form: Form::Absolute, origin: 0, rva: 0x3008 };
    assert_eq!(f.facts().references, [expected]);
    f.image.base_relocations = vec![TEXT + 3];
    assert_eq!(keys(&f.facts()), ["code.reference.unknown"]);
}

#[test]
fn branches_within_the_range_are_no_references() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut top = a.create_label();
    a.set_label(&mut top).unwrap();
    a.dec(ecx).unwrap();
    a.jne(top).unwrap();
    a.call(u64::from(TEXT)).unwrap();
    a.jmp(OTHER).unwrap();
    let (f, _) = Fixture::assemble(&mut a, &[]);
    let facts = f.facts();
    assert_eq!(facts.references.iter().map(|r| (r.form, r.rva)).collect::<Vec<_>>(), [(Form::Branch, OTHER as u32)]);
    assert_eq!((facts.calls, facts.tail_jumps), (vec![TEXT], vec![OTHER as u32]));
}

#[test]
fn code_behind_a_call_that_does_not_return() {
    // call; int3; nop; (label that nothing leads to:) xor eax, eax; ret; int3 int3
    let f = Fixture::new(&[0xE8, 0xFB, 0x0F, 0, 0, 0xCC, 0x66, 0x90, 0x31, 0xC0, 0xC3, 0xCC, 0xCC]);
    let facts = f.facts();
    assert_eq!(keys(&facts), [""; 0]);
    use CodeSpanKind::{Code, Padding};
    let spans: Vec<_> = facts.spans.iter().map(|s| (s.size, s.kind)).collect();
    assert_eq!(spans, [(5, Code), (3, Padding), (3, Code), (2, Padding)]);
}

#[test]
fn call_at_the_end_is_followed_by_filler_only() {
    let f = Fixture::new(&[0x90, 0xE8, 0xFA, 0x0F, 0, 0, 0x90, 0x66, 0x90]);
    let facts = f.facts();
    assert_eq!(keys(&facts), [""; 0]);
    assert_eq!(facts.spans.last().unwrap().kind, CodeSpanKind::Padding);
}

#[test]
fn what_is_no_code_is_reported() {
    // ret, then bytes that are no instruction
    assert_eq!(keys(&Fixture::new(&[0xC3, 0x06, 0x06]).facts()), ["code.undecodable"]);
    // a jump into the middle of an instruction
    assert_eq!(keys(&Fixture::new(&[0xB8, 0, 0, 0, 0, 0xEB, 0xFA]).facts()), ["code.undecodable"]);
    // control runs off the end
    assert_eq!(keys(&Fixture::new(&[0x31, 0xC0]).facts()), ["code.falls_through"]);
    // a range that does not lie in the image
    let f = Fixture::new(&[0xC3]);
    let range = CodeRange { rva: 0xFFFF_FFF0, size: 0x100, kind: RangeKind::Entry };
    assert_eq!(keys(&analyse(&f.image, range, &[range])), ["code.undecodable"]);
}

#[test]
fn landing_pads_are_code_with_the_frame_of_the_calls() {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut pad = a.create_label();
    a.push(rbx).unwrap();
    a.sub(rsp, 0x20).unwrap();
    lea(&mut a, Register::RBX, 0);
    a.call(OTHER).unwrap();
    a.add(rsp, 0x20).unwrap();
    a.pop(rbx).unwrap();
    a.ret().unwrap();
    a.set_label(&mut pad).unwrap();
    a.mov(eax, dword_ptr(rbx + 0x3010)).unwrap();
    a.add(rsp, 0x20).unwrap();
    a.pop(rbx).unwrap();
    a.ret().unwrap();
    let (f, at) = Fixture::assemble(&mut a, &[pad]);
    let facts = f.facts_with(&Context { landing_pads: &at, ..Context::default() });
    assert_eq!(keys(&facts), [""; 0]);
    assert_eq!(displacements(&facts), [0x3010]);
    // Without knowing how control comes there, the base may be anything.
    assert_eq!(keys(&f.facts()), ["code.image_base.untracked"]);
}

#[test]
fn control_flow_graph() {
    let mut a = CodeAssembler::new(64).unwrap();
    let (mut spin, mut done) = (a.create_label(), a.create_label());
    a.test(ecx, ecx).unwrap();
    a.je(done).unwrap();
    a.set_label(&mut spin).unwrap();
    a.call(OTHER).unwrap();
    a.jmp(spin).unwrap();
    a.set_label(&mut done).unwrap();
    a.ret().unwrap();
    let (f, at) = Fixture::assemble(&mut a, &[spin, done]);
    let cfg = Cfg::build(&f.image, &[f.facts()]);
    assert_eq!(cfg.graph.node_count(), 3);
    assert_eq!(cfg.endless_loops(), [at[0]]);
    assert!(cfg.leads_into(at[0], at[0] + 1));
    assert!(!cfg.leads_into(TEXT, TEXT + 4));
    let done = cfg.block_at(at[1]).unwrap();
    assert_eq!(cfg.graph[done].exit, Exit::Return);
}

#[test]
fn entry_kinds() {
    let kind = |code: &[u8], before: &[u8], covered: &dyn Fn(u32) -> bool| {
        // The function starts at 0x1100, behind other bytes.
        let mut f = Fixture::new(&[]);
        f.image.mapped[0x1000..0x1100].fill(0x55);
        f.image.mapped[0x1100 - before.len()..0x1100].copy_from_slice(before);
        f.image.mapped[0x1100..0x1100 + code.len()].copy_from_slice(code);
        let range = CodeRange { rva: 0x1100, size: code.len() as u32, kind: RangeKind::Entry };
        let facts = analyse_function(&f.image, &[range], &Context::default());
        entry_kind(&f.image, range, &facts, covered)
    };
    let none = |_: u32| false;
    let plain = [0x48, 0x83, 0xEC, 0x28, 0x31, 0xC0, 0xC3];
    let padding = [0xCC; 6];
    assert_eq!(kind(&plain, &padding, &none), EntryKind::PaddedShortJump);
    assert_eq!(kind(&plain, &[0x66, 0x2E, 0x0F, 0x1F, 0x84, 0, 0, 0, 0, 0], &none), EntryKind::PaddedShortJump);
    assert_eq!(kind(&plain, &[0xCC; 5], &none), EntryKind::NearJump);
    assert_eq!(kind(&plain, &padding, &|rva| rva == 0x10FC), EntryKind::NearJump);
    // A first instruction of one byte leaves no room for the short jump.
    assert_eq!(kind(&[0x53, 0x31, 0xC0, 0x31, 0xDB, 0xC3], &padding, &none), EntryKind::NearJump);
    // Too short, with and without filler behind.
    assert_eq!(kind(&[0x31, 0xC0, 0xC3], &[0x55; 6], &none), EntryKind::NearJump);
    assert_eq!(kind(&[0x31, 0xC0, 0xC3], &[0x55; 6], &|rva| rva == 0x1104), EntryKind::None);
    // A loop back to the entry.
    assert_eq!(kind(&[0xFF, 0xC9, 0x75, 0xFC, 0x31, 0xC0, 0xC3], &padding, &none), EntryKind::None);
    // A branch into the bytes of the near jump only.
    assert_eq!(kind(&[0x31, 0xC0, 0xFF, 0xC0, 0x75, 0xFC, 0xC3], &[0x55; 6], &none), EntryKind::None);
    assert_eq!(kind(&[0x31, 0xC0, 0xFF, 0xC0, 0x75, 0xFC, 0xC3], &padding, &none), EntryKind::PaddedShortJump);
    // A call within the first five bytes may be returned to.
    assert_eq!(kind(&[0xFF, 0xD0, 0x31, 0xC0, 0x90, 0xC3], &[0x55; 6], &none), EntryKind::None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_give_facts(
        code in proptest::collection::vec(any::<u8>(), 1..600),
        tables in proptest::collection::vec(any::<u8>(), 64),
        relocations in proptest::collection::btree_set(TEXT..TEXT + 600, 0..6),
        split in 1u32..600,
    ) {
        let mut f = Fixture::new(&code);
        f.image.mapped[RDATA as usize..][..64].copy_from_slice(&tables);
        f.image.base_relocations = relocations.into_iter().collect();
        let facts = f.facts();
        for pair in facts.references.windows(2) {
            prop_assert!(pair[0].site <= pair[1].site);
        }
        Cfg::build(&f.image, std::slice::from_ref(&facts)).endless_loops();
        entry_kind(&f.image, f.range(), std::slice::from_ref(&facts), &|_| false);
        prop_assert_eq!(&facts, &f.facts());
        // The same bytes as two ranges.
        let split = split.min(f.size);
        let ranges = [
            CodeRange { rva: TEXT, size: split, kind: RangeKind::Entry },
            CodeRange { rva: TEXT + split, size: f.size - split, kind: RangeKind::Cold },
        ];
        prop_assert_eq!(analyse_function(&f.image, &ranges, &Context::default()).len(), 2);
    }

    #[test]
    fn likely_code_gives_facts(picks in proptest::collection::vec((0usize..24, any::<u8>()), 1..120)) {
        // Whole instructions of the kinds that the dataflow knows, in any order.
        let kinds: [&[u8]; 24] = [
            &[0x48, 0x8D, 0x05, 0xF9, 0xEF, 0xFF, 0xFF], &[0x48, 0x63, 0x0C, 0x88], &[0x48, 0x01, 0xC1], &[0xFF, 0xE1],
            &[0x83, 0xF9, 0x05], &[0x77, 0x10], &[0x76, 0xF0], &[0x50], &[0x58], &[0x48, 0x89, 0x44, 0x24, 0x08],
            &[0x48, 0x8B, 0x44, 0x24, 0x08], &[0xE8, 0, 0, 0, 0], &[0xC3], &[0x48, 0x0F, 0x47, 0xC1], &[0x83, 0xE1, 0x07],
            &[0x48, 0x8D, 0x15, 0x00, 0x1F, 0, 0], &[0x8B, 0x8C, 0x82, 0x10, 0x30, 0, 0], &[0x48, 0x29, 0xC4],
            &[0xFF, 0x24, 0xC2], &[0x89, 0xC8], &[0x0F, 0xB6, 0xC9], &[0x48, 0x98], &[0xEB, 0x05], &[0x48, 0x83, 0xC0, 0x01],
        ];
        let mut code = Vec::new();
        for (kind, byte) in picks {
            code.extend_from_slice(kinds[kind]);
            if kinds[kind].len() == 2 && (0x70..0x80).contains(&kinds[kind][0]) {
                *code.last_mut().unwrap() = byte;
            }
        }
        let f = Fixture::new(&code);
        let facts = f.facts();
        prop_assert_eq!(&facts, &f.facts());
    }
}
