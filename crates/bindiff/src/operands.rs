//! Operands as trees of expressions, each tree once.

use crate::proto::{Expression, ExpressionType, Operand};
use iced_x86::{Formatter, Instruction, IntelFormatter, MemorySize, OpKind, Register};
use rustc_hash::FxHashMap;

/// Expressions and operands made so far.
pub(crate) struct Operands {
    pub(crate) expressions: Vec<Expression>,
    pub(crate) operands: Vec<Operand>,
    known_expressions: FxHashMap<Expression, i32>,
    known_operands: FxHashMap<Operand, i32>,
    formatter: IntelFormatter,
}

impl Operands {
    pub(crate) fn new() -> Self {
        Operands {
            expressions: Vec::new(),
            operands: Vec::new(),
            known_expressions: FxHashMap::default(),
            known_operands: FxHashMap::default(),
            formatter: IntelFormatter::new(),
        }
    }

    /// The mnemonic of an instruction, prefixes left out.
    pub(crate) fn mnemonic(&mut self, instruction: &Instruction) -> String {
        let mut text = String::new();
        let options = iced_x86::FormatMnemonicOptions::NO_PREFIXES;
        self.formatter.format_mnemonic_options(instruction, &mut text, options);
        text
    }

    /// Numbers of the operands of an instruction; `base` is what the addresses of the image begin at. `relocated` tells
    /// whether an address field is among them.
    pub(crate) fn of(&mut self, instruction: &Instruction, base: u64, relocated: bool) -> Vec<i32> {
        // Operands that the text does not have are implied by the mnemonic.
        let formatter = &mut self.formatter;
        let shown: Vec<u32> = (0..instruction.op_count())
            .filter(|n| formatter.get_formatter_operand(instruction, *n).is_ok_and(|o| o.is_some()))
            .collect();
        shown.into_iter().map(|n| self.operand(instruction, n, base, relocated)).collect()
    }

    fn operand(&mut self, i: &Instruction, n: u32, base: u64, relocated: bool) -> i32 {
        let mut tree = Tree { operands: self, indices: Vec::new() };
        match i.op_kind(n) {
            OpKind::Register => {
                let register = i.op_register(n);
                let prefix =
                    tree.add(ExpressionType::SizePrefix, Some(size_prefix(register.size())), None, None, false);
                tree.register(register, prefix);
            }
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                let prefix = tree.add(ExpressionType::SizePrefix, Some("b8"), None, None, false);
                let target = base.wrapping_add(u64::from(i.near_branch_target() as u32));
                tree.add(ExpressionType::ImmediateInt, None, Some(target), Some(prefix), relocated);
            }
            kind if is_memory(kind) => tree.memory(i, kind, base, relocated),
            _ => {
                let prefix = tree.add(ExpressionType::SizePrefix, Some("b8"), None, None, false);
                let value = i.try_immediate(n).unwrap_or(0);
                tree.add(ExpressionType::ImmediateInt, None, Some(value), Some(prefix), relocated);
            }
        }
        let operand = Operand { expression_index: tree.indices };
        if let Some(known) = self.known_operands.get(&operand) {
            return *known;
        }
        let number = self.operands.len() as i32;
        self.operands.push(operand.clone());
        self.known_operands.insert(operand, number);
        number
    }
}

struct Tree<'o> {
    operands: &'o mut Operands,
    indices: Vec<i32>,
}

impl Tree<'_> {
    fn add(
        &mut self,
        kind: ExpressionType,
        symbol: Option<&str>,
        immediate: Option<u64>,
        parent: Option<i32>,
        relocated: bool,
    ) -> i32 {
        let expression = Expression {
            r#type: (kind != ExpressionType::ImmediateInt).then_some(kind as i32),
            symbol: symbol.map(str::to_owned),
            immediate,
            parent_index: parent,
            is_relocation: relocated.then_some(true),
        };
        let all = &mut self.operands;
        let next = all.expressions.len() as i32;
        let number = *all.known_expressions.entry(expression.clone()).or_insert(next);
        if number == next {
            all.expressions.push(expression);
        }
        self.indices.push(number);
        number
    }

    fn register(&mut self, register: Register, parent: i32) {
        let name = format!("{register:?}").to_lowercase();
        self.add(ExpressionType::Register, Some(&name), None, Some(parent), false);
    }

    fn memory(&mut self, i: &Instruction, kind: OpKind, base: u64, relocated: bool) {
        let size = if i.memory_size() == MemorySize::Unknown { 8 } else { i.memory_size().size() };
        let prefix = self.add(ExpressionType::SizePrefix, Some(size_prefix(size)), None, None, false);
        let segment = i.segment_prefix();
        let outer = if segment == Register::None {
            prefix
        } else {
            let name = format!("{segment:?}:").to_lowercase();
            self.add(ExpressionType::Operator, Some(&name), None, Some(prefix), false)
        };
        let place = self.add(ExpressionType::Dereference, Some("["), None, Some(outer), false);
        if kind != OpKind::Memory {
            let register = match kind {
                OpKind::MemoryESDI | OpKind::MemorySegDI => Register::DI,
                OpKind::MemoryESEDI | OpKind::MemorySegEDI => Register::EDI,
                OpKind::MemoryESRDI | OpKind::MemorySegRDI => Register::RDI,
                OpKind::MemorySegSI => Register::SI,
                OpKind::MemorySegESI => Register::ESI,
                _ => Register::RSI,
            };
            self.register(register, place);
            return;
        }
        if i.is_ip_rel_memory_operand() {
            let address = base.wrapping_add(u64::from(i.ip_rel_memory_address() as u32));
            self.add(ExpressionType::ImmediateInt, None, Some(address), Some(place), relocated);
            return;
        }
        let (first, index, displacement) = (i.memory_base(), i.memory_index(), i.memory_displacement64());
        let parts = usize::from(first != Register::None)
            + usize::from(index != Register::None)
            + usize::from(displacement != 0 || (first == Register::None && index == Register::None));
        let inner =
            if parts > 1 { self.add(ExpressionType::Operator, Some("+"), None, Some(place), false) } else { place };
        if first != Register::None {
            self.register(first, inner);
        }
        if index != Register::None {
            let scale = u64::from(i.memory_index_scale());
            if scale > 1 {
                let times = self.add(ExpressionType::Operator, Some("*"), None, Some(inner), false);
                self.register(index, times);
                self.add(ExpressionType::ImmediateInt, None, Some(scale), Some(times), false);
            } else {
                self.register(index, inner);
            }
        }
        if displacement != 0 || (first == Register::None && index == Register::None) {
            self.add(ExpressionType::ImmediateInt, None, Some(displacement), Some(inner), relocated);
        }
    }
}

fn is_memory(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Memory
            | OpKind::MemorySegSI
            | OpKind::MemorySegESI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI
    )
}

/// How the format names the size of an operand.
fn size_prefix(bytes: usize) -> &'static str {
    match bytes {
        1 => "b1",
        2 => "b2",
        4 => "b4",
        6 => "b6",
        10 => "b10",
        16 => "b16",
        32 => "b32",
        64 => "b64",
        _ => "b8",
    }
}
