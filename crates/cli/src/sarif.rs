//! `--format sarif`: findings of a verdict, and differences, for tools that show results beside the source.
//!
//! A verdict has rules, and its help is the table of rules. A difference is no judgement, so its keys have a sentence of
//! their own here, and every one is for somebody to review.

use anyhow::Result;
use hotgraft_diff::report::{self, Entry};
use hotgraft_diff::{Comparison, Status};
use hotgraft_packager::{Outcome, Verdict};
use hotgraft_program::Program;
use hotgraft_release::documents::sarif::{self, Finding, Judgement};

/// The document.
pub fn document(findings: impl IntoIterator<Item = Finding>) -> Result<Vec<u8>> {
    Ok(sarif::verdicts(findings, env!("CARGO_PKG_VERSION"))?)
}

/// What results call an image: its file name, because where it lay on a machine says nothing to a reviewer.
pub fn image(program: &Program) -> String {
    let path = &program.image.path;
    path.rsplit(['/', '\\']).next().filter(|name| !name.is_empty()).unwrap_or(path).to_owned()
}

/// The findings of a verdict, in its order.
pub fn findings<'a>(
    image: &'a str,
    verdict: &'a Verdict,
    accept: &'a [String],
) -> impl Iterator<Item = Finding> + use<'a> {
    verdict.findings.iter().map(move |f| {
        let rule = hotgraft_packager::rules::explain(f.key);
        let todo = rule.map(|rule| rule.todo).filter(|todo| !todo.is_empty()).map(|todo| format!("{todo} "));
        let explain = format!("`hotgraft build --explain {}` says more.", f.key);
        Finding {
            image: image.to_owned(),
            key: f.key.to_owned(),
            why: rule.map(|rule| rule.why.to_owned()),
            help: Some(todo.unwrap_or_default() + &explain),
            judgement: match f.outcome {
                Outcome::Patch => Judgement::Patch,
                Outcome::Condition => Judgement::Condition,
                Outcome::Refuse => Judgement::Refuse,
                Outcome::Harmless => Judgement::Harmless,
            },
            subject: f.subject.clone(),
            text: f.text.clone(),
            source: f.source.clone(),
            accepted: f.outcome == Outcome::Condition && accept.iter().any(|key| key == f.key),
        }
    })
}

/// Every difference of a comparison: functions, then data, then the image as a whole.
pub fn differences(old: &Program, new: &Program, comparison: &Comparison) -> Vec<Finding> {
    let document = report::json(old, new, comparison, 0.0);
    let image = image(new);
    let mut out = Vec::new();
    for entry in document.functions.iter().filter(|e| e.status != Status::Identical) {
        of_entry(&image, "function", entry, [old, new], &mut out);
    }
    for entry in document.objects.iter().filter(|e| e.status != Status::Identical) {
        of_entry(&image, "object", entry, [old, new], &mut out);
    }
    for change in &document.image {
        let text = change.text.strip_prefix(&format!("{}: ", change.subject)).unwrap_or(&change.text);
        out.push(finding(&image, change.key.to_owned(), &change.subject, text, None));
    }
    out
}

fn of_entry(image: &str, family: &str, entry: &Entry, [old, new]: [&Program; 2], out: &mut Vec<Finding>) {
    let rva = entry.new.or(entry.old).map_or(0, |place| place.rva);
    let subject = entry.name.clone().unwrap_or_else(|| format!("sub_{rva:x}"));
    let line = |program: &Program, rva: Option<u32>| {
        rva.and_then(|rva| program.source_line(rva)).map(|s| format!("{}:{}", s.file, s.line))
    };
    let whole = entry.source.as_ref().map(|s| format!("{}:{}", s.file, s.line));
    let bare = match entry.status {
        Status::Added => Some(("added", "only the new image has it")),
        Status::Removed => Some(("removed", "only the old image has it")),
        _ if entry.changes.is_empty() => Some(("changed", "the two builds differ")),
        _ => None,
    };
    if let Some((what, text)) = bare {
        out.push(finding(image, format!("{family}.{what}"), &subject, text, whole));
        return;
    }
    for change in &entry.changes {
        let source = line(new, change.at.new_rva).or_else(|| line(old, change.at.old_rva)).or_else(|| whole.clone());
        out.push(finding(image, change.key.to_owned(), &subject, &change.text, source));
    }
}

fn finding(image: &str, key: String, subject: &str, text: &str, source: Option<String>) -> Finding {
    // What differs between any two builds of one source.
    let stamp = matches!(key.as_str(), "image.timestamp" | "image.checksum" | "image.pdb" | "function.line_only");
    Finding {
        image: image.to_owned(),
        why: MEANINGS.iter().find(|(k, _)| *k == key).map(|(_, meaning)| (*meaning).to_owned()),
        key,
        help: Some("`hotgraft build --dry-run OLD NEW` tells whether it can be patched.".to_owned()),
        judgement: if stamp { Judgement::Harmless } else { Judgement::Difference },
        subject: subject.to_owned(),
        text: text.to_owned(),
        source,
        accepted: false,
    }
}

/// What each kind of difference means.
const MEANINGS: &[(&str, &str)] = &[
    ("function.added", "The new image has a function that the old one has not."),
    ("function.changed", "The function differs."),
    ("function.constant.changed", "An immediate operand of an instruction has another value."),
    ("function.inlined.changed", "Other functions were inlined into this one."),
    ("function.instruction.changed", "An instruction became another one."),
    ("function.instruction.inserted", "The new function has instructions that the old one has not."),
    ("function.instruction.removed", "The old function has instructions that the new one has not."),
    ("function.jump_table.changed", "A switch of the function leads elsewhere."),
    ("function.layout.changed", "Offsets into a structure or a stack frame differ."),
    ("function.line_only", "Only a number of a source line differs."),
    ("function.prototype.changed", "The function takes or returns something else."),
    ("function.reference.changed", "An operand leads to another function, variable or import."),
    ("function.removed", "The old image has a function that the new one has not."),
    ("function.string.changed", "The function uses a string or literal whose content differs."),
    ("function.unwind.changed", "How the stack is unwound, or who handles exceptions, differs."),
    ("image.checksum", "The checksum of the file differs, as it does in any two builds."),
    ("image.compiler.changed", "Parts of the image were made by another compiler, or with other options."),
    ("image.entry_point.changed", "The image starts elsewhere."),
    ("image.export.added", "The image exports something new."),
    ("image.export.changed", "An export leads elsewhere."),
    ("image.export.removed", "The image no longer exports something."),
    ("image.guard.changed", "The tables of Control Flow Guard or of exception handlers differ."),
    ("image.header.characteristics", "The characteristics of the file differ."),
    ("image.header.dll_characteristics", "The security properties of the image differ."),
    ("image.header.extended_dll_characteristics", "The extended security properties of the image differ."),
    ("image.header.image_base", "The image prefers another address."),
    ("image.header.machine", "The image is for another processor."),
    ("image.header.section_alignment", "Sections are aligned otherwise."),
    ("image.header.subsystem", "The image is for another subsystem or version of it."),
    ("image.import.added", "The image imports something new from a DLL that it used already."),
    ("image.import.dll.added", "The image needs another DLL."),
    ("image.import.dll.removed", "The image no longer needs a DLL."),
    ("image.import.removed", "The image no longer imports something."),
    ("image.initialisers.changed", "Other code runs before the entry point."),
    ("image.load_config.changed", "What the loader is told in the load configuration differs."),
    ("image.pdb", "The identity of the debug information differs, as it does in any two builds."),
    ("image.pdb.path", "The debug information has another path."),
    ("image.prototype.changed", "The type of a function differs."),
    ("image.resource.changed", "A resource differs."),
    ("image.resource.message_table", "A message table differs."),
    ("image.resource.version", "The version resource differs."),
    ("image.section.added", "The image has another section."),
    ("image.section.flags", "A section may be read, written or executed otherwise."),
    ("image.section.removed", "The image has a section less."),
    ("image.timestamp", "The time stamp differs, as it does in any two builds."),
    ("image.tls.changed", "Thread-local data or its callbacks differ."),
    ("image.type.added", "There is another type."),
    ("image.type.layout.changed", "The layout of a type differs."),
    ("image.type.removed", "There is a type less."),
    ("image.unknown.changed", "Bytes that nobody can explain differ."),
    ("object.added", "The new image has data that the old one has not."),
    ("object.changed", "The data differs."),
    ("object.content.changed", "The initial content of data differs."),
    ("object.pointer.changed", "A pointer in data leads elsewhere."),
    ("object.removed", "The old image has data that the new one has not."),
    ("object.section.changed", "The data moved to a section of another kind."),
    ("object.size.changed", "The data has another size."),
    ("object.type.changed", "The data has another type."),
];
