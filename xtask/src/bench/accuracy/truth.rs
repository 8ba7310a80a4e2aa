//! Which functions really differ: the object files say, before any linker has moved anything.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use object::read::coff::CoffFile;
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolKind};

/// Longest constant that is looked at, bytes: more is taken to be another one in the same section.
const LONGEST: usize = 4096;
/// Constants that refer to constants, at most.
const DEPTH: usize = 2;

/// Each function of the objects in a folder with all that it consists of: bytes, and what its references mean.
/// Functions that share a name are left out.
///
/// # Errors
/// If an object cannot be read.
pub fn functions(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut out: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut files: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    for path in files.iter().filter(|p| p.extension().is_some_and(|e| e == "o")) {
        let data = fs::read(path)?;
        let file: CoffFile =
            CoffFile::parse(data.as_slice()).with_context(|| format!("{} is no object", path.display()))?;
        for symbol in file.symbols() {
            let (Some(section), Ok(name)) = (symbol.section_index(), symbol.name()) else { continue };
            // One function to a section: it is all of it.
            let own = file.section_by_index(section)?;
            if symbol.kind() != SymbolKind::Text || name.starts_with('.') || !own.name()?.starts_with(".text$") {
                continue;
            }
            let content = content(&file, section, 0, DEPTH)?;
            out.entry(name.to_owned()).and_modify(|known| *known = None).or_insert(Some(content));
        }
    }
    Ok(out.into_iter().filter_map(|(name, content)| Some((name, content?))).collect())
}

/// Bytes of a section from an offset on, and the meanings of its references.
fn content(file: &CoffFile<'_>, index: SectionIndex, from: u64, depth: usize) -> Result<String> {
    let section = file.section_by_index(index)?;
    let data = section.data()?;
    let mut text = format!("{}:", section.name()?.split('$').next().unwrap_or_default());
    let rest = data.get(from as usize..).unwrap_or_default();
    let rest = if depth == DEPTH { rest } else { &rest[..rest.len().min(LONGEST)] };
    for byte in rest {
        let _ = write!(text, "{byte:02x}");
    }
    for (offset, relocation) in section.relocations().filter(|(at, _)| (from..from + rest.len() as u64).contains(at)) {
        let _ = write!(text, " {:x}:{:?}:{:x}:", offset - from, relocation.flags(), relocation.addend());
        if let RelocationTarget::Symbol(symbol) = relocation.target() {
            let symbol = file.symbol_by_index(symbol)?;
            text.push_str(&meaning(file, &symbol, depth)?);
        }
    }
    Ok(text)
}

/// What a symbol stands for: its name, or for names that the compiler made up, what is there.
fn meaning<'data>(file: &CoffFile<'data>, symbol: &impl ObjectSymbol<'data>, depth: usize) -> Result<String> {
    let name = symbol.name()?;
    let made_up = name.starts_with('.') || name.starts_with("$") || name.contains(".switch.table");
    match symbol.section_index() {
        Some(section) if made_up && depth > 0 => {
            let own = file.section_by_index(section)?;
            // A label in code, such as a jump table's target.
            if own.name()?.starts_with(".text") {
                return Ok(format!("{}+{:x}", own.name()?, symbol.address()));
            }
            Ok(format!("({})", content(file, section, symbol.address(), depth - 1)?))
        }
        // Functions and variables that share a name within a file have numbers.
        _ => Ok(name.split('.').next().unwrap_or(name).to_owned()),
    }
}
