//! A comparison as a `.BinDiff` file: an SQLite database of matched functions, blocks and instructions.
//!
//! Tables and columns are those of BinDiff's own writer. Steps keep BinDiff's names, since readers know them by these; the
//! nearest one to our evidence is named.

use crate::Error;
use crate::flow::Graph;
use hotgraft_diff::align::{LineKind, listing};
use hotgraft_diff::graph::mark;
use hotgraft_diff::{Comparison, FunctionPair, Rung, Status};
use hotgraft_program::{FunctionId, Program};
use rusqlite::{Connection, params};
use std::collections::BTreeMap;
use std::path::Path;

/// BinDiff's steps for functions, in its order; the number of a step is its place, from 1.
const FUNCTION_STEPS: [&str; 19] = [
    "function: name hash matching",
    "function: hash matching",
    "function: edges flowgraph MD index",
    "function: edges callgraph MD index",
    "function: MD index matching (flowgraph MD index, top down)",
    "function: MD index matching (flowgraph MD index, bottom up)",
    "function: prime signature matching",
    "function: MD index matching (callGraph MD index, top down)",
    "function: MD index matching (callGraph MD index, bottom up)",
    "function: relaxed MD index matching",
    "function: instruction count",
    "function: address sequence",
    "function: string references",
    "function: loop count matching",
    "function: call sequence matching(exact)",
    "function: call sequence matching(topology)",
    "function: call sequence matching(sequence)",
    "function: call reference matching",
    "function: manual",
];

/// BinDiff's steps for blocks, likewise.
const BLOCK_STEPS: [&str; 20] = [
    "basicBlock: edges prime product",
    "basicBlock: hash matching (4 instructions minimum)",
    "basicBlock: prime matching (4 instructions minimum)",
    "basicBlock: call reference matching",
    "basicBlock: string references matching",
    "basicBlock: edges MD index (top down)",
    "basicBlock: MD index matching (top down)",
    "basicBlock: edges MD index (bottom up)",
    "basicBlock: MD index matching (bottom up)",
    "basicBlock: relaxed MD index matching",
    "basicBlock: prime matching (0 instructions minimum)",
    "basicBlock: edges Lengauer Tarjan dominated",
    "basicBlock: loop entry matching",
    "basicBlock: self loop matching",
    "basicBlock: entry point matching",
    "basicBlock: exit point matching",
    "basicBlock: instruction count matching",
    "basicBlock: jump sequence matching",
    "basicBlock: propagation (size==1)",
    "basicblock: manual",
];
/// The step of a block whose instructions are equal, and of one that aligns best.
const EQUAL_BLOCK: i64 = 2;
const ALIGNED_BLOCK: i64 = 17;

/// What changed in a function, as bits: its graph, its instructions, their operands.
const STRUCTURE: i64 = 1;
const INSTRUCTIONS: i64 = 2;
const OPERANDS: i64 = 4;

const SCHEMA: &str = "
CREATE TABLE basicblockalgorithm (id SMALLINT PRIMARY KEY, name TEXT);
CREATE TABLE functionalgorithm (id SMALLINT PRIMARY KEY, name TEXT);
CREATE TABLE file (id INT, filename TEXT, exefilename TEXT, hash CHARACTER(40), functions INT, libfunctions INT,
  calls INT, basicblocks INT, libbasicblocks INT, edges INT, libedges INT, instructions INT, libinstructions INT);
CREATE TABLE metadata (version TEXT, file1 INT, file2 INT, description TEXT, created DATE, modified DATE,
  similarity DOUBLE PRECISION, confidence DOUBLE PRECISION,
  FOREIGN KEY(file1) REFERENCES file(id), FOREIGN KEY(file2) REFERENCES file(id));
CREATE TABLE function (id INT, address1 BIGINT, name1 TEXT, address2 BIGINT, name2 TEXT, similarity DOUBLE PRECISION,
  confidence DOUBLE PRECISION, flags INTEGER, algorithm SMALLINT, evaluate BOOLEAN, commentsported BOOLEAN,
  basicblocks INTEGER, edges INTEGER, instructions INTEGER, UNIQUE(address1, address2), PRIMARY KEY(id),
  FOREIGN KEY(algorithm) REFERENCES functionalgorithm(id));
CREATE TABLE basicblock (id INT, functionid INT, address1 BIGINT, address2 BIGINT, algorithm SMALLINT,
  evaluate BOOLEAN, PRIMARY KEY(id), FOREIGN KEY(functionid) REFERENCES function(id),
  FOREIGN KEY(algorithm) REFERENCES basicblockalgorithm(id));
CREATE TABLE instruction (basicblockid INT, address1 BIGINT, address2 BIGINT,
  FOREIGN KEY(basicblockid) REFERENCES basicblock(id));
";

/// One image of the comparison.
pub struct Side<'a> {
    /// The program.
    pub program: &'a Program,
    /// File name of the image.
    pub image: &'a str,
    /// File name of its BinExport, without the extension: readers look for it beside the results.
    pub export: &'a str,
    pub(crate) graphs: &'a [Graph],
}

/// Places in the old and in the new image.
type Places = (u32, u32);

/// Two blocks that match.
struct BlockMatch {
    starts: Places,
    step: i64,
    instructions: Vec<Places>,
}

/// How one pair of functions matches.
struct Pairing {
    similarity: f64,
    flags: i64,
    /// Sorted by place.
    blocks: Vec<BlockMatch>,
    /// Edges whose ends are both matched.
    edges: usize,
}

pub(crate) fn write(path: &Path, old: &Side<'_>, new: &Side<'_>, comparison: &Comparison) -> Result<(), Error> {
    let mut connection = Connection::open(path)?;
    // The file is new and takes its place only once it is complete. The published tables refer to columns that are no keys,
    // so nothing that enforced such references could write them.
    connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF;")?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    for (table, steps) in [("functionalgorithm", &FUNCTION_STEPS[..]), ("basicblockalgorithm", &BLOCK_STEPS[..])] {
        let mut insert = transaction.prepare(&format!("INSERT INTO {table} VALUES (?, ?)"))?;
        for (n, name) in steps.iter().enumerate() {
            insert.execute(params![n as i64 + 1, name])?;
        }
    }
    for (id, side) in [(1, old), (2, new)] {
        let count = |of: fn(&Graph) -> usize| side.graphs.iter().map(of).sum::<usize>() as i64;
        let calls = side.program.references.iter().filter(|r| r.form == hotgraft_program::Form::Branch).count() as i64;
        let hash: String = side.program.image.sha256.iter().map(|b| format!("{b:02x}")).collect();
        transaction.execute(
            "INSERT INTO file VALUES (?, ?, ?, ?, ?, 0, ?, ?, 0, ?, 0, ?, 0)",
            params![
                id,
                side.export,
                side.image,
                hash,
                side.program.functions.len() as i64,
                calls,
                count(|g| g.blocks.len()),
                count(|g| g.edges.len()),
                count(|g| g.instructions.len()),
            ],
        )?;
    }
    let (mut similar, mut sure, mut matches) = (0.0, 0.0, 0usize);
    {
        let mut function = transaction.prepare("INSERT INTO function VALUES (?,?,?,?,?,?,?,?,?,0,0,?,?,?)")?;
        let mut block = transaction.prepare("INSERT INTO basicblock VALUES (?,?,?,?,?,0)")?;
        let mut instruction = transaction.prepare("INSERT INTO instruction VALUES (?,?,?)")?;
        let mut blocks = 0i64;
        let address = |side: &Side<'_>, rva: u32| (side.program.image.image_base + u64::from(rva)) as i64;
        for pair in &comparison.functions {
            let (Some(a), Some(b), Some(found)) = (pair.old, pair.new, pair.matched) else { continue };
            let pairing = pairing(old, a, new, b, pair);
            matches += 1;
            similar += pairing.similarity;
            sure += f64::from(found.score);
            let instructions: usize = pairing.blocks.iter().map(|b| b.instructions.len()).sum();
            function.execute(params![
                matches as i64,
                address(old, old.program.functions[a.index()].rva()),
                hotgraft_diff::label::function(old.program, a),
                address(new, new.program.functions[b.index()].rva()),
                hotgraft_diff::label::function(new.program, b),
                pairing.similarity,
                f64::from(found.score),
                pairing.flags,
                step(found.by),
                pairing.blocks.len() as i64,
                pairing.edges as i64,
                instructions as i64,
            ])?;
            for BlockMatch { starts: (x, y), step, instructions } in pairing.blocks {
                blocks += 1;
                block.execute(params![blocks, matches as i64, address(old, x), address(new, y), step])?;
                for (x, y) in instructions {
                    instruction.execute(params![blocks, address(old, x), address(new, y)])?;
                }
            }
        }
    }
    let all = (old.program.functions.len() + new.program.functions.len()) as f64 / 2.0;
    transaction.execute(
        // When it was made: the link time of the later image, for the same input gives the same file.
        "INSERT INTO metadata VALUES (?, 1, 2, '', datetime(?, 'unixepoch'), datetime(?, 'unixepoch'), ?, ?)",
        params![
            concat!("hotgraft ", env!("CARGO_PKG_VERSION")),
            i64::from(new.program.image.timestamp),
            i64::from(new.program.image.timestamp),
            if all > 0.0 { similar / all } else { 1.0 },
            if matches > 0 { sure / matches as f64 } else { 1.0 },
        ],
    )?;
    transaction.commit()?;
    Ok(())
}

fn step(by: Rung) -> i64 {
    let name = match by {
        Rung::NameAndModule | Rung::Name | Rung::CanonicalName | Rung::Anchor => "function: name hash matching",
        Rung::ExactBody | Rung::Content => "function: hash matching",
        Rung::NamedReferences => "function: string references",
        Rung::Referrer => "function: call reference matching",
        Rung::CallGraph => "function: edges callgraph MD index",
        Rung::FlowGraph => "function: edges flowgraph MD index",
        Rung::Similarity => "function: prime signature matching",
    };
    FUNCTION_STEPS.iter().position(|s| *s == name).map_or(0, |n| n as i64 + 1)
}

fn pairing(old: &Side<'_>, a: FunctionId, new: &Side<'_>, b: FunctionId, pair: &FunctionPair) -> Pairing {
    let (x, y) = (&old.graphs[a.index()], &new.graphs[b.index()]);
    let same_shape = x.blocks.len() == y.blocks.len() && x.instructions.len() == y.instructions.len();
    let (rows, similarity, mut flags) = if pair.status == Status::Identical && same_shape {
        (x.instructions.iter().copied().zip(y.instructions.iter().copied()).collect(), 1.0, 0)
    } else {
        let mut lines = listing(old.program, a, new.program, b);
        mark(&mut lines, &pair.changes);
        let rows: Vec<(u32, u32)> = lines.iter().filter_map(|l| Some((l.old.as_ref()?.0, l.new.as_ref()?.0))).collect();
        let same = lines.iter().filter(|l| l.kind == LineKind::Same).count();
        let all = x.instructions.len() + y.instructions.len();
        let alike = if all == 0 { 1.0 } else { (2.0 * same as f64 / all as f64).min(1.0) };
        // What differs in a constant or in unwind data alone has the same instructions, and is not the same.
        let limit = if pair.status == Status::Identical { 1.0 } else { 1.0 - 1.0 / (all as f64 + 1.0) };
        let similarity = alike.min(limit);
        let alone = lines.iter().any(|l| matches!(l.kind, LineKind::Removed | LineKind::Inserted));
        let flags = if alone { INSTRUCTIONS } else { OPERANDS };
        (rows, similarity, if pair.status == Status::Identical { 0 } else { flags })
    };
    let at = |graph: &Graph, rva: u32| {
        let i = graph.blocks.partition_point(|b| b.0 <= rva).checked_sub(1)?;
        (rva < graph.blocks[i].1).then_some(i)
    };
    let mut common: BTreeMap<(usize, usize), Vec<Places>> = BTreeMap::new();
    for (p, q) in rows {
        if let (Some(i), Some(j)) = (at(x, p), at(y, q)) {
            common.entry((i, j)).or_default().push((p, q));
        }
    }
    // Each block with the one that has most of its instructions.
    let mut ranked: Vec<_> = common.into_iter().collect();
    ranked.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then(a.0.cmp(&b.0)));
    let (mut of_old, mut of_new) = (vec![None; x.blocks.len()], vec![None; y.blocks.len()]);
    let mut blocks = Vec::new();
    let count = |graph: &Graph, i: usize| {
        let within = |rva: &&u32| (graph.blocks[i].0..graph.blocks[i].1).contains(*rva);
        graph.instructions.iter().filter(within).count()
    };
    for ((i, j), instructions) in ranked {
        if of_old[i].is_some() || of_new[j].is_some() {
            continue;
        }
        (of_old[i], of_new[j]) = (Some(j), Some(i));
        let whole = similarity == 1.0 || (count(x, i) == instructions.len() && count(y, j) == instructions.len());
        let step = if whole { EQUAL_BLOCK } else { ALIGNED_BLOCK };
        blocks.push(BlockMatch { starts: (x.blocks[i].0, y.blocks[j].0), step, instructions });
    }
    blocks.sort_by_key(|b| b.starts);
    let theirs: std::collections::BTreeSet<(usize, usize)> = y.edges.iter().map(|e| (e.0, e.1)).collect();
    let matched = |e: &&(usize, usize, crate::proto::EdgeType, bool)| {
        of_old[e.0].zip(of_old[e.1]).is_some_and(|ends| theirs.contains(&ends))
    };
    let edges = x.edges.iter().filter(matched).count();
    if pair.status == Status::Changed
        && (x.blocks.len() != y.blocks.len() || edges != x.edges.len() || edges != y.edges.len())
    {
        flags |= STRUCTURE;
    }
    Pairing { similarity, flags, blocks, edges }
}
