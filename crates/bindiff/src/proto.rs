//! The messages of BinExport's protocol buffer, version 2, as far as they are written here. Field numbers, types and
//! defaults are those of the published `binexport2.proto`; what is equal to its default is left out.

#![allow(missing_docs, reason = "the published schema documents the fields")]

use prost::{Enumeration, Message};

#[derive(Clone, PartialEq, Message)]
pub struct BinExport2 {
    #[prost(message, optional, tag = "1")]
    pub meta_information: Option<Meta>,
    #[prost(message, repeated, tag = "2")]
    pub expression: Vec<Expression>,
    #[prost(message, repeated, tag = "3")]
    pub operand: Vec<Operand>,
    #[prost(message, repeated, tag = "4")]
    pub mnemonic: Vec<Mnemonic>,
    #[prost(message, repeated, tag = "5")]
    pub instruction: Vec<Instruction>,
    #[prost(message, repeated, tag = "6")]
    pub basic_block: Vec<BasicBlock>,
    #[prost(message, repeated, tag = "7")]
    pub flow_graph: Vec<FlowGraph>,
    #[prost(message, optional, tag = "8")]
    pub call_graph: Option<CallGraph>,
    #[prost(string, repeated, tag = "9")]
    pub string_table: Vec<String>,
    #[prost(message, repeated, tag = "11")]
    pub string_reference: Vec<Reference>,
    #[prost(message, repeated, tag = "13")]
    pub section: Vec<Section>,
    #[prost(message, repeated, tag = "14")]
    pub library: Vec<Library>,
    #[prost(message, repeated, tag = "15")]
    pub data_reference: Vec<DataReference>,
    #[prost(message, repeated, tag = "16")]
    pub module: Vec<Module>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Meta {
    #[prost(string, optional, tag = "1")]
    pub executable_name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub executable_id: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub architecture_name: Option<String>,
    #[prost(int64, optional, tag = "4")]
    pub timestamp: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CallGraph {
    #[prost(message, repeated, tag = "1")]
    pub vertex: Vec<Vertex>,
    #[prost(message, repeated, tag = "2")]
    pub edge: Vec<CallEdge>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum VertexType {
    Normal = 0,
    Library = 1,
    Imported = 2,
    Thunk = 3,
    Invalid = 4,
}

#[derive(Clone, PartialEq, Message)]
pub struct Vertex {
    #[prost(uint64, optional, tag = "1")]
    pub address: Option<u64>,
    #[prost(enumeration = "VertexType", optional, tag = "2")]
    pub r#type: Option<i32>,
    #[prost(string, optional, tag = "3")]
    pub mangled_name: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub demangled_name: Option<String>,
    #[prost(int32, optional, tag = "5")]
    pub library_index: Option<i32>,
    #[prost(int32, optional, tag = "6")]
    pub module_index: Option<i32>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct CallEdge {
    #[prost(int32, optional, tag = "1")]
    pub source_vertex_index: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub target_vertex_index: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum ExpressionType {
    Symbol = 1,
    ImmediateInt = 2,
    ImmediateFloat = 3,
    Operator = 4,
    Register = 5,
    SizePrefix = 6,
    Dereference = 7,
}

#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Expression {
    #[prost(enumeration = "ExpressionType", optional, tag = "1")]
    pub r#type: Option<i32>,
    #[prost(string, optional, tag = "2")]
    pub symbol: Option<String>,
    #[prost(uint64, optional, tag = "3")]
    pub immediate: Option<u64>,
    #[prost(int32, optional, tag = "4")]
    pub parent_index: Option<i32>,
    #[prost(bool, optional, tag = "5")]
    pub is_relocation: Option<bool>,
}

#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Operand {
    #[prost(int32, repeated, packed = "false", tag = "1")]
    pub expression_index: Vec<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Mnemonic {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Instruction {
    #[prost(uint64, optional, tag = "1")]
    pub address: Option<u64>,
    #[prost(uint64, repeated, packed = "false", tag = "2")]
    pub call_target: Vec<u64>,
    #[prost(int32, optional, tag = "3")]
    pub mnemonic_index: Option<i32>,
    #[prost(int32, repeated, packed = "false", tag = "4")]
    pub operand_index: Vec<i32>,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub raw_bytes: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct IndexRange {
    #[prost(int32, optional, tag = "1")]
    pub begin_index: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub end_index: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct BasicBlock {
    #[prost(message, repeated, tag = "1")]
    pub instruction_index: Vec<IndexRange>,
}

#[derive(Clone, PartialEq, Message)]
pub struct FlowGraph {
    #[prost(int32, repeated, packed = "false", tag = "1")]
    pub basic_block_index: Vec<i32>,
    #[prost(message, repeated, tag = "2")]
    pub edge: Vec<FlowEdge>,
    #[prost(int32, optional, tag = "3")]
    pub entry_basic_block_index: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Enumeration)]
#[repr(i32)]
pub enum EdgeType {
    ConditionTrue = 1,
    ConditionFalse = 2,
    Unconditional = 3,
    Switch = 4,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct FlowEdge {
    #[prost(int32, optional, tag = "1")]
    pub source_basic_block_index: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub target_basic_block_index: Option<i32>,
    #[prost(enumeration = "EdgeType", optional, tag = "3")]
    pub r#type: Option<i32>,
    #[prost(bool, optional, tag = "4")]
    pub is_back_edge: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Reference {
    #[prost(int32, optional, tag = "1")]
    pub instruction_index: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub instruction_operand_index: Option<i32>,
    #[prost(int32, optional, tag = "3")]
    pub operand_expression_index: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    pub string_table_index: Option<i32>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct DataReference {
    #[prost(int32, optional, tag = "1")]
    pub instruction_index: Option<i32>,
    #[prost(uint64, optional, tag = "2")]
    pub address: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Section {
    #[prost(uint64, optional, tag = "1")]
    pub address: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub size: Option<u64>,
    #[prost(bool, optional, tag = "3")]
    pub flag_r: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub flag_w: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub flag_x: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Library {
    #[prost(bool, optional, tag = "1")]
    pub is_static: Option<bool>,
    #[prost(uint64, optional, tag = "2")]
    pub load_address: Option<u64>,
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Module {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
}
