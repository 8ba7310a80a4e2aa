//! Comparing one range of code and its unwind data.

use crate::data::{first_difference, held_address};
use crate::walk::{Context, Found};
use hotgraft_program::{CodeRange, FunctionId, Program, SpanKind, UnwindInfo};

/// Compare the code at `va` in patched memory with a range of a new function.
pub(crate) fn compare(context: &Context<'_>, va: u64, id: FunctionId, number: u16) -> Found {
    let mut found = Found::default();
    let new = context.new;
    let range = context.range(id, number);
    let subject = context.label(id);
    let (Some(ours), Some(theirs)) = (context.world.bytes(va, range.size), new.image.bytes(range.rva, range.size as usize)) else {
        found.remain("residual.code", subject, range.rva, format!("{va:#x} is not {} bytes of an image", range.size));
        return found;
    };
    let references = new.references_in(range.rva, range.end());
    if let Some(offset) = first_difference(ours, theirs, range.rva, references) {
        let text = format!("code at {va:#x} differs at +{offset:#x}");
        found.remain("residual.code", subject, range.rva + offset, text);
        return found;
    }
    for reference in references {
        let outcome = match held_address(context, reference, va, range.rva) {
            Some(held) => context.relate(held, reference.target, reference.form, &mut found),
            None => Err("the field lies outside of both images".to_owned()),
        };
        if let Err(why) = outcome {
            let text = format!("field at +{:#x}: {why}", reference.site - range.rva);
            found.remain("residual.reference", subject.clone(), reference.site, text);
        }
    }
    for site in unaccounted(new, range) {
        let text = "an instruction holds an address that no reference accounts for".to_owned();
        found.remain("residual.unaccounted", subject.clone(), site, text);
    }
    compare_unwind(context, va, range, &subject, &mut found);
    found
}

/// Sites of address-bearing fields that lead out of the range and are in no reference, found by decoding.
fn unaccounted(program: &Program, range: CodeRange) -> Vec<u32> {
    let mut sites = Vec::new();
    let references = program.references_in(range.rva, range.end());
    let first = program.spans.partition_point(|s| s.rva.saturating_add(s.size) <= range.rva);
    for span in program.spans[first..].iter().take_while(|s| s.rva < range.end()) {
        if span.kind != SpanKind::Code {
            continue;
        }
        let (start, end) = (span.rva.max(range.rva), span.rva.saturating_add(span.size).min(range.end()));
        let mut rva = start;
        while rva < end {
            let Some(bytes) = program.image.bytes(rva, (end - rva) as usize) else { break };
            let Some(decoded) = hotgraft_program::code::decode_at(bytes, rva) else {
                sites.push(rva);
                break;
            };
            if let Some(raw) = decoded.reference(rva)
                && !range.contains(raw.rva)
                && references.binary_search_by_key(&raw.site, |r| r.site).is_err()
            {
                sites.push(raw.site);
            }
            rva += u32::from(decoded.length);
        }
    }
    sites
}

fn covering(program: &Program, start: u32, end: u32) -> &[UnwindInfo] {
    let a = program.unwind.partition_point(|u| u.end <= start);
    let b = program.unwind.partition_point(|u| u.begin < end);
    &program.unwind[a..b.max(a)]
}

/// The unwind entries of a range, by position in the range, must say the same.
fn compare_unwind(context: &Context<'_>, va: u64, range: CodeRange, subject: &str, found: &mut Found) {
    let Some((program, rva)) = context.world.program_at(va) else { return };
    let theirs = covering(context.new, range.rva, range.end());
    let ours = covering(program, rva, rva.saturating_add(range.size));
    if ours.len() != theirs.len() {
        let text = format!("{} unwind entries at {va:#x}, new has {}", ours.len(), theirs.len());
        found.remain("residual.unwind", subject.to_owned(), range.rva, text);
        return;
    }
    for (our, their) in ours.iter().zip(theirs) {
        if let Err(text) = same_unwind(context, va, (rva, our), (range, their), found) {
            found.remain("residual.unwind", subject.to_owned(), their.begin, text);
        }
    }
}

fn same_unwind(
    context: &Context<'_>,
    va: u64,
    (rva, our): (u32, &UnwindInfo),
    (range, their): (CodeRange, &UnwindInfo),
    found: &mut Found,
) -> Result<(), String> {
    let offsets = |u: &UnwindInfo, start: u32| (i64::from(u.begin) - i64::from(start), i64::from(u.end) - i64::from(start));
    if offsets(our, rva) != offsets(their, range.rva) {
        return Err(format!("unwind entry covers {:x?}, new {:x?}", offsets(our, rva), offsets(their, range.rva)));
    }
    let image = va - u64::from(rva);
    let info = image + u64::from(our.info);
    let (Some(ours), Some(theirs)) = (context.world.bytes(info, their.size), context.new.image.bytes(their.info, their.size as usize))
    else {
        return Err("unwind information lies outside of the image".to_owned());
    };
    if let Some(offset) = first_difference(ours, theirs, their.info, &their.references) {
        return Err(format!("unwind information differs at +{offset:#x}"));
    }
    for reference in &their.references {
        let held = held_address(context, reference, info, their.info).ok_or("a field lies outside of the image")?;
        // Handlers are reached through a thunk of the patch, because their RVA must lie in the image that names them.
        let direct = context.relate(held, reference.target, reference.form, &mut Found::default());
        let held = if direct.is_ok() { held } else { context.world.follow_thunk(held) };
        context
            .relate(held, reference.target, reference.form, found)
            .map_err(|why| format!("unwind field at +{:#x}: {why}", reference.site - their.info))?;
    }
    Ok(())
}
