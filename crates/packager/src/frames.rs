//! Do the objects of a type whose layout changed live in frames of replaced functions alone?
//!
//! Where they do, and none of these functions is on a stack when the patch comes or goes, no object has the other version's
//! layout. That the PDB knows of no variable and no member that such an object could be is asked before; what is left are pointers
//! in code, and the PDB does not say what they lead to. So the code of both versions is followed, and this is proven for each
//! function that uses the type:
//!
//! * Every place in memory whose distance, size or order differs between the versions is in a frame: the function's own, or one
//!   whose address came through parameters that only such functions pass. Or it lies in what is the same at the start of both
//!   layouts.
//! * No constant that differs (an element's size, say) goes into an address outside of frames, into memory there, into a result, or
//!   into a call that is also given an address outside of frames (`memcpy`, `realloc`, `qsort`).
//! * Type and containers have another size than before, so that copying one is a difference too.
//!
//! Memory that outlives the frames is then read and written in the same way by both versions. Who uses the type is taken from the
//! PDB, and every function whose code differs counts as well: it could reach an object through a cast. That code stays within its
//! objects, and that no function with `...` is told the size of an element by a register that happens to hold it, is assumed.
//! Whatever cannot be followed is no proof.

mod align;
mod flow;
mod state;

use crate::closure::Closure;
use crate::context::Context;
use crate::escape::returns_nothing;
use crate::uses::{User, Uses, is_address_taken};
use flow::{Body, Line};
use hotgraft_diff::comparison::function_label;
use hotgraft_program::code::Exit;
use hotgraft_program::{Architecture, Entity, Form, Function, FunctionId, HandlerData, Program};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use rustc_hash::FxHasher;
use state::{ARGUMENTS, Parameters, Place, State, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

/// Functions that use the type, on both sides.
pub(crate) struct Users {
    /// In the old image.
    pub(crate) old: BTreeSet<FunctionId>,
    /// In the new image.
    pub(crate) new: BTreeSet<FunctionId>,
}

/// Proves that objects live only in frames of `users`, whose layouts are the same in the first `prefix` bytes. Returns the new
/// versions of the functions that must not be on a stack, or why there is no proof.
pub(crate) fn prove(
    ctx: &Context,
    closure: &Closure,
    users: &Users,
    prefix: u64,
) -> Result<BTreeSet<FunctionId>, String> {
    if [ctx.old, ctx.new].iter().any(|p| p.image.architecture != Architecture::X64) {
        return Err(String::from("Pointers to it are followed in x64 code only."));
    }
    let pairs = pairs(ctx, closure, users)?;
    let (old, new): (Vec<FunctionId>, Vec<FunctionId>) = pairs.iter().copied().unzip();
    let before = Side::new(ctx.old, &ctx.old_uses, &old);
    let after = Side::new(ctx.new, &ctx.new_uses, &new);
    for &(old, new) in &pairs {
        let label = function_label(ctx.new, new);
        let (a, b) = (before.lines(old), after.lines(new));
        if !before.bodies[&old].is_whole(&a) || !after.bodies[&new].is_whole(&b) {
            return Err(format!("Not all code of {label} could be followed."));
        }
        let exact = |lines: &[Line]| lines.iter().map(|line| token(line, true)).collect::<Vec<_>>();
        let shape = |lines: &[Line]| lines.iter().map(|line| token(line, false)).collect::<Vec<_>>();
        let too_many = || format!("{label} is too large to be followed.");
        let (same_a, same_b) = align::aligned(&exact(&a), &exact(&b)).ok_or_else(too_many)?;
        let (like_a, like_b) = align::aligned(&shape(&a), &shape(&b)).ok_or_else(too_many)?;
        for (side, id, lines, same, like) in [(&before, old, &a, same_a, like_a), (&after, new, &b, same_b, like_b)] {
            let differs = |marks: &[bool]| -> BTreeSet<u32> {
                let marked = lines.iter().zip(marks).filter(|(_, same)| !**same);
                marked.map(|(line, _)| line.instruction.ip() as u32).collect()
            };
            let f = &side.program.functions[id.index()];
            let trial = Trial { side, f, body: &side.bodies[&id], differing: differs(&same), prefix };
            let sources = differs(&like);
            if let Some((rva, what)) = trial.fault(side.safe[&id], &sources) {
                let which = if std::ptr::eq(side.program, ctx.old) { "old" } else { "new" };
                return Err(format!("{label} {what} at {rva:#x} of the {which} image, so objects of it may live."));
            }
        }
    }
    Ok(new.into_iter().collect())
}

/// The users as pairs, old and new, if each of them can be kept from being on a stack.
fn pairs(ctx: &Context, closure: &Closure, users: &Users) -> Result<Vec<(FunctionId, FunctionId)>, String> {
    let mut out: BTreeMap<FunctionId, FunctionId> = BTreeMap::new();
    for &new in &users.new {
        match ctx.counterpart(new) {
            Some(old) => drop(out.insert(old, new)),
            None => return Err(format!("{}, which is new, may use it.", function_label(ctx.new, new))),
        }
    }
    for &old in &users.old {
        let label = || function_label(ctx.old, old);
        let new = ctx.cmp.new_function(old).ok_or_else(|| format!("{}, which is gone, uses it.", label()))?;
        out.insert(old, new);
    }
    for (&old, &new) in &out {
        let label = function_label(ctx.new, new);
        let (a, b) = (&ctx.old.functions[old.index()], &ctx.new.functions[new.index()]);
        if !closure.functions.contains_key(&new) || ctx.counterpart(new) != Some(old) {
            return Err(format!("{label} may use it and is not replaced."));
        }
        if closure.direct_only.contains(&new) {
            return Err(format!("{label} may use it, and its entry is not redirected."));
        }
        let handled = |program: &Program, unwind: &[u32]| {
            let known = |&u: &u32| program.unwind.get(u as usize).is_some_and(|i| i.handler_data == HandlerData::None);
            !unwind.iter().all(known)
        };
        if handled(ctx.old, &a.unwind) || handled(ctx.new, &b.unwind) || ctx.is_funclet(new) {
            return Err(format!("{label} may use it and handles exceptions."));
        }
        if a.ranges.len() > 1 || b.ranges.len() > 1 {
            return Err(format!("{label} may use it and is split into parts."));
        }
    }
    Ok(out.into_iter().collect())
}

/// The users of one side, and which of their parameters certainly lead into a frame.
struct Side<'a> {
    program: &'a Program,
    bodies: BTreeMap<FunctionId, Body<'a>>,
    safe: BTreeMap<FunctionId, Parameters>,
    /// By what is called: the argument registers that every call of it has set.
    passed: BTreeMap<u32, u8>,
}

impl<'a> Side<'a> {
    fn new(program: &'a Program, uses: &Uses, users: &[FunctionId]) -> Self {
        let bodies: BTreeMap<FunctionId, Body<'a>> = users.iter().map(|&id| (id, Body::new(program, id))).collect();
        // The greatest assignment under which every call agrees with it.
        let mut safe: BTreeMap<FunctionId, Parameters> = users
            .iter()
            .map(|&id| (id, if is_private(program, uses, id, &bodies) { Parameters::MAX } else { 0 }))
            .collect();
        loop {
            let mut next = safe.clone();
            let mut calls: BTreeMap<FunctionId, usize> = BTreeMap::new();
            let mut passed: BTreeMap<u32, u8> = BTreeMap::new();
            for (id, body) in &bodies {
                for line in body.solve(safe[id], &BTreeSet::new(), false) {
                    if let Some(called) = called(program, &line.instruction) {
                        let set =
                            (0..4).filter(|&n| line.before.argument(n).value != Value::Dead).map(|n| 1 << n).sum();
                        passed.entry(called).and_modify(|known| *known &= set).or_insert(set);
                    }
                    let Some(callee) = callee(program, &line.instruction) else { continue };
                    let Some(known) = next.get_mut(&callee) else { continue };
                    *calls.entry(callee).or_default() += 1;
                    for n in 0..ARGUMENTS {
                        if !line.before.argument(n).is_frame() {
                            *known &= !(1 << n);
                        }
                    }
                }
            }
            for (id, known) in &mut next {
                // A way in that was not seen as a call: a jump, or code that was not come to. Or none at all, and yet it is there.
                let ways = uses.of_function(*id).iter().filter(|used| matches!(used.user, User::Function(_))).count();
                let seen = calls.get(id).copied().unwrap_or(0);
                if seen == 0 || seen != ways {
                    *known = 0;
                }
            }
            if next == safe {
                return Self { program, bodies, safe, passed };
            }
            safe = next;
        }
    }

    fn lines(&self, id: FunctionId) -> Vec<Line> {
        self.bodies[&id].solve(self.safe[&id], &BTreeSet::new(), false)
    }
}

/// True if nothing but direct calls of the users leads to the function.
fn is_private(program: &Program, uses: &Uses, id: FunctionId, users: &BTreeMap<FunctionId, Body<'_>>) -> bool {
    !Context::is_reachable_from_outside(program, id)
        && uses.handler_of(id).next().is_none()
        && uses.of_function(id).iter().all(|used| {
            let known = match used.user {
                User::Function(user) => users.contains_key(&user),
                // The table of functions, say.
                User::Object(_) => true,
                User::Nobody => false,
            };
            known && !is_address_taken(program, id, used)
        })
}

/// Where a call leads by name: to a function, or through a slot.
fn called(program: &Program, i: &Instruction) -> Option<u32> {
    let call = i.is_call_near() || i.is_call_near_indirect() || i.is_jmp_near() || i.is_jmp_near_indirect();
    let references = program.references_in(i.ip() as u32, i.next_ip() as u32);
    references.first().filter(|_| call).map(|r| r.rva)
}

/// The function that is called, if it is named.
fn callee(program: &Program, i: &Instruction) -> Option<FunctionId> {
    if !i.is_call_near() {
        return None;
    }
    let references = program.references_in(i.ip() as u32, i.next_ip() as u32);
    references.iter().find(|r| r.form == Form::Branch && r.target.addend == 0).and_then(|r| match r.target.entity {
        Entity::Function(id) => Some(id),
        _ => None,
    })
}

/// What must be the same in both versions for an instruction to count as the same: everything but distances in frames
/// and to named things. Without `registers`, which registers it uses does not matter.
fn token(line: &Line, registers: bool) -> u64 {
    let i = &line.instruction;
    let mut hash = FxHasher::default();
    i.code().hash(&mut hash);
    let framed = line.after.is_some_and(|held| held.is_frame());
    let name = |register: Register| if registers { register as u32 } else { u32::from(register != Register::None) };
    for n in 0..i.op_count() {
        match i.op_kind(n) {
            OpKind::Register => name(i.op_register(n)).hash(&mut hash),
            OpKind::Memory => match line.before.place(i, n) {
                Some(Place::Frame(_)) => "frame".hash(&mut hash),
                Some(Place::Named) => "named".hash(&mut hash),
                _ => {
                    (name(i.memory_base()), name(i.memory_index())).hash(&mut hash);
                    (i.memory_index_scale(), i.memory_displacement64()).hash(&mut hash);
                }
            },
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {}
            _ if framed => {}
            _ => i.try_immediate(n).unwrap_or(0).hash(&mut hash),
        }
    }
    hash.finish()
}

/// One version of one function.
struct Trial<'a> {
    side: &'a Side<'a>,
    f: &'a Function,
    body: &'a Body<'a>,
    /// Instructions without a counterpart.
    differing: BTreeSet<u32>,
    prefix: u64,
}

impl Trial<'_> {
    /// The first instruction that stands against the proof, and what it does.
    fn fault(&self, safe: Parameters, unlike: &BTreeSet<u32>) -> Option<(u32, &'static str)> {
        let sources: BTreeSet<u32> = self
            .body
            .solve(safe, &BTreeSet::new(), false)
            .iter()
            .filter(|line| unlike.contains(&(line.instruction.ip() as u32)) && has_constant(line))
            .map(|line| line.instruction.ip() as u32)
            .collect();
        let mut leaks = false;
        loop {
            let lines = self.body.solve(safe, &sources, leaks);
            if !leaks && lines.iter().any(|line| self.leaks(line)) {
                leaks = true;
                continue;
            }
            return (0..lines.len())
                .find_map(|at| Some((lines[at].instruction.ip() as u32, self.judge(&lines, at, &sources)?)));
        }
    }

    /// True if a constant that differs is stored in the frame where it is not followed.
    fn leaks(&self, line: &Line) -> bool {
        let i = &line.instruction;
        let place = line.before.place(i, 0);
        let followed = matches!(place, Some(Place::Frame(Some(at))) if self.body.follows(at));
        matches!(place, Some(Place::Frame(_))) && !followed && reads_changed(&line.before, i)
    }

    /// True if an argument register can be an argument of the call in `lines[at]`: all calls of that function set it, or
    /// this one does, right before. A function takes the same registers wherever it is called; only what stands for `...` in its
    /// prototype differs from call to call.
    fn is_passed(&self, lines: &[Line], at: usize, n: usize) -> bool {
        let call = &lines[at].instruction;
        let set = called(self.side.program, call).and_then(|called| self.side.passed.get(&called));
        if set.is_none_or(|set| set & 1 << n != 0) {
            return true;
        }
        let start = self.body.block(call.ip() as u32).map_or(0, |(start, _)| start);
        let register = [Register::RCX, Register::RDX, Register::R8, Register::R9][n];
        let earlier = lines[..at].iter().rev().map(|line| &line.instruction);
        earlier.take_while(|i| i.ip() >= u64::from(start) && !i.is_call_near() && !i.is_call_near_indirect()).any(|i| {
            i.op_count() > 0 && i.op0_kind() == OpKind::Register && i.op0_register().full_register() == register
        })
    }

    fn judge(&self, lines: &[Line], at: usize, sources: &BTreeSet<u32>) -> Option<&'static str> {
        let line = &lines[at];
        let (i, before) = (&line.instruction, &line.before);
        let rva = i.ip() as u32;
        let jump = i.is_jmp_near_indirect() || i.is_jmp_near() || i.is_jmp_short();
        let exit = self.body.block(rva).map_or(Exit::Unknown, |(_, exit)| exit);
        let tail = jump && matches!(exit, Exit::TailJump(_) | Exit::IndirectTailJump | Exit::Unknown);
        if i.is_call_near() || i.is_call_near_indirect() || tail {
            let registers = (0..4).filter(|&n| self.is_passed(lines, at, n)).map(|n| before.argument(n));
            let arguments: Vec<_> = registers.chain(before.stacked(&self.body.spilled)).collect();
            let changed = arguments.iter().any(|held| held.changed);
            return (changed && arguments.iter().any(|held| held.may_lead_out()))
                .then_some("passes a size or place that differs, and another address");
        }
        if i.mnemonic() == Mnemonic::Ret {
            let changed = before.register(Register::RAX).changed && !returns_nothing(self.f);
            return changed.then_some("returns a size or place that differs");
        }
        if matches!(i.mnemonic(), Mnemonic::Lea | Mnemonic::Nop | Mnemonic::Prefetcht0 | Mnemonic::Prefetchnta) {
            return None;
        }
        // What goes into a vector register is not followed from there.
        let to_vector = i.op_count() > 1 && i.op0_kind() == OpKind::Register && i.op0_register().is_vector_register();
        if to_vector
            && (1..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && before.register(i.op_register(n)).changed)
        {
            return Some("computes with a size or place that differs");
        }
        for n in 0..i.op_count() {
            if before.place(i, n) != Some(Place::Outside) {
                continue;
            }
            let string = i.op_kind(n) != OpKind::Memory;
            let parts: &[Register] = if string {
                &[Register::RSI, Register::RDI, Register::RCX]
            } else {
                &[i.memory_base(), i.memory_index()]
            };
            if parts.iter().any(|r| before.register(*r).changed) {
                return Some("reaches memory by a size or place that differs");
            }
            if reads_changed(before, i) || sources.contains(&rva) && n == 0 {
                return Some("stores a size or place that differs");
            }
            let size = i.memory_size().size() as u64;
            let alike = !string
                && i.memory_index() == Register::None
                && i.memory_displacement64().checked_add(size.max(1)).is_some_and(|end| end <= self.prefix);
            if self.differing.contains(&rva) && !alike {
                return Some("reaches memory in another way than the other version");
            }
        }
        None
    }
}

/// True if a register operand holds what a constant that differs went into.
fn reads_changed(state: &State, i: &Instruction) -> bool {
    (1..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && state.register(i.op_register(n)).changed)
        || i.mnemonic() == Mnemonic::Push
            && i.op0_kind() == OpKind::Register
            && state.register(i.op0_register()).changed
}

/// True if the instruction makes something of a constant that could be a size, or a distance in a structure. 0, 1 and -1
/// are neither.
fn has_constant(line: &Line) -> bool {
    let i = &line.instruction;
    if line.after.is_some_and(|held| held.is_frame()) {
        return false;
    }
    match i.mnemonic() {
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt => return false,
        Mnemonic::Lea => {
            let named = i.is_ip_rel_memory_operand();
            let plain =
                i.memory_displacement64() == 0 && (i.memory_index() == Register::None || i.memory_index_scale() == 1);
            return !named && !plain;
        }
        _ => {}
    }
    let number = |n: u32| !matches!(i.op_kind(n), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    (0..i.op_count()).filter(|n| number(*n)).any(|n| match i.try_immediate(n) {
        Ok(c) => !(-1..=1).contains(&(c as i64)) && c != u64::from(u32::MAX),
        Err(_) => false,
    })
}
