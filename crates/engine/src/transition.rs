//! From one set of redirects to another: find a moment at which no thread stands where bytes change, and change them
//! all at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::apply::Phase;
use crate::error::ApplyError;
use crate::identity::hex;
use crate::lineage::describe;
use crate::memory::read_bytes;
use crate::redirect::{Redirect, jump_target};
use crate::space::{AddressSpace, CodeWrite, ThreadState};

/// Asked before each phase; false stops there.
pub(crate) type Hook<'a> = &'a dyn Fn(Phase) -> bool;

/// A range that no thread may be in.
#[derive(Clone, Debug)]
struct Forbidden {
    /// First and one past the last address (VA).
    range: (u64, u64),
    /// Addresses in it at which an instruction pointer does no harm: whole instructions begin there before and after.
    harmless: [u64; 2],
    function: String,
}

/// How the pause went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pause {
    /// Time for which the threads of the successful attempt stood still.
    pub pause: Duration,
    /// Attempts, the successful one included.
    pub attempts: u32,
}

/// The redirects before and after.
pub(crate) struct Transition<'a> {
    pub from: Vec<Redirect<'a>>,
    pub to: Vec<Redirect<'a>>,
}

/// Resumes on every way out.
struct Suspended<'a> {
    space: &'a mut dyn AddressSpace,
    active: bool,
}

impl Suspended<'_> {
    fn resume(mut self) -> Result<(), ApplyError> {
        self.active = false;
        Ok(self.space.resume()?)
    }
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        if self.active {
            let _ = self.space.resume();
        }
    }
}

impl Transition<'_> {
    fn all(&self) -> impl Iterator<Item = &Redirect<'_>> {
        self.from.iter().chain(&self.to)
    }

    /// Bytes of all sites: (before, after).
    fn bytes(&self) -> (BTreeMap<u64, u8>, BTreeMap<u64, u8>) {
        let mut original = BTreeMap::new();
        self.all().for_each(|redirect| redirect.put_original(&mut original));
        let (mut before, mut after) = (original.clone(), original);
        self.from.iter().for_each(|redirect| redirect.put_redirect(&mut before));
        self.to.iter().for_each(|redirect| redirect.put_redirect(&mut after));
        (before, after)
    }

    /// The original bytes under the redirects that are active before.
    pub fn originals(&self) -> BTreeMap<u64, u8> {
        let mut bytes = BTreeMap::new();
        self.from.iter().for_each(|redirect| redirect.put_original(&mut bytes));
        bytes
    }

    /// The changed bytes as writes: what lies in front of an entry first, so that an entry never leads to padding that
    /// is not ready; on the way back the entries first.
    fn writes(&self) -> Vec<CodeWrite> {
        let (before, after) = self.bytes();
        let entries: Vec<u64> = self.all().map(Redirect::entry_address).collect();
        let mut writes: Vec<CodeWrite> = Vec::new();
        for (&address, &byte) in &after {
            if before.get(&address) == Some(&byte) {
                continue;
            }
            match writes.last_mut() {
                Some(last) if last.address + last.bytes.len() as u64 == address && !entries.contains(&address) => {
                    last.bytes.push(byte);
                }
                _ => writes.push(CodeWrite { address, bytes: vec![byte] }),
            }
        }
        let redirected: Vec<u64> = self.to.iter().map(Redirect::entry_address).collect();
        writes.sort_by_key(|write| {
            let at_entry = entries.iter().any(|&entry| write.address >= entry && write.address < entry + 5);
            let in_front_of = entries.iter().find(|&&entry| write.address < entry && entry <= write.address + 5);
            let on_the_way_back = in_front_of.is_some_and(|entry| !redirected.contains(entry));
            (at_entry as u8 + 2 * on_the_way_back as u8, write.address)
        });
        writes
    }

    /// Every site must hold what it holds before, else somebody else was there.
    pub fn check_sites(&self, space: &dyn AddressSpace) -> Result<(), ApplyError> {
        let (before, _) = self.bytes();
        for redirect in self.all() {
            let site = redirect.site();
            let size = redirect.entry.expected.len();
            let found = read_bytes(space, site, size)?;
            let expected: Vec<u8> = before.range(site..site + size as u64).map(|(_, &byte)| byte).collect();
            if found == expected {
                continue;
            }
            let entry = redirect.entry_address();
            let at = (entry - site) as usize;
            let leads_to = jump_target(entry, &found[at..], &found[..at]);
            return Err(ApplyError::ForeignHook {
                function: redirect.entry.name.clone(),
                address: site,
                expected: hex(&expected),
                found: hex(&found),
                leads_to: leads_to.map(|address| describe(space, address)),
            });
        }
        Ok(())
    }

    fn forbidden(&self, writes: &[CodeWrite]) -> Vec<Forbidden> {
        let mut all = Vec::new();
        for redirect in self.all() {
            let entry = redirect.entry_address();
            let (before, after) = crate::redirect::extent(redirect.entry.method);
            // The bytes of the redirect as a whole: a jump whose distance alone changes must not be torn either.
            let range = (entry - before, entry + after);
            let changes =
                |write: &CodeWrite| write.address < range.1 && write.address + write.bytes.len() as u64 > range.0;
            if writes.iter().any(changes) {
                all.push(Forbidden { range, harmless: [entry, range.0], function: redirect.entry.name.clone() });
            }
        }
        let kept = |redirect: &Redirect<'_>, others: &[Redirect<'_>]| {
            others.iter().any(|o| o.entry.base_rva == redirect.entry.base_rva && o.target() == redirect.target())
        };
        for redirect in self.to.iter().filter(|redirect| redirect.entry.quiesce && !kept(redirect, &self.from)) {
            let entry = redirect.entry_address();
            let range = (entry, entry + redirect.entry.base_size as u64);
            all.push(Forbidden { range, harmless: [entry; 2], function: redirect.entry.name.clone() });
            for old in self.from.iter().filter(|old| old.entry.base_rva == redirect.entry.base_rva) {
                all.push(replacement(old));
            }
        }
        for old in self.from.iter().filter(|old| old.entry.quiesce && !kept(old, &self.to)) {
            all.push(replacement(old));
        }
        all
    }

    /// Wait for a safe moment and make the change. On any error the code is what it was.
    pub fn run(&self, space: &mut dyn AddressSpace, time_limit: Duration, hook: Hook<'_>) -> Result<Pause, ApplyError> {
        let writes = self.writes();
        let forbidden = self.forbidden(&writes);
        let started = Instant::now();
        let mut wait = Duration::from_millis(1);
        let mut attempts = 0;
        loop {
            attempts += 1;
            Phase::Suspend.ask(hook)?;
            space.prepare()?;
            let stopped = Instant::now();
            let threads = space.suspend()?;
            let suspended = Suspended { space, active: true };
            Phase::CheckThreads.ask(hook)?;
            let in_the_way = in_the_way(&threads, &forbidden);
            if in_the_way.is_none() {
                Phase::CheckSites.ask(hook)?;
                self.check_sites(suspended.space)?;
                Phase::Commit.ask(hook)?;
                suspended.space.commit(&writes)?;
                hook(Phase::Resume);
                // From here on the patch is active: a failure to resume is reported, but undoes nothing.
                suspended.resume()?;
                return Ok(Pause { pause: stopped.elapsed(), attempts });
            }
            suspended.resume()?;
            let waited = started.elapsed();
            if let Some((thread, address, function)) = in_the_way
                && waited >= time_limit
            {
                return Err(ApplyError::ThreadInTheWay { thread, function, address, attempts, waited });
            }
            std::thread::sleep(wait.min(time_limit.saturating_sub(waited)));
            wait = (wait * 2).min(Duration::from_millis(50));
        }
    }
}

/// The replacement that an old redirect leads to.
fn replacement(old: &Redirect<'_>) -> Forbidden {
    let target = old.target();
    Forbidden {
        range: (target, target + old.entry.patch_size as u64),
        // Even at its first instruction a thread would run the old replacement.
        harmless: [u64::MAX; 2],
        function: old.entry.name.clone(),
    }
}

/// The first thread that is in a forbidden range: (thread, address, function).
fn in_the_way(threads: &[ThreadState], forbidden: &[Forbidden]) -> Option<(u32, u64, String)> {
    for thread in threads {
        for range in forbidden {
            let inside = |address: u64| address >= range.range.0 && address < range.range.1;
            if inside(thread.ip) && !range.harmless.contains(&thread.ip) {
                return Some((thread.id, thread.ip, range.function.clone()));
            }
            if let Some(&address) = thread.return_addresses.iter().find(|&&address| inside(address)) {
                return Some((thread.id, address, range.function.clone()));
            }
        }
    }
    None
}
