//! Applying a patch, step by step.

use std::time::Duration;

use hotgraft_hotpatch::HookPoint;

use crate::error::ApplyError;
use crate::hooks;
use crate::identity;
use crate::lineage;
use crate::memory::{MappedImage, read_bytes};
use crate::patch::{PatchError, PatchFile};
use crate::pe;
use crate::place::{self, Resolved};
use crate::policy::{self, Trust};
use crate::record::{self, Found, Previous, Record};
use crate::redirect;
use crate::space::{AddressSpace, Protection};
use crate::transition::Transition;

/// The steps of applying and rolling back, in order. A step is announced before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Signature and trust policy.
    CheckPolicy,
    /// Identity of the base in memory.
    CheckIdentity,
    /// What is applied already.
    CheckSequence,
    /// Entry sites and guarded ranges.
    CheckMemory,
    /// The patch's own imports.
    ResolveImports,
    /// Memory for record and patch.
    Place,
    /// Copy of record and patch.
    Write,
    /// Final protections of the patch's pages.
    Protect,
    /// Unwind table.
    RegisterUnwind,
    /// Control-flow-guard call targets.
    RegisterCallTargets,
    /// Stop the threads.
    Suspend,
    /// Where the threads are.
    CheckThreads,
    /// Entry sites once more, now that nobody can change them.
    CheckSites,
    /// The writes.
    Commit,
    /// The threads run again. The change is made by then: stopping here has no effect.
    Resume,
}

impl Phase {
    /// All phases before which stopping changes nothing, in order.
    pub const ALL: [Phase; 14] = [
        Phase::CheckPolicy,
        Phase::CheckIdentity,
        Phase::CheckSequence,
        Phase::CheckMemory,
        Phase::ResolveImports,
        Phase::Place,
        Phase::Write,
        Phase::Protect,
        Phase::RegisterUnwind,
        Phase::RegisterCallTargets,
        Phase::Suspend,
        Phase::CheckThreads,
        Phase::CheckSites,
        Phase::Commit,
    ];

    /// Stable name.
    pub fn name(self) -> &'static str {
        match self {
            Phase::CheckPolicy => "check-policy",
            Phase::CheckIdentity => "check-identity",
            Phase::CheckSequence => "check-sequence",
            Phase::CheckMemory => "check-memory",
            Phase::ResolveImports => "resolve-imports",
            Phase::Place => "place",
            Phase::Write => "write",
            Phase::Protect => "protect",
            Phase::RegisterUnwind => "register-unwind",
            Phase::RegisterCallTargets => "register-call-targets",
            Phase::Suspend => "suspend",
            Phase::CheckThreads => "check-threads",
            Phase::CheckSites => "check-sites",
            Phase::Commit => "commit",
            Phase::Resume => "resume",
        }
    }

    pub(crate) fn ask(self, hook: &dyn Fn(Phase) -> bool) -> Result<(), ApplyError> {
        if hook(self) { Ok(()) } else { Err(ApplyError::Stopped(self.name())) }
    }
}

/// How to apply.
pub struct ApplyOptions<'a> {
    /// Whom to trust.
    pub trust: Trust<'a>,
    /// How long to wait for a moment at which no thread is in the way.
    pub time_limit: Duration,
    /// Asked before each phase; false stops there with [`ApplyError::Stopped`], and everything is undone.
    pub hook: &'a dyn Fn(Phase) -> bool,
}

impl Default for ApplyOptions<'_> {
    /// Nobody is trusted; five seconds.
    fn default() -> Self {
        ApplyOptions { trust: Trust::default(), time_limit: Duration::from_secs(5), hook: &|_| true }
    }
}

/// A patch is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its sequence.
    pub sequence: u32,
    /// Address of the base image (VA).
    pub base_address: u64,
    /// Address of the patch image (VA).
    pub patch_address: u64,
    /// Address of the record (VA).
    pub record_address: u64,
    /// Redirected entries.
    pub entries: usize,
    /// Who signed it.
    pub signer: Option<String>,
    /// The sequence that was active before.
    pub superseded: Option<u32>,
    /// The image was still in memory from an earlier time.
    pub reused: bool,
    /// For how long the threads stood still.
    pub pause: Duration,
    /// Attempts to find a safe moment, the successful one included.
    pub attempts: u32,
}

/// Apply `patch` to the image at `image_base`. An error means that no code of the target was changed,
/// but for [`ApplyError::ChangedAfterwards`] and [`ApplyError::Repair`].
///
/// A patch that supersedes another one takes its place in one transition: entries that only the old one had are
/// restored. The old one's image stays mapped, because frames may be in it.
pub fn apply(
    space: &mut dyn AddressSpace,
    image_base: u64,
    patch: &PatchFile,
    options: &ApplyOptions<'_>,
) -> Result<Applied, ApplyError> {
    let hook = options.hook;
    let graft = patch.graft();

    Phase::CheckPolicy.ask(hook)?;
    let signer = policy::check(patch, &options.trust)?;

    Phase::CheckIdentity.ask(hook)?;
    let base = MappedImage::read(space, image_base)?;
    identity::check_headers(&base, &graft.base)?;

    Phase::CheckSequence.ask(hook)?;
    let records = lineage::records(space, &base)?;
    let active = lineage::active(space, &records)?;
    check_sequence(patch, active.as_ref())?;

    Phase::CheckMemory.ask(hook)?;
    let entries = record::entries(graft);
    let from = active.as_ref().map(|found| found.record.redirects()).unwrap_or_default();
    {
        // The address of the patch does not matter for what the sites hold now.
        let to = entries.iter().map(|entry| redirect::of_entry(entry, image_base, image_base)).collect();
        let transition = Transition { from: from.clone(), to };
        transition.check_sites(space)?;
        identity::check_guarded(space, &base, graft, &transition.originals())?;
    }

    Phase::ResolveImports.ask(hook)?;
    let image = pe::expand(patch.bytes(), patch.headers()).map_err(PatchError::Image)?;
    let imports = place::resolve_imports(space, patch, &image)?;

    let previous = active.as_ref().map(|found| Previous { sequence: found.record.sequence, record: found.address });
    let job = Job { patch, base: &base, image, imports, signer: signer.clone(), previous };
    let reused = job.find_placed(space, &records)?;
    let mut placed = match &reused {
        Some(found) => Placed::of(found),
        None => job.place(space, hook)?,
    };
    let outcome = (|| {
        if reused.is_none() {
            placed.register(space, patch, hook)?;
        }
        let own = graft.hooks.as_ref().map(|hooks| hooks.entries.as_slice()).unwrap_or_default();
        hooks::run(space, placed.patch, own, HookPoint::PreApply)?;
        let to = entries.iter().map(|entry| redirect::of_entry(entry, image_base, placed.patch)).collect();
        let mut transition = Transition { from, to };
        let pause = transition.run(space, options.time_limit, hook)?;
        if let Err(error) = hooks::run(space, placed.patch, own, HookPoint::PostApply) {
            std::mem::swap(&mut transition.from, &mut transition.to);
            let active = transition.run(space, options.time_limit, hook).is_err();
            return Err(ApplyError::Repair { reason: error.to_string(), active });
        }
        Ok(pause)
    })();
    match outcome {
        Ok(pause) => Ok(Applied {
            sequence: graft.sequence,
            base_address: image_base,
            patch_address: placed.patch,
            record_address: placed.allocation,
            entries: entries.len(),
            signer,
            superseded: active.map(|found| found.record.sequence),
            reused: reused.is_some(),
            pause: pause.pause,
            attempts: pause.attempts,
        }),
        Err(error) => {
            // Code may lead there where it was changed once more after it was patched, and threads may have been in a patch that
            // was taken back.
            let left = matches!(error, ApplyError::ChangedAfterwards { .. } | ApplyError::Repair { .. });
            if reused.is_none() && !left {
                placed.release(space);
            }
            Err(error)
        }
    }
}

fn check_sequence(patch: &PatchFile, active: Option<&Found>) -> Result<(), ApplyError> {
    let offered = patch.graft().sequence;
    let applied = active.map(|found| found.record.sequence);
    match applied {
        Some(sequence) if sequence == offered => return Err(ApplyError::AlreadyApplied { sequence }),
        Some(applied) if applied > offered => return Err(ApplyError::Stale { applied, offered }),
        _ => {}
    }
    let needed = patch.info().min_sequence;
    if needed > applied.unwrap_or(0) {
        return Err(ApplyError::MissingPredecessor { needed, applied });
    }
    let Some(found) = active else {
        return Ok(());
    };
    if let Some(reason) = &found.record.irrevertible {
        let kept = |rva| patch.replaced().any(|(_, entry, _)| entry == rva);
        if let Some(entry) = found.record.entries.iter().find(|entry| !kept(entry.base_rva)) {
            return Err(ApplyError::Irrevertible {
                sequence: found.record.sequence,
                reason: format!("the new patch would restore {}, but: {reason}", entry.name),
            });
        }
    }
    Ok(())
}

/// What is to be placed.
struct Job<'a> {
    patch: &'a PatchFile,
    base: &'a MappedImage,
    /// Laid out, not finished.
    image: Vec<u8>,
    imports: Vec<Resolved>,
    signer: Option<String>,
    previous: Option<Previous>,
}

/// A placed patch.
struct Placed {
    allocation: u64,
    size: u64,
    patch: u64,
    /// Address of the registered unwind table.
    unwind: Option<u64>,
}

impl Job<'_> {
    fn record_at(&self, patch_address: u64) -> Record {
        Record::new(self.patch, self.base.base, patch_address, self.signer.clone(), self.previous.clone())
    }

    /// An image of the same patch that is still mapped since it was rolled back: used again, so that a long-lived
    /// process does not collect images. Its writable data keeps its values, because old frames may still use them.
    fn find_placed(&self, space: &dyn AddressSpace, records: &[Found]) -> Result<Option<Found>, ApplyError> {
        for found in records {
            if found.record != self.record_at(found.record.patch_address) {
                continue;
            }
            let at = found.record.patch_address;
            let mut image = self.image.clone();
            place::finish(space, self.patch, self.base, &self.imports, &mut image, at)?;
            let same = place::protections(self.patch)
                .into_iter()
                .filter(|&(.., protection)| protection != Protection::ReadWrite)
                .map(|(rva, size, _)| {
                    let end = (rva + size).min(image.len() as u32);
                    let bytes = &image[rva.min(end) as usize..end as usize];
                    read_bytes(space, at + rva as u64, bytes.len()).map(|seen| seen == bytes)
                })
                .collect::<Result<Vec<bool>, _>>();
            if same.is_ok_and(|same| same.into_iter().all(|same| same)) {
                return Ok(Some(found.clone()));
            }
        }
        Ok(None)
    }

    /// Map, write, protect.
    fn place(&self, space: &mut dyn AddressSpace, hook: &dyn Fn(Phase) -> bool) -> Result<Placed, ApplyError> {
        Phase::Place.ask(hook)?;
        // Addresses are numbers in the record: leave room for longer ones than those known now.
        let record_size = record::pages(&vec![0; self.record_at(u64::MAX >> 16).to_bytes().len()]);
        let size = record_size + self.patch.headers().image_size as u64;
        let reach = place::reach(self.base);
        let too_far = |_| ApplyError::TooFar { base: self.base.base, size };
        let allocation = space.map(size, reach).map_err(too_far)?;
        let placed = Placed { allocation, size, patch: allocation + record_size, unwind: None };
        match self.fill(space, &placed, hook) {
            Ok(()) => Ok(placed),
            Err(error) => {
                placed.release(space);
                Err(error)
            }
        }
    }

    fn fill(
        &self,
        space: &mut dyn AddressSpace,
        placed: &Placed,
        hook: &dyn Fn(Phase) -> bool,
    ) -> Result<(), ApplyError> {
        let mut image = self.image.clone();
        place::finish(space, self.patch, self.base, &self.imports, &mut image, placed.patch)?;
        Phase::Write.ask(hook)?;
        space.write(placed.patch, &image)?;
        // The payload is padded with spaces, so that the image begins where the record ends.
        let record = self.record_at(placed.patch).to_padded_bytes(placed.patch - placed.allocation);
        space.write(placed.allocation, &record)?;
        Phase::Protect.ask(hook)?;
        for (rva, size, protection) in place::protections(self.patch) {
            if protection != Protection::ReadWrite {
                space.protect(placed.patch + rva as u64, size as u64, protection)?;
            }
        }
        space.flush(placed.patch, image.len() as u64)?;
        // Last: a record that can be found belongs to an image that is complete.
        space.protect(placed.allocation, placed.patch - placed.allocation, Protection::Read)?;
        Ok(())
    }
}

impl Placed {
    fn of(found: &Found) -> Placed {
        Placed { allocation: found.address, size: 0, patch: found.record.patch_address, unwind: None }
    }

    fn register(
        &mut self,
        space: &mut dyn AddressSpace,
        patch: &PatchFile,
        hook: &dyn Fn(Phase) -> bool,
    ) -> Result<(), ApplyError> {
        Phase::RegisterUnwind.ask(hook)?;
        if let Some((rva, count)) = patch.unwind_table() {
            let table = self.patch + rva as u64;
            space.register_unwind(self.patch, table, count)?;
            self.unwind = Some(table);
        }
        Phase::RegisterCallTargets.ask(hook)?;
        let targets = patch.call_targets();
        if !targets.is_empty() {
            space.register_call_targets(self.patch, patch.headers().image_size as u64, &targets)?;
        }
        Ok(())
    }

    /// Nothing leads here yet: give it all back.
    fn release(&self, space: &mut dyn AddressSpace) {
        if let Some(table) = self.unwind
            && space.unregister_unwind(table).is_err()
        {
            // The system would read the table of memory that is gone.
            return;
        }
        let _ = space.unmap(self.allocation, self.size);
    }
}
