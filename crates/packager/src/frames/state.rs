//! What registers and slots of a frame hold at one place of a function.

use iced_x86::{Instruction, OpKind, Register};
use std::collections::{BTreeMap, BTreeSet};

/// Arguments that are followed, those in registers first.
pub(crate) const ARGUMENTS: usize = 16;
/// Parameters by number, as bits.
pub(crate) type Parameters = u16;

pub(super) const RSP: usize = 4;
const ARGUMENT_REGISTERS: [usize; 4] = [1, 2, 8, 9];
pub(super) const VOLATILE: [usize; 7] = [0, 1, 2, 8, 9, 10, 11];
/// From the stack pointer to the fifth argument: before a call, and at the entry, where the return address is on top.
pub(super) const OUTGOING: i32 = 0x20;
pub(super) const INCOMING: i32 = 0x28;

/// What a register or slot holds. In the order in which what meets is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    /// Nothing that anybody reads: what a call leaves in a register that it need not keep.
    Dead,
    /// A constant.
    Plain(Option<i64>),
    /// An address in a frame; with the distance from the stack pointer at the entry, if it is known.
    Frame(Option<i32>),
    /// Anything.
    Other,
    /// A distance from a frame: it leads elsewhere when it is added to an address.
    Distance,
}

/// A value, and whether a constant went into it that is not the same in the other version of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) value: Value,
    pub(crate) changed: bool,
}

pub(super) const OTHER: Held = Held { value: Value::Other, changed: false };
pub(super) const DEAD: Held = Held { value: Value::Dead, changed: false };

impl Held {
    pub(crate) fn is_frame(self) -> bool {
        matches!(self.value, Value::Frame(_))
    }

    /// True for what may be an address of memory that is not in a frame.
    pub(crate) fn may_lead_out(self) -> bool {
        matches!(self.value, Value::Other | Value::Distance)
    }

    pub(super) fn join(self, other: Self) -> Self {
        let value = match (self.value, other.value) {
            (a, b) if a == b => a,
            (Value::Dead, known) | (known, Value::Dead) => known,
            (Value::Frame(_), Value::Frame(_))
            | (Value::Frame(_), Value::Plain(_))
            | (Value::Plain(_), Value::Frame(_)) => Value::Frame(None),
            (Value::Plain(_), Value::Plain(_)) => Value::Plain(None),
            (a, b) => a.max(b),
        };
        Self { value, changed: self.changed || other.changed }
    }
}

/// All registers and the slots of the frame that are followed, by their distance from the stack pointer at the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(super) registers: [Held; 16],
    pub(super) slots: BTreeMap<i32, Held>,
}

/// Where an operand in memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the frame, at this distance; `None` for a place in some frame.
    Frame(Option<i32>),
    /// In a variable or constant of the image, named by the instruction itself, or in the thread's block.
    Named,
    /// In memory that may outlive every frame.
    Outside,
}

pub(super) fn number(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full as usize - Register::RAX as usize)
}

/// A distance farther on, if frames are that large: what is told apart stays far from the ends of its type.
pub(super) fn moved(at: i32, by: i64) -> Option<i32> {
    const LARGEST: i64 = 1 << 30;
    i64::from(at).checked_add(by).filter(|at| (-LARGEST..LARGEST).contains(at)).and_then(|at| i32::try_from(at).ok())
}

impl State {
    /// At the entry; stack slots from `taken` on are no longer the function's alone.
    pub(super) fn entry(safe: Parameters, taken: i32) -> Self {
        let mut registers = [OTHER; 16];
        for n in VOLATILE {
            registers[n] = DEAD;
        }
        let frame = Held { value: Value::Frame(None), changed: false };
        let mut slots = BTreeMap::new();
        for n in 0..ARGUMENTS {
            let held = if safe & 1 << n != 0 { frame } else { OTHER };
            match ARGUMENT_REGISTERS.get(n) {
                Some(&register) => registers[register] = held,
                None => {
                    let at = INCOMING + 8 * (n as i32 - 4);
                    if at < taken {
                        slots.insert(at, held);
                    }
                }
            }
        }
        registers[RSP] = Held { value: Value::Frame(Some(0)), changed: false };
        Self { registers, slots }
    }

    /// What a register holds.
    pub(crate) fn register(&self, register: Register) -> Held {
        // No register at all adds nothing to an address.
        number(register).map_or(Held { value: Value::Plain(Some(0)), changed: false }, |n| self.registers[n])
    }

    /// What is passed as argument `n` to a function that is called now.
    pub(crate) fn argument(&self, n: usize) -> Held {
        if let Some(&register) = ARGUMENT_REGISTERS.get(n) {
            return self.registers[register];
        }
        match self.registers[RSP].value {
            Value::Frame(Some(at)) => self.slots.get(&(at + OUTGOING + 8 * (n as i32 - 4))).copied().unwrap_or(OTHER),
            _ => OTHER,
        }
    }

    /// What lies where arguments of a call would lie on the stack, as far as it is known.
    pub(crate) fn stacked(&self, spilled: &BTreeSet<i32>) -> impl Iterator<Item = Held> + '_ {
        let from = match self.registers[RSP].value {
            Value::Frame(Some(at)) => at + OUTGOING,
            _ => i32::MAX,
        };
        let arguments: Vec<Held> = self
            .slots
            .range(from..from.saturating_add(8 * ARGUMENTS as i32))
            .filter(|(at, _)| !spilled.contains(at))
            .map(|(_, held)| *held)
            .collect();
        arguments.into_iter()
    }

    /// Where the `n`-th operand of the instruction is, if it is in memory.
    pub(crate) fn place(&self, i: &Instruction, n: u32) -> Option<Place> {
        let by = |register: Register| match self.register(register).value {
            Value::Frame(at) => Place::Frame(at),
            _ => Place::Outside,
        };
        match i.op_kind(n) {
            OpKind::Memory => {}
            OpKind::MemorySegRSI | OpKind::MemorySegESI => return Some(by(Register::RSI)),
            OpKind::MemoryESRDI | OpKind::MemoryESEDI => return Some(by(Register::RDI)),
            kind if (OpKind::MemorySegSI..=OpKind::MemoryESRDI).contains(&kind) => return Some(Place::Outside),
            _ => return None,
        }
        let (base, index) = (i.memory_base(), i.memory_index());
        if i.is_ip_rel_memory_operand() || base == Register::None && index == Register::None {
            return Some(Place::Named);
        }
        let (b, x) = (self.register(base), self.register(index));
        Some(match (b.value, x.value) {
            (Value::Frame(at), _) if index == Register::None => {
                Place::Frame(at.and_then(|at| moved(at, i.memory_displacement64() as i64)))
            }
            (Value::Frame(_), Value::Plain(_) | Value::Other) => Place::Frame(None),
            (Value::Plain(_) | Value::Other, Value::Frame(_)) if i.memory_index_scale() == 1 => Place::Frame(None),
            _ => Place::Outside,
        })
    }

    pub(super) fn join(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (mine, theirs) in self.registers.iter_mut().zip(&other.registers) {
            *mine = mine.join(*theirs);
        }
        self.slots.retain(|at, _| other.slots.contains_key(at));
        for (at, held) in &mut self.slots {
            *held = held.join(other.slots[at]);
        }
        *self != before
    }
}

pub(super) fn move_stack(state: &mut State, by: i64) {
    if let Value::Frame(at) = state.registers[RSP].value {
        state.registers[RSP].value = Value::Frame(at.and_then(|at| moved(at, by)));
    }
}
