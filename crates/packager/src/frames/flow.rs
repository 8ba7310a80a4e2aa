//! What the registers of a function hold, as far as stack frames go: which of them certainly point into one.
//!
//! Like [`access`](crate::access), this module knows x86-64.

use super::state::{
    ARGUMENTS, DEAD, Held, INCOMING, OTHER, OUTGOING, Parameters, Place, RSP, State, VOLATILE, Value, move_stack,
    moved, number,
};
use hotgraft_program::code::{Cfg, Context as CodeContext, Exit, analyse_function};
use hotgraft_program::{Entity, FunctionId, Program};
use iced_x86::{Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use std::collections::BTreeSet;

/// Bytes that an object may lie below the address that code computes of it: an index that counts from 1, say, of large elements.
const BIAS: i32 = 256;

/// One instruction with what holds before it.
pub(crate) struct Line {
    pub(crate) instruction: Instruction,
    pub(crate) before: State,
    /// The first register that it writes holds this behind it.
    pub(crate) after: Option<Held>,
}

/// One function, decoded once.
pub(crate) struct Body<'a> {
    program: &'a Program,
    cfg: Cfg,
    entry: u32,
    /// The first of the parameters on the stack whose address is taken.
    taken: i32,
    /// Slots below this distance are no part of an object whose address is taken.
    followed: i32,
    /// Slots that are read: what is passed on the stack is not.
    pub(crate) spilled: BTreeSet<i32>,
}

impl<'a> Body<'a> {
    pub(crate) fn new(program: &'a Program, id: FunctionId) -> Self {
        let f = &program.functions[id.index()];
        let facts = analyse_function(&program.image, &f.ranges, &CodeContext::default());
        let mut body = Self {
            program,
            cfg: Cfg::build(&program.image, &facts),
            entry: f.rva(),
            taken: i32::MAX,
            followed: i32::MIN,
            spilled: BTreeSet::new(),
        };
        // Objects whose address is taken are found without following any slot.
        let mut objects = vec![i32::MAX];
        let mut spilled = BTreeSet::new();
        let mut info = InstructionInfoFactory::new();
        for line in body.solve(0, &BTreeSet::new(), false) {
            let i = &line.instruction;
            let at = |n: u32| match line.before.place(i, n) {
                Some(Place::Frame(Some(at))) => Some(at),
                _ => None,
            };
            let address = |register: Register| match line.before.register(register).value {
                Value::Frame(at) => at,
                _ => None,
            };
            for n in 0..i.op_count() {
                if i.op_kind(n) == OpKind::Memory && i.memory_index() != Register::None {
                    objects.extend(line.array(i));
                } else if i.mnemonic() != Mnemonic::Lea && (n > 0 || info.info(i).op0_access() != OpAccess::Write) {
                    spilled.extend(at(n));
                }
            }
            // Where the address itself goes on as a value. A frame pointer is one only where it is copied.
            let of_stack = number(i.op0_register()).is_none_or(|n| n == RSP);
            match i.mnemonic() {
                Mnemonic::Lea if i.op0_register() != Register::RBP => objects.extend(at(1)),
                Mnemonic::Mov | Mnemonic::Push => objects.extend(address(i.op_register(i.op_count() - 1))),
                Mnemonic::Add | Mnemonic::Sub if !of_stack => {
                    objects.extend(address(i.op0_register()));
                    // Of an array whose index is added to the frame pointer only a part of the distance is known.
                    let of_frame = [Register::RBP, Register::RSP].contains(&i.op1_register());
                    objects.extend(address(i.op1_register()).map(|at| if of_frame { i32::MIN } else { at }));
                }
                _ => {}
            }
        }
        body.taken = objects.iter().copied().filter(|at| *at >= 0).min().unwrap_or(i32::MAX);
        body.followed = objects.into_iter().min().unwrap_or(i32::MAX).saturating_sub(BIAS);
        body.spilled = spilled;
        body
    }

    /// All instructions that control can come to, in the order of their addresses. `safe`: parameters that certainly point into a
    /// frame. `sources`: instructions with a constant that the other version has not. `leaks`: such a constant was
    /// stored where it is not followed.
    pub(crate) fn solve(&self, safe: Parameters, sources: &BTreeSet<u32>, leaks: bool) -> Vec<Line> {
        let count = self.cfg.graph.node_count();
        let mut states: Vec<Option<State>> = vec![None; count];
        let mut work: Vec<usize> = Vec::new();
        if let Some(first) = self.cfg.block_at(self.entry) {
            states[first.index()] = Some(State::entry(safe, self.taken));
            work.push(first.index());
        }
        let mut info = InstructionInfoFactory::new();
        while let Some(n) = work.pop() {
            let Some(mut state) = states[n].clone() else { continue };
            self.run(n, &mut state, sources, leaks, &mut info, None);
            for next in self.cfg.graph.neighbors(petgraph::graph::NodeIndex::new(n)) {
                let changed = match &mut states[next.index()] {
                    Some(known) => known.join(&state),
                    none => {
                        *none = Some(state.clone());
                        true
                    }
                };
                if changed {
                    work.push(next.index());
                }
            }
        }
        let mut lines = Vec::new();
        for (n, state) in states.iter().enumerate() {
            let Some(mut state) = state.clone() else { continue };
            self.run(n, &mut state, sources, leaks, &mut info, Some(&mut lines));
        }
        lines.sort_by_key(|line| line.instruction.ip());
        lines
    }

    /// True if there is code that control was not seen to come to: then nothing is known.
    pub(crate) fn is_whole(&self, lines: &[Line]) -> bool {
        let blocks = self.cfg.graph.node_weights();
        let entered: BTreeSet<u64> = lines.iter().map(|line| line.instruction.ip()).collect();
        let known = |exit| !matches!(exit, Exit::Unknown);
        blocks.into_iter().all(|block| entered.contains(&u64::from(block.rva)) && known(block.exit))
    }

    /// The first address of the block that holds `rva`, and how control leaves the function behind it.
    pub(crate) fn block(&self, rva: u32) -> Option<(u32, Exit)> {
        let blocks = self.cfg.graph.node_weights();
        blocks.into_iter().find(|block| (block.rva..block.end).contains(&rva)).map(|block| (block.rva, block.exit))
    }

    fn run(
        &self,
        n: usize,
        state: &mut State,
        sources: &BTreeSet<u32>,
        leaks: bool,
        info: &mut InstructionInfoFactory,
        mut lines: Option<&mut Vec<Line>>,
    ) {
        let block = &self.cfg.graph[petgraph::graph::NodeIndex::new(n)];
        let bytes =
            self.program.image.bytes(block.rva, block.end.saturating_sub(block.rva) as usize).unwrap_or_default();
        for i in Decoder::with_ip(64, bytes, u64::from(block.rva), DecoderOptions::NONE) {
            let source = sources.contains(&(i.ip() as u32));
            match lines.as_deref_mut() {
                Some(lines) => {
                    let before = state.clone();
                    let after = self.step(&i, state, source, leaks, info);
                    lines.push(Line { instruction: i, before, after });
                }
                None => drop(self.step(&i, state, source, leaks, info)),
            }
        }
    }

    /// Follows one instruction; returns what its first written register holds.
    fn step(
        &self,
        i: &Instruction,
        state: &mut State,
        source: bool,
        leaks: bool,
        info: &mut InstructionInfoFactory,
    ) -> Option<Held> {
        if i.is_call_near() || i.is_call_near_indirect() {
            if !self.probes_the_stack(i) {
                for n in VOLATILE {
                    state.registers[n] = DEAD;
                }
                state.registers[0] = OTHER;
                let spilled = &self.spilled;
                if let Value::Frame(Some(at)) = state.registers[RSP].value {
                    state.slots.retain(|slot, _| *slot < at || *slot >= 0 || spilled.contains(slot));
                }
            }
            return None;
        }
        let held = self.result(i, state, source, leaks, info);
        let place = state.place(i, 0);
        match i.mnemonic() {
            Mnemonic::Push => {
                let pushed = if i.op0_kind() == OpKind::Register { state.register(i.op0_register()) } else { OTHER };
                move_stack(state, -8);
                if let Value::Frame(Some(at)) = state.registers[RSP].value {
                    self.store(state, at, 8, pushed);
                }
                return None;
            }
            Mnemonic::Pop => {
                let popped = match state.registers[RSP].value {
                    Value::Frame(Some(at)) if self.follows(at) => state.slots.get(&at).copied().unwrap_or(OTHER),
                    _ => OTHER,
                };
                move_stack(state, 8);
                if let Some(n) = number(i.op0_register()) {
                    state.registers[n] = popped;
                }
                return Some(popped);
            }
            _ => {}
        }
        if let Some(Place::Frame(Some(at))) = place
            && writes_first(i, info)
        {
            let size = i.memory_size().size() as i32;
            let whole = i.mnemonic() == Mnemonic::Mov && size == 8;
            let stored = match i.op1_kind() {
                OpKind::Register if whole => state.register(i.op1_register()),
                OpKind::Register => Held { changed: state.register(i.op1_register()).changed, ..OTHER },
                _ => Held { value: Value::Plain(None), changed: source },
            };
            self.store(state, at, size.max(1), stored);
        }
        let mut first = None;
        let used: Vec<(Register, OpAccess)> =
            info.info(i).used_registers().iter().map(|used| (used.register(), used.access())).collect();
        for (register, access) in used {
            let writes =
                matches!(access, OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite);
            let Some(n) = number(register).filter(|_| writes) else { continue };
            let direct = i.op_count() > 0 && i.op0_kind() == OpKind::Register && number(i.op0_register()) == Some(n);
            // What is written beside the first operand is a part of a product, a count, a moved pointer of a string.
            let value = if direct { held } else { beside(i, state.registers[n]) };
            state.registers[n] = value;
            first = first.or(Some(value));
        }
        first
    }

    fn probes_the_stack(&self, i: &Instruction) -> bool {
        let references = self.program.references_in(i.ip() as u32, i.next_ip() as u32);
        references.iter().any(|r| match r.target.entity {
            Entity::Function(id) => {
                let f = &self.program.functions[id.index()];
                f.name
                    .iter()
                    .chain(&f.decorated)
                    .any(|name| matches!(name.as_str(), "__chkstk" | "___chkstk_ms" | "__chkstk_ms" | "___chkstk"))
            }
            _ => false,
        })
    }

    fn store(&self, state: &mut State, at: i32, size: i32, held: Held) {
        // What overlaps is gone.
        let gone: Vec<i32> = state.slots.range(at - 7..at.saturating_add(size)).map(|(slot, _)| *slot).collect();
        for slot in gone {
            state.slots.remove(&slot);
        }
        // What is an argument of a call is no part of an object, and what is none the callee does not read.
        let outgoing = matches!(state.registers[RSP].value, Value::Frame(Some(top))
            if (OUTGOING..OUTGOING + 8 * ARGUMENTS as i32).contains(&at.saturating_sub(top)));
        if self.follows(at) || outgoing {
            state.slots.insert(at, held);
        }
    }

    /// True for a slot of this frame that nothing but its own instructions can write.
    pub(crate) fn follows(&self, at: i32) -> bool {
        at < self.followed && at < 0
    }

    /// What the first operand holds behind the instruction.
    fn result(
        &self,
        i: &Instruction,
        state: &State,
        source: bool,
        leaks: bool,
        info: &mut InstructionInfoFactory,
    ) -> Held {
        // What is written whole is not read; a part of a register leaves the rest of it.
        let part = i.op_count() > 0 && (i.op0_register().is_gpr8() || i.op0_register().is_gpr16());
        let first = if part || info.info(i).op0_access() != OpAccess::Write { 0 } else { 1 };
        let operand = |n: u32| -> Held {
            match i.op_kind(n) {
                OpKind::Register => state.register(i.op_register(n)),
                OpKind::Memory => match state.place(i, n) {
                    Some(Place::Frame(at)) => {
                        let whole = i.memory_size().size() == 8;
                        let own = at.filter(|&at| whole && (self.follows(at) || at >= INCOMING));
                        let slot = own.and_then(|at| state.slots.get(&at));
                        let unknown = Held { value: Value::Other, changed: leaks };
                        match slot {
                            Some(held) => *held,
                            None => unknown,
                        }
                    }
                    _ => OTHER,
                },
                _ => Held { value: Value::Plain(i.try_immediate(n).ok().map(|c| c as i64)), changed: false },
            }
        };
        let mixed = |value: Value| {
            let mut changed = source;
            for n in first..i.op_count() {
                changed |= i.op_kind(n) == OpKind::Register && state.register(i.op_register(n)).changed;
                changed |= i.op_kind(n) == OpKind::Memory && operand(n).changed;
            }
            Held { value, changed: changed && !matches!(value, Value::Frame(_)) }
        };
        // Half of an address is none.
        let narrow = i.op_count() > 0 && i.op0_kind() == OpKind::Register && !i.op0_register().is_gpr64();
        if narrow {
            let constant = i.mnemonic() == Mnemonic::Mov && !matches!(i.op1_kind(), OpKind::Register | OpKind::Memory);
            let zero = i.mnemonic() == Mnemonic::Xor
                && i.op1_kind() == OpKind::Register
                && i.op0_register() == i.op1_register();
            let value = if constant && i.op0_register().is_gpr32() {
                Value::Plain(i.try_immediate(1).ok().map(|c| i64::from(c as u32)))
            } else if zero {
                return Held { value: Value::Plain(Some(0)), changed: false };
            } else {
                Value::Other
            };
            return mixed(value);
        }
        match i.mnemonic() {
            Mnemonic::Mov => {
                let held = operand(1);
                Held { changed: (held.changed || source) && !held.is_frame(), ..held }
            }
            Mnemonic::Lea => {
                if i.is_ip_rel_memory_operand() {
                    return OTHER;
                }
                let at = match state.place(i, 1) {
                    Some(Place::Frame(at)) => return Held { value: Value::Frame(at), changed: false },
                    _ => Value::Other,
                };
                let parts = [i.memory_base(), i.memory_index()].map(|r| state.register(r));
                let far = parts.iter().any(|p| p.is_frame() || p.value == Value::Distance);
                let changed = source || parts.iter().any(|p| p.changed);
                Held { value: if far { Value::Distance } else { at }, changed }
            }
            Mnemonic::Add => mixed(match (operand(0).value, operand(1).value) {
                (Value::Frame(Some(at)), Value::Plain(Some(c))) => Value::Frame(moved(at, c)),
                (Value::Frame(_), Value::Plain(_) | Value::Other)
                | (Value::Plain(_) | Value::Other, Value::Frame(_)) => Value::Frame(None),
                (Value::Frame(_) | Value::Distance, _) | (_, Value::Distance) => Value::Distance,
                _ => Value::Other,
            }),
            Mnemonic::Sub => mixed(match (operand(0).value, operand(1).value) {
                (Value::Frame(Some(at)), Value::Plain(Some(c))) => {
                    Value::Frame(c.checked_neg().and_then(|c| moved(at, c)))
                }
                (Value::Frame(_), Value::Plain(_) | Value::Other) => Value::Frame(None),
                (Value::Distance, _) | (_, Value::Frame(_) | Value::Distance) => Value::Distance,
                _ => Value::Other,
            }),
            Mnemonic::And if operand(0).is_frame() && i.op1_kind() != OpKind::Register => {
                Held { value: Value::Frame(None), changed: false }
            }
            Mnemonic::Xor if i.op1_kind() == OpKind::Register && i.op0_register() == i.op1_register() => {
                Held { value: Value::Plain(Some(0)), changed: false }
            }
            Mnemonic::Inc | Mnemonic::Dec if operand(0).is_frame() => mixed(Value::Frame(None)),
            mnemonic if is_conditional_move(mnemonic) => operand(0).join(operand(1)),
            _ => {
                let far = (first..i.op_count()).any(|n| {
                    i.op_kind(n) == OpKind::Register && matches!(operand(n).value, Value::Frame(_) | Value::Distance)
                });
                mixed(if far { Value::Distance } else { Value::Other })
            }
        }
    }
}

impl Line {
    /// The distance at which an array that is indexed here begins, more or less.
    fn array(&self, i: &Instruction) -> Option<i32> {
        let base = match (self.before.register(i.memory_base()).value, self.before.register(i.memory_index()).value) {
            (Value::Frame(at), _) | (_, Value::Frame(at)) => at,
            _ => return None,
        };
        // A place that is not known comes of an address that was taken somewhere else.
        base.and_then(|at| moved(at, i.memory_displacement64() as i64))
    }
}

/// What an instruction leaves in a register that is not its first operand.
fn beside(i: &Instruction, held: Held) -> Held {
    if i.is_string_instruction() && held.is_frame() {
        Held { value: Value::Frame(None), changed: false }
    } else {
        Held { value: if held.may_lead_out() { held.value } else { Value::Other }, changed: held.changed }
    }
}

fn writes_first(i: &Instruction, info: &mut InstructionInfoFactory) -> bool {
    let access = info.info(i).op0_access();
    matches!(access, OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite)
}

pub(crate) fn is_conditional_move(mnemonic: Mnemonic) -> bool {
    format!("{mnemonic:?}").starts_with("Cmov")
}
