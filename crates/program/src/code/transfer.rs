//! What one instruction does to what is known.

use super::RawReference;
use super::descent::Step;
use super::values::{
    Comparison, Index, IndexTable, Info, Origin, Place, REGISTERS, RSP, Role, State, Symbol, TableRead, Value, Verdict,
};
use crate::function::Problem;
use crate::image::Image;
use crate::reference::Form;
use iced_x86::{Code, ConditionCode, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

/// Longest index table whose content is looked at, elements.
const MAX_INDEX_TABLE: u64 = 0x1_0000;
/// Registers that a call may change (rax, rcx, rdx, r8 to r11).
const VOLATILE: [u8; 7] = [0, 1, 2, 8, 9, 10, 11];
/// Registers that a function gives back as it got them (rbx, rbp, rsi, rdi, r12 to r15).
pub(super) const NONVOLATILE: [usize; 8] = [3, 5, 6, 7, 12, 13, 14, 15];
const RAX: usize = 0;
const RBP: usize = 5;

/// What instructions say beside their effect on the state.
#[derive(Default)]
pub(super) struct Record {
    pub(super) displacements: Vec<RawReference>,
    /// Sums of an anchor and a table element: where, which element, and the anchor.
    pub(super) sums: Vec<(u32, TableRead, u32)>,
    pub(super) problems: Vec<Problem>,
}

/// Where a memory operand leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effective {
    /// A fixed address in the image.
    Image(u32),
    /// Base, scale, index.
    Element(u32, u8, Index),
    Frame(u32, i32),
    Pointer(Symbol, i32),
    /// The image base plus something unknown.
    BasePlus,
    /// Anything else; true if an index register takes part.
    Other(bool),
}

/// The instruction set's meaning over [`State`].
pub(super) struct Machine<'a> {
    pub(super) image: &'a Image,
    factory: InstructionInfoFactory,
}

/// Number of a general register, whatever part of it is named.
fn number(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

fn bits(register: Register) -> u8 {
    (register.size() * 8) as u8
}

fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::BH | Register::CH | Register::DH)
}

/// The problem of an instruction whose use of the image base cannot be followed.
pub(super) fn untracked(step: &Step, why: &str) -> Problem {
    let text = format!("{why} (instruction at {:#x})", step.rva);
    Problem { rva: step.rva, key: "code.image_base.untracked", text }
}

impl<'a> Machine<'a> {
    pub(super) fn new(image: &'a Image) -> Self {
        Self { image, factory: InstructionInfoFactory::new() }
    }

    fn register(&self, state: &State, register: Register) -> Value {
        match number(register) {
            Some(n) if !is_high_byte(register) => state.truncate(state.registers[n], bits(register)),
            _ => Value::Opaque,
        }
    }

    /// Writes a value that already has the register's width.
    fn set(&self, state: &mut State, at: u32, register: Register, value: Value) {
        let Some(n) = number(register) else {
            return;
        };
        if bits(register) >= 32 {
            state.registers[n] = value;
            return;
        }
        // A part of the register: the rest stays. What was small stays small.
        let old = state.range(state.registers[n]).1;
        let new = state.range(value);
        let info = if bits(register) == 8 && !is_high_byte(register) && old <= 0xFF {
            Info::ranged(Origin::Computed, (new.0, new.1.min(0xFF)), state.natural(value))
        } else {
            Info::new(self.mixed(state, state.registers[n], Value::Number(0)), 64)
        };
        state.registers[n] = state.fresh(Symbol { at, role: Role::Result(n as u8) }, info);
    }

    fn index(&self, state: &State, value: Value) -> Index {
        let via = match state.origin(value) {
            Origin::Number(TableRead { table, width, range, natural, load, .. }) => {
                Some(IndexTable { table, width, range, natural, load })
            }
            _ => None,
        };
        Index { range: state.range(value), natural: state.natural(value), via }
    }

    fn mixed(&self, state: &State, a: Value, b: Value) -> Origin {
        if state.may_be_base(a) || state.may_be_base(b) { Origin::MaybeBase } else { Origin::Computed }
    }

    /// Where the memory operand leads; notes image-relative displacements.
    pub(super) fn effective(&self, state: &State, step: &Step, record: &mut Option<&mut Record>) -> Effective {
        let i = &step.instruction;
        if let Some(target) = super::x64::rip_target(i) {
            return Effective::Image(target);
        }
        let (base_register, index_register) = (i.memory_base(), i.memory_index());
        let mut base = match base_register {
            Register::None => Value::Number(0),
            r => self.register(state, r),
        };
        let mut index = match index_register {
            Register::None => None,
            r => Some(if r.is_gpr() { self.register(state, r) } else { Value::Opaque }),
        };
        let mut scale = i.memory_index_scale() as u8;
        if matches!(i.segment_prefix(), Register::FS | Register::GS) {
            return Effective::Other(index.is_some());
        }
        let displacement = i.memory_displacement64() as i64;
        let field = step.decoded.displacement;
        // Either register can be the base if the index is not scaled.
        if scale == 1
            && let Some(other) = index
            && !matches!(base, Value::Address(_))
            && (matches!(other, Value::Address(_)) || base == Value::Number(0))
        {
            index = (base != Value::Number(0)).then_some(base);
            base = other;
            scale = 1;
        }
        let narrow = base_register.is_gpr32() || index_register.is_gpr32();
        let wide_field = field.is_some_and(|f| f.width == 4);

        let suspicious = narrow && matches!(base, Value::Address(0))
            || index.is_some_and(|v| state.may_be_base(v))
            || (!matches!(base, Value::Address(_)) && state.may_be_base(base));
        if suspicious {
            let lowest = self.image.sections.iter().map(|s| s.rva).min().unwrap_or(self.image.size_of_headers);
            let places_data = displacement >= i64::from(lowest) && displacement < i64::from(self.image.size_of_image);
            if wide_field && places_data {
                self.untracked(step, record, "a memory operand's base may be __ImageBase, but not on every path");
            }
            return Effective::BasePlus;
        }
        if narrow {
            return Effective::Other(index.is_some());
        }
        match (base, index) {
            (Value::Address(rva), index) => {
                let target = i64::from(rva) + displacement;
                if rva == 0 && wide_field {
                    if (0..=i64::from(self.image.size_of_image)).contains(&target) {
                        if let (Some(record), Some(f)) = (record.as_deref_mut(), field) {
                            record.displacements.push(RawReference {
                                site: step.rva + u32::from(f.offset),
                                width: 4,
                                form: Form::ImageRelativeDisplacement,
                                origin: 0,
                                rva: target as u32,
                            });
                        }
                    } else {
                        self.untracked(step, record, "a displacement from __ImageBase leads out of the image");
                    }
                }
                let Ok(target) = u32::try_from(target) else {
                    return Effective::Other(index.is_some());
                };
                match index {
                    None => Effective::Image(target),
                    Some(index) => Effective::Element(target, scale, self.index(state, index)),
                }
            }
            (Value::Frame(frame, offset), None) => match i32::try_from(i64::from(offset) + displacement) {
                Ok(offset) => Effective::Frame(frame, offset),
                Err(_) => Effective::Other(false),
            },
            (Value::Symbol(symbol, 64), None) => match (state.info(symbol).origin, i32::try_from(displacement)) {
                (Origin::Element(base, scale, index), Ok(d)) => match base.checked_add_signed(d) {
                    Some(base) => Effective::Element(base, scale, index),
                    None => Effective::Other(true),
                },
                (_, Ok(d)) => Effective::Pointer(symbol, d),
                _ => Effective::Other(false),
            },
            (_, index) => Effective::Other(index.is_some()),
        }
    }

    fn untracked(&self, step: &Step, record: &mut Option<&mut Record>, why: &str) {
        if let Some(record) = record.as_deref_mut() {
            record.problems.push(untracked(step, why));
        }
    }

    fn constant(&self, rva: u32) -> bool {
        self.image.section_at(rva).is_some_and(|s| !s.is_writable())
    }

    /// Reads memory of `width` bits, zero-extended.
    fn load(&self, state: &mut State, at: u32, place: Effective, width: u8) -> Value {
        let symbol = Symbol { at, role: Role::Load };
        let place = match place {
            Effective::Frame(frame, offset) => Some(Place::Frame(frame, offset)),
            Effective::Pointer(symbol, offset) => Place::pointer(symbol, offset),
            Effective::Image(rva) => Some(Place::Image(rva)),
            Effective::Element(table, scale, Index { range, natural, via }) => {
                let bytes = width / 8;
                // A loop may count bytes rather than elements.
                let counts_bytes = bytes == 4 && scale == 1;
                let range = if counts_bytes { (range.0 / 4, range.1 / 4) } else { range };
                let read = TableRead { table, width: bytes, signed: width == 64, range, natural, load: at, via };
                if (bytes == scale || counts_bytes) && self.constant(table) {
                    let info = match bytes {
                        4 | 8 => Info::new(Origin::Entry(read), width),
                        _ => {
                            let (range, natural) = self.largest(&read);
                            Info::ranged(Origin::Number(read), range, natural)
                        }
                    };
                    return state.fresh(symbol, info);
                }
                let origin = if width == 64 { Origin::Indexed } else { Origin::Computed };
                return state.fresh(symbol, Info::new(origin, width));
            }
            Effective::Other(indexed) => {
                let origin = if indexed && width == 64 { Origin::Indexed } else { Origin::Plain };
                return state.fresh(symbol, Info::new(origin, width));
            }
            Effective::BasePlus => None,
        };
        match place.and_then(|p| state.places.get(&p)) {
            Some((w, value)) if *w >= width => state.truncate(*value, width),
            _ if state.coarse => Value::Opaque,
            _ => {
                let lost = width == 64
                    && match place {
                        Some(Place::Frame(..)) => state.wild,
                        None => state.wary,
                        _ => false,
                    };
                let origin = if lost { Origin::MaybeBase } else { Origin::Plain };
                let value = state.fresh(symbol, Info::new(origin, width));
                if let Some(place) = place {
                    state.places.insert(place, (width, value));
                }
                value
            }
        }
    }

    /// Bounds of what an index table holds, and whether they are those of any table.
    fn largest(&self, read: &TableRead) -> ((u64, u64), bool) {
        let full = if read.width == 1 { 0xFF } else { 0xFFFF };
        if read.range.1 >= MAX_INDEX_TABLE {
            return ((0, full), true);
        }
        let width = u32::from(read.width);
        let bytes = self.image.bytes(read.table, (read.range.1 as usize + 1) * width as usize);
        let Some(bytes) = bytes else {
            return ((0, full), true);
        };
        let first = read.range.0.min(read.range.1) as usize;
        let elements = bytes.chunks_exact(width as usize).skip(first);
        let largest = elements.map(|e| e.iter().rev().fold(0, |v, b| (v << 8) | u64::from(*b))).max();
        ((0, largest.unwrap_or(full)), read.natural)
    }

    /// The low `from` bits of a value, sign-extended to 32 or 64 bits.
    fn sign_extend(&self, state: &mut State, at: u32, value: Value, from: u8, to: u8) -> Value {
        let half = 1u64 << (from - 1);
        match value {
            Value::Number(n) => {
                let n = if n & half != 0 { n | !(half | (half - 1)) } else { n };
                Value::Number(if to == 64 { n } else { n & 0xFFFF_FFFF })
            }
            _ if state.range(value).1 < half => value,
            // A comparison of the low half tells about the whole.
            Value::Symbol(symbol, 32 | 64) if from == 32 && to == 64 => Value::Signed(symbol),
            _ => {
                let origin = self.mixed(state, value, value);
                let extended = state.fresh(Symbol { at, role: Role::Result(16) }, Info::new(origin, 32));
                match extended {
                    Value::Symbol(symbol, _) if to == 64 => Value::Signed(symbol),
                    other => other,
                }
            }
        }
    }

    /// Writes memory of `bytes` bytes; `value` is known for a plain store of a register.
    fn store(&self, state: &mut State, place: Effective, bytes: u32, value: Option<(u8, Value)>) {
        match place {
            Effective::Frame(frame, offset) => {
                let end = offset.saturating_add(bytes as i32);
                state.places.retain(|p, (w, _)| match p {
                    Place::Frame(f, o) => *f == frame && (*o >= end || o.saturating_add(i32::from(*w / 8)) <= offset),
                    _ => false,
                });
                if let Some(known) = value {
                    state.places.insert(Place::Frame(frame, offset), known);
                }
            }
            _ => state.places.retain(|p, _| matches!(p, Place::Frame(..))),
        }
    }

    /// Operand `n` as a value of its own width.
    fn operand(&self, state: &mut State, step: &Step, n: u32, record: &mut Option<&mut Record>) -> (Value, u8) {
        let i = &step.instruction;
        match i.op_kind(n) {
            OpKind::Register => (self.register(state, i.op_register(n)), bits(i.op_register(n))),
            OpKind::Memory => {
                let width = (i.memory_size().size() * 8).min(255) as u8;
                let place = self.effective(state, step, record);
                if matches!(width, 8 | 16 | 32 | 64) {
                    (self.load(state, step.rva, place, width), width)
                } else {
                    (Value::Opaque, width)
                }
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => (Value::Opaque, 64),
            _ => {
                let width = if i.op_kind(0) == OpKind::Register {
                    bits(i.op0_register())
                } else {
                    (i.memory_size().size() * 8).clamp(8, 64) as u8
                };
                let value = i.immediate(n);
                let value = if width >= 64 { value } else { value & ((1 << width) - 1) };
                (Value::Number(value), width)
            }
        }
    }

    /// `a + b` over `width` bits.
    fn add(
        &self,
        state: &mut State,
        step: &Step,
        a: Value,
        b: Value,
        width: u8,
        record: &mut Option<&mut Record>,
    ) -> Value {
        let at = step.rva;
        let symbol = Symbol { at, role: Role::Result(17) };
        let limit = if width >= 64 { u64::MAX } else { (1 << width) - 1 };
        let (a, b) = match (a, b) {
            (Value::Number(_), b) if !matches!(b, Value::Number(_)) => (b, a),
            (a, Value::Address(_)) if !matches!(a, Value::Address(_)) => (b, a),
            other => other,
        };
        match (a, b) {
            (Value::Number(x), Value::Number(y)) => return Value::Number(x.wrapping_add(y) & limit),
            (Value::Address(rva), Value::Number(n)) if width == 64 => {
                if rva == 0 && n >= 0x1000 && n < u64::from(self.image.size_of_image) {
                    self.untracked(
                        step,
                        record,
                        "a number that may be an image-relative address is added to __ImageBase",
                    );
                }
                if let Some(rva) = i32::try_from(n as i64).ok().and_then(|n| rva.checked_add_signed(n)) {
                    return Value::Address(rva);
                }
            }
            (Value::Frame(frame, offset), Value::Number(n)) if width == 64 => {
                if let Some(offset) = i32::try_from(n as i64).ok().and_then(|n| offset.checked_add(n)) {
                    return Value::Frame(frame, offset);
                }
            }
            (Value::Address(anchor), other) if width == 64 => {
                let origin = match state.origin(other) {
                    Origin::Entry(t) if t.width == 4 && (t.signed || anchor == 0) => {
                        if let Some(record) = record.as_deref_mut() {
                            record.sums.push((at, t, anchor));
                        }
                        Origin::Target(t, anchor)
                    }
                    _ if anchor == 0 || state.may_be_base(other) => Origin::BasePlus,
                    // A byte array at a known address; a scaled index has come through `lea` or a memory operand.
                    _ => Origin::Element(anchor, 1, self.index(state, other)),
                };
                return state.fresh(symbol, Info::new(origin, 64));
            }
            (v, Value::Number(n)) => {
                let (low, high) = state.range(v);
                // A number in the upper half is a subtraction.
                let range = if n > limit / 2 {
                    let down = (limit - n).wrapping_add(1) & limit;
                    (low >= down).then(|| (low.wrapping_sub(down), high.wrapping_sub(down)))
                } else {
                    high.checked_add(n).filter(|h| *h <= limit).map(|h| (low + n, h))
                };
                let origin = match state.origin(v) {
                    Origin::Element(base, scale, index) if width == 64 => i32::try_from(n as i64)
                        .ok()
                        .and_then(|n| base.checked_add_signed(n))
                        .map_or(Origin::Computed, |base| Origin::Element(base, scale, index)),
                    _ => self.mixed(state, v, v),
                };
                let natural = range.is_none() || state.natural(v);
                return state.fresh(symbol, Info::ranged(origin, range.unwrap_or((0, limit)), natural));
            }
            _ => {}
        }
        let (x, y) = (state.range(a), state.range(b));
        let range = x.1.checked_add(y.1).filter(|h| *h <= limit).map_or((0, limit), |h| (x.0 + y.0, h));
        let origin = self.mixed(state, a, b);
        let natural = state.natural(a) || state.natural(b) || range.1 == limit;
        state.fresh(symbol, Info::ranged(origin, range, natural))
    }

    /// Applies one instruction. `next` is the instruction behind it in memory.
    pub(super) fn step(
        &mut self,
        state: &mut State,
        step: &Step,
        next: Option<&Step>,
        mut record: Option<&mut Record>,
    ) {
        let i = &step.instruction;
        let at = step.rva;
        let to_register = i.op_count() > 0 && i.op0_kind() == OpKind::Register && i.op0_register().is_gpr();
        let width = if to_register { bits(i.op0_register()) } else { 0 };
        let limit = if width >= 64 { u64::MAX } else { (1u64 << width) - 1 };
        match i.mnemonic() {
            Mnemonic::Nop | Mnemonic::Endbr64 => {}
            Mnemonic::Mov if to_register && (i.op1_kind() != OpKind::Register || i.op1_register().is_gpr()) => {
                let value = match self.relocated(step) {
                    Some(rva) => Value::Address(rva),
                    None => self.operand(state, step, 1, &mut record).0,
                };
                self.set(state, at, i.op0_register(), value);
            }
            Mnemonic::Mov if i.op0_kind() == OpKind::Memory => {
                let place = self.effective(state, step, &mut record);
                let (value, w) = match i.op1_kind() {
                    OpKind::Register if i.op1_register().is_gpr() => {
                        (self.register(state, i.op1_register()), bits(i.op1_register()))
                    }
                    OpKind::Register => (Value::Opaque, 64),
                    _ => self.operand(state, step, 1, &mut record),
                };
                let bytes = i.memory_size().size() as u32;
                let value = (u32::from(w) == bytes * 8 && value != Value::Opaque).then_some((w, value));
                self.store(state, place, bytes, value);
            }
            Mnemonic::Movzx if to_register => {
                let (value, _) = self.operand(state, step, 1, &mut record);
                self.set(state, at, i.op0_register(), value);
            }
            Mnemonic::Movsx | Mnemonic::Movsxd if to_register && width >= 32 => {
                let value = self.signed_operand(state, step, width, &mut record);
                self.set(state, at, i.op0_register(), value);
            }
            Mnemonic::Cdqe => {
                let value = self.register(state, Register::EAX);
                let value = self.sign_extend(state, at, value, 32, 64);
                self.set(state, at, Register::RAX, value);
            }
            Mnemonic::Lea if to_register && width >= 32 => {
                let value = self.lea(state, step, &mut record);
                if let Value::Frame(frame, offset) = value
                    && !matches!(number(i.op0_register()), Some(RSP | RBP))
                {
                    state.exposed.insert((frame, offset));
                }
                let value = state.truncate(value, width);
                self.set(state, at, i.op0_register(), value);
            }
            Mnemonic::Add | Mnemonic::Sub if to_register && width >= 32 => {
                let left = self.register(state, i.op0_register());
                let (right, _) = self.operand(state, step, 1, &mut record);
                let subtract = i.mnemonic() == Mnemonic::Sub;
                state.comparison = subtract.then_some(Comparison { left, right, width, test: false });
                let value = match (subtract, right) {
                    (false, _) => self.add(state, step, left, right, width, &mut record),
                    (true, Value::Number(n)) => {
                        let n = n.wrapping_neg() & limit;
                        self.add(state, step, left, Value::Number(n), width, &mut record)
                    }
                    _ if left == right && left != Value::Opaque => Value::Number(0),
                    // Room for a variable amount: a new frame.
                    _ if number(i.op0_register()) == Some(RSP) => state.new_frame(at),
                    _ => {
                        let origin = self.mixed(state, left, left);
                        state.fresh(Symbol { at, role: Role::Result(17) }, Info::new(origin, width))
                    }
                };
                self.set(state, at, i.op0_register(), value);
            }
            Mnemonic::Inc | Mnemonic::Dec if to_register && width >= 32 => {
                let n = if i.mnemonic() == Mnemonic::Inc { 1 } else { limit };
                let left = self.register(state, i.op0_register());
                let value = self.add(state, step, left, Value::Number(n), width, &mut record);
                state.comparison = None;
                self.set(state, at, i.op0_register(), value);
            }
            Mnemonic::Xor | Mnemonic::Sub
                if to_register
                    && width >= 32
                    && i.op1_kind() == OpKind::Register
                    && i.op0_register() == i.op1_register() =>
            {
                state.comparison = None;
                self.set(state, at, i.op0_register(), Value::Number(0));
            }
            Mnemonic::And | Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Or if to_register && width >= 32 => {
                let left = self.register(state, i.op0_register());
                let (right, _) = self.operand(state, step, 1, &mut record);
                let known = inherited(state, i.mnemonic(), width, left, right);
                state.comparison = None;
                let value = if number(i.op0_register()) == Some(RSP) {
                    state.new_frame(at)
                } else {
                    self.bitwise(state, at, i.mnemonic(), left, right, width)
                };
                self.set(state, at, i.op0_register(), value);
                if matches!(i.mnemonic(), Mnemonic::And | Mnemonic::Or) {
                    decide(state, value, width, known);
                }
            }
            Mnemonic::Cmp | Mnemonic::Test if state.coarse => {}
            Mnemonic::Cmp | Mnemonic::Test => self.compare(state, step, &mut record),
            Mnemonic::Push => {
                let (value, w) = self.operand(state, step, 0, &mut record);
                let bytes = if w == 16 { 2 } else { 8 };
                let value = match i.op0_kind() {
                    OpKind::Register | OpKind::Memory if bytes == 8 && value != Value::Opaque => Some((64, value)),
                    _ => None,
                };
                if let Value::Frame(frame, offset) = state.registers[RSP] {
                    let offset = offset.saturating_sub(bytes);
                    state.registers[RSP] = Value::Frame(frame, offset);
                    self.store(state, Effective::Frame(frame, offset), bytes as u32, value);
                } else {
                    state.registers[RSP] = state.new_frame(at);
                    self.store(state, Effective::Frame(at, 0), bytes as u32, value);
                }
            }
            Mnemonic::Pop if to_register && width == 64 => {
                let value = match state.registers[RSP] {
                    Value::Frame(frame, offset) => {
                        state.registers[RSP] = Value::Frame(frame, offset.saturating_add(8));
                        self.load(state, at, Effective::Frame(frame, offset), 64)
                    }
                    _ => Value::Opaque,
                };
                self.set(state, at, i.op0_register(), value);
            }
            Mnemonic::Leave => {
                state.registers[RSP] = state.registers[RBP];
                state.registers[RBP] = match state.registers[RSP] {
                    Value::Frame(frame, offset) => {
                        state.registers[RSP] = Value::Frame(frame, offset.saturating_add(8));
                        self.load(state, at, Effective::Frame(frame, offset), 64)
                    }
                    _ => Value::Opaque,
                };
            }
            Mnemonic::Call => {
                if i.op0_kind() == OpKind::Memory {
                    self.effective(state, step, &mut record);
                }
                self.call(state, at, next);
            }
            Mnemonic::Xchg
                if to_register && width == 64 && i.op1_kind() == OpKind::Register && i.op1_register().is_gpr64() =>
            {
                if let (Some(a), Some(b)) = (number(i.op0_register()), number(i.op1_register())) {
                    state.registers.swap(a, b);
                }
            }
            _ if to_register && width >= 32 && is_conditional_move(i) => {
                let (moved, _) = self.operand(state, step, 1, &mut record);
                let kept = self.register(state, i.op0_register());
                if state.coarse {
                    let value = if moved == kept { moved } else { Value::Opaque };
                    self.set(state, at, i.op0_register(), value);
                    return;
                }
                let mut yes = state.clone();
                let mut no = state.clone();
                refine(&mut yes, i.condition_code(), true);
                refine(&mut no, i.condition_code(), false);
                let value = if moved == kept {
                    moved
                } else {
                    let (x, y) = (yes.range(moved), no.range(kept));
                    let origin = match (state.origin(moved), state.origin(kept)) {
                        (a, b) if moved == Value::Address(0) || kept == Value::Address(0) => {
                            a.join(b, false).join(Origin::MaybeBase, false)
                        }
                        (a, b) => a.join(b, false),
                    };
                    let natural = yes.natural(moved) || no.natural(kept);
                    let info = Info::ranged(origin, (x.0.min(y.0), x.1.max(y.1)), natural);
                    state.fresh(Symbol { at, role: Role::Result(17) }, info)
                };
                self.set(state, at, i.op0_register(), value);
            }
            _ => self.other(state, step, &mut record),
        }
    }

    /// RVA in an 8-byte immediate under a base relocation.
    fn relocated(&self, step: &Step) -> Option<u32> {
        let field = step.decoded.immediate.filter(|f| f.width == 8)?;
        let site = step.rva + u32::from(field.offset);
        self.image.base_relocations.binary_search(&site).ok()?;
        u32::try_from(self.image.u64(site)?.checked_sub(self.image.image_base)?).ok()
    }

    fn signed_operand(&self, state: &mut State, step: &Step, to: u8, record: &mut Option<&mut Record>) -> Value {
        let i = &step.instruction;
        let value = if i.op1_kind() == OpKind::Memory {
            let width = (i.memory_size().size() * 8) as u8;
            let place = self.effective(state, step, record);
            let value = self.load(state, step.rva, place, width);
            return self.sign_extend(state, step.rva, value, width, to);
        } else {
            self.register(state, i.op1_register())
        };
        self.sign_extend(state, step.rva, value, bits(i.op1_register()), to)
    }

    fn lea(&self, state: &mut State, step: &Step, record: &mut Option<&mut Record>) -> Value {
        let i = &step.instruction;
        let at = step.rva;
        let symbol = Symbol { at, role: Role::Result(17) };
        // `lea r, [anchor + element]` is an addition.
        if i.memory_base().is_gpr64() && i.memory_index().is_gpr64() && i.memory_index_scale() == 1 {
            let (a, b) = (self.register(state, i.memory_base()), self.register(state, i.memory_index()));
            if step.decoded.displacement.is_none() {
                return self.add(state, step, a, b, 64, record);
            }
        }
        match self.effective(state, step, record) {
            Effective::Image(rva) => Value::Address(rva),
            Effective::Frame(frame, offset) => Value::Frame(frame, offset),
            Effective::Element(base, scale, index) => {
                state.fresh(symbol, Info::new(Origin::Element(base, scale, index), 64))
            }
            Effective::BasePlus => state.fresh(symbol, Info::new(Origin::BasePlus, 64)),
            Effective::Pointer(pointer, offset) => {
                let value = Value::Symbol(pointer, 64);
                self.add(state, step, value, Value::Number(i64::from(offset) as u64), 64, record)
            }
            Effective::Other(_) => {
                // base + index * scale + displacement over the width of the address, then of the result.
                let width = bits(i.op0_register()).min(if i.memory_base().is_gpr32() || i.memory_index().is_gpr32() {
                    32
                } else {
                    64
                });
                let limit = if width >= 64 { u64::MAX } else { (1u64 << width) - 1 };
                let range = |r: Register| match r {
                    Register::None => (0, 0),
                    r if r.is_gpr() => state.range(state.truncate(self.register(state, r), width)),
                    _ => (0, limit),
                };
                let (b, x) = (range(i.memory_base()), range(i.memory_index()));
                let scale = u64::from(i.memory_index_scale());
                let d = i.memory_displacement64() as i64;
                let sum = |b: u64, x: u64| {
                    let v = i128::from(b) + i128::from(x) * i128::from(scale) + i128::from(d);
                    u64::try_from(v).ok().filter(|v| *v <= limit)
                };
                let range = match (sum(b.0, x.0), sum(b.1, x.1)) {
                    (Some(low), Some(high)) => (low, high),
                    _ => (0, limit),
                };
                let natural = |r: Register| r.is_gpr() && state.natural(self.register(state, r));
                let natural = natural(i.memory_base()) || natural(i.memory_index()) || range.1 == limit;
                state.fresh(symbol, Info::ranged(Origin::Computed, range, natural))
            }
        }
    }

    fn bitwise(&self, state: &mut State, at: u32, what: Mnemonic, left: Value, right: Value, width: u8) -> Value {
        let limit = if width >= 64 { u64::MAX } else { (1u64 << width) - 1 };
        let (l, r) = (state.range(left), state.range(right));
        let range = match (what, right) {
            (Mnemonic::And, _) => (0, l.1.min(r.1)),
            (Mnemonic::Shr, Value::Number(n)) => (l.0 >> (n & 63), l.1 >> (n & 63)),
            (Mnemonic::Shl, Value::Number(n)) if l.1 <= limit >> (n & 63) => (l.0 << (n & 63), l.1 << (n & 63)),
            _ => (0, limit),
        };
        let origin = self.mixed(state, left, right);
        let natural = match (what, right) {
            (Mnemonic::And, _) => r.1 < l.1 || state.natural(left),
            (Mnemonic::Shl | Mnemonic::Shr, Value::Number(_)) => state.natural(left),
            _ => true,
        };
        state.fresh(Symbol { at, role: Role::Result(17) }, Info::ranged(origin, (range.0, range.1.min(limit)), natural))
    }

    fn compare(&self, state: &mut State, step: &Step, record: &mut Option<&mut Record>) {
        let i = &step.instruction;
        let (left, width) = self.operand(state, step, 0, record);
        let (right, _) = self.operand(state, step, 1, record);
        let test = i.mnemonic() == Mnemonic::Test;
        let same = left == right && left != Value::Opaque;
        let usable = matches!(width, 8 | 16 | 32 | 64) && (!test || same);
        state.comparison = usable.then_some(Comparison { left, right, width, test });
    }

    fn call(&self, state: &mut State, at: u32, next: Option<&Step>) {
        // `__chkstk` keeps rax, which holds the size of the frame to be made.
        let kept = next.is_some_and(|n| {
            n.instruction.mnemonic() == Mnemonic::Sub
                && n.instruction.op0_kind() == OpKind::Register
                && n.instruction.op0_register() == Register::RSP
                && n.instruction.op1_kind() == OpKind::Register
                && n.instruction.op1_register() == Register::RAX
        });
        let size = state.registers[RAX];
        for n in VOLATILE {
            let symbol = Symbol { at, role: Role::Result(n) };
            state.registers[usize::from(n)] = state.fresh(symbol, Info::new(Origin::Plain, 64));
        }
        if kept && matches!(size, Value::Number(_)) {
            state.registers[RAX] = size;
        }
        state.comparison = None;
        let stack = state.registers[RSP];
        let exposed = &state.exposed;
        state.places.retain(|p, _| match (p, stack) {
            (Place::Frame(f, o), Value::Frame(frame, offset)) => {
                // The callee owns the 32 bytes of home space, and whatever it got the address of.
                let home = *f == frame && (offset..offset.saturating_add(32)).contains(o);
                !home && !exposed.contains(&(*f, *o))
            }
            (Place::Frame(f, o), _) => !exposed.contains(&(*f, *o)),
            _ => false,
        });
    }

    /// Any instruction without a meaning of its own here: what it writes is unknown.
    fn other(&mut self, state: &mut State, step: &Step, record: &mut Option<&mut Record>) {
        let i = &step.instruction;
        let known = match set_byte(i) {
            Some(_) => state.comparison.map(|comparison| Known::Condition(comparison, i.condition_code())),
            None if is_byte_operation(i) => {
                let (a, b) = (self.register(state, i.op0_register()), self.register(state, i.op1_register()));
                Some(Known::Inherited(inherited(state, i.mnemonic(), 8, a, b)))
            }
            None => None,
        };
        let has_memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
        let place = has_memory.then(|| self.effective(state, step, record));
        let info = self.factory.info(i);
        let writes = |access: OpAccess| {
            matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
        };
        let mut base = false;
        let mut vector = false;
        let mut written = [false; REGISTERS];
        for used in info.used_registers() {
            let n = number(used.register());
            // Registers of the address are no data.
            let address = has_memory && (used.register() == i.memory_base() || used.register() == i.memory_index());
            if let Some(n) = n
                && !matches!(used.access(), OpAccess::Write | OpAccess::CondWrite)
                && !address
            {
                base |= state.may_be_base(state.registers[n]);
            }
            if writes(used.access()) {
                match n {
                    Some(n) => written[n] = true,
                    None => vector |= used.register().is_vector_register(),
                }
            }
        }
        let mut stores = Vec::new();
        for used in info.used_memory() {
            if writes(used.access()) {
                stores.push((number(used.base()), used.memory_size().size() as u32));
            }
        }
        if base && vector {
            self.untracked(step, record, "__ImageBase moves to a vector register");
        }
        let repeated = i.has_rep_prefix() || i.has_repne_prefix();
        for (register, bytes) in stores {
            match (place, register.map(|n| state.registers[n])) {
                (Some(place), _) => self.store(state, place, bytes.max(1), None),
                (None, Some(Value::Frame(frame, offset))) if !repeated => {
                    self.store(state, Effective::Frame(frame, offset), bytes.max(1), None);
                }
                // A string instruction: anything from there on, and anything if it is not known where.
                (None, Some(Value::Frame(frame, offset))) => {
                    state.places.retain(|p, _| matches!(p, Place::Frame(f, o) if *f == frame && *o < offset));
                }
                _ => self.store(state, Effective::Other(false), bytes.max(1), None),
            }
        }
        for (n, _) in written.iter().enumerate().filter(|(_, w)| **w) {
            if n == RSP {
                state.registers[RSP] = state.new_frame(step.rva);
                continue;
            }
            // Zero-extension of a byte result keeps a small register small (`setcc` after `xor`).
            let small = set_byte(i) == Some(n) && state.range(state.registers[n]).1 <= 0xFF;
            let info = if small {
                Info::ranged(Origin::Computed, (0, 1), true)
            } else {
                // A 32-bit result is zero-extended.
                let short = i.op_count() > 0
                    && i.op0_kind() == OpKind::Register
                    && i.op0_register().is_gpr32()
                    && number(i.op0_register()) == Some(n);
                Info::new(if base { Origin::MaybeBase } else { Origin::Computed }, if short { 32 } else { 64 })
            };
            state.registers[n] = state.fresh(Symbol { at: step.rva, role: Role::Result(n as u8) }, info);
        }
        if i.rflags_modified() != 0 {
            state.comparison = None;
        }
        let Some(n) = number(i.op0_register()) else {
            return;
        };
        match (known, state.registers[n]) {
            (Some(Known::Condition(comparison, condition)), Value::Symbol(symbol, _)) => {
                for when_zero in [true, false] {
                    state.verdicts.push(Verdict { symbol, when_zero, comparison, condition });
                }
            }
            (Some(Known::Inherited(verdicts)), value) => {
                let value = state.truncate(value, 8);
                decide(state, value, 8, verdicts);
            }
            _ => {}
        }
    }
}

/// What an instruction's result tells about earlier comparisons.
enum Known {
    /// The result of `setcc`.
    Condition(Comparison, ConditionCode),
    /// The result of `or` or `and`.
    Inherited(Vec<Verdict>),
}

fn is_byte_operation(i: &Instruction) -> bool {
    let register = |r: Register| r.is_gpr8() && !is_high_byte(r);
    matches!(i.mnemonic(), Mnemonic::Or | Mnemonic::And)
        && i.op0_kind() == OpKind::Register
        && i.op1_kind() == OpKind::Register
        && register(i.op0_register())
        && register(i.op1_register())
}

/// What holds for `a | b` when it is zero, or for `a & b` when it is not.
fn inherited(state: &State, what: Mnemonic, width: u8, a: Value, b: Value) -> Vec<Verdict> {
    let of = |value: Value, v: &Verdict| value.symbol() == Some(v.symbol);
    let wanted = |v: &Verdict| match what {
        Mnemonic::Or => v.when_zero,
        // Other bits than those of the low byte may make a wider result differ from zero.
        Mnemonic::And => !v.when_zero && width == 8,
        _ => false,
    };
    state.verdicts.iter().filter(|v| wanted(v) && (of(a, v) || of(b, v))).copied().collect()
}

/// The flags tell whether `value` is zero, and that tells the rest.
fn decide(state: &mut State, value: Value, width: u8, verdicts: Vec<Verdict>) {
    let Value::Symbol(symbol, _) = value else {
        return;
    };
    state.comparison = Some(Comparison { left: value, right: value, width, test: true });
    // The operands of the comparisons may have been overwritten by the result.
    let gone = |v: Value| v.symbol() == Some(symbol);
    let alive = verdicts.into_iter().filter(|v| !gone(v.comparison.left) && !gone(v.comparison.right));
    state.verdicts.extend(alive.map(|v| Verdict { symbol, ..v }));
}

/// Register that a `setcc` sets.
fn set_byte(i: &Instruction) -> Option<usize> {
    let is_set = i.condition_code() != ConditionCode::None
        && i.op_count() == 1
        && i.op0_kind() == OpKind::Register
        && i.op0_register().is_gpr8()
        && !is_high_byte(i.op0_register());
    is_set.then(|| number(i.op0_register())).flatten()
}

fn is_conditional_move(i: &Instruction) -> bool {
    i.condition_code() != ConditionCode::None && i.op_count() == 2 && i.code() != Code::INVALID
}

/// Takes note of what a conditional jump tells about the operands of the last comparison.
pub(super) fn refine(state: &mut State, condition: ConditionCode, holds: bool) {
    let Some(comparison) = state.comparison else {
        return;
    };
    constrain(state, comparison, condition, holds);
    let zero = match (condition, holds) {
        (ConditionCode::e, holds) => holds,
        (ConditionCode::ne, holds) => !holds,
        _ => return,
    };
    if let Value::Symbol(symbol, _) = comparison.left
        && (comparison.test || comparison.right == Value::Number(0))
    {
        let told: Vec<Verdict> =
            state.verdicts.iter().filter(|v| v.symbol == symbol && v.when_zero == zero).copied().collect();
        for verdict in told {
            constrain(state, verdict.comparison, verdict.condition, !zero);
        }
    }
}

fn constrain(state: &mut State, comparison: Comparison, condition: ConditionCode, holds: bool) {
    use ConditionCode::{a, ae, b, be, e, g, ge, l, le, ne, ns, s};
    let Comparison { left, right, width, test } = comparison;
    let condition = match (condition, holds) {
        (c, true) => c,
        (a, false) => be,
        (ae, false) => b,
        (b, false) => ae,
        (be, false) => a,
        (e, false) => ne,
        (ne, false) => e,
        (g, false) => le,
        (ge, false) => l,
        (l, false) => ge,
        (le, false) => g,
        (s, false) => ns,
        (ns, false) => s,
        _ => return,
    };
    let right = if test { Value::Number(0) } else { right };
    let limit = if width >= 64 { u64::MAX } else { (1u64 << width) - 1 };
    let positive = limit >> 1;
    let (x, y) = (state.range(left), state.range(right));
    let (x, y) = ((x.0, x.1.min(limit)), (y.0, y.1.min(limit)));
    let unsigned = x.1 <= positive && y.1 <= positive;
    let condition = match condition {
        g if unsigned => a,
        ge if unsigned => ae,
        l if unsigned => b,
        le if unsigned => be,
        other => other,
    };
    match condition {
        b if y.1 > 0 => {
            state.assume(left, (0, y.1 - 1));
            state.assume(right, (x.0.saturating_add(1), limit));
        }
        be => {
            state.assume(left, (0, y.1));
            state.assume(right, (x.0, limit));
        }
        a => {
            state.assume(left, (y.0.saturating_add(1), limit));
            if x.1 > 0 {
                state.assume(right, (0, x.1 - 1));
            }
        }
        ae => {
            state.assume(left, (y.0, limit));
            state.assume(right, (0, x.1));
        }
        e => {
            state.assume(left, y);
            state.assume(right, x);
        }
        ne if y.0 == y.1 => {
            if x.0 == y.0 {
                state.assume(left, (x.0.saturating_add(1), limit));
            } else if x.1 == y.0 && x.1 > 0 {
                state.assume(left, (0, x.1 - 1));
            }
        }
        // Greater than a number that is not negative: not negative itself.
        g if y.0 == y.1 && y.0 < positive => state.assume(left, (y.0 + 1, positive)),
        ge if y.0 == y.1 && y.0 <= positive => state.assume(left, (y.0, positive)),
        ns if test => state.assume(left, (0, positive)),
        s if test => state.assume(left, (positive + 1, limit)),
        _ => {}
    }
}
