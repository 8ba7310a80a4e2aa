"""Reads an export of two images and the results with readers that others wrote; prints what they saw as JSON.

readers.py OLD.BinExport NEW.BinExport RESULTS.BinDiff
"""

import json
import pathlib
import sys

from bindiff import BindiffFile
from binexport import ProgramBinExport
from binexport.binexport2_pb2 import BinExport2


def export(path):
    data = pathlib.Path(path).read_bytes()
    message = BinExport2()
    message.ParseFromString(data)
    # What the published schema does not know, or would write otherwise, shows here.
    assert message.SerializeToString() == data, "the message is not written as the schema says"
    message.DiscardUnknownFields()
    assert message.SerializeToString() == data, "the schema does not know all fields"
    addresses = [v.address for v in message.call_graph.vertex]
    assert addresses == sorted(set(addresses)), "vertices are not sorted"
    program = ProgramBinExport(path)
    functions = {}
    for address, function in program.items():
        if function.is_import():
            continue
        blocks = {}
        for start, block in function.blocks.items():
            lines = [(i.addr, i.bytes.hex(), i.mnemonic, [str(o) for o in i.operands]) for i in block.instructions.values()]
            blocks[start] = lines
        edges = sorted((a, b) for a, b in function.graph.edges)
        functions[address] = {"name": function.name, "type": function.type.name, "blocks": blocks, "edges": edges}
    return {"architecture": program.architecture, "functions": functions, "calls": sorted(program.callgraph.edges)}


def results(path):
    file = BindiffFile(path)
    functions = {m.address1: [m.address2, m.name1, m.name2, m.similarity, m.confidence, m.algorithm.name]
                 for m in file.primary_functions_match.values()}
    blocks = sorted([a, m.address2] for a, by in file.primary_basicblock_match.items() for m in by.values())
    instructions = sorted([a, b] for a, by in file.primary_instruction_match.items() for b in by.values())
    names = [file.primary_file.filename, file.secondary_file.filename]
    return {"functions": functions, "blocks": blocks, "instructions": instructions, "files": names,
            "similarity": file.similarity}


print(json.dumps({"old": export(sys.argv[1]), "new": export(sys.argv[2]), "results": results(sys.argv[3])}))
