//! One image as BinExport: functions, flow graphs, instructions with operands, and the call graph.

use crate::flow::Graph;
use crate::operands::Operands;
use crate::proto::{
    BasicBlock, BinExport2, CallEdge, CallGraph, DataReference, EdgeType, FlowEdge, FlowGraph, IndexRange, Instruction,
    Library, Meta, Mnemonic, Module, Reference, Section, Vertex, VertexType,
};
use hotgraft_program::{Entity, Form, Function, FunctionId, ObjectId, ObjectKind, Program};
use iced_x86::{Decoder, DecoderOptions, FlowControl};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// Makes the message of an image, which `name` is the file name of.
pub fn export(program: &Program, name: &str) -> BinExport2 {
    from_graphs(program, name, &crate::flow::graphs(program))
}

pub(crate) fn from_graphs(program: &Program, name: &str, graphs: &[Graph]) -> BinExport2 {
    let base = program.image.image_base;
    let mut out = BinExport2 {
        meta_information: Some(Meta {
            executable_name: Some(name.to_owned()),
            executable_id: Some(program.image.sha256.iter().map(|b| format!("{b:02x}")).collect()),
            architecture_name: Some("x86-64".to_owned()),
            // When it was written says nothing, and would make two equal exports differ.
            timestamp: None,
        }),
        ..BinExport2::default()
    };
    for section in &program.image.sections {
        out.section.push(Section {
            address: Some(base + u64::from(section.rva)),
            size: Some(section.size.into()),
            flag_r: Some(section.characteristics & 0x4000_0000 != 0),
            flag_w: Some(section.is_writable()),
            flag_x: Some(section.is_executable()),
        });
    }
    out.module = program.modules.iter().map(|m| Module { name: Some(m.name.clone()) }).collect();
    let mut libraries: BTreeMap<String, i32> = BTreeMap::new();
    for import in &program.imports {
        let next = libraries.len() as i32;
        if *libraries.entry(import.dll.clone()).or_insert(next) == next {
            out.library.push(Library { is_static: Some(false), load_address: None, name: Some(import.dll.clone()) });
        }
    }
    let starts = instructions(program, graphs, &mut out);
    flow_graphs(program, graphs, &starts, &mut out);
    out.call_graph = Some(call_graph(program, graphs, &libraries));
    out
}

/// Adds all instructions; returns where each starts, sorted.
fn instructions(program: &Program, graphs: &[Graph], out: &mut BinExport2) -> Vec<u32> {
    let base = program.image.image_base;
    let mut starts: Vec<u32> = graphs.iter().flat_map(|g| &g.instructions).copied().collect();
    starts.sort_unstable();
    starts.dedup();
    let mut operands = Operands::new();
    let mut mnemonics: FxHashMap<String, usize> = FxHashMap::default();
    let mut names: Vec<(String, u64)> = Vec::new();
    let mut strings: FxHashMap<String, i32> = FxHashMap::default();
    let mut numbers: Vec<usize> = Vec::with_capacity(starts.len());
    let mut end = None;
    out.instruction.reserve_exact(starts.len());
    for (n, &rva) in starts.iter().enumerate() {
        let bytes = program.image.mapped.get(rva as usize..).unwrap_or_default();
        let bytes = &bytes[..bytes.len().min(15)];
        let decoded = Decoder::with_ip(64, bytes, u64::from(rva), DecoderOptions::NONE).decode();
        let references = program.references_in(rva, decoded.next_ip32());
        let mnemonic = operands.mnemonic(&decoded);
        let next = names.len();
        let number = *mnemonics.entry(mnemonic.clone()).or_insert(next);
        if number == next {
            names.push((mnemonic, 0));
        }
        names[number].1 += 1;
        numbers.push(number);
        let relocated = references.iter().any(|r| r.form == Form::Absolute);
        let is_call = matches!(decoded.flow_control(), FlowControl::Call | FlowControl::IndirectCall);
        let mut call_target = Vec::new();
        for reference in references {
            let address = base + u64::from(reference.rva);
            match reference.target.entity {
                Entity::Function(_) | Entity::Fragment(..) | Entity::Import(_) if is_call => call_target.push(address),
                Entity::Object(id) => {
                    let instruction_index = Some(n as i32);
                    out.data_reference.push(DataReference { instruction_index, address: Some(address) });
                    if let Some(text) = text(program, id, reference.target.addend) {
                        let next = strings.len() as i32;
                        let string = *strings.entry(text.clone()).or_insert(next);
                        if string == next {
                            out.string_table.push(text);
                        }
                        out.string_reference.push(Reference {
                            instruction_index,
                            string_table_index: Some(string),
                            ..Reference::default()
                        });
                    }
                }
                _ => {}
            }
        }
        out.instruction.push(Instruction {
            // One that follows the one before it in memory has its address from that.
            address: (end != Some(rva)).then_some(base + u64::from(rva)),
            call_target,
            mnemonic_index: None,
            operand_index: operands.of(&decoded, base, relocated),
            raw_bytes: Some(bytes[..decoded.len()].to_vec()),
        });
        end = Some(decoded.next_ip32());
    }
    // The most common mnemonic is the default and takes no space.
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by(|a, b| names[*b].1.cmp(&names[*a].1).then_with(|| names[*a].0.cmp(&names[*b].0)));
    let mut place = vec![0; names.len()];
    for (at, number) in order.into_iter().enumerate() {
        place[number] = at as i32;
        out.mnemonic.push(Mnemonic { name: Some(names[number].0.clone()) });
    }
    for (instruction, number) in out.instruction.iter_mut().zip(numbers) {
        instruction.mnemonic_index = Some(place[number]).filter(|n| *n != 0);
    }
    out.expression = operands.expressions;
    out.operand = operands.operands;
    starts
}

fn flow_graphs(program: &Program, graphs: &[Graph], starts: &[u32], out: &mut BinExport2) {
    for (function, graph) in program.functions.iter().zip(graphs) {
        if graph.blocks.is_empty() {
            continue;
        }
        let first = out.basic_block.len() as i32;
        for (start, end) in &graph.blocks {
            let begin = starts.partition_point(|s| s < start);
            let count = starts[begin..].partition_point(|s| s < end);
            let range = IndexRange {
                begin_index: Some(begin as i32),
                // Left out for a single instruction.
                end_index: (count != 1).then_some((begin + count) as i32),
            };
            out.basic_block.push(BasicBlock { instruction_index: vec![range] });
        }
        let entry = graph.blocks.iter().position(|b| b.0 == function.rva()).unwrap_or(0);
        out.flow_graph.push(FlowGraph {
            basic_block_index: (first..out.basic_block.len() as i32).collect(),
            entry_basic_block_index: Some(first + entry as i32),
            edge: graph
                .edges
                .iter()
                .map(|(from, to, kind, back)| FlowEdge {
                    source_basic_block_index: Some(first + *from as i32),
                    target_basic_block_index: Some(first + *to as i32),
                    r#type: (*kind != EdgeType::Unconditional).then_some(*kind as i32),
                    is_back_edge: back.then_some(true),
                })
                .collect(),
        });
    }
}

fn call_graph(program: &Program, graphs: &[Graph], libraries: &BTreeMap<String, i32>) -> CallGraph {
    let base = program.image.image_base;
    let mut vertices: Vec<(u32, Vertex)> = Vec::with_capacity(program.functions.len() + program.imports.len());
    for (i, function) in program.functions.iter().enumerate() {
        let kind = kind(program, FunctionId::from(i), &graphs[i]);
        let mangled = function.decorated.clone().or_else(|| function.name.clone());
        let demangled = function.name.clone().filter(|name| Some(name) != mangled.as_ref());
        vertices.push((
            function.rva(),
            Vertex {
                address: Some(base + u64::from(function.rva())),
                r#type: (kind != VertexType::Normal).then_some(kind as i32),
                mangled_name: mangled,
                demangled_name: demangled,
                library_index: None,
                module_index: function.module.map(|m| m.index() as i32),
            },
        ));
    }
    for import in &program.imports {
        vertices.push((
            import.slot,
            Vertex {
                address: Some(base + u64::from(import.slot)),
                r#type: Some(VertexType::Imported as i32),
                mangled_name: Some(import.name.to_string()),
                demangled_name: None,
                library_index: libraries.get(&import.dll).copied(),
                module_index: None,
            },
        ));
    }
    // Readers take the order for granted.
    vertices.sort_by_key(|v| v.0);
    vertices.dedup_by_key(|v| v.0);
    let index = |rva: u32| vertices.binary_search_by_key(&rva, |v| v.0).ok().map(|i| i as i32);
    let mut edges = Vec::new();
    for function in &program.functions {
        let Some(from) = index(function.rva()) else { continue };
        for reference in function.ranges.iter().flat_map(|r| program.references_in(r.rva, r.end())) {
            let to = match reference.target.entity {
                Entity::Function(id) if reference.form == Form::Branch && reference.target.addend == 0 => {
                    index(program.functions[id.index()].rva())
                }
                Entity::Import(id) => index(program.imports[id.index()].slot),
                _ => None,
            };
            if let Some(to) = to {
                edges.push(CallEdge { source_vertex_index: Some(from), target_vertex_index: Some(to) });
            }
        }
    }
    CallGraph { vertex: vertices.into_iter().map(|v| v.1).collect(), edge: edges }
}

fn kind(program: &Program, id: FunctionId, graph: &Graph) -> VertexType {
    let function: &Function = &program.functions[id.index()];
    if function.problems.iter().any(|p| p.key == "code.undecodable") {
        return VertexType::Invalid;
    }
    let jumps = |rva: u32| matches!(program.image.bytes(rva, 2), Some([0xe9 | 0xeb, _] | [0xff, 0x25]));
    match graph.instructions.as_slice() {
        [only] if jumps(*only) => VertexType::Thunk,
        _ => VertexType::Normal,
    }
}

/// Text at a place of a string object.
fn text(program: &Program, id: ObjectId, addend: i64) -> Option<String> {
    let object = &program.objects[id.index()];
    let bytes = program.image.bytes(object.rva, object.size as usize)?.get(usize::try_from(addend).ok()?..)?;
    match object.kind {
        ObjectKind::String => {
            let end = bytes.iter().position(|b| *b == 0)?;
            Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
        }
        ObjectKind::WideString => {
            let units = bytes.chunks_exact(2).map(|u| u16::from_le_bytes([u[0], u[1]]));
            let units: Vec<u16> = units.take_while(|u| *u != 0).collect();
            Some(String::from_utf16_lossy(&units))
        }
        _ => None,
    }
}
