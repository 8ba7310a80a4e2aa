"""One side of a comparison: an address space in an emulator that runs a function and tells what it did.

Memory that an input needs and nobody has laid out is made when it is touched, with contents that follow from the seed and
the address alone, so both sides see the same.
"""

import bisect
import random
import re
import struct

from unicorn import UC_ARCH_X86, UC_HOOK_BLOCK, UC_HOOK_MEM_UNMAPPED, UC_HOOK_MEM_WRITE, UC_MODE_64, Uc, UcError
from unicorn import UC_PROT_ALL
from unicorn import x86_const as x86

PAGE = 0x1000
STACK, STACK_SIZE = 0x0000_0600_0000_0000, 0x40000
TOP = STACK + STACK_SIZE - 0x8000
THREAD = 0x0000_0601_0000_0000
ARENA, ARENA_SIZE = 0x0000_0602_0000_0000, 0x20000
HEAP = 0x0000_0603_0000_0000
RETURN = 0x0000_0604_0000_0000
# Memory is made in these bounds alone. Elsewhere an access faults: what is computed from an address of an image would be
# another place on each side.
LOWEST, HIGHEST = 0x0000_0600_0000_0000, 0x0000_0700_0000_0000
# Calls that are answered in a run.
CALLS = 60

REGISTERS = [
    ("rax", x86.UC_X86_REG_RAX), ("rcx", x86.UC_X86_REG_RCX), ("rdx", x86.UC_X86_REG_RDX), ("rbx", x86.UC_X86_REG_RBX),
    ("rsp", x86.UC_X86_REG_RSP), ("rbp", x86.UC_X86_REG_RBP), ("rsi", x86.UC_X86_REG_RSI), ("rdi", x86.UC_X86_REG_RDI),
    ("r8", x86.UC_X86_REG_R8), ("r9", x86.UC_X86_REG_R9), ("r10", x86.UC_X86_REG_R10), ("r11", x86.UC_X86_REG_R11),
    ("r12", x86.UC_X86_REG_R12), ("r13", x86.UC_X86_REG_R13), ("r14", x86.UC_X86_REG_R14), ("r15", x86.UC_X86_REG_R15),
]
NUMBER = dict(REGISTERS)
KEPT = ["rbx", "rbp", "rsi", "rdi", "r12", "r13", "r14", "r15"]
ARGUMENTS = ["rcx", "rdx", "r8", "r9"]
VECTORS = [x86.UC_X86_REG_XMM0, x86.UC_X86_REG_XMM1, x86.UC_X86_REG_XMM2, x86.UC_X86_REG_XMM3]
EDGES = [0, 1, 2, 3, 4, 7, 8, 16, 32, 64, 100, 127, 128, 255, 256, 1000, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000,
         0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFE]


class Names:
    """What the addresses of one side are."""

    def __init__(self, entities, imports):
        self.entities = sorted(entities, key=lambda e: (e["address"], e["size"]))
        self.starts = [e["address"] for e in self.entities]
        self.imports = {i["address"]: f"{i['dll']}!{i['name']}" for i in imports}
        self.kinds = {e["key"]: e["kind"] for e in self.entities}
        self.code = {}
        for entity in self.entities:
            if entity["kind"] == "function":
                entity["whole"] = re.search(r" part \d+$", entity["key"]) is None
                self.code.setdefault(entity["address"], entity)

    def entities_at(self, value):
        """The things that an address lies in."""
        at = bisect.bisect_right(self.starts, value)
        near = self.entities[max(0, at - 6):at]
        return [e for e in near if e["address"] <= value < e["address"] + e["size"]]

    def readings(self, value):
        """Everything that an address can stand for: a place in something, and the end of what lies before it."""
        found = set()
        at = bisect.bisect_right(self.starts, value)
        for i in range(at - 1, max(-1, at - 6), -1):
            entity = self.entities[i]
            offset = value - entity["address"]
            if offset < max(entity["size"], 1) or offset == entity["size"]:
                if entity["kind"] == "function" and offset:
                    # Instructions of re-encoded code are elsewhere.
                    found.add((entity["key"], "inside"))
                else:
                    found.add((entity["key"], offset))
        return found


def contents(seed, address, size, constants=()):
    """Bytes of memory that the input makes: pointers, small numbers, text, noise and nothing, by words; and what the code
    compares with."""
    noise = random.Random(f"{seed} {address}")
    style = noise.random()
    letters = b"abcXYZ019 <>&;:/%=-._\"'\n" + bytes(c for c in constants if 0 < c < 256)
    words = []
    for _ in range(size // 8):
        draw = noise.random()
        if style < 0.25:
            words.append(int.from_bytes(bytes(noise.choice(letters) for _ in range(8)), "little"))
        elif constants and draw < 0.1:
            words.append(noise.choice(constants))
        elif draw < 0.45:
            words.append(ARENA + noise.randrange(0, ARENA_SIZE // 16) * 8)
        elif draw < 0.65:
            words.append(noise.randrange(0, 20))
        elif draw < 0.75:
            words.append(noise.randrange(0, 20) | noise.randrange(0, 20) << 32)
        elif draw < 0.85:
            words.append(0)
        elif draw < 0.95:
            words.append(noise.choice(EDGES))
        else:
            words.append(noise.getrandbits(64))
    return struct.pack(f"<{len(words)}Q", *words)


class Machine:
    """An address space, and the events of a run in it."""

    def __init__(self, regions, memory, names, limit):
        self.uc = Uc(UC_ARCH_X86, UC_MODE_64)
        self.names = names
        self.limit = limit
        self.images = []
        for region in regions:
            size = -(-region["size"] // PAGE) * PAGE
            data = memory[region["offset"]:region["offset"] + region["size"]]
            self.uc.mem_map(region["address"], size, UC_PROT_ALL)
            self.uc.mem_write(region["address"], data)
            self.images.append((region["address"], region["address"] + size, bytearray(data.ljust(size, b"\0"))))
        for address, size in ((STACK, STACK_SIZE), (THREAD, PAGE), (RETURN, PAGE)):
            self.uc.mem_map(address, size, UC_PROT_ALL)
        for page in sorted({address & ~(PAGE - 1) for address in names.imports}):
            self.uc.mem_map(page, PAGE, UC_PROT_ALL)
        self.made = []
        self.dirty = set()
        self.uc.hook_add(UC_HOOK_BLOCK, self.on_block)
        self.uc.hook_add(UC_HOOK_MEM_WRITE, self.on_write)
        self.uc.hook_add(UC_HOOK_MEM_UNMAPPED, self.on_unmapped)

    # -- what the emulator asks

    def on_block(self, uc, address, size, _):
        self.blocks += 1
        if address == RETURN:
            self.halt("return")
            return
        if self.blocks > self.limit:
            self.halt("limit")
            return
        came_from, self.last = self.last, address + size
        known = self.names.code.get(address)
        if known is not None and known["key"] == self.key and not self.started:
            # The way in: the entry in the base, the redirect, the body.
            self.started = address == self.body
        elif known is not None and known["whole"]:
            if not self.deep and (known["key"] != self.key or self.is_called(came_from)):
                self.halt("call")
                return
        elif not self.in_image(address):
            self.halt("call")
            return
        if any(start <= address < end for start, end in self.own):
            self.covered.add((address, size))

    def halt(self, why):
        self.stop = why
        self.uc.emu_stop()

    def is_called(self, came_from):
        """True after a call, and not after a jump: a function that jumps to its own entry has a loop there."""
        stack = self.uc.reg_read(x86.UC_X86_REG_RSP)
        return struct.unpack("<Q", self.uc.mem_read(stack, 8))[0] == came_from

    def in_image(self, address):
        return any(start <= address < end for start, end, _ in self.images)

    def on_write(self, uc, access, address, size, value, _):
        self.dirty.add(address & ~(PAGE - 1))
        if (address + size - 1) & ~(PAGE - 1) not in self.dirty:
            self.dirty.add((address + size - 1) & ~(PAGE - 1))
        if not STACK <= address < TOP:
            self.events.append(("write", address, size, value & (1 << 8 * min(size, 8)) - 1))

    def on_unmapped(self, uc, access, address, size, value, _):
        return all([self.touch(page) for page in {address, address + size - 1}])

    def page(self, page):
        key = (self.seed, page)
        if key not in self.cache:
            self.cache[key] = contents(self.seed, page, PAGE, self.constants)
        return self.cache[key]

    # -- a run

    def reset(self, fill):
        """Everything as it was, and variables filled as the input says."""
        for page in self.dirty:
            for start, end, data in self.images:
                if start <= page < end:
                    self.uc.mem_write(page, bytes(data[page - start:page - start + PAGE]))
        self.dirty.clear()
        for page in self.made:
            self.uc.mem_unmap(page, PAGE)
        self.made = []
        self.uc.mem_write(STACK, b"\x5a" * STACK_SIZE)
        thread = bytearray(contents(self.seed, THREAD, PAGE))
        thread[0x30:0x38] = struct.pack("<Q", THREAD)
        self.uc.mem_write(THREAD, bytes(thread))
        self.uc.reg_write(x86.UC_X86_REG_GS_BASE, THREAD)
        for address, data in fill:
            self.uc.mem_write(address, data)
            for page in range(address & ~(PAGE - 1), address + len(data), PAGE):
                self.dirty.add(page)

    def run(self, function, given, answer, cache):
        """Runs a function; the events, why it ended, and the registers then."""
        self.seed, self.cache, self.deep, self.constants = given.seed, cache, given.deep, given.constants
        self.key, self.own, self.body = function.key, function.own, function.body
        self.events, self.blocks, self.stop, self.started, self.last = [], 0, None, False, 0
        self.covered, self.heap = set(), HEAP
        self.reset(function.fill(given))
        uc = self.uc
        for name, number in REGISTERS:
            uc.reg_write(number, given.registers[name])
        for number, value in zip(VECTORS, given.vectors):
            uc.reg_write(number, value)
        uc.reg_write(x86.UC_X86_REG_EFLAGS, 0x202)
        uc.mem_write(TOP, struct.pack(f"<{len(given.stack) + 1}Q", RETURN, *given.stack))
        uc.reg_write(x86.UC_X86_REG_RSP, TOP)
        at, answered = function.entry, 0
        while True:
            self.stop = None
            try:
                uc.emu_start(at, 0xFFFF_FFFF_FFFF_FFFF)
            except UcError:
                self.stop = "fault"
            if self.stop != "call":
                break
            at = answer(self, answered, given)
            answered += 1
            if at is None or answered > CALLS:
                self.stop = "wild" if self.stop == "wild" else "end"
                break
            # What comes back from a call that nothing comes back from has no meaning.
            if not self.deep and not any(start <= at < end for start, end in self.own) and at != RETURN:
                self.stop = "end"
                break
            self.last = 0
        ended = {name: uc.reg_read(number) for name, number in REGISTERS}
        return self.events, self.stop, ended, uc.reg_read(VECTORS[0]), self.blocks

    def is_wild(self, address):
        """True for an address where no code can be meant: neither in an image, nor imported, nor one that the input gave."""
        given = ARENA <= address < ARENA + ARENA_SIZE or address in self.names.imports
        return not (given or self.in_image(address))

    def in_reach(self, address):
        """True for an address of an image, its end included."""
        return any(start <= address <= end for start, end, _ in self.images)

    def poke(self, address, data):
        """Changes an image for good."""
        for start, end, image in self.images:
            if start <= address < end:
                image[address - start:address - start + len(data)] = data
        self.uc.mem_write(address, data)
        self.uc.ctl_remove_cache(address & ~(PAGE - 1), (address + 2 * PAGE) & ~(PAGE - 1))

    def touch(self, address):
        """Makes memory where the input has none yet."""
        page = address & ~(PAGE - 1)
        if not LOWEST <= page < HIGHEST or len(self.made) > 256:
            return False
        try:
            self.uc.mem_map(page, PAGE, UC_PROT_ALL)
        except UcError:
            return True
        self.made.append(page)
        self.uc.mem_write(page, self.page(page))
        return True

    def fetch(self, address, size):
        """Memory of the program, made where there is none; None where none can be."""
        for page in range(address & ~(PAGE - 1), address + size, PAGE):
            if not self.in_image(page) and not self.touch(page):
                return None
        return self.read(address, size)

    def write(self, address, data):
        """Writes what a callee writes."""
        if not data or self.fetch(address, len(data)) is None:
            return
        self.uc.mem_write(address, data)
        self.dirty.update(range(address & ~(PAGE - 1), address + len(data), PAGE))

    def read(self, address, size):
        """Memory, or as much as there is."""
        try:
            return bytes(self.uc.mem_read(address, size))
        except UcError:
            return None
