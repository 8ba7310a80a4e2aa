//! Apply, roll back and query on a buffer.

mod support;

use std::time::Duration;

use hotgraft_engine::{
    AddressSpace, ApplyError, ApplyOptions, BufferSpace, EntryState, PatchFile, Phase, Protection, RollbackOptions,
    State, ThreadState, Trust, apply, assess, find_base, query, rollback,
};
use hotgraft_hotpatch::EntryMethod;
use support::*;

const AT: u64 = 0x7ff6_1234_0000;

fn trial() -> ApplyOptions<'static> {
    ApplyOptions { trust: Trust::trial(), time_limit: Duration::from_millis(20), ..ApplyOptions::default() }
}

fn quick() -> RollbackOptions<'static> {
    RollbackOptions { time_limit: Duration::from_millis(20), ..RollbackOptions::default() }
}

fn loaded() -> BufferSpace {
    let mut space = BufferSpace::new();
    space.load(BASE_NAME, &base_file(), AT).unwrap();
    space
}

fn patch(spec: &PatchSpec) -> PatchFile {
    PatchFile::parse(&spec.build()).unwrap()
}

fn bytes(space: &BufferSpace, address: u64, size: usize) -> Vec<u8> {
    let mut out = vec![0; size];
    space.read(address, &mut out).unwrap();
    out
}

fn image(space: &BufferSpace) -> Vec<u8> {
    bytes(space, AT, 0x5000)
}

fn jump(space: &BufferSpace, at: u64) -> u64 {
    let code = bytes(space, at, 5);
    assert_eq!(code[0], 0xe9);
    (at + 5).wrapping_add(i32::from_le_bytes(code[1..].try_into().unwrap()) as u64)
}

fn thread(ip: u64, return_addresses: &[u64]) -> ThreadState {
    ThreadState { id: 77, ip, sp: 0x1000, return_addresses: return_addresses.to_vec() }
}

#[test]
fn the_redirects_lead_to_the_patch_and_the_patch_to_the_base() {
    let mut space = loaded();
    let patch = patch(&first(&base_file()));
    assert_eq!(find_base(&space, patch.graft()).unwrap(), AT);
    let applied = apply(&mut space, AT, &patch, &trial()).unwrap();
    let at = applied.patch_address;

    assert_eq!(bytes(&space, AT + ALPHA as u64, 2), [0xeb, 0xf9]);
    assert_eq!(jump(&space, AT + ALPHA as u64 - 5), at + PATCH_TEXT as u64);
    assert_eq!(jump(&space, AT + GAMMA as u64), at + PATCH_TEXT as u64 + 32);
    // Nothing but the redirects changed.
    let fresh = image(&loaded());
    let changed: Vec<usize> =
        image(&space).iter().zip(&fresh).enumerate().filter(|(_, (a, b))| a != b).map(|p| p.0).collect();
    let (alpha, gamma) = (ALPHA as usize, GAMMA as usize);
    assert!(changed.iter().all(|at| (alpha - 5..alpha + 2).contains(at) || (gamma..gamma + 5).contains(at)));

    // The near reference, the import slot and the slot for the base's table.
    let code = bytes(&space, at + PATCH_TEXT as u64, 19);
    let field = |offset: usize| i32::from_le_bytes(code[offset..offset + 4].try_into().unwrap()) as u64;
    assert_eq!((at + PATCH_TEXT as u64 + 6).wrapping_add(field(2)), AT + VARIABLE as u64);
    let slot = (at + PATCH_TEXT as u64 + 12).wrapping_add(field(8));
    let target = u64::from_le_bytes(bytes(&space, slot, 8).try_into().unwrap());
    assert_eq!(space.import_at(target), Some(("kernel32.dll", "GetCurrentProcessId")));
    let table = u64::from_le_bytes(bytes(&space, at + PATCH_DATA as u64 + 0x10, 8).try_into().unwrap());
    assert_eq!(table, AT + TABLE as u64);
    // An import that the base has too resolves to the same function.
    let other = u64::from_le_bytes(bytes(&space, slot - 8, 8).try_into().unwrap());
    assert_eq!(space.import_at(other), Some(("kernel32.dll", "GetTickCount")));
    assert_eq!(bytes(&space, AT + 0x2000 + 40 + 24, 8), other.to_le_bytes());

    assert_eq!(space.unwind_tables().len(), 1);
    assert!(!space.is_suspended());
    // No page of the patch is writable and executable, and its code is executable.
    let regions = space.regions().unwrap();
    let of = |address: u64| regions.iter().find(|r| (r.address..r.address + r.size).contains(&address)).unwrap();
    assert_eq!(of(at + PATCH_TEXT as u64).protection, Protection::ReadExecute);
    assert_eq!(of(at + PATCH_RDATA as u64).protection, Protection::Read);
    assert_eq!(of(at + PATCH_DATA as u64).protection, Protection::ReadWrite);
    assert_eq!(of(applied.record_address).protection, Protection::Read);
    assert_eq!(of(AT + ALPHA as u64).protection, Protection::ReadExecute);
}

#[test]
fn rolled_back_memory_is_byte_identical() {
    let mut space = loaded();
    let before = space.snapshot();
    apply(&mut space, AT, &patch(&first(&base_file())), &trial()).unwrap();
    assert_ne!(space.snapshot()[0], before[0]);
    let back = rollback(&mut space, AT, &quick()).unwrap();
    assert_eq!((back.sequence, back.active), (1, None));
    let after = space.snapshot();
    let base = after.iter().find(|block| block.0 == AT).unwrap();
    assert_eq!(*base, before[0]);
}

#[test]
fn a_patch_that_is_applied_again_uses_the_image_again() {
    let mut space = loaded();
    let patch = patch(&first(&base_file()));
    let one = apply(&mut space, AT, &patch, &trial()).unwrap();
    assert!(!one.reused);
    let blocks = space.snapshot().len();
    for _ in 0..20 {
        rollback(&mut space, AT, &quick()).unwrap();
        let again = apply(&mut space, AT, &patch, &trial()).unwrap();
        assert!(again.reused);
        assert_eq!(again.patch_address, one.patch_address);
    }
    assert_eq!(space.snapshot().len(), blocks);
    // Somebody changed the code of the old image: it is not used again.
    rollback(&mut space, AT, &quick()).unwrap();
    space.poke(one.patch_address + PATCH_TEXT as u64, &[0xcc]).unwrap();
    let again = apply(&mut space, AT, &patch, &trial()).unwrap();
    assert!(!again.reused);
    assert_ne!(again.patch_address, one.patch_address);
}

#[test]
fn a_successor_takes_over_in_one_transition() {
    let mut space = loaded();
    let base = base_file();
    let fresh = image(&space);
    let one = apply(&mut space, AT, &patch(&first(&base)), &trial()).unwrap();
    let with_first = image(&space);
    let two = apply(&mut space, AT, &patch(&second(&base)), &trial()).unwrap();
    assert_eq!(two.superseded, Some(1));
    assert_eq!(jump(&space, AT + ALPHA as u64 - 5), two.patch_address + PATCH_TEXT as u64);
    assert_eq!(jump(&space, AT + BETA as u64 - 5), two.patch_address + PATCH_TEXT as u64 + 16);
    // gamma is in the first alone: restored.
    assert_eq!(image(&space)[GAMMA as usize..][..8], fresh[GAMMA as usize..][..8]);
    // The old image is still there.
    assert_eq!(bytes(&space, one.patch_address + PATCH_TEXT as u64, 2), [0x8b, 0x05]);

    let status = query(&space, None).unwrap();
    assert_eq!(status.len(), 1);
    assert_eq!(status[0].active, Some(2));
    let states: Vec<_> = status[0].patches.iter().map(|patch| (patch.sequence, patch.state)).collect();
    assert_eq!(states, [(1, State::Superseded), (2, State::Applied)]);
    assert_eq!(status[0].patches[0].entries[0].state, EntryState::OtherPatch);
    assert_eq!(status[0].patches[1].supersedes, Some(1));

    // One step back, then another.
    let back = rollback(&mut space, AT, &RollbackOptions { sequence: Some(2), ..quick() }).unwrap();
    assert_eq!(back.active, Some(1));
    assert_eq!(image(&space), with_first);
    let back = rollback(&mut space, AT, &RollbackOptions { sequence: Some(1), ..quick() }).unwrap();
    assert_eq!(back.active, None);
    assert_eq!(image(&space), fresh);

    // And at once.
    apply(&mut space, AT, &patch(&first(&base)), &trial()).unwrap();
    apply(&mut space, AT, &patch(&second(&base)), &trial()).unwrap();
    rollback(&mut space, AT, &quick()).unwrap();
    assert_eq!(image(&space), fresh);
    assert!(matches!(rollback(&mut space, AT, &quick()), Err(ApplyError::NotApplied(_))));
}

#[test]
fn the_method_of_an_entry_may_change_from_patch_to_patch() {
    let mut space = loaded();
    let base = base_file();
    let fresh = image(&space);
    let near = Replacement::new("alpha", ALPHA, EntryMethod::NearJump, &[0xb8, 7, 0, 0, 0, 0xc3]);
    let one = PatchSpec::new(&base, BASE_NAME, 1, vec![near]);
    apply(&mut space, AT, &patch(&one), &trial()).unwrap();
    let two = apply(&mut space, AT, &patch(&second(&base)), &trial()).unwrap();
    assert_eq!(bytes(&space, AT + ALPHA as u64, 2), [0xeb, 0xf9]);
    assert_eq!(bytes(&space, AT + ALPHA as u64 + 2, 4), fresh[ALPHA as usize + 2..][..4]);
    assert_eq!(jump(&space, AT + ALPHA as u64 - 5), two.patch_address + PATCH_TEXT as u64);
    rollback(&mut space, AT, &quick()).unwrap();
    assert_eq!(image(&space), fresh);
}

/// Entries that are read once more when all is done: those of every patch that was active before or is now.
fn reads_afterwards(space: &BufferSpace) -> u64 {
    let images = query(space, None).unwrap();
    images.iter().flat_map(|image| &image.patches).map(|patch| patch.entries.len() as u64).sum()
}

#[test]
fn who_changes_an_entry_right_after_it_was_patched_is_told_of() {
    let patch = patch(&first(&base_file()));
    let mut space = loaded();
    space.poke_after_exchange(AT + ALPHA as u64, &[0xcc]);
    match apply(&mut space, AT, &patch, &trial()) {
        Err(ApplyError::ChangedAfterwards { function, expected, found, .. }) => {
            assert_eq!(function, "alpha");
            assert_ne!(expected, found);
        }
        other => panic!("{other:?}"),
    }
    // The other entry leads to the patch, so it stays in memory.
    let status = &query(&space, None).unwrap()[0].patches[0];
    assert_eq!(status.state, State::ForeignHook);
    let states: Vec<EntryState> = status.entries.iter().map(|entry| entry.state).collect();
    assert_eq!(states, [EntryState::Foreign, EntryState::Applied]);
}

#[test]
fn nothing_is_left_behind_when_any_operation_fails() {
    let base = base_file();
    for successor in [false, true] {
        let mut start = loaded();
        if successor {
            apply(&mut start, AT, &patch(&first(&base)), &trial()).unwrap();
        }
        let patch = if successor { patch(&second(&base)) } else { patch(&first(&base)) };
        let before = start.snapshot();
        let mut clean = start.clone();
        let operations = clean.operations();
        apply(&mut clean, AT, &patch, &trial()).unwrap();
        let total = clean.operations() - operations;
        assert!(total > 20);
        // By then it is done: that one entry cannot be read again changes nothing.
        let afterwards = reads_afterwards(&clean);
        for n in 0..total {
            let mut space = start.clone();
            space.fail_after(n);
            let error = apply(&mut space, AT, &patch, &trial());
            if n >= total - afterwards {
                assert!(error.is_ok(), "operation {n} of {total}");
                assert_eq!(space.snapshot(), clean.snapshot());
                continue;
            }
            assert!(error.is_err(), "operation {n} of {total} failed, and apply did not");
            assert_eq!(space.snapshot(), before, "operation {n} of {total}");
            assert!(!space.is_suspended());
            assert_eq!(space.unwind_tables(), start.unwind_tables());
            // And the next attempt works.
            apply(&mut space, AT, &patch, &trial()).unwrap();
        }
    }
}

#[test]
fn a_failed_rollback_leaves_the_patch_active() {
    let mut start = loaded();
    apply(&mut start, AT, &patch(&first(&base_file())), &trial()).unwrap();
    let before = start.snapshot();
    let mut clean = start.clone();
    let operations = clean.operations();
    rollback(&mut clean, AT, &quick()).unwrap();
    let total = clean.operations() - operations;
    let afterwards = reads_afterwards(&clean);
    for n in 0..total {
        let mut space = start.clone();
        space.fail_after(n);
        if n >= total - afterwards {
            rollback(&mut space, AT, &quick()).unwrap();
            assert_eq!(space.snapshot(), clean.snapshot(), "operation {n} of {total}");
            continue;
        }
        assert!(rollback(&mut space, AT, &quick()).is_err(), "operation {n} of {total}");
        assert_eq!(space.snapshot(), before, "operation {n} of {total}");
        assert!(!space.is_suspended());
    }
}

#[test]
fn stopping_before_any_phase_leaves_nothing_behind() {
    let start = loaded();
    let patch = patch(&first(&base_file()));
    for phase in Phase::ALL {
        let mut space = start.clone();
        let options = ApplyOptions { hook: &|asked| asked != phase, ..trial() };
        match apply(&mut space, AT, &patch, &options) {
            Err(ApplyError::Stopped(name)) => assert_eq!(name, phase.name()),
            other => panic!("{phase:?}: {other:?}"),
        }
        assert_eq!(space.snapshot(), start.snapshot(), "{phase:?}");
        assert!(!space.is_suspended());
        assert!(space.unwind_tables().is_empty());
    }
}

#[test]
fn another_build_is_refused_by_what_memory_says() {
    let base = base_file();
    let patch = patch(&first(&base));
    // Every field of the identity.
    let fields = [(0x88usize, "TimeDateStamp"), (0xd8, "CheckSum")];
    for (at, field) in fields {
        let mut other = base.clone();
        other[at] ^= 1;
        let mut space = BufferSpace::new();
        space.load(BASE_NAME, &other, AT).unwrap();
        let before = space.snapshot();
        match apply(&mut space, AT, &patch, &trial()) {
            Err(ApplyError::WrongBase { field: found, .. }) => assert_eq!(found, field),
            result => panic!("{result:?}"),
        }
        assert!(matches!(find_base(&space, patch.graft()), Err(ApplyError::WrongBase { .. })));
        assert_eq!(space.snapshot(), before);
    }
    let mut space = loaded();
    space.poke(AT + 0x2144, &[8]).unwrap();
    match apply(&mut space, AT, &patch, &trial()) {
        Err(ApplyError::WrongBase { field, .. }) => assert_eq!(field, "PDB identity"),
        result => panic!("{result:?}"),
    }
    let empty = BufferSpace::new();
    assert!(matches!(find_base(&empty, patch.graft()), Err(ApplyError::NoBase { .. })));
}

#[test]
fn a_guarded_range_that_was_changed_is_named() {
    let patch = patch(&first(&base_file()));
    for (rva, name) in [(ALPHA + 12, "alpha"), (TABLE + 16, "table"), (TABLE + 9, "table")] {
        let mut space = loaded();
        space.poke(AT + rva as u64, &[0xfe]).unwrap();
        let before = space.snapshot();
        match apply(&mut space, AT, &patch, &trial()) {
            Err(ApplyError::Modified { name: found, .. }) => assert_eq!(found, name),
            result => panic!("{rva:#x}: {result:?}"),
        }
        assert_eq!(space.snapshot(), before);
        assert_eq!(assess(&space, &patch).unwrap().state, State::NotApplicable);
    }
}

#[test]
fn a_hook_of_somebody_else_is_named_and_left_alone() {
    let patch = patch(&first(&base_file()));
    let mut space = loaded();
    // jmp to base.dll+0x1100.
    let distance = 0x1100 - (ALPHA as i32 + 5);
    let mut hook = vec![0xe9];
    hook.extend_from_slice(&distance.to_le_bytes());
    space.poke(AT + ALPHA as u64, &hook).unwrap();
    let before = space.snapshot();
    match apply(&mut space, AT, &patch, &trial()) {
        Err(ApplyError::ForeignHook { function, leads_to, .. }) => {
            assert_eq!(function, "alpha");
            assert_eq!(leads_to.as_deref(), Some("base.dll+0x1100"));
        }
        result => panic!("{result:?}"),
    }
    assert_eq!(space.snapshot(), before);
    assert_eq!(assess(&space, &patch).unwrap().state, State::ForeignHook);
}

#[test]
fn a_hook_over_an_applied_patch_is_seen_and_never_overwritten() {
    let base = base_file();
    let mut space = loaded();
    apply(&mut space, AT, &patch(&first(&base)), &trial()).unwrap();
    space.poke(AT + ALPHA as u64, &[0xcc]).unwrap();
    let before = space.snapshot();
    let status = query(&space, None).unwrap();
    assert_eq!(status[0].state, Some(State::ForeignHook));
    assert_eq!(status[0].active, None);
    assert_eq!(status[0].patches[0].entries[0].state, EntryState::Foreign);
    assert_eq!(status[0].patches[0].entries[1].state, EntryState::Applied);
    assert!(matches!(rollback(&mut space, AT, &quick()), Err(ApplyError::Partial { sequence: 1, .. })));
    assert!(matches!(
        apply(&mut space, AT, &patch(&second(&base)), &trial()),
        Err(ApplyError::Partial { sequence: 1, .. })
    ));
    assert_eq!(space.snapshot(), before);
    // One entry restored by hand: partial.
    space.poke(AT + ALPHA as u64 - 6, &base_site(&base, ALPHA)).unwrap();
    assert_eq!(query(&space, None).unwrap()[0].state, Some(State::Partial));
}

fn base_site(base: &[u8], entry: u32) -> Vec<u8> {
    // .text: file offset 0x400, RVA 0x1000.
    let at = entry as usize - 6 - 0x1000 + 0x400;
    base[at..at + 16].to_vec()
}

#[test]
fn a_sequence_is_applied_once_and_never_backwards() {
    let base = base_file();
    let (one, two) = (patch(&first(&base)), patch(&second(&base)));
    let mut space = loaded();
    apply(&mut space, AT, &two, &trial()).unwrap();
    let before = space.snapshot();
    assert!(matches!(apply(&mut space, AT, &two, &trial()), Err(ApplyError::AlreadyApplied { sequence: 2 })));
    assert!(matches!(apply(&mut space, AT, &one, &trial()), Err(ApplyError::Stale { applied: 2, offered: 1 })));
    assert_eq!(space.snapshot(), before);
    assert_eq!(assess(&space, &one).unwrap().state, State::NotApplicable);
    assert_eq!(assess(&space, &two).unwrap().state, State::Applied);
    assert!(matches!(
        rollback(&mut space, AT, &RollbackOptions { sequence: Some(1), ..quick() }),
        Err(ApplyError::NotApplied(_))
    ));
    let mut needs = second(&base);
    needs.min_sequence = 1;
    let mut space = loaded();
    assert!(matches!(
        apply(&mut space, AT, &patch(&needs), &trial()),
        Err(ApplyError::MissingPredecessor { needed: 1, applied: None })
    ));
    apply(&mut space, AT, &one, &trial()).unwrap();
    apply(&mut space, AT, &patch(&needs), &trial()).unwrap();
}

#[test]
fn an_unsigned_patch_needs_leave() {
    let mut space = loaded();
    let before = space.snapshot();
    let options = ApplyOptions { trust: Trust::default(), ..trial() };
    let error = apply(&mut space, AT, &patch(&first(&base_file())), &options).unwrap_err();
    assert!(error.is_refusal());
    assert_eq!(space.snapshot(), before);
}

#[test]
fn an_irrevertible_patch_stays() {
    let base = base_file();
    let mut spec = first(&base);
    spec.irrevertible = Some("it converts its data once");
    let mut space = loaded();
    apply(&mut space, AT, &patch(&spec), &trial()).unwrap();
    let before = space.snapshot();
    assert!(matches!(rollback(&mut space, AT, &quick()), Err(ApplyError::Irrevertible { sequence: 1, .. })));
    // A successor without gamma would take it back in part.
    assert!(matches!(
        apply(&mut space, AT, &patch(&second(&base)), &trial()),
        Err(ApplyError::Irrevertible { sequence: 1, .. })
    ));
    assert_eq!(space.snapshot(), before);
    assert!(!query(&space, None).unwrap()[0].patches[0].revertible);
}

#[test]
fn a_thread_in_the_way_is_waited_for_and_then_named() {
    let base = base_file();
    let alpha = AT + ALPHA as u64;
    let gamma = AT + GAMMA as u64;
    // Inside the bytes that change: by instruction pointer or by return address.
    for state in [
        thread(alpha + 1, &[]),
        thread(alpha - 3, &[]),
        thread(gamma + 4, &[]),
        thread(0x1000, &[0x2000, gamma + 2]),
        thread(0x1000, &[gamma + 1]),
    ] {
        let mut space = loaded();
        space.set_threads(vec![thread(0x10, &[]), state.clone()]);
        let before = space.snapshot();
        match apply(&mut space, AT, &patch(&first(&base)), &trial()) {
            Err(ApplyError::ThreadInTheWay { thread: 77, attempts, function, .. }) => {
                assert!(attempts > 1);
                assert!(function == "alpha" || function == "gamma");
            }
            result => panic!("{state:?}: {result:?}"),
        }
        assert_eq!(space.snapshot(), before);
        assert!(!space.is_suspended());
        // It goes away.
        space.set_threads(Vec::new());
        space.set_coming_threads(vec![vec![state.clone()], vec![state]]);
        assert_eq!(apply(&mut space, AT, &patch(&first(&base)), &trial()).unwrap().attempts, 3);
    }
    // At the entry, behind the changed bytes, or in the old function's caller: no harm.
    let mut space = loaded();
    // So does a pointer to the function that lies on a stack.
    space.set_threads(vec![
        thread(alpha, &[alpha + 2, alpha, gamma]),
        thread(gamma, &[gamma + 5]),
        thread(gamma + 5, &[]),
    ]);
    apply(&mut space, AT, &patch(&first(&base)), &trial()).unwrap();
}

#[test]
fn quiescence_keeps_threads_out_of_the_whole_function() {
    let base = base_file();
    let mut spec = first(&base);
    spec.replacements[0].quiesce = true;
    let patch_one = patch(&spec);
    let alpha = AT + ALPHA as u64;
    let mut space = loaded();
    space.set_threads(vec![thread(0x10, &[alpha + 9])]);
    assert!(matches!(
        apply(&mut space, AT, &patch_one, &trial()),
        Err(ApplyError::ThreadInTheWay { address, .. }) if address == alpha + 9
    ));
    // At its first instruction, to which a loop may lead; behind a call that is its last instruction.
    for state in [thread(alpha, &[]), thread(0x10, &[alpha + 16])] {
        space.set_threads(vec![state]);
        assert!(matches!(apply(&mut space, AT, &patch_one, &trial()), Err(ApplyError::ThreadInTheWay { .. })));
    }
    // A pointer to it is not a frame of it, and what follows it is another function.
    space.set_threads(vec![thread(alpha + 16, &[alpha])]);
    let one = apply(&mut space, AT, &patch_one, &trial()).unwrap();
    // Taking it back needs the replacement to be empty as well.
    space.set_threads(vec![thread(one.patch_address + PATCH_TEXT as u64, &[])]);
    assert!(matches!(rollback(&mut space, AT, &quick()), Err(ApplyError::ThreadInTheWay { .. })));
    space.set_threads(Vec::new());
    rollback(&mut space, AT, &quick()).unwrap();
}

#[test]
fn without_room_within_reach_nothing_happens() {
    let mut space = loaded();
    // All of the reach is taken but for the lowest 64 KiB of it.
    let low = AT + 0x5000 - 0x8000_0000;
    space.reserve(low & !0xffff, AT - (low & !0xffff));
    space.reserve(AT + 0x1_0000, 0x8000_0000);
    let before = space.snapshot().len();
    assert!(matches!(
        apply(&mut space, AT, &patch(&first(&base_file())), &trial()),
        Err(ApplyError::TooFar { base: AT, .. })
    ));
    assert_eq!(space.snapshot().len(), before);
}

#[test]
fn a_missing_import_is_named_before_anything_is_placed() {
    let mut space = loaded();
    space.without_imports();
    let before = space.snapshot();
    match apply(&mut space, AT, &patch(&first(&base_file())), &trial()) {
        Err(ApplyError::Import { name, .. }) => assert_eq!(name, "GetCurrentProcessId"),
        result => panic!("{result:?}"),
    }
    assert_eq!(space.snapshot(), before);
}

#[test]
fn a_dll_that_was_unloaded_and_loaded_again_is_not_patched() {
    let base = base_file();
    let mut space = loaded();
    apply(&mut space, AT, &patch(&first(&base)), &trial()).unwrap();
    space.unload(AT);
    assert!(query(&space, None).unwrap().is_empty());
    assert_eq!(assess(&space, &patch(&first(&base))).unwrap().state, State::Staged);
    space.load(BASE_NAME, &base, AT).unwrap();
    assert_eq!(query(&space, None).unwrap()[0].state, Some(State::Reverted));
    assert!(apply(&mut space, AT, &patch(&first(&base)), &trial()).unwrap().reused);
    // Elsewhere: the old record speaks of another image.
    space.unload(AT);
    space.load(BASE_NAME, &base, AT + 0x100_0000).unwrap();
    assert!(query(&space, None).unwrap().is_empty());
    let applied = apply(&mut space, AT + 0x100_0000, &patch(&first(&base)), &trial()).unwrap();
    assert!(!applied.reused);
}

#[test]
fn a_damaged_record_is_no_record() {
    let base = base_file();
    let mut space = loaded();
    let applied = apply(&mut space, AT, &patch(&first(&base)), &trial()).unwrap();
    for offset in [0, 8, 12, 16, 33, 64, 200] {
        let mut space = space.clone();
        let byte = bytes(&space, applied.record_address + offset, 1)[0];
        space.poke(applied.record_address + offset, &[byte ^ 1]).unwrap();
        assert!(query(&space, None).unwrap().is_empty(), "offset {offset}");
        // Without its record the redirect is somebody else's.
        assert!(matches!(apply(&mut space, AT, &patch(&first(&base)), &trial()), Err(ApplyError::ForeignHook { .. })));
    }
}

#[test]
fn status_can_tell_which_threads_are_in_a_patch_and_which_in_old_code() {
    let mut space = loaded();
    let applied = apply(&mut space, AT, &patch(&first(&base_file())), &trial()).unwrap();
    let mut images = query(&space, None).unwrap();
    let (start, size) = {
        let entry = &images[0].patches[0].entries[0];
        assert!(entry.old_threads.is_none(), "nobody looked yet");
        (AT + u64::from(entry.base_rva), u64::from(entry.base_size))
    };
    let one = |id, ip, returns: &[u64]| ThreadState { id, ..thread(ip, returns) };
    let threads = [
        one(1, applied.patch_address + 0x1000, &[]),
        one(2, start + 1, &[]),
        one(3, 1, &[2, start + size]),
        // About to be led away; with a pointer to the function on its stack; behind it.
        one(4, start, &[]),
        one(5, 1, &[start]),
        one(6, start + size, &[start + size + 1]),
    ];
    hotgraft_engine::count_threads(&mut images, &threads);
    let status = &images[0].patches[0];
    assert_eq!(status.threads.as_deref(), Some(&[1][..]));
    assert_eq!(status.entries[0].old_threads.as_deref(), Some(&[2, 3][..]));

    rollback(&mut space, AT, &RollbackOptions::default()).unwrap();
    let mut images = query(&space, None).unwrap();
    hotgraft_engine::count_threads(&mut images, &threads);
    let status = &images[0].patches[0];
    assert_eq!(status.threads.as_deref(), Some(&[1][..]), "its memory is still needed");
    assert!(status.entries[0].old_threads.is_none(), "the base's code is in use again, and not old");
}

#[test]
fn the_buffer_enforces_protections() {
    let mut space = loaded();
    assert!(space.write(AT + 0x1000, &[0]).is_err());
    assert!(space.write(AT + 0x3000, &[0]).is_ok());
    assert!(space.protect(AT + 0x1000, 0x1000, Protection::Other(0x40)).is_err());
    assert!(space.write(0x10, &[0]).is_err());
    assert!(space.read(u64::MAX - 2, &mut [0; 8]).is_err());
    assert!(space.unmap(AT, 0x5000).is_err());
}
