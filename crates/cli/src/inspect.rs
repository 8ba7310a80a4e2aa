//! `hotgraft inspect`: what is in an image or a hotpatch.

use crate::args::{Format, InspectArgs};
use crate::build::load;
use crate::output::{self, Exit, Stop, Terminal};
use anyhow::{Context, Result};
use hotgraft_hotpatch::hex;
use hotgraft_program::{Form, FunctionId, Program};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// Run the command.
pub fn run(args: &InspectArgs, terminal: &Terminal) -> Result<Exit> {
    if args.tables || args.signature {
        let bytes = output::read(&args.file)?;
        let (value, text) =
            if args.tables { tables(&args.file, &bytes)? } else { crate::verify::signature(&args.file, &bytes)? };
        return show(args, &value, &text);
    }
    let progress = terminal.progress("reading the image");
    let program = load(&args.file, args.pdb.as_deref())?;
    drop(progress);
    let (value, text) = if args.functions {
        functions(&program)
    } else if args.coverage {
        coverage(&program)
    } else if let Some(name) = &args.disasm {
        disassembly(&program, name)?
    } else {
        overview(&program)
    };
    show(args, &value, &text)
}

fn show(args: &InspectArgs, value: &Value, text: &str) -> Result<Exit> {
    match args.format {
        Format::Json => output::write_bytes(Path::new("-"), &output::json(value)?)?,
        Format::Text => output::print_text(text)?,
    }
    Ok(Exit::Done)
}

fn overview(program: &Program) -> (Value, String) {
    let image = &program.image;
    let value = json!({
        "schema": "hotgraft.inspect.image/1",
        "path": image.path,
        "machine": image.architecture,
        "sha256": hex::text(&image.sha256),
        "timestamp": image.timestamp,
        "checksum": image.checksum,
        "image_size": image.size_of_image,
        "image_base": image.image_base,
        "entry_point": image.entry_point,
        "pdb": image.pdb.as_ref().map(ToString::to_string),
        "pdb_loaded": program.has_pdb,
        "sections": image.sections,
        "functions": program.functions.len(),
        "objects": program.objects.len(),
        "imports": program.imports,
        "exports": program.exports,
        "references": program.references.len(),
        "conflicts": program.conflicts.iter().map(|(rva, text)| json!({"rva": rva, "text": text})).collect::<Vec<_>>(),
    });
    let mut out = String::new();
    let _ = writeln!(out, "{}", image.path);
    let _ = writeln!(
        out,
        "  machine     {:?}, image base {:#x}, {:#x} bytes in memory",
        image.architecture, image.image_base, image.size_of_image
    );
    let _ = writeln!(
        out,
        "  identity    timestamp {:#010x}, checksum {:#010x}, sha256 {}",
        image.timestamp,
        image.checksum,
        hex::text(&image.sha256)
    );
    match &image.pdb {
        Some(pdb) => {
            let state = if program.has_pdb { "read" } else { "not found" };
            let _ = writeln!(out, "  PDB         {pdb} ({}), {state}", pdb.path);
        }
        None => out.push_str("  PDB         none named\n"),
    }
    for section in &image.sections {
        let _ = writeln!(
            out,
            "  section     {:<10} RVA {:#9x}, {:#9x} bytes, characteristics {:#010x}",
            section.name, section.rva, section.size, section.characteristics
        );
    }
    let _ = writeln!(
        out,
        "  contents    {} functions, {} objects, {} references, {} imports, {} exports",
        program.functions.len(),
        program.objects.len(),
        program.references.len(),
        program.imports.len(),
        program.exports.len()
    );
    for (rva, text) in &program.conflicts {
        let _ = writeln!(out, "  conflict    {rva:#x}: {text}");
    }
    (value, out)
}

/// Everything that was read of an image, for `--emit program`.
pub fn program_json(program: &Program) -> Value {
    json!({
        "schema": "hotgraft.program/1",
        "image": overview(program).0,
        "modules": program.modules,
        "functions": program.functions,
        "objects": program.objects,
        "references": program.references,
        "unwind": program.unwind,
        "types": program.types,
        "spans": program.spans,
    })
}

fn functions(program: &Program) -> (Value, String) {
    let value =
        json!({"schema": "hotgraft.inspect.functions/1", "path": program.image.path, "functions": program.functions});
    let mut out = String::new();
    for function in &program.functions {
        let _ = writeln!(
            out,
            "{:#9x} {:6} {:<18} {}{}",
            function.rva(),
            function.size(),
            format!("{:?}", function.entry_kind),
            function.name.as_deref().unwrap_or("?"),
            if function.problems.is_empty() { String::new() } else { format!("  [{}]", function.problems[0].key) }
        );
    }
    (value, out)
}

fn coverage(program: &Program) -> (Value, String) {
    let sections = program.coverage();
    let value = json!({"schema": "hotgraft.inspect.coverage/1", "path": program.image.path, "sections": sections});
    let mut out = String::from("section          bytes      code    object   padding   unknown  explained\n");
    for s in &sections {
        let total = s.code + s.object + s.padding + s.unknown;
        let share = if total == 0 { 100.0 } else { 100.0 * (total - s.unknown) as f64 / total as f64 };
        let _ = writeln!(
            out,
            "{:<12} {total:9} {:9} {:9} {:9} {:9}  {share:7.3} %",
            s.section, s.code, s.object, s.padding, s.unknown
        );
        for (rva, size) in &s.unknown_ranges {
            let _ = writeln!(out, "    unknown {rva:#x}, {size} bytes");
        }
    }
    (value, out)
}

fn disassembly(program: &Program, name: &str) -> Result<(Value, String)> {
    let id = (0..program.functions.len())
        .map(FunctionId::from)
        .find(|id| hotgraft_diff::label::is_called(program, *id, name))
        .ok_or_else(|| {
            Stop::failed(
                format!("{}: no function named {name}", program.image.path),
                "`hotgraft inspect --functions` lists them",
            )
        })?;
    let function = &program.functions[id.index()];
    let lines = hotgraft_diff::align::disassembly(program, id);
    let value = json!({
        "schema": "hotgraft.inspect.disasm/1",
        "path": program.image.path,
        "name": function.name,
        "rva": function.rva(),
        "size": function.size(),
        "instructions": lines.iter().map(|(rva, text)| json!({"rva": rva, "text": text})).collect::<Vec<_>>(),
    });
    let mut out = String::new();
    let mut source = None;
    for (rva, text) in &lines {
        let at = program.source_line(*rva);
        if at != source {
            if let Some(at) = &at {
                let _ = writeln!(out, "  ; {}:{}", at.file, at.line);
            }
            source = at;
        }
        let _ = writeln!(out, "{rva:#9x}  {text}");
    }
    for reference in program.references_in(function.rva(), function.ranges[0].end()) {
        if reference.form == Form::ImageRelativeDisplacement {
            let _ =
                writeln!(out, "  ; image-relative displacement at {:#x} leads to {:#x}", reference.site, reference.rva);
        }
    }
    Ok((value, out))
}

fn tables(path: &Path, bytes: &[u8]) -> Result<(Value, String)> {
    let hotpatch = hotgraft_hotpatch::read(bytes).with_context(|| path.display().to_string())?;
    let violations = hotgraft_hotpatch::check::check(bytes);
    let value = json!({
        "schema": "hotgraft.inspect.tables/1",
        "path": path.display().to_string(),
        "info": hotpatch.info,
        "hgraft": hotpatch.graft,
        "windows": hotpatch.graft.as_ref().is_none_or(|g| g.near.is_empty()),
        "violations": violations,
    });
    let mut out = String::new();
    let info = &hotpatch.info;
    let _ = writeln!(
        out,
        "IMAGE_HOT_PATCH_INFO version {}, sequence {}, {} base image(s)",
        info.version,
        info.sequence,
        info.bases.len()
    );
    for base in &info.bases {
        let _ = writeln!(
            out,
            "  base: timestamp {:#010x}, checksum {:#010x}, flags {:#x}, sequence {}",
            base.original_timestamp, base.original_checksum, base.flags, base.sequence
        );
        for chunk in &base.chunks {
            let way = if chunk.inverse { "patch <- base" } else { "base -> patch" };
            let _ = writeln!(out, "  {:?} ({way}), {} records", chunk.kind, chunk.records.len());
            for record in &chunk.records {
                let extra: Vec<String> = record.extra.iter().map(|w| format!("{w:#x}")).collect();
                let _ = writeln!(out, "    {:#9x} -> {:#9x}  {}", record.place, record.target, extra.join(" "));
            }
        }
    }
    if let Some(graft) = &hotpatch.graft {
        let _ = writeln!(out, ".hgraft: base {}, sha256 {}", graft.base.file_name, hex::text(&graft.base.sha256));
        if let Some(kb) = &graft.kb {
            let _ = writeln!(out, "  {kb}");
        }
        if !graft.cves.is_empty() {
            let _ = writeln!(out, "  fixes {}", graft.cves.join(", "));
        }
        for key in &graft.accepted {
            let _ = writeln!(out, "  accepted condition {key}");
        }
        if let Some(by) = &graft.accepted_by {
            let _ = writeln!(out, "  accepted by {by}");
        }
        if let Some(hooks) = &graft.hooks {
            for hook in &hooks.entries {
                let _ = writeln!(out, "  hook {} at {:#x}", hook.point.symbol(), hook.patch_rva);
            }
            let _ = writeln!(out, "  hooks from an object file with sha256 {}", hex::text(&hooks.object_sha256));
        }
        for f in &graft.functions {
            let place = f.base_rva.map_or("new        ".to_owned(), |rva| format!("base {rva:#x}"));
            let method = f.method.map(|m| format!(", {m:?}, expects {}", hex::text(&f.expected))).unwrap_or_default();
            let _ = writeln!(
                out,
                "  function {} ({place}), patch {:#x}, {} bytes{method}",
                f.name, f.patch_rva, f.patch_size
            );
        }
        let _ = writeln!(out, "  {} near references, {} guarded ranges", graft.near.len(), graft.guarded.len());
        match &graft.irrevertible {
            None => out.push_str("  can be rolled back\n"),
            Some(why) => {
                let _ = writeln!(out, "  cannot be rolled back: {why}");
            }
        }
        out.push_str(if graft.near.is_empty() {
            "  reaches the base through slots only: structurally a Windows hotpatch\n"
        } else {
            "  near: must be placed within 2 GB of the base by our engine\n"
        });
    }
    for violation in &violations {
        let _ = writeln!(out, "  violates {} ({:?}): {}", violation.rule, violation.demanded_by, violation.text);
    }
    Ok((value, out))
}
