//! What is found of the image base without the dataflow over everything, against what that finds.

use super::super::analysis::{Context, analyse_by};
use super::super::flow;
use super::{Fixture, OTHER, lea};
use crate::function::{CodeRange, RangeKind};
use iced_x86::code_asm::*;
use iced_x86::{IcedError, Register};
use proptest::prelude::*;

/// Instructions that do something with the base, or lose it.
const MENU: usize = 46;

fn emit(a: &mut CodeAssembler, what: usize, label: CodeLabel) -> Result<(), IcedError> {
    match what {
        0 => lea(a, Register::RDX, 0),
        1 => lea(a, Register::RBX, 0),
        2 => lea(a, Register::RCX, 0x3020),
        3 => a.mov(rcx, rdx)?,
        4 => a.mov(rbx, rdx)?,
        5 => a.mov(edx, ebx)?,
        6 => a.mov(dx, bx)?,
        7 => a.mov(eax, dword_ptr(rdx + rax * 4 + 0x3010))?,
        8 => a.movzx(eax, byte_ptr(rdx + rax + 0x3010))?,
        9 => a.movzx(eax, byte_ptr(rax + rdx + 0x3010))?,
        10 => a.mov(rax, qword_ptr(rbx + 0x3018))?,
        11 => a.mov(rax, qword_ptr(rbx + 0x18))?,
        12 => a.mov(rax, qword_ptr(rbx + 0x218))?,
        13 => a.add(rax, rdx)?,
        14 => a.add(rdx, rax)?,
        15 => a.add(rbx, 8)?,
        16 => a.add(ebx, edx)?,
        17 => a.sub(rcx, rdx)?,
        18 => a.and(rbx, 15)?,
        19 => a.xor(edx, edx)?,
        20 => a.lea(rcx, ptr(rbx + 0x20))?,
        21 => a.lea(rcx, ptr(rbx + rdx))?,
        22 => a.lea(rcx, ptr(rdx + rax * 4 + 0x3010))?,
        23 => a.lea(ecx, ptr(rdx + 0x3010))?,
        24 => a.cmp(rbx, rdx)?,
        25 => a.test(rax, rax)?,
        26 => a.mov(qword_ptr(rsp + 0x20), rbx)?,
        27 => a.mov(rbx, qword_ptr(rsp + 0x20))?,
        28 => a.mov(qword_ptr(rsi + 8), rdx)?,
        29 => a.mov(rdx, qword_ptr(rsi + 8))?,
        30 => a.push(rbx)?,
        31 => a.pop(rbx)?,
        32 => a.call(OTHER)?,
        33 => a.imul_2(rbx, rdx)?,
        34 => a.cmove(rbx, rdx)?,
        35 => a.xchg(rbx, rdx)?,
        36 => a.movq(xmm0, rdx)?,
        37 => a.inc(rbx)?,
        38 => a.sete(bl)?,
        39 => a.movsxd(rdx, ebx)?,
        40 => a.mov(rax, rbx)?,
        41 => a.neg(rdx)?,
        42 => a.je(label)?,
        43 => a.jb(label)?,
        44 => a.jmp(label)?,
        _ => a.jmp(OTHER)?,
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn base_as_by_the_dataflow_over_everything(
        code in proptest::collection::vec((0..MENU, 0usize..24), 1..24),
        weak in proptest::option::of(0usize..24),
    ) {
        let mut a = CodeAssembler::new(64).unwrap();
        let mut labels: Vec<CodeLabel> = (0..code.len() + 1).map(|_| a.create_label()).collect();
        for (n, (what, to)) in code.iter().enumerate() {
            let to = labels[to % labels.len()];
            a.set_label(&mut labels[n]).unwrap();
            // A label must stand before an instruction.
            a.nop().unwrap();
            emit(&mut a, *what, to).unwrap();
        }
        a.set_label(&mut labels[code.len()]).unwrap();
        a.ret().unwrap();
        let (f, places) = Fixture::assemble(&mut a, &labels);
        let mut ranges = vec![CodeRange { rva: places[0], size: f.size, kind: RangeKind::Entry }];
        // A part of its own, which control may also run into.
        if let Some(at) = weak.map(|w| places[w % places.len()]).filter(|at| *at > places[0]) {
            ranges[0].size = at - places[0];
            ranges.push(CodeRange { rva: at, size: f.size - ranges[0].size, kind: RangeKind::Cold });
        }
        let facts = |solve| analyse_by(solve, &f.image, &ranges, &Context::default());
        let (mut quick, whole) = (facts(flow::solve), facts(flow::whole));
        // That dataflow loses sight of what a loop has left in another register; to see it is no error.
        for (quick, whole) in quick.iter_mut().zip(&whole) {
            quick.problems.retain(|p| p.key != "code.image_base.untracked" || whole.problems.contains(p));
        }
        prop_assert_eq!(quick, whole);
    }
}

/// That the property above is not one of functions that all take the dataflow over everything.
#[test]
fn most_uses_of_the_base_are_plain() {
    let mut a = CodeAssembler::new(64).unwrap();
    let skip = a.create_label();
    for what in [0, 7, 4, 24, 32, 11, 30] {
        emit(&mut a, what, skip).unwrap();
    }
    a.ret().unwrap();
    let (f, _) = Fixture::assemble(&mut a, &[]);
    let ranges = [CodeRange { rva: super::TEXT, size: f.size, kind: RangeKind::Entry }];
    fn never(
        image: &crate::image::Image,
        descent: &super::super::descent::Descent<'_>,
        roots: &flow::Roots<'_>,
        context: &Context<'_>,
    ) -> flow::Findings {
        flow::quick(image, descent, roots, context).expect("plain")
    }
    let facts = analyse_by(never, &f.image, &ranges, &Context::default());
    let values = facts[0].problems.iter().filter(|p| p.key == "code.image_base.untracked").count();
    assert_eq!(values, 3, "the comparison, the argument and the push");
}
