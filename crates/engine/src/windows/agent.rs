//! Our side of the agent: start it in the target, give it commands, read its answers.

use std::cell::Cell;
use std::time::Duration;

use super::stub::{self, Command, at, flag, status, thread};
use super::sys::{self, Handle, Result, Shared, access};
use crate::exchange::{Exchange, Exchanged, Forbidden, pages};
use crate::space::{CodeWrite, PAGE, SpaceError};

/// Bytes of the memory that is shared with the agent: block, lists, threads, copies of stacks.
const SIZE: u64 = 0x40_0000;
/// Offsets in it.
const CONTEXT: u64 = 0x400;
const DATA: u64 = 0x1000;
const DATA_SIZE: u64 = 0x4_0000;
const FOUND: u64 = DATA + DATA_SIZE;
const THREADS: u64 = FOUND + CAPACITY * 8;
const CAPACITY: u64 = 4096;
const STACKS: u64 = THREADS + CAPACITY * thread::SIZE;
/// For how long an answer is waited for. Calls load DLLs, which can take a while.
const PATIENCE: Duration = Duration::from_secs(10);
/// PAGE_EXECUTE_READ.
const EXECUTE_READ: u32 = 0x20;

/// A thread of ours in the target.
#[derive(Debug)]
pub(super) struct Agent {
    code: u64,
    shared: Shared,
    thread: Handle,
    request: Handle,
    reply: Handle,
    /// False once it did not answer in time: its memory must stay then.
    answers: Cell<bool>,
}

/// A thread that was looked at.
#[derive(Clone, Debug)]
pub(super) struct Looked {
    pub id: u32,
    pub ip: u64,
    pub sp: u64,
    /// The stack from the stack pointer to its start; empty if it could not be copied.
    pub stack: Vec<u8>,
}

/// What the agent needs to know besides the exchange itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Whole,
    /// Stop all threads and let them go, nothing else.
    Floor,
}

fn refused<T>(operation: &'static str, message: impl Into<String>) -> Result<T> {
    Err(SpaceError { operation, address: 0, size: 0, message: message.into() })
}

impl Agent {
    /// Start the agent. `resolve` gives addresses of ntdll's functions in the target. On an error nothing of it stays there,
    /// unless its thread has begun and does not answer.
    pub fn start(process: &Handle, resolve: impl Fn(&str) -> Result<u64>) -> Result<Agent> {
        let shared = Shared::new(process, SIZE as usize)?;
        let set = |offset: u64, value: u64| shared.write(offset, &value.to_le_bytes());
        let (mut given, mut placed) = (Vec::new(), None);
        let started = (|| {
            for (index, name) in stub::FUNCTIONS.iter().enumerate() {
                set(at::FUNCTIONS + index as u64 * 8, resolve(name)?);
            }
            set(at::CAPACITY, CAPACITY);
            set(at::THREADS, shared.theirs + THREADS);
            set(at::FOUND, shared.theirs + FOUND);
            set(at::STACKS, shared.theirs + STACKS);
            set(at::STACKS_END, shared.theirs + SIZE);
            set(at::CONTEXT, shared.theirs + CONTEXT);
            let (request, reply) = (sys::event()?, sys::event()?);
            let mut give = |offset: u64, handle: Result<u64>| {
                given.push(handle?);
                set(offset, given[given.len() - 1]);
                Ok(())
            };
            give(at::REQUEST, sys::give(process, &request, access::EVENT))?;
            give(at::OWNER, sys::give_self(process))?;
            give(at::REPLY, sys::give(process, &reply, access::EVENT))?;
            let code = sys::allocate(process, 0, PAGE)?;
            placed = Some(code);
            let bytes = stub::code();
            sys::write(process, code, &bytes)?;
            sys::protect(process, code, PAGE, EXECUTE_READ)?;
            sys::flush(process, code, bytes.len() as u64)?;
            let thread = sys::create_thread(process, code, shared.theirs)?;
            Ok((code, thread, request, reply))
        })();
        let (code, thread, request, reply) = match started {
            Ok(started) => started,
            Err(error) => {
                given.into_iter().for_each(|handle| sys::take_back(process, handle));
                if let Some(code) = placed {
                    let _ = sys::free(process, code);
                }
                shared.release(process);
                return Err(error);
            }
        };
        sys::hurry(&thread);
        let agent = Agent { code, shared, thread, request, reply, answers: Cell::new(true) };
        // A first command shows that it runs: a new thread waits for the loader lock.
        if let Err(error) = agent.command(process, Command::Hello) {
            agent.stop(process);
            let message = format!("{} (a thread of the target may hold the loader lock)", error.message);
            return Err(SpaceError { message, ..error });
        }
        Ok(agent)
    }

    /// False once it did not answer in time.
    pub fn answers(&self) -> bool {
        self.answers.get()
    }

    fn word(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.shared.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn set(&self, offset: u64, value: u64) {
        self.shared.write(offset, &value.to_le_bytes());
    }

    fn status(&self) -> u32 {
        (self.word(at::COMMAND) >> 32) as u32
    }

    fn command(&self, process: &Handle, command: Command) -> Result<()> {
        match self.ask(process, command)? {
            0 => Ok(()),
            status => refused("agent", format!("{command:?}: NTSTATUS {status:#010x}")),
        }
    }

    /// Give a command and wait for its status.
    fn ask(&self, process: &Handle, command: Command) -> Result<u32> {
        if !self.answers.get() {
            return refused("ask the agent", "it did not answer before");
        }
        self.set(at::COMMAND, u64::from(status::PENDING) << 32 | command as u64);
        self.shared.exchange(at::STATE, u64::MAX, 0);
        sys::set_event(&self.request)?;
        let mut answered = sys::wait(&[&self.reply, &self.thread, process], PATIENCE.as_millis() as u32);
        if answered.is_none() && self.status() != status::PENDING {
            // The wait failed, not the agent.
            answered = Some(0);
        }
        if answered.is_none() && self.shared.exchange(at::STATE, 0, 2) == 1 {
            // It is writing: that takes no time at all, once it comes to run.
            answered = sys::wait(&[&self.reply, &self.thread, process], PATIENCE.as_millis() as u32);
        }
        match answered {
            Some(0) => Ok(self.status()),
            Some(_) => refused("ask the agent", "the target or its agent thread has ended"),
            None => {
                // Whatever it does once it runs: nothing but end. What it has suspended runs again then.
                self.answers.set(false);
                self.shared.write(at::COMMAND, &(Command::Exit as u32).to_le_bytes());
                refused("ask the agent", format!("no answer within {} s", PATIENCE.as_secs()))
            }
        }
    }

    /// Look at all other threads, one at a time.
    pub fn look(&self, process: &Handle) -> Result<Vec<Looked>> {
        self.set(at::FLAGS, 0);
        self.command(process, Command::Look)?;
        let count = self.word(at::LOOKED).min(CAPACITY);
        let mut entry = [0; thread::SIZE as usize];
        let word = |entry: &[u8], at: usize| entry[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or(0);
        let mut all = Vec::new();
        for index in 0..count {
            self.shared.read(THREADS + index * thread::SIZE, &mut entry);
            if word(&entry, thread::STATE) as u32 != 0 {
                // It has ended.
                continue;
            }
            let size = word(&entry, thread::STACK_SIZE).min(SIZE - STACKS);
            let mut stack = vec![0; size as usize];
            self.shared.read(word(&entry, thread::COPY).wrapping_sub(self.shared.theirs), &mut stack);
            all.push(Looked {
                id: word(&entry, thread::ID) as u32,
                ip: word(&entry, thread::IP),
                sp: word(&entry, thread::SP),
                stack,
            });
        }
        Ok(all)
    }

    /// Lists for an exchange.
    fn lists(&self, exchange: &Exchange<'_>) -> Result<()> {
        let mut lists = Lists { at: self.shared.theirs + DATA, bytes: Vec::new() };
        let forbidden = lists.words(exchange.forbidden.iter().flat_map(|range| {
            let ([a, b], [c, d]) = (range.harmless_ips, range.harmless_returns);
            [range.start, range.end, a, b, c, d]
        }));
        // Page by page, because the old protection is restored as it was on each.
        let single: Vec<u64> = pages(exchange.writes)
            .iter()
            .flat_map(|&(start, size)| (start..start + size).step_by(PAGE as usize))
            .collect();
        let pages_at = lists.words(single.iter().flat_map(|&page| [page, PAGE, 0, 0]));
        let expected = lists.at_addresses(exchange.expected);
        let writes = lists.at_addresses(exchange.writes);
        if lists.bytes.len() as u64 > DATA_SIZE {
            return refused("exchange", format!("{} writes are more than fit", exchange.writes.len()));
        }
        self.shared.write(DATA, &lists.bytes);
        let count = |list: usize| list as u64;
        for (offset, value) in [
            (at::FORBIDDEN, forbidden),
            (at::FORBIDDEN_COUNT, count(exchange.forbidden.len())),
            (at::LOW, exchange.forbidden.iter().map(|range| range.start).min().unwrap_or(u64::MAX)),
            (at::HIGH, exchange.forbidden.iter().map(|range| range.end).max().unwrap_or(0)),
            (at::PAGES, pages_at),
            (at::PAGE_COUNT, count(single.len())),
            (at::EXPECTED, expected),
            (at::EXPECTED_COUNT, count(exchange.expected.len())),
            (at::WRITES, writes),
            (at::WRITE_COUNT, count(exchange.writes.len())),
            (at::WRITTEN, 0),
        ] {
            self.set(offset, value);
        }
        Ok(())
    }

    /// Stop all threads, check, write, let them go.
    pub fn exchange(&self, process: &Handle, exchange: &Exchange<'_>, depth: Depth) -> Result<Exchanged> {
        self.lists(exchange)?;
        self.set(at::FLAGS, if depth == Depth::Floor { flag::FLOOR } else { 0 });
        let status = self.ask(process, Command::Exchange)?;
        let index = |offset| usize::try_from(self.word(offset)).unwrap_or(usize::MAX);
        match status {
            status::IN_THE_WAY => Ok(Exchanged::InTheWay {
                thread: self.word(at::OUT_THREAD) as u32,
                address: self.word(at::OUT_ADDRESS),
                range: index(at::OUT_INDEX).min(exchange.forbidden.len().saturating_sub(1)),
            }),
            status::CHANGED => Ok(Exchanged::Changed { index: index(at::OUT_INDEX) }),
            0 => Ok(self.done()),
            // The writes are made, but a page is still open: the last to try is this process.
            _ if self.word(at::WRITTEN) != 0 => {
                for &(address, size) in &pages(exchange.writes) {
                    sys::protect(process, address, size, EXECUTE_READ)?;
                }
                Ok(self.done())
            }
            status => refused("exchange", format!("NTSTATUS {status:#010x}")),
        }
    }

    fn done(&self) -> Exchanged {
        let ticks = self.word(at::END).saturating_sub(self.word(at::START));
        Exchanged::Done { pause: sys::duration_of_ticks(ticks) }
    }

    /// Whether a thread is in a forbidden range: where.
    pub fn probe(&self, process: &Handle, thread: u32, forbidden: &[Forbidden]) -> Result<Option<u64>> {
        self.lists(&Exchange { forbidden, ..Exchange::default() })?;
        self.set(at::FLAGS, flag::PROBE);
        self.set(at::ONLY, thread.into());
        match self.ask(process, Command::Look)? {
            0 => Ok(None),
            status::IN_THE_WAY => Ok(Some(self.word(at::OUT_ADDRESS))),
            status => refused("look at a thread", format!("NTSTATUS {status:#010x}")),
        }
    }

    /// Call a function of the target.
    pub fn call(&self, process: &Handle, function: u64, arguments: &[u64]) -> Result<u64> {
        self.set(at::FUNCTION, function);
        for index in 0..6 {
            self.set(at::ARGUMENTS + index as u64 * 8, arguments.get(index).copied().unwrap_or(0));
        }
        self.command(process, Command::Call)?;
        Ok(self.word(at::RESULT))
    }

    /// Put arguments of a call where the target finds them; returns their address there.
    pub fn put(&self, bytes: &[u8]) -> u64 {
        self.shared.write(DATA, bytes);
        self.shared.theirs + DATA
    }

    /// A word of what was put.
    pub fn result(&self, offset: u64) -> u64 {
        self.word(DATA + offset)
    }

    /// End it and give its memory back.
    pub fn stop(self, process: &Handle) {
        self.shared.write(at::COMMAND, &(Command::Exit as u32).to_le_bytes());
        let asked = sys::set_event(&self.request).is_ok();
        if asked && self.answers.get() && sys::wait(&[&self.thread], PATIENCE.as_millis() as u32).is_some() {
            let _ = sys::free(process, self.code);
            self.shared.release(process);
        }
        // Else its memory stays: a thread may still come to run there.
    }
}

/// Lists that the agent reads.
struct Lists {
    /// Where the first byte lies in the target (VA).
    at: u64,
    bytes: Vec<u8>,
}

impl Lists {
    /// Where the next byte comes to lie.
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    /// Add words; returns where they lie.
    fn words(&mut self, words: impl Iterator<Item = u64>) -> u64 {
        let at = self.end();
        words.for_each(|word| self.bytes.extend_from_slice(&word.to_le_bytes()));
        at
    }

    /// Add address, place and size of each; returns where that lies.
    fn at_addresses(&mut self, all: &[CodeWrite]) -> u64 {
        let mut place = self.end() + all.len() as u64 * 24;
        let mut words = Vec::with_capacity(all.len() * 3);
        for one in all {
            words.extend([one.address, place, one.bytes.len() as u64]);
            place += one.bytes.len() as u64;
        }
        let at = self.words(words.into_iter());
        all.iter().for_each(|one| self.bytes.extend_from_slice(&one.bytes));
        // The next list begins at a multiple of eight.
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        at
    }
}
