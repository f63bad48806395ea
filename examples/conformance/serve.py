"""Answers `fastweights verify --implementation "python3 PROGRAM.py"` by functions on PyTorch tensors.

A message, either way, is 8 bytes with its length, little-endian, and then a safetensors file. Needs nothing but PyTorch.
"""

import json
import os
import struct
import sys

import torch

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class NotOffered(Exception):
    """Raise it where a case can't be asked: the claim goes on with others."""


def decode(data):
    """The tensors and the metadata of a safetensors file."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        dtype = DTYPES[entry["dtype"]]
        flat = torch.frombuffer(bytearray(data[begin:end]), dtype=dtype) if end > begin else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, metadata


def encode(tensors, metadata):
    header, parts, end = {"__metadata__": metadata}, [], 0
    for name, tensor in tensors.items():
        flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
        part = bytes(flat.view(torch.uint8).tolist())
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + len(part)]}
        parts.append(part)
        end += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def serve(name, dtype, rules, device="cpu"):
    """Answers until there is nothing more to read.

    rules: by the name of a rule { "forms": [...], "options": [...], "run": function }. The function is called with the form, the options and
    the tensors by name, states with a 0 behind (None for those that aren't there), and returns { "y": ..., "S": ... }. Where "backward" is
    among the options, gradients are autograd's.
    """
    # What the program prints must not get between the messages.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    offer = {rule: {key: row[key] for key in ("forms", "options") if key in row} for rule, row in rules.items()}
    while len(length := sys.stdin.buffer.read(8)) == 8:
        tensors, asked = decode(sys.stdin.buffer.read(struct.unpack("<Q", length)[0]))
        if asked["ask"] == "offer":
            answer = encode({}, {"name": name, "dtype": dtype, "rules": json.dumps(offer)})
        else:
            try:
                results = call(rules[asked["rule"]]["run"], asked, {name: t.to(device) for name, t in tensors.items()})
                answer = encode({name: t.to(FLOATS[dtype]) for name, t in results.items()}, {})
            except NotOffered as reason:
                answer = encode({}, {"not offered": str(reason)})
            except Exception as error:
                answer = encode({}, {"error": f"{type(error).__name__}: {error}"})
        answers.write(struct.pack("<Q", len(answer)) + answer)
        answers.flush()


def call(run, asked, tensors):
    form, options = asked["form"], json.loads(asked["options"])
    if asked["ask"] == "forward":
        with torch.no_grad():
            return run(form, options, **tensors)
    cotangents = {name: tensors.pop(name) for name in json.loads(asked["cotangents"])}
    leaves = {name: t.requires_grad_() for name, t in tensors.items() if t.is_floating_point()}
    results = run(form, options, **tensors)
    outputs = [name for name in results if results[name].requires_grad]
    gradients = torch.autograd.grad(
        [results[name] for name in outputs], list(leaves.values()), [cotangents[f"d{name}"] for name in outputs], allow_unused=True
    )
    return {f"d{name}": torch.zeros_like(leaf) if g is None else g for (name, leaf), g in zip(leaves.items(), gradients)}
