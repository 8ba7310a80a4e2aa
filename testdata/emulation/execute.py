"""Runs what a patch replaces beside the new image, on generated inputs, and demands that both do the same.

execute.py DIR [--inputs N] [--mutants N] [--repaired]: DIR is what `hotgraft lay-out` wrote. One JSON document on stdout.

A run is a sequence of events (calls with their arguments and what these point to, writes outside of the own stack) and an
end (why, the result, the registers that callees keep). Calls are answered by rule, not run; in every fourth input the
images' own callees are run too, and only what leaves the image is answered. Addresses of the images are compared by what
they are: the names that both sides share.
"""

import argparse
import functools
import json
import os
import random
import re
import struct
import sys

import capstone
import capstone.x86
from unicorn import x86_const as x86

import machine
from machine import ARENA, ARENA_SIZE, ARGUMENTS, EDGES, KEPT, NUMBER, PAGE, REGISTERS, STACK, STACK_SIZE, TOP
from machine import Machine, Names

SHOWN = 5
BLOCKS = 20000
POINTED = 32


class Given:
    """An input."""

    def __init__(self, seed, prototype, constants=()):
        draw = random.Random(f"input {seed}")
        self.seed = seed
        self.constants = constants
        self.deep = seed % 4 == 3
        self.filled = seed % 2 == 1
        self.registers = {name: draw.getrandbits(64) & 0xFFFF_FFFF_FFFF for name, _ in REGISTERS}
        kinds = parameters(prototype) or []
        values = [value(draw, kinds[i] if i < len(kinds) else "unknown", constants) for i in range(12)]
        self.registers.update(zip(ARGUMENTS, values))
        # Home space of the four, then what is passed on the stack.
        self.stack = [0] * 4 + values[4:]
        self.vectors = [struct.unpack("<Q", struct.pack("<d", draw.choice([0.0, 1.0, -1.5, 1e9, draw.random()])))[0]
                        for _ in range(4)]


def value(draw, kind, constants):
    pointer = ARENA + draw.randrange(0, ARENA_SIZE // 32) * 16
    number = draw.choice(EDGES) if draw.random() < 0.4 else draw.randrange(0, 70)
    # What the code compares with, and its neighbours.
    if constants and draw.random() < 0.4:
        number = (draw.choice(constants) + draw.choice([-1, 0, 0, 1])) & 0xFFFF_FFFF_FFFF_FFFF
    chance = {"pointer": 0.92, "number": 0.03, "unknown": 0.6}[kind]
    if draw.random() < chance:
        return pointer
    return 0 if kind == "pointer" else number


def parameters(prototype):
    """Kinds of the parameters, from a prototype as text; None if it says nothing."""
    match = re.search(r"\((.*)\)\s*$", prototype or "", re.S)
    if not match:
        return None
    kinds, depth, part = [], 0, ""
    for letter in match.group(1) + ",":
        depth += (letter in "(<[") - (letter in ")>]")
        if letter == "," and depth == 0:
            part = part.strip()
            if part == "...":
                return kinds + ["unknown"] * 8
            if part and part != "void":
                kinds.append("pointer" if part.endswith(("*", "&", "]", ")")) or "*" in part else "number")
            part = ""
        else:
            part += letter
    return kinds


class Function:
    """A function under test, on one side."""

    def __init__(self, spec, side, make):
        self.key = spec["name"]
        self.prototype = spec["prototype"]
        self.own = [(a, a + n) for a, n in spec["patch_code" if side == "patched" else "new_code"]]
        self.entry = spec["patched" if side == "patched" else "new"]
        self.body = spec["body"] if side == "patched" else spec["new"]
        self.make = make

    def fill(self, given):
        return self.make(given.seed) if given.filled else []


def repaired(space, memory):
    """The memory with the new initial value in every variable that both sides have: what a hook has seen to."""

    def place(entity):
        for region in space["regions"]:
            if region["address"] <= entity["address"] < region["address"] + region["size"]:
                return region["offset"] + entity["address"] - region["address"]
        return None

    image = next(region for region in space["regions"] if region["image"] == "new")
    new = {e["key"]: e for e in space["entities"]["new"] if e["variable"]}
    for old in space["entities"]["patched"]:
        other = new.get(old["key"])
        if other is not None and old["variable"] and old["size"] == other["size"]:
            at, source = place(old), place(other)
            value = bytes(memory[source:source + old["size"]])
            # Addresses are the same already, each in its own image.
            words = struct.unpack(f"<{len(value) // 8}Q", value[:len(value) & ~7])
            if not any(image["address"] <= word < image["address"] + image["size"] for word in words):
                memory[at:at + old["size"]] = value
    return bytes(memory)


def variables(names, shared, images):
    """What fills the variables that both sides have: their words that are 0 at start."""
    chosen = [e for e in names.entities if e["variable"] and e["key"] in shared and 0 < e["size"] <= PAGE][:3000]

    @functools.lru_cache(maxsize=256)
    def make(seed):
        filled = []
        for entity in chosen:
            data = next(d[entity["address"] - s:entity["address"] - s + entity["size"]]
                        for s, e, d in images if s <= entity["address"] < e)
            size = entity["size"] & ~7
            if not size:
                if not any(data):
                    number = random.Random(f"{seed} {entity['key']}").randrange(0, 20)
                    filled.append((entity["address"], number.to_bytes(entity["size"], "little")))
                continue
            wanted = machine.contents(f"{seed} {entity['key']}", 0, size)
            # Only aligned words can be pointers to the program.
            words = [wanted[i:i + 8] if data[i:i + 8] == bytes(8) else bytes(data[i:i + 8]) for i in range(0, size, 8)]
            filled.append((entity["address"], b"".join(words)))
        return filled

    return make


# -- answers to calls

P, N = "pointer", "number"
# Of what has no prototype in the PDB, and is called often: the registers of further parameters hold anything.
KNOWN = {
    "malloc": [N], "free": [P], "calloc": [N, N], "realloc": [P, N], "memcpy": [P, P, N], "memmove": [P, P, N],
    "memset": [P, N, N], "memcmp": [P, P, N], "strlen": [P], "strcmp": [P, P], "strcpy": [P, P], "strcat": [P, P],
    "strncmp": [P, P, N], "strncpy": [P, P, N], "strchr": [P, N], "strrchr": [P, N], "strdup": [P], "rand": [],
    "GetStdHandle": [N],
}


def name_of(side, address):
    if address in side.names.imports:
        return side.names.imports[address]
    entity = side.names.code.get(address)
    if entity is not None:
        return entity["key"]
    readings = side.names.readings(address) if side.in_image(address) else set()
    return sorted(readings)[0] if readings else address


def bare(name):
    text = name if isinstance(name, str) else ""
    return re.split(r"[! ]", text)[-1].lstrip("_")


def pointed(side, address):
    """What an argument points to, up to the end of the thing that it lies in. Of the stack whole words, for what nobody wrote
    there can be the address that an earlier callee returned to."""
    size = POINTED
    if side.in_image(address):
        # Other constants are compared by name: they can hold addresses relative to their image.
        entities = [e for e in side.names.entities_at(address) if e["variable"] or e["key"].startswith("literal ")]
        if not entities:
            return None
        size = min(size, max(e["address"] + e["size"] - address for e in entities))
    elif STACK <= address < STACK + STACK_SIZE:
        if side.deep:
            # Callees that were run for real have left addresses of their image there, whole and in parts.
            return None
        address &= ~7
        size = min(size, TOP - address) if address < TOP else 0
    elif not ARENA <= address < ARENA + ARENA_SIZE:
        return None
    return side.read(address, size) if size > 0 else None


def answer(side, index, given):
    """Records the call at hand and does what the callee would; where it goes on."""
    uc = side.uc
    at = uc.reg_read(x86.UC_X86_REG_RIP)
    if side.is_wild(at):
        side.stop = "wild"
        return None
    name = name_of(side, at)
    stack = uc.reg_read(x86.UC_X86_REG_RSP)
    (back,) = struct.unpack("<Q", uc.mem_read(stack, 8))
    plain = bare(name)
    # What makes room on the stack keeps every register.
    if plain in ("chkstk", "chkstk_ms", "alloca_probe"):
        uc.reg_write(x86.UC_X86_REG_RSP, stack + 8)
        return back
    entity = side.names.code.get(at)
    kinds = KNOWN.get(plain) or (parameters(entity["prototype"]) if entity else None)
    count = 4 if kinds is None else len(kinds)
    arguments = [uc.reg_read(NUMBER[r]) for r in ARGUMENTS[:count]]
    if kinds is not None and count > 4:
        more = side.read(stack + 40, 8 * (min(count, 12) - 4))
        # Of a parameter on the stack only the bytes of its type have a meaning, which are not known here.
        arguments += [word & 0xFFFF_FFFF if kinds[4 + i] == "number" else word
                      for i, word in enumerate(struct.unpack(f"<{len(more) // 8}Q", more))] if more else []
    narrow = [kinds is not None and kinds[i] == "number" for i in range(len(arguments))]
    vectors = [uc.reg_read(v) for v in machine.VECTORS] if kinds is None else []
    side.events.append(("call", name, arguments, narrow, [pointed(side, a) for a in arguments], vectors))
    if plain.startswith(("abort", "exit", "assert", "longjmp", "wassert", "CxxThrowException", "Unwind_Resume", "terminate")):
        return None
    draw = random.Random(f"answer {given.seed} {index} {name if isinstance(name, str) else ''}")
    result = semantic(side, plain, arguments, draw)
    if result is None:
        choice = draw.random()
        result = (ARENA + draw.randrange(0, ARENA_SIZE // 32) * 16 if choice < 0.4 else
                  0 if choice < 0.6 else 1 if choice < 0.7 else draw.choice(EDGES) if choice < 0.8 else draw.randrange(0, 40))
        for argument in arguments:
            inside = STACK <= argument < TOP - 64 or ARENA <= argument < ARENA + ARENA_SIZE - 64
            if inside and draw.random() < 0.4:
                # On the stack no more than a variable that small can hold: a return address may be next to it.
                size = 16 if argument >= ARENA else 8 if argument % 8 == 0 else 4 if argument % 4 == 0 else 1
                side.write(argument, machine.contents(f"{given.seed} out {index}", argument & 0xFFF, 16)[:size])
    for i, register in enumerate(("rcx", "rdx", "r8", "r9", "r10", "r11")):
        uc.reg_write(NUMBER[register], 0x0C0C_0000_0000 + i)
    uc.reg_write(NUMBER["rax"], result)
    for number in machine.VECTORS:
        uc.reg_write(number, draw.getrandbits(52))
    uc.reg_write(x86.UC_X86_REG_RSP, stack + 8)
    return back


def semantic(side, plain, arguments, draw):
    """Callees whose meaning is known well enough to do it."""
    a, b, c = (arguments + [0, 0, 0])[:3]
    size = min(c, 0x2000)
    if plain in ("memcpy", "memmove"):
        data = side.fetch(b, size)
        if data is not None:
            side.write(a, data)
        return a
    if plain == "memset":
        side.write(a, bytes([b & 0xFF]) * size)
        return a
    if plain == "strlen":
        return len((side.fetch(a, 256) or b"").split(b"\0")[0])
    if plain in ("malloc", "calloc", "realloc", "xmalloc", "TIFFmalloc"):
        if draw.random() < 0.15:
            return 0
        side.heap += 0x1_0000
        side.touch(side.heap)
        if plain == "calloc":
            side.write(side.heap, bytes(min(a * b, 0x2000) & 0x3FFF))
        return side.heap
    if plain in ("free", "TIFFfree"):
        return 0
    return None


# -- comparing


class Judge:
    """Compares what two runs did."""

    def __init__(self, patched, new):
        self.patched, self.new = patched, new
        self.apart = new.images[0][0] - patched.images[0][0]

    def same(self, a, b):
        if a == b:
            return True
        if not self.patched.in_reach(a) or not self.new.in_reach(b):
            # A sum with the address of an image that is no address itself: the distance of the images shows.
            return self.apart != 0 and (b - a) % self.apart == 0 and 0 < abs(b - a) <= 4 * self.apart
        one, other = self.patched.names.readings(a), self.new.names.readings(b)
        # Jump tables of re-encoded code are in the patch under no name.
        return bool(one & other) or not one and any(self.new.names.kinds.get(key) == "table" for key, _ in other)

    def same_bytes(self, a, b):
        if a is None or b is None:
            # Where only one side knows the end of what lies there, there is nothing to compare.
            return True
        size = min(len(a), len(b))
        if a[:size] == b[:size]:
            return True
        for i in range(0, size, 8):
            x, y = a[i:i + 8], b[i:i + 8]
            if x[:size - i] != y[:size - i] and not (len(x) == len(y) == 8 and self.same(
                    int.from_bytes(x, "little"), int.from_bytes(y, "little"))):
                return False
        return True

    def events(self, a, b):
        """What differs between two events, or None."""
        if a[0] != b[0]:
            return f"{show(a)} in the patched image, {show(b)} in the new one"
        if a[0] == "write":
            # A vector's halves come one by one; narrow values are compared as they are.
            good = self.same(a[1], b[1]) and a[2] == b[2] and self.same(a[3], b[3])
            return None if good else f"{show(a)} in the patched image, {show(b)} in the new one"
        if a[1] != b[1] and not (isinstance(a[1], int) and isinstance(b[1], int) and self.same(a[1], b[1])):
            return f"a call of {a[1]} in the patched image, of {b[1]} in the new one"
        for i, (x, y, narrow) in enumerate(zip(a[2], b[2], a[3])):
            if not self.same(x, y) and not (narrow and x & 0xFFFF_FFFF == y & 0xFFFF_FFFF):
                return f"argument {i + 1} of {a[1]}: {x:#x} in the patched image, {y:#x} in the new one"
        for i, (x, y) in enumerate(zip(a[4], b[4])):
            if not self.same_bytes(x, y):
                return f"argument {i + 1} of {a[1]} points to {x.hex()} in the patched image, {y.hex()} in the new one"
        for x, y in zip(a[5], b[5]):
            if x != y and not self.same(x, y):
                return f"a vector argument of {a[1]}: {x:#x} in the patched image, {y:#x} in the new one"
        return None

    def runs(self, a, b, returns):
        """What differs between two runs, or None."""
        (events_a, stop_a, end_a, vector_a, blocks_a), (events_b, stop_b, end_b, vector_b, blocks_b) = a, b
        for x, y in zip(events_a, events_b):
            wrong = self.events(x, y)
            if wrong:
                return wrong
        if "wild" in (stop_a, stop_b):
            # What the input made of a return address, half overwritten perhaps.
            return None if stop_a == stop_b else f"ends with {stop_a} in the patched image, with {stop_b} in the new one"
        if "limit" in (stop_a, stop_b):
            # Code that was lengthened has more blocks.
            near = min(blocks_a, blocks_b) > BLOCKS // 2
            return None if near else f"{blocks_a} blocks in the patched image, {blocks_b} in the new one"
        if len(events_a) != len(events_b):
            return f"{len(events_a)} events in the patched image, {len(events_b)} in the new one"
        if stop_a != stop_b:
            return f"ends with {stop_a} in the patched image, with {stop_b} in the new one"
        if stop_a != "return":
            return None
        for name in KEPT + ["rsp"] + (["rax"] if returns else []):
            if not self.same(end_a[name], end_b[name]):
                return f"{name} at the end: {end_a[name]:#x} in the patched image, {end_b[name]:#x} in the new one"
        if returns and vector_a != vector_b:
            return f"xmm0 at the end: {vector_a:#x} in the patched image, {vector_b:#x} in the new one"
        return None


def show(event):
    return f"a write of {event[3]:#x} ({event[2]} bytes) to {event[1]:#x}" if event[0] == "write" else f"a call of {event[1]}"


def returns_value(prototype):
    return not (prototype or "").lstrip().startswith("void ") or "*" in (prototype or "").split("(")[0]


def immediates(side, code):
    """Constants in the code, sorted."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    found = set()
    for start, size in code:
        for one in decoder.disasm(side.read(start, size), start):
            # Where a branch leads is no constant.
            if not one.mnemonic.startswith(("j", "call")):
                found.update(o.imm & 0xFFFF_FFFF_FFFF_FFFF for o in one.operands if o.type == capstone.x86.X86_OP_IMM)
    return sorted(found)


# -- mutants


def mutants(patched, spec, covered, wanted, draw):
    """Single faults in code that ran: a condition turned round, another constant, another address."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    found = {"condition": [], "constant": [], "reference": []}
    for start, size in sorted(covered):
        for one in decoder.disasm(patched.read(start, size), start):
            raw = bytearray(one.bytes)
            if one.mnemonic.startswith("j") and one.mnemonic != "jmp":
                raw[1 if raw[0] == 0x0F else 0] ^= 1
                found["condition"].append((one, bytes(raw)))
            elif "rip" in one.op_str:
                # A displacement is the last field unless an immediate follows; the next slot, or the next 8 bytes.
                at = one.disp_offset
                moved = int.from_bytes(raw[at:at + 4], "little", signed=True) + 8
                raw[at:at + 4] = moved.to_bytes(4, "little", signed=True)
                found["reference"].append((one, bytes(raw)))
            elif one.mnemonic == "call" and raw[0] == 0xE8:
                raw[1:5] = (int.from_bytes(raw[1:5], "little", signed=True) + 16).to_bytes(4, "little", signed=True)
                found["reference"].append((one, bytes(raw)))
            elif one.imm_offset and one.mnemonic in ("mov", "cmp", "add", "and", "or"):
                raw[one.imm_offset] ^= 4
                found["constant"].append((one, bytes(raw)))
    out = []
    for kind, all_of in sorted(found.items()):
        draw.shuffle(all_of)
        out += [(kind, one, raw) for one, raw in all_of[:wanted]]
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--inputs", type=int, default=64)
    parser.add_argument("--mutants", type=int, default=0)
    parser.add_argument("--repaired", action="store_true", help="hooks have given variables their new initial values")
    options = parser.parse_args()
    with open(os.path.join(options.folder, "space.json"), encoding="utf-8") as file:
        space = json.load(file)
    with open(os.path.join(options.folder, space["memory"]), "rb") as file:
        memory = file.read()
    sides, fills = {}, {}
    keys = {side: {e["key"] for e in space["entities"][side]} for side in ("patched", "new")}
    shared = keys["patched"] & keys["new"]
    if options.repaired:
        memory = repaired(space, bytearray(memory))
    for side in ("patched", "new"):
        names = Names(space["entities"][side], space["imports"])
        sides[side] = Machine([r for r in space["regions"] if r["side"] == side], memory, names, BLOCKS)
        fills[side] = variables(names, shared, sides[side].images)
    judge = Judge(sides["patched"], sides["new"])
    report = {"functions": [], "mutants": {"made": 0, "caught": 0, "missed": []}}
    for spec in space["functions"]:
        report["functions"].append(execute(spec, sides, fills, judge, options, report["mutants"]))
    json.dump(report, sys.stdout, indent=1, sort_keys=True)
    print()


def execute(spec, sides, fills, judge, options, mutations):
    functions = {side: Function(spec, side, fills[side]) for side in sides}
    returns = returns_value(spec["prototype"])
    constants = immediates(sides["new"], spec["new_code"])
    result = {"name": spec["name"], "inputs": 0, "events": 0, "returned": 0, "wrong": []}
    covered = {side: set() for side in sides}
    expected = []
    for seed in range(options.inputs):
        given, cache, runs = Given(seed, spec["prototype"], constants), {}, {}
        for side, one in sides.items():
            runs[side] = one.run(functions[side], given, answer, cache)
            covered[side] |= one.covered
        wrong = judge.runs(runs["patched"], runs["new"], returns)
        if wrong:
            result["wrong"].append(f"input {seed}: {wrong}")
        result["inputs"] += 1
        result["events"] += len(runs["new"][0])
        result["returned"] += runs["new"][1] == "return"
        expected.append(runs["new"])
    result["wrong_inputs"] = len(result["wrong"])
    result["wrong"] = result["wrong"][:SHOWN]
    size = sum(n for _, n in spec["new_code"])
    ran = set()
    for start, length in covered["new"]:
        ran.update(range(start, start + length))
    result["covered"] = round(len(ran) / max(size, 1), 4)
    if options.mutants:
        draw = random.Random(spec["name"])
        for kind, one, raw in mutants(sides["patched"], spec, covered["patched"], options.mutants, draw):
            caught = False
            sides["patched"].poke(one.address, raw)
            for seed in range(options.inputs):
                run = sides["patched"].run(functions["patched"], Given(seed, spec["prototype"], constants), answer, {})
                if judge.runs(run, expected[seed], returns):
                    caught = True
                    break
            sides["patched"].poke(one.address, bytes(one.bytes))
            mutations["made"] += 1
            mutations["caught"] += caught
            if not caught:
                mutations["missed"].append(f"{spec['name']}: {kind} at {one.address:#x}: {one.mnemonic} {one.op_str}")
    return result


if __name__ == "__main__":
    main()
