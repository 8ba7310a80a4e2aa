//! The only module of this crate that knows an instruction set: instructions of a function as tokens, for alignment and
//! flow graphs, and as text.

use hotgraft_program::{FunctionId, Program, Reference};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};
use rustc_hash::FxHasher;
use std::hash::{Hash, Hasher};

/// Where control goes behind an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Flow {
    Next,
    /// Branch within the function, to this RVA; control may also go on.
    Conditional(u32),
    /// Branch within the function, to this RVA.
    Jump(u32),
    Call,
    /// Jump table, tail call, return, trap.
    Leaves,
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) rva: u32,
    pub(crate) len: u8,
    pub(crate) flow: Flow,
    /// All of the instruction except addresses: opcode, registers, immediates, displacements.
    pub(crate) exact: u64,
    /// Mnemonic and operand kinds.
    pub(crate) shape: u64,
    /// Mnemonic.
    pub(crate) mnemonic: u16,
    /// The only immediate operand, for constants that drift with source lines.
    pub(crate) immediate: Option<i64>,
    /// `exact` without the immediate.
    pub(crate) exact_but_immediate: u64,
    /// True if the memory operand is only computed (`lea`) or is relative to a register.
    pub(crate) takes_address: bool,
    /// Bytes read at a fixed address, 0 if none or if that is not known.
    pub(crate) reads: u16,
}

/// The instructions of a function, range by range.
#[derive(Clone, Debug, Default)]
pub(crate) struct Code {
    pub(crate) steps: Vec<Step>,
}

impl Code {
    pub(crate) fn decode(program: &Program, id: FunctionId) -> Self {
        let f = &program.functions[id.index()];
        let mut steps = Vec::with_capacity(f.size() as usize / 4);
        for range in &f.ranges {
            let size = crate::side::range_size(program, range);
            let Some(bytes) = program.image.bytes(range.rva, size as usize) else { continue };
            let mut decoder = Decoder::with_ip(64, bytes, u64::from(range.rva), DecoderOptions::NONE);
            let mut references = program.references_in(range.rva, range.end());
            let mut instruction = Instruction::default();
            while decoder.can_decode() {
                let start = decoder.position();
                decoder.decode_out(&mut instruction);
                let rva = instruction.ip32();
                let end = rva + instruction.len() as u32;
                references = &references[references.partition_point(|r| r.site < rva)..];
                let inside = &references[..references.partition_point(|r| r.site < end)];
                let offsets = decoder.get_constant_offsets(&instruction);
                let raw = &bytes[start..decoder.position()];
                steps.push(step(&instruction, &offsets, raw, inside));
            }
        }
        Code { steps }
    }

    /// The instruction that holds `rva`.
    pub(crate) fn step_at(&self, rva: u32) -> Option<&Step> {
        self.steps.iter().find(|s| rva.checked_sub(s.rva).is_some_and(|d| d < u32::from(s.len)))
    }
}

fn step(i: &Instruction, offsets: &iced_x86::ConstantOffsets, raw: &[u8], inside: &[Reference]) -> Step {
    let rva = i.ip32();
    let mut masked = [0u8; 16];
    let len = raw.len().min(15);
    masked[..len].copy_from_slice(&raw[..len]);
    for reference in inside {
        let at = (reference.site - rva) as usize;
        let end = (at + usize::from(reference.width)).min(16);
        if at < end {
            masked[at..end].fill(0);
        }
    }
    let near = matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    let within = near && inside.is_empty();
    let target = i.near_branch_target() as u32;
    let flow = match i.flow_control() {
        FlowControl::Next | FlowControl::XbeginXabortXend => Flow::Next,
        FlowControl::ConditionalBranch if within => Flow::Conditional(target),
        FlowControl::UnconditionalBranch if within => Flow::Jump(target),
        FlowControl::ConditionalBranch => Flow::Next,
        FlowControl::Call | FlowControl::IndirectCall => Flow::Call,
        _ => Flow::Leaves,
    };
    let mut shape = FxHasher::default();
    i.mnemonic().hash(&mut shape);
    for op in 0..i.op_count() {
        let kind = i.op_kind(op);
        match kind {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => 1u8.hash(&mut shape),
            OpKind::Register => i.op_register(op).size().hash(&mut shape),
            OpKind::Memory => (3u8, i.memory_size()).hash(&mut shape),
            _ if i.is_immediate(op) => 4u8.hash(&mut shape),
            _ => kind.hash(&mut shape),
        }
    }
    let shape = shape.finish();
    // The length of a branch within the function follows from what lies between: not part of what it does.
    let exact = if near { shape ^ 1 } else { hash(&masked[..len]) };
    let mut immediate = None;
    let mut exact_but_immediate = exact;
    if offsets.has_immediate() && !near && !offsets.has_immediate2() {
        let at = offsets.immediate_offset();
        let size = offsets.immediate_size();
        if !inside.iter().any(|r| (r.site - rva) as usize == at) && at + size <= len {
            immediate = (0..i.op_count()).find(|op| i.is_immediate(*op)).map(|op| i.immediate(op) as i64);
            masked[at..at + size].fill(0);
            exact_but_immediate = hash(&masked[..len]);
        }
    }
    let direct = i.is_ip_rel_memory_operand() && i.mnemonic() != Mnemonic::Lea;
    let reads = if direct { i.memory_size().size() as u16 } else { 0 };
    let takes_address = i.mnemonic() == Mnemonic::Lea || !i.is_ip_rel_memory_operand();
    Step {
        rva,
        len: raw.len() as u8,
        flow,
        exact,
        shape,
        mnemonic: i.mnemonic() as u16,
        immediate,
        exact_but_immediate,
        takes_address,
        reads,
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(bytes);
    hasher.finish()
}

/// True if the instruction at `site` loads an address into a register of which nothing but comparisons are made until
/// it is written again, in the order of addresses: the address is a bound, never read through or handed on.
pub(crate) fn is_only_compared(program: &Program, id: FunctionId, site: u32) -> bool {
    let Some(range) = program.functions[id.index()].ranges.iter().find(|r| r.contains(site)) else { return false };
    let Some(bytes) = program.image.bytes(range.rva, range.size as usize) else { return false };
    let mut register = None;
    let mut compared = false;
    let mut factory = InstructionInfoFactory::new();
    for i in &mut Decoder::with_ip(64, bytes, u64::from(range.rva), DecoderOptions::NONE) {
        let Some(bound) = register else {
            if (i.ip32()..i.next_ip32()).contains(&site) {
                if i.mnemonic() != Mnemonic::Lea {
                    return false;
                }
                register = Some(i.op0_register().full_register());
            }
            continue;
        };
        let info = factory.info(&i);
        let uses = |wanted: fn(OpAccess) -> bool| {
            info.used_registers().iter().any(|u| u.register().full_register() == bound && wanted(u.access()))
        };
        let reads =
            uses(|a| matches!(a, OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite));
        let clears = i.mnemonic() == Mnemonic::Xor && i.op0_register() == i.op1_register();
        if reads && !clears {
            let plain = i.mnemonic() == Mnemonic::Cmp && (0..i.op_count()).all(|op| i.op_kind(op) != OpKind::Memory);
            if !plain {
                return false;
            }
            compared = true;
        }
        if uses(|a| matches!(a, OpAccess::Write | OpAccess::ReadWrite)) {
            break;
        }
    }
    compared
}

/// One question iced answers only by operand kind.
trait Immediate {
    fn is_immediate(&self, op: u32) -> bool;
}

impl Immediate for Instruction {
    fn is_immediate(&self, op: u32) -> bool {
        matches!(
            self.op_kind(op),
            OpKind::Immediate8
                | OpKind::Immediate8_2nd
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64
        )
    }
}

/// Writes instructions of one function as text, addresses named.
pub(crate) struct Printer<'p> {
    program: &'p Program,
    formatter: iced_x86::FastFormatter,
}

/// Names of the addresses that one function refers to.
struct Names(rustc_hash::FxHashMap<u64, String>);

impl iced_x86::SymbolResolver for Names {
    fn symbol(
        &mut self,
        _: &Instruction,
        _: u32,
        _: Option<u32>,
        address: u64,
        _: u32,
    ) -> Option<iced_x86::SymbolResult<'_>> {
        self.0.get(&address).map(|name| iced_x86::SymbolResult::with_str(address, name))
    }
}

impl<'p> Printer<'p> {
    pub(crate) fn new(program: &'p Program, id: FunctionId) -> Self {
        let mut names = rustc_hash::FxHashMap::default();
        for range in &program.functions[id.index()].ranges {
            for r in program.references_in(range.rva, range.end()) {
                let shown = match r.form {
                    hotgraft_program::Form::Absolute => program.image.image_base.wrapping_add(u64::from(r.rva)),
                    _ => u64::from(r.rva),
                };
                names.insert(shown, crate::label::target(program, r.target));
            }
        }
        let mut formatter = iced_x86::FastFormatter::try_with_options(Some(Box::new(Names(names))))
            .unwrap_or_else(|_| iced_x86::FastFormatter::new());
        formatter.options_mut().set_rip_relative_addresses(true);
        formatter.options_mut().set_space_after_operand_separator(true);
        formatter.options_mut().set_use_hex_prefix(true);
        formatter.options_mut().set_uppercase_hex(false);
        Printer { program, formatter }
    }

    /// Text of one instruction.
    pub(crate) fn text(&mut self, step: &Step) -> String {
        let Some(bytes) = self.program.image.bytes(step.rva, usize::from(step.len)) else { return String::new() };
        let instruction = Decoder::with_ip(64, bytes, u64::from(step.rva), DecoderOptions::NONE).decode();
        let mut text = String::new();
        self.formatter.format(&instruction, &mut text);
        text
    }
}
