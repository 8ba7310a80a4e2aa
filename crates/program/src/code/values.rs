//! What the dataflow knows of registers and stack slots.
//!
//! A value is an image address, a number, a place in the frame, or a *symbol*: a name for "whatever this instruction
//! (or this join of paths) produced". Two places that hold the same symbol hold the same value, so a comparison of one
//! bounds both. A symbol is bound to its last instance: when its instruction runs again, other holders lose it.

use super::sorted_map::SortedMap;
use iced_x86::ConditionCode;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Number of general registers.
pub(super) const REGISTERS: usize = 16;
/// Number of the stack pointer.
pub(super) const RSP: usize = 4;

/// Name of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Symbol {
    /// Instruction or block that produces it.
    pub(super) at: u32,
    /// What it produces it for.
    pub(super) role: Role,
}

/// Distinguishes symbols of one instruction or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
    /// Content of a register at the entry of the function.
    Initial(u8),
    /// Result of an instruction in a register.
    Result(u8),
    /// What an instruction read from memory.
    Load,
    /// Several values of a register meet at the start of a block.
    Join(u8),
    /// Several values of a memory place meet.
    JoinPlace(Place),
}

/// A place in memory that can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// Bytes from the stack pointer at the entry (frame 0), or at the instruction that made the frame.
    Frame(u32, i32),
    /// Bytes from the value of a symbol, given as its instruction and a packed role.
    Pointer(u32, u8, i32),
    /// An address in the image.
    Image(u32),
}

impl Place {
    /// The place `offset` bytes from the value of a symbol, if its role can be packed.
    pub(super) fn pointer(symbol: Symbol, offset: i32) -> Option<Self> {
        let role = match symbol.role {
            Role::Result(n) => n,
            Role::Initial(n) => 32 + n,
            Role::Join(n) => 64 + n,
            Role::Load => 96,
            Role::JoinPlace(_) => return None,
        };
        Some(Place::Pointer(symbol.at, role, offset))
    }

    /// The symbol that the place is relative to.
    pub(super) fn base(self) -> Option<Symbol> {
        let Place::Pointer(at, role, _) = self else {
            return None;
        };
        let n = role % 32;
        let role = match role / 32 {
            0 => Role::Result(n),
            1 => Role::Initial(n),
            2 => Role::Join(n),
            _ => Role::Load,
        };
        Some(Symbol { at, role })
    }
}

/// A 64-bit value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value {
    /// Nothing is known.
    Opaque,
    /// A number.
    Number(u64),
    /// The image base plus this RVA.
    Address(u32),
    /// A place in the frame.
    Frame(u32, i32),
    /// The low bits (8, 16, 32 or 64) of a symbol, zero-extended.
    Symbol(Symbol, u8),
    /// The low 32 bits of a symbol, sign-extended.
    Signed(Symbol),
}

/// Least 32-bit number that sign extension changes.
const NEGATIVE: u64 = 1 << 31;

impl Value {
    /// The symbol it is made of.
    pub(super) fn symbol(self) -> Option<Symbol> {
        match self {
            Value::Symbol(symbol, _) | Value::Signed(symbol) => Some(symbol),
            _ => None,
        }
    }
}

/// A read from a table at a known address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableRead {
    /// RVA of element 0.
    pub(super) table: u32,
    /// Bytes per element.
    pub(super) width: u8,
    /// True if the element was sign-extended (or is 8 bytes wide).
    pub(super) signed: bool,
    /// Lowest and highest index.
    pub(super) range: (u64, u64),
    /// See [`Info::natural`], for the index.
    pub(super) natural: bool,
    /// RVA of the instruction that reads it.
    pub(super) load: u32,
    /// The index table that gave the index: its address, element bytes, index range and load.
    pub(super) via: Option<IndexTable>,
}

/// A table of numbers that select an element of another table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexTable {
    pub(super) table: u32,
    pub(super) width: u8,
    pub(super) range: (u64, u64),
    pub(super) natural: bool,
    pub(super) load: u32,
}

/// How far an index goes and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) range: (u64, u64),
    pub(super) natural: bool,
    pub(super) via: Option<IndexTable>,
}

/// How a value came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Parameter, call result, or plain load: may be a pointer to anything outside of the function.
    Plain,
    /// Computed.
    Computed,
    /// Loaded from an array at an address that is not known.
    Indexed,
    /// An element of a table of addresses, differences or image-relative values.
    Entry(TableRead),
    /// Address of an element of a table: base, scale, index.
    Element(u32, u8, Index),
    /// An element of an index table.
    Number(TableRead),
    /// Anchor plus an element: what a switch jumps to.
    Target(TableRead, u32),
    /// The image base plus something unknown.
    BasePlus,
    /// May be the image base, and may be something else.
    MaybeBase,
}

/// What is known of a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info {
    /// Lowest and highest value of the low 8, 16, 32 and 64 bits.
    bounds: [(u64, u64); 4],
    /// How it came about.
    pub(super) origin: Origin,
    /// True if the upper bound follows from the width of a type or a mask alone, not from a comparison. Compilers leave
    /// out what cannot occur, so such a bound says little about the length of a table.
    pub(super) natural: bool,
}

fn mask(width: u8) -> u64 {
    if width >= 64 { u64::MAX } else { (1 << width) - 1 }
}

fn slot(width: u8) -> usize {
    match width {
        8 => 0,
        16 => 1,
        32 => 2,
        _ => 3,
    }
}

const FULL: [(u64, u64); 4] = [(0, 0xFF), (0, 0xFFFF), (0, 0xFFFF_FFFF), (0, u64::MAX)];

impl Info {
    /// Any value of `width` bits, zero-extended.
    pub(super) fn new(origin: Origin, width: u8) -> Self {
        Self::ranged(origin, (0, mask(width)), true)
    }

    /// A value between two bounds.
    pub(super) fn ranged(origin: Origin, (low, high): (u64, u64), natural: bool) -> Self {
        let mut bounds = FULL;
        for (i, b) in bounds.iter_mut().enumerate() {
            if high <= FULL[i].1 {
                *b = (low, high);
            }
        }
        Self { bounds, origin, natural }
    }

    /// Bounds of the low `width` bits.
    pub(super) fn range(&self, width: u8) -> (u64, u64) {
        self.bounds[slot(width)]
    }

    /// Narrows the bounds of the low `width` bits. Contradictions (dead code) leave them as they are.
    fn assume(&mut self, width: u8, (low, high): (u64, u64)) {
        // If the whole value fits into fewer bits, the bounds hold for all widths that hold it.
        let narrow = self.bounds[3].1 <= mask(width);
        let first = slot(width);
        self.natural &= high >= self.bounds[first].1;
        for i in first..4 {
            if i > first && !narrow {
                break;
            }
            let b = &mut self.bounds[i];
            let new = (b.0.max(low), b.1.min(high));
            if new.0 <= new.1 {
                *b = new;
            }
        }
        if high <= FULL[first].1 {
            for (i, full) in FULL.iter().enumerate().take(first) {
                if high <= full.1 {
                    let b = &mut self.bounds[i];
                    let new = (b.0.max(low), b.1.min(high));
                    if new.0 <= new.1 {
                        *b = new;
                    }
                }
            }
        }
    }

    fn join(&self, other: &Self, widen: bool) -> Self {
        let mut bounds = self.bounds;
        for (i, b) in bounds.iter_mut().enumerate() {
            let o = other.bounds[i];
            let joined = (b.0.min(o.0), b.1.max(o.1));
            *b = if widen && joined != *b { FULL[i] } else { joined };
        }
        // A wide bound that fits into fewer bits stays consistent with the narrower ones.
        let natural = self.natural || other.natural;
        Self { bounds, origin: self.origin.join(other.origin, widen), natural }
    }
}

impl TableRead {
    fn join(self, other: Self, widen: bool) -> Option<Self> {
        if (self.table, self.width, self.signed) != (other.table, other.width, other.signed) {
            return None;
        }
        let mut range = (self.range.0.min(other.range.0), self.range.1.max(other.range.1));
        if widen && range != self.range {
            range = (0, u64::MAX);
        }
        let via = if self.via == other.via { self.via } else { return None };
        let natural = self.natural || other.natural;
        Some(Self { range, natural, load: self.load.min(other.load), via, ..self })
    }
}

impl Origin {
    /// True for values that may be the image base or derive from it.
    pub(super) fn may_be_base(self) -> bool {
        matches!(self, Origin::BasePlus | Origin::MaybeBase)
    }

    pub(super) fn join(self, other: Self, widen: bool) -> Self {
        use Origin::{Computed, Element, Entry, Indexed, MaybeBase, Number, Plain, Target};
        if self == other {
            return self;
        }
        let joined = match (self, other) {
            (Entry(a), Entry(b)) => a.join(b, widen).map(Entry),
            (Number(a), Number(b)) => a.join(b, widen).map(Number),
            (Target(a, x), Target(b, y)) if x == y => a.join(b, widen).map(|t| Target(t, x)),
            (Element(a, s, x), Element(b, t, y)) if a == b && s == t && x.via == y.via => {
                let (r, q) = (x.range, y.range);
                let range = if widen { (0, u64::MAX) } else { (r.0.min(q.0), r.1.max(q.1)) };
                Some(Element(a, s, Index { range, natural: x.natural || y.natural, via: x.via }))
            }
            _ => None,
        };
        if let Some(joined) = joined {
            return joined;
        }
        if self.may_be_base() || other.may_be_base() {
            return MaybeBase;
        }
        match (self, other) {
            (Plain, Plain) => Plain,
            (Plain | Indexed, Plain | Indexed) => Indexed,
            _ => Computed,
        }
    }
}

/// The operands of the last comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) left: Value,
    pub(super) right: Value,
    /// Bits compared.
    pub(super) width: u8,
    /// True for `test x, x`.
    pub(super) test: bool,
}

/// What the low byte of a symbol tells about an earlier comparison: the result of `setcc`, and of `or` and `and` over
/// such results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) symbol: Symbol,
    /// True if it says something when the byte is zero (the condition does not hold then), false if when it is not (the
    /// condition holds).
    pub(super) when_zero: bool,
    pub(super) comparison: Comparison,
    pub(super) condition: ConditionCode,
}

impl Verdict {
    fn involves(&self, held: &dyn Fn(Value) -> bool) -> bool {
        held(Value::Symbol(self.symbol, 64)) || held(self.comparison.left) || held(self.comparison.right)
    }
}

/// Everything known before one instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) registers: [Value; REGISTERS],
    /// Content of memory places with its width in bits.
    pub(super) places: SortedMap<Place, (u8, Value)>,
    pub(super) symbols: SortedMap<Symbol, Rc<Info>>,
    pub(super) comparison: Option<Comparison>,
    pub(super) verdicts: Vec<Verdict>,
    /// Frame places whose address is held by more than the frame registers.
    pub(super) exposed: BTreeSet<(u32, i32)>,
    /// True if nothing is known of the frame and it may hold the image base.
    pub(super) wild: bool,
    /// True if only addresses, numbers, places in the frame and what the function got at its entry are followed. Symbols
    /// are then made for nothing else, which makes the state small and the dataflow quick.
    pub(super) coarse: bool,
    /// True if what lies behind an address that may be anything may be anything.
    pub(super) wary: bool,
}

impl State {
    /// At the entry of the function.
    pub(super) fn entry() -> Self {
        let mut state = Self::unknown(0, &[]);
        for (n, value) in state.registers.iter_mut().enumerate() {
            *value = Value::Symbol(Symbol { at: 0, role: Role::Initial(n as u8) }, 64);
        }
        state.symbols.clear();
        state.registers[RSP] = Value::Frame(0, 0);
        state
    }

    /// At a place that control reaches in a way that is not followed. `base` are registers that may hold the image
    /// base.
    pub(super) fn unknown(at: u32, base: &[usize]) -> Self {
        let mut state = Self {
            registers: [Value::Opaque; REGISTERS],
            places: SortedMap::new(),
            symbols: SortedMap::new(),
            comparison: None,
            verdicts: Vec::new(),
            exposed: BTreeSet::new(),
            wild: !base.is_empty(),
            coarse: false,
            wary: false,
        };
        // The stack pointer is some place in a frame of its own; registers may hold anything.
        for n in 0..REGISTERS {
            let origin = if base.contains(&n) { Origin::MaybeBase } else { Origin::Plain };
            let symbol = Symbol { at, role: Role::Join(n as u8) };
            state.symbols.insert(symbol, Rc::new(Info::new(origin, 64)));
            state.registers[n] = Value::Symbol(symbol, 64);
        }
        state.registers[RSP] = Value::Frame(at, 0);
        state
    }

    /// The same with all but what a coarse state follows left out.
    pub(super) fn coarse(mut self) -> Self {
        let initial = |v: &Value| matches!(v.symbol(), Some(Symbol { role: Role::Initial(_), .. }));
        for value in &mut self.registers {
            if value.symbol().is_some() && !initial(value) {
                *value = Value::Opaque;
            }
        }
        self.symbols.clear();
        self.wild = false;
        self.coarse = true;
        self
    }

    /// A coarse state as the start of a path: registers of which nothing is known become symbols of the block at `at`.
    /// Those of `suspects`, a set of bits, may hold addresses, and so may the frame if `frame` is true.
    pub(super) fn refined(&self, at: u32, suspects: u32, frame: bool) -> Self {
        let mut state = Self { coarse: false, wary: true, wild: frame, ..self.clone() };
        for n in 0..REGISTERS {
            if state.registers[n] == Value::Opaque {
                let origin = if suspects & 1 << n != 0 { Origin::MaybeBase } else { Origin::Plain };
                let symbol = Symbol { at, role: Role::Join(n as u8) };
                state.symbols.insert(symbol, Rc::new(Info::new(origin, 64)));
                state.registers[n] = Value::Symbol(symbol, 64);
            }
        }
        state
    }

    /// What is known of a symbol.
    pub(super) fn info(&self, symbol: Symbol) -> Info {
        self.symbols.get(&symbol).map_or(Info::new(Origin::Plain, 64), |info| **info)
    }

    /// A new instance of a symbol; other holders of the old instance lose it.
    pub(super) fn fresh(&mut self, symbol: Symbol, info: Info) -> Value {
        if self.coarse {
            return Value::Opaque;
        }
        if self.symbols.insert(symbol, Rc::new(info)).is_some() {
            self.forget(symbol);
        }
        Value::Symbol(symbol, 64)
    }

    /// A frame that starts where the stack pointer stands after the instruction at `at`; what was known of an earlier
    /// one from the same instruction is forgotten.
    pub(super) fn new_frame(&mut self, at: u32) -> Value {
        let old = |v: &Value| matches!(v, Value::Frame(f, _) if *f == at);
        for value in &mut self.registers {
            if old(value) {
                *value = Value::Opaque;
            }
        }
        self.places.retain(|p, (_, v)| !old(v) && !matches!(p, Place::Frame(f, _) if *f == at));
        self.exposed.retain(|(f, _)| *f != at);
        Value::Frame(at, 0)
    }

    fn forget(&mut self, symbol: Symbol) {
        let held = |v: &Value| v.symbol() == Some(symbol);
        for value in &mut self.registers {
            if held(value) {
                *value = Value::Opaque;
            }
        }
        self.places.retain(|p, (_, v)| !held(v) && p.base() != Some(symbol));
        if self.comparison.is_some_and(|c| held(&c.left) || held(&c.right)) {
            self.comparison = None;
        }
        self.verdicts.retain(|v| !v.involves(&|value| held(&value)));
    }

    /// Lowest and highest value.
    pub(super) fn range(&self, value: Value) -> (u64, u64) {
        match value {
            Value::Number(n) => (n, n),
            Value::Symbol(symbol, width) => self.info(symbol).range(width),
            Value::Signed(symbol) => match self.info(symbol).range(32) {
                range if range.1 < NEGATIVE => range,
                _ => (0, u64::MAX),
            },
            _ => (0, u64::MAX),
        }
    }

    /// See [`Info::natural`].
    pub(super) fn natural(&self, value: Value) -> bool {
        match value {
            Value::Symbol(symbol, width) => {
                let info = self.info(symbol);
                info.natural || info.range(width).1 == mask(width)
            }
            Value::Signed(symbol) => self.info(symbol).natural || self.range(value).1 == u64::MAX,
            Value::Number(_) => false,
            _ => true,
        }
    }

    /// How a value came about.
    pub(super) fn origin(&self, value: Value) -> Origin {
        match value {
            Value::Symbol(symbol, 64) => self.info(symbol).origin,
            Value::Symbol(symbol, _) => match self.info(symbol).origin {
                // The low half of a zero-extended element is the element.
                origin @ (Origin::Entry(_) | Origin::Number(_)) if self.info(symbol).range(64).1 <= 0xFFFF_FFFF => {
                    origin
                }
                Origin::Plain => Origin::Plain,
                _ => Origin::Computed,
            },
            Value::Signed(symbol) => match self.origin(self.truncate(Value::Symbol(symbol, 64), 32)) {
                Origin::Entry(t) if t.width == 4 => Origin::Entry(TableRead { signed: true, ..t }),
                origin if origin.may_be_base() => origin,
                _ => Origin::Computed,
            },
            Value::Address(0) => Origin::BasePlus,
            Value::Address(_) => Origin::Plain,
            Value::Opaque | Value::Number(_) | Value::Frame(..) => Origin::Computed,
        }
    }

    /// True if the value may be the image base or derive from it.
    pub(super) fn may_be_base(&self, value: Value) -> bool {
        self.origin(value).may_be_base()
    }

    /// The low `width` bits of a value, zero-extended. `None` if they cannot be named.
    pub(super) fn truncate(&self, value: Value, width: u8) -> Value {
        match value {
            _ if width >= 64 => value,
            Value::Number(n) => Value::Number(n & mask(width)),
            Value::Symbol(symbol, w) => {
                if w <= width || self.info(symbol).range(w).1 <= mask(width) {
                    value
                } else {
                    Value::Symbol(symbol, width)
                }
            }
            Value::Signed(symbol) if width <= 32 => self.truncate(Value::Symbol(symbol, 64), width),
            _ => Value::Opaque,
        }
    }

    /// Takes note that a value lies between two bounds.
    pub(super) fn assume(&mut self, value: Value, range: (u64, u64)) {
        if self.coarse {
            return;
        }
        let (symbol, width) = match value {
            Value::Symbol(symbol, width) => (symbol, width),
            Value::Signed(symbol) if range.1 < NEGATIVE => (symbol, 32),
            _ => return,
        };
        let mut info = self.info(symbol);
        info.assume(width, range);
        self.symbols.insert(symbol, Rc::new(info));
    }

    /// Info of any value, as needed where it meets another one.
    fn info_of(&self, value: Value) -> Info {
        match value {
            Value::Symbol(symbol, 64) => self.info(symbol),
            _ => Info::ranged(self.origin(value), self.range(value), self.natural(value)),
        }
    }

    /// Joins what is known on another path to `block` into this state. Returns true if anything changed.
    ///
    /// `own` tells whether an address is a label inside of the function: selecting one of several is a computed goto.
    pub(super) fn join(&mut self, other: &Self, block: u32, widen: bool, own: &dyn Fn(u32) -> bool) -> bool {
        if self.coarse {
            return self.join_coarse(other);
        }
        let before = &*self;
        // A symbol of this block now stands for what its own place brings along this path. Other holders bring the
        // value it stood for on an earlier visit, which is the same only if its own place still holds it.
        let stale = |value: Value| match value {
            Value::Symbol(s, _) | Value::Signed(s) if s.at == block => {
                let home = match s.role {
                    Role::Join(n) => Some(other.registers[usize::from(n) % REGISTERS]),
                    Role::JoinPlace(place) => other.places.get(&place).map(|(_, v)| *v),
                    _ => return value,
                };
                if home == Some(Value::Symbol(s, 64)) { value } else { Value::Opaque }
            }
            _ => value,
        };
        let mut meeting = Meeting { here: before, there: other, widen, own, infos: Vec::new(), pairs: Vec::new() };
        let mut registers = before.registers;
        for (n, value) in registers.iter_mut().enumerate() {
            let symbol = Symbol { at: block, role: Role::Join(n as u8) };
            *value = meeting.meet(*value, stale(other.registers[n]), symbol);
        }
        let mut places = Vec::with_capacity(before.places.len());
        let old = |place: &Place| place.base().is_some_and(|s| s.at == block && matches!(s.role, Role::Join(_)));
        for (place, (width, a)) in before.places.iter().filter(|(p, _)| !old(p)) {
            let role = Role::JoinPlace(*place);
            match other.places.get(place) {
                Some((w, b)) if w == width => {
                    let value = meeting.meet(*a, stale(*b), Symbol { at: block, role });
                    places.push((*place, (*width, value)));
                }
                _ if before.may_be_base(*a) => {
                    let symbol = Symbol { at: block, role };
                    meeting.infos.push((symbol, Rc::new(Info::new(Origin::MaybeBase, 64))));
                    places.push((*place, (*width, Value::Symbol(symbol, 64))));
                }
                _ => {}
            }
        }
        let mut places = SortedMap::from_sorted(places);
        for (place, (width, b)) in other.places.iter().filter(|(p, _)| !old(p)) {
            if other.may_be_base(*b) && !before.places.contains_key(place) {
                let symbol = Symbol { at: block, role: Role::JoinPlace(*place) };
                meeting.infos.push((symbol, Rc::new(Info::new(Origin::MaybeBase, 64))));
                places.insert(*place, (*width, Value::Symbol(symbol, 64)));
            }
        }
        let mut infos = meeting.infos;
        infos.sort_by_key(|a| a.0);
        let of_block =
            |v: Value| v.symbol().is_some_and(|s| s.at == block && !matches!(s.role, Role::Result(_) | Role::Load));
        let same = before.comparison == other.comparison;
        let comparison = before.comparison.filter(|c| same && !of_block(c.left) && !of_block(c.right));
        let kept = |v: &&Verdict| other.verdicts.contains(v) && !v.involves(&of_block);
        let verdicts: Vec<Verdict> = before.verdicts.iter().filter(kept).copied().collect();
        // Symbols that are held on both paths: what is known on both.
        let held = held(&registers, &places, comparison.as_ref(), &verdicts);
        let mut symbols = Vec::with_capacity(held.len() + infos.len());
        let mut made = infos.into_iter().peekable();
        // All three come sorted.
        let (mut here, mut there) = (before.symbols.pairs(), other.symbols.pairs());
        for symbol in held {
            while let Some(info) = made.next_if(|m| m.0 < symbol) {
                symbols.push(info);
            }
            if let Some(info) = made.next_if(|m| m.0 == symbol) {
                symbols.push(info);
                continue;
            }
            let joined = match (advance(&mut here, symbol), advance(&mut there, symbol)) {
                (Some(a), Some(b)) if Rc::ptr_eq(a, b) => Rc::clone(a),
                (Some(a), Some(b)) => joined(a, b, widen),
                (a, b) => {
                    let any = Rc::new(Info::new(Origin::Plain, 64));
                    joined(a.unwrap_or(&any), b.unwrap_or(&any), widen)
                }
            };
            symbols.push((symbol, joined));
        }
        symbols.extend(made);
        let symbols = SortedMap::from_sorted(symbols);
        let wild = before.wild | other.wild;
        let exposes = other.exposed.iter().any(|e| !before.exposed.contains(e));
        let changed = exposes
            || wild != before.wild
            || registers != before.registers
            || comparison != before.comparison
            || verdicts != before.verdicts
            || places != before.places
            || symbols != before.symbols;
        if exposes {
            self.exposed.extend(other.exposed.iter().copied());
        }
        self.registers = registers;
        self.places = places;
        self.symbols = symbols;
        self.comparison = comparison;
        self.verdicts = verdicts;
        self.wild = wild;
        changed
    }

    /// What holds on both paths.
    fn join_coarse(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for (value, there) in self.registers.iter_mut().zip(&other.registers) {
            if value != there && *value != Value::Opaque {
                *value = Value::Opaque;
                changed = true;
            }
        }
        let (places, exposed) = (self.places.len(), self.exposed.len());
        self.places.retain(|place, value| other.places.get(place) == Some(value));
        self.exposed.extend(other.exposed.iter().copied());
        changed | (self.places.len() != places) | (self.exposed.len() != exposed)
    }

    /// Drops what is known of symbols that nothing holds.
    pub(super) fn collect(&mut self) {
        if self.coarse {
            return;
        }
        let held = self.held();
        self.symbols.retain(|s, _| held.binary_search(s).is_ok());
        self.verdicts.retain(|v| held.binary_search(&v.symbol).is_ok());
    }

    /// Symbols that some place holds, sorted.
    fn held(&self) -> Vec<Symbol> {
        held(&self.registers, &self.places, self.comparison.as_ref(), &self.verdicts)
    }
}

/// Info of a symbol, from pairs that are sorted and looked at in that order.
fn advance<'a>(rest: &mut &'a [(Symbol, Rc<Info>)], symbol: Symbol) -> Option<&'a Rc<Info>> {
    while let [(first, info), after @ ..] = *rest {
        match (*first).cmp(&symbol) {
            std::cmp::Ordering::Less => *rest = after,
            std::cmp::Ordering::Equal => return Some(info),
            std::cmp::Ordering::Greater => break,
        }
    }
    None
}

/// What is known on both of two paths; `a` itself if that says no less.
fn joined(a: &Rc<Info>, b: &Info, widen: bool) -> Rc<Info> {
    let joined = a.join(b, widen);
    if **a == joined { Rc::clone(a) } else { Rc::new(joined) }
}

/// Symbols that registers, places, and the operands of comparisons hold, sorted.
fn held(
    registers: &[Value; REGISTERS],
    places: &SortedMap<Place, (u8, Value)>,
    comparison: Option<&Comparison>,
    verdicts: &[Verdict],
) -> Vec<Symbol> {
    let mut held = Vec::with_capacity(REGISTERS + 2 * places.len() + 2);
    held.extend(registers.iter().filter_map(|v| v.symbol()));
    held.extend(places.values().filter_map(|(_, v)| v.symbol()));
    held.extend(places.keys().filter_map(|p| p.base()));
    for c in comparison.into_iter().chain(verdicts.iter().map(|v| &v.comparison)) {
        held.extend(c.left.symbol());
        held.extend(c.right.symbol());
    }
    held.sort_unstable();
    held.dedup();
    held
}

/// What is known of a value that is all of a symbol.
fn whole(state: &State, value: Value) -> Option<&Rc<Info>> {
    match value {
        Value::Symbol(symbol, 64) => state.symbols.get(&symbol),
        _ => None,
    }
}

/// Two paths that meet.
struct Meeting<'a> {
    here: &'a State,
    there: &'a State,
    widen: bool,
    own: &'a dyn Fn(u32) -> bool,
    infos: Vec<(Symbol, Rc<Info>)>,
    /// Places that hold the same value on each path go on holding the same value.
    pairs: Vec<(Value, Value, Value)>,
}

impl Meeting<'_> {
    /// One place that holds `a` here and `b` there.
    fn meet(&mut self, a: Value, b: Value, symbol: Symbol) -> Value {
        let named = a != Value::Opaque && b != Value::Opaque;
        if a == b {
            return a;
        }
        if named && let Some((_, _, known)) = self.pairs.iter().find(|(x, y, _)| *x == a && *y == b) {
            return *known;
        }
        let known = match (whole(self.here, a), whole(self.there, b)) {
            (Some(x), Some(y)) if Rc::ptr_eq(x, y) => Rc::clone(x),
            (Some(x), Some(y)) => joined(x, y, self.widen),
            (Some(x), None) if b != Value::Address(0) => joined(x, &self.info(self.there, b), self.widen),
            _ => {
                let mut joined = self.info(self.here, a).join(&self.info(self.there, b), self.widen);
                if a == Value::Address(0) || b == Value::Address(0) {
                    joined.origin = Origin::MaybeBase;
                }
                Rc::new(joined)
            }
        };
        self.infos.push((symbol, known));
        let value = Value::Symbol(symbol, 64);
        self.pairs.push((a, b, value));
        value
    }

    fn info(&self, state: &State, value: Value) -> Info {
        let mut info = state.info_of(value);
        if matches!(value, Value::Address(rva) if (self.own)(rva)) {
            info.origin = Origin::Computed;
        }
        info
    }
}
