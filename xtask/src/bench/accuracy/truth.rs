//! Which functions really differ: the object files say, before any linker has moved anything.

use std::collections::{BTreeMap, BTreeSet};
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

/// Stand around the names in a content.
const NAME: [char; 2] = ['\u{1}', '\u{2}'];

/// Names of functions with all that they consist of.
pub type Contents = BTreeMap<String, String>;

/// True if two contents are the same but for the names of what they refer to, where those are new or gone: a function
/// that was renamed is still the same one to its callers.
pub fn same(a: &str, old: &Contents, b: &str, new: &Contents) -> bool {
    let parts = |text: &str, other: &Contents| -> Vec<Option<String>> {
        let known = |(n, part): (usize, &str)| (n % 2 == 0 || other.contains_key(part)).then(|| part.to_owned());
        text.split(NAME).enumerate().map(known).collect()
    };
    let (a, b) = (parts(a, new), parts(b, old));
    a.len() == b.len() && a.iter().zip(&b).all(|(x, y)| x == y)
}

/// Each function of the objects in a folder with all that it consists of: bytes, and what its references mean.
/// Functions that share a name are left out.
///
/// # Errors
/// If an object cannot be read.
pub fn functions(folder: &Path) -> Result<Contents> {
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
        let borders = borders(&file)?;
        for symbol in file.symbols() {
            let (Some(section), Ok(name)) = (symbol.section_index(), symbol.name()) else { continue };
            // One function to a section: it is all of it.
            let own = file.section_by_index(section)?;
            if symbol.kind() != SymbolKind::Text || name.starts_with('.') || !own.name()?.starts_with(".text$") {
                continue;
            }
            let content = content(&file, &borders, section, 0, DEPTH)?;
            out.entry(name.to_owned()).and_modify(|known| *known = None).or_insert(Some(content));
        }
    }
    Ok(out.into_iter().filter_map(|(name, content)| Some((name, content?))).collect())
}

/// Bytes of a section from an offset on, and the meanings of its references.
fn content(file: &CoffFile<'_>, borders: &Borders, index: SectionIndex, from: u64, depth: usize) -> Result<String> {
    let section = file.section_by_index(index)?;
    let data = section.data()?;
    let mut text = format!("{}:", section.name()?.split('$').next().unwrap_or_default());
    let rest = data.get(from as usize..).unwrap_or_default();
    // A constant ends where the next one begins that something refers to.
    let next = borders.get(&index.0).and_then(|b| b.range(from + 1..).next()).map_or(u64::MAX, |next| next - from);
    let most = usize::try_from(next).unwrap_or(usize::MAX).min(LONGEST);
    let mut rest = if depth == DEPTH { rest.to_vec() } else { rest[..rest.len().min(most)].to_vec() };
    let mut references = String::new();
    let within = from..from + rest.len() as u64;
    for (offset, relocation) in section.relocations().filter(|(at, _)| within.contains(at)) {
        let at = (offset - from) as usize;
        let _ = write!(references, " {at:x}:{:?}:", relocation.flags());
        if let RelocationTarget::Symbol(symbol) = relocation.target() {
            let symbol = file.symbol_by_index(symbol)?;
            // The field holds what is added to the symbol.
            let field = rest.get_mut(at..at + 4);
            let addend = field.as_ref().map_or(0, |f| i32::from_le_bytes([f[0], f[1], f[2], f[3]]));
            if let (true, Some(field)) = (is_made_up(symbol.name()?), field) {
                field.fill(0);
            }
            references.push_str(&meaning(file, borders, &symbol, addend, depth)?);
        }
    }
    for byte in rest {
        let _ = write!(text, "{byte:02x}");
    }
    text.push_str(&references);
    Ok(text)
}

/// Offsets in sections that references lead to.
type Borders = BTreeMap<usize, BTreeSet<u64>>;

fn borders(file: &CoffFile<'_>) -> Result<Borders> {
    let mut out = Borders::new();
    // A section with one name is one constant, wherever code looks into it.
    let mut named: BTreeMap<usize, usize> = BTreeMap::new();
    for symbol in file.symbols().filter(|s| s.kind() != SymbolKind::Section) {
        if let Some(section) = symbol.section_index() {
            *named.entry(section.0).or_default() += 1;
        }
    }
    for section in file.sections() {
        let data = section.data()?;
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(symbol) = relocation.target() else { continue };
            let symbol = file.symbol_by_index(symbol)?;
            let field = data.get(offset as usize..).and_then(|d| d.first_chunk::<4>());
            if let (Some(target), Some(field)) = (symbol.section_index(), field)
                && named.get(&target.0) != Some(&1)
            {
                let at = symbol.address().saturating_add_signed(i32::from_le_bytes(*field).into());
                out.entry(target.0).or_default().insert(at);
            }
        }
    }
    Ok(out)
}

/// True for names that the compiler made up.
fn is_made_up(name: &str) -> bool {
    name.starts_with('.') || name.starts_with('$') || name.contains(".switch.table")
}

/// What a symbol stands for: its name, or for names that the compiler made up, what is there.
fn meaning<'data>(
    file: &CoffFile<'data>,
    borders: &Borders,
    symbol: &impl ObjectSymbol<'data>,
    addend: i32,
    depth: usize,
) -> Result<String> {
    let name = symbol.name()?;
    let at = symbol.address().saturating_add_signed(addend.into());
    match symbol.section_index() {
        Some(section) if is_made_up(name) && depth > 0 => {
            let own = file.section_by_index(section)?;
            // A label in code, such as a jump table's target.
            if own.name()?.starts_with(".text") {
                return Ok(format!("{}+{at:x}", own.name()?));
            }
            Ok(format!("({})", content(file, borders, section, at, depth - 1)?))
        }
        // Functions and variables that share a name within a file have numbers.
        // Data keeps its name, or is another one.
        _ if symbol.kind() == SymbolKind::Text || symbol.is_undefined() => Ok(format!("{}{name}{}", NAME[0], NAME[1])),
        section => {
            let name = name.split('.').next().unwrap_or(name);
            // Who is not given names sees what a constant holds, and says so of the function that reads it.
            match section.filter(|_| depth > 0) {
                Some(index) if file.section_by_index(index)?.name()?.starts_with(".rdata") => {
                    Ok(format!("{name}({})", content(file, borders, index, at, depth - 1)?))
                }
                _ => Ok(name.to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Contents, NAME, same};

    #[test]
    fn a_renamed_callee_is_no_change_and_another_one_is() {
        let call = |name: &str| format!("e8 {}{name}{} c3", NAME[0], NAME[1]);
        let contents =
            |names: &[&str]| -> Contents { names.iter().map(|n| ((*n).to_owned(), String::new())).collect() };
        let (old, new) = (contents(&["f", "g", "before"]), contents(&["f", "g", "after"]));
        assert!(same(&call("f"), &old, &call("f"), &new));
        assert!(same(&call("before"), &old, &call("after"), &new));
        assert!(!same(&call("f"), &old, &call("g"), &new));
        assert!(!same(&call("f"), &old, &call("after"), &new));
        assert!(!same(&call("f"), &old, "e8 c3", &new));
    }
}
