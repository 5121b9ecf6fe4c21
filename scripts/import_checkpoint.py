#!/usr/bin/env python3
"""Turns a PyTorch checkpoint of perceiver_ar_pytorch, such as the original project's, into a patrain model file.

    scripts/import_checkpoint.py IN.pt OUT.safetensors --config C.ini [--encoding midi-neural|performance] [--step N]
                                 [--half]

IN.pt is what torch.save wrote: a state_dict, or a dictionary that holds one as state_dict, model_state_dict or model.
Names may have the prefixes that wrappers put before them: module. (DistributedDataParallel), net.
(AutoregressiveWrapper), _orig_mod. (torch.compile). C.ini's [model] gives what shapes can't: prefix and heads; its
other settings must agree with the file. The encoding is taken to be the original project's, midi-neural, unless
--encoding names another.

The file is read with torch.load(weights_only=True), so no code in it runs. Needs torch and numpy.
Exit status: 0, 2 for wrong usage or configuration, 3 for a checkpoint that is refused, 1 for anything else.
"""
import argparse
import configparser
import json
import os
import re
import sys
from pathlib import Path

USAGE, DATA = 2, 3
PREFIXES = ("module.", "net.", "_orig_mod.")
HOLDERS = ("state_dict", "model_state_dict", "model")
FREQUENCIES = "rotary_pos_emb.inv_freq"
SWITCHES = {"position": "learned+rotary", "activation": "gelu", "rotary_dims": "auto", "final_norm": "false",
            "qk_norm": "false", "tie_embeddings": "false", "lags": "0", "keyboard": "false",
            "value_emb": "false"}
BLOCK_ENDS = {"perceive_layers": ["0.norm.weight", "0.norm.bias", "0.context_norm.weight", "0.context_norm.bias",
                                  "0.to_q.weight", "0.to_kv.weight", "0.to_out.weight", "0.to_out.bias"],
              "layers": ["0.norm.weight", "0.norm.bias", "0.to_qkv.weight", "0.to_out.weight"]}
FEED_FORWARD_ENDS = ["1.0.weight", "1.0.bias", "1.1.weight", "1.4.weight"]


class Refused(Exception):
    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


def read_model_section(path: str) -> dict[str, str]:
    parser = configparser.ConfigParser(inline_comment_prefixes=(";",), comment_prefixes=(";", "#"), interpolation=None,
                                       delimiters=("=",))
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, configparser.Error, UnicodeDecodeError) as error:
        raise Refused(USAGE, f"{path}: {error}") from error
    if not parser.has_section("model"):
        raise Refused(USAGE, f"{path}: expected a section [model], found {parser.sections() or 'none'}")
    return dict(parser["model"])


def number(section: dict[str, str], key: str, path: str) -> int:
    if key not in section:
        raise Refused(USAGE, f"{path}: model.{key}: missing: shapes do not determine it")
    try:
        value = float(section[key])
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise Refused(USAGE, f"{path}: model.{key}: expected a whole number, found \"{section[key]}\"")


def load(path: str) -> dict:
    """{name: float32 numpy array} of the parameters, wrappers' prefixes taken off."""
    import torch
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise Refused(1, f"{path}: {error.strerror}") from error
    except Exception as error:  # pickle's and torch's own kinds, many of them
        reason = str(error).splitlines()[0]
        raise Refused(DATA, f"{path}: torch.load(weights_only=True) refuses it: {reason}") from error
    if not isinstance(data, dict):
        raise Refused(DATA, f"{path}: expected a dictionary, found {type(data).__name__}")
    state = next((data[key] for key in HOLDERS if isinstance(data.get(key), dict)), data)
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise Refused(DATA,
                          f"{path}: expected a state_dict (or one under {', '.join(HOLDERS)}), found {name!r}: "
                          f"{type(value).__name__}")
        while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
            name = name[len(prefix):]
        if name in tensors:
            raise Refused(DATA, f"{path}: {name}: found twice, under different prefixes")
        if not value.is_floating_point():
            raise Refused(DATA, f"{path}: {name}: expected floating point, found {value.dtype}")
        tensors[name] = value.detach().to(torch.float32).contiguous().numpy()
    return tensors


def shape_of(tensors: dict, name: str, rank: int, path: str) -> tuple[int, ...]:
    if name not in tensors:
        raise Refused(DATA, f"{path}: expected a tensor {name}, found {', '.join(sorted(tensors)[:4]) or 'none'}, ...")
    shape = tensors[name].shape
    if len(shape) != rank or 0 in shape:
        raise Refused(DATA, f"{path}: {name}: expected {rank} dimensions above 0, found {tuple(shape)}")
    return shape


def count_blocks(tensors: dict, kind: str) -> int:
    found = [int(m[1]) for name in tensors if (m := re.match(kind + r"\.(\d+)\.", name))]
    return max(found, default=-1) + 1


def settings(tensors: dict, path: str, section: dict[str, str], config: str) -> dict[str, int]:
    """What [model] must be for these shapes."""
    vocab, dim = shape_of(tensors, "token_emb.weight", 2, path)
    context, _ = shape_of(tensors, "pos_emb.weight", 2, path)
    inner, _ = shape_of(tensors, "perceive_layers.0.0.to_q.weight", 2, path)
    hidden, _ = shape_of(tensors, "perceive_layers.0.1.1.weight", 2, path)
    prefix, heads = number(section, "prefix", config), number(section, "heads", config)
    if heads < 1 or inner % heads:
        raise Refused(USAGE,
                      f"{config}: model.heads: expected a divisor of {inner}, the rows of to_q.weight, found {heads}")
    if not 0 <= prefix < context:
        raise Refused(USAGE, f"{config}: model.prefix: expected 0 to {context - 1}, found {prefix}")
    if hidden % dim:
        raise Refused(DATA, f"{path}: perceive_layers.0.1.1.weight: expected a multiple of {dim} rows, found {hidden}")
    found = {"context": context, "prefix": prefix, "dim": dim, "heads": heads, "dim_head": inner // heads,
             "depth": count_blocks(tensors, "layers"), "perceive_depth": count_blocks(tensors, "perceive_layers"),
             "ff_mult": hidden // dim, "vocab": vocab}
    for key, value in found.items():
        if key in section and number(section, key, config) != value:
            raise Refused(USAGE, f"{config}: model.{key}: {path} has {value}, found {section[key]}")
    for key, value in SWITCHES.items():
        same = {"false": ("no", "off", "0"), "auto": ("0", str(max(32, inner // heads // 2)))}.get(value, ())
        if section.get(key, value) not in (value, *same):
            raise Refused(USAGE,
                          f"{config}: model.{key}: expected {value}, all that perceiver_ar_pytorch does, found "
                          f"{section[key]}")
    return found


def expected_shapes(m: dict[str, int]) -> dict[str, tuple[int, ...]]:
    C, I, F, V = m["dim"], m["heads"] * m["dim_head"], m["ff_mult"] * m["dim"], m["vocab"]
    by_end = {"to_q.weight": (I, C), "to_kv.weight": (2 * I, C), "to_qkv.weight": (3 * I, C), "to_out.weight": (C, I),
              "1.1.weight": (F, C), "1.4.weight": (C, F)}
    shapes = {"token_emb.weight": (V, C), "pos_emb.weight": (m["context"], C)}
    for kind, depth in (("perceive_layers", m["perceive_depth"]), ("layers", m["depth"])):
        for i in range(depth):
            for end in BLOCK_ENDS[kind] + FEED_FORWARD_ENDS:
                shapes[f"{kind}.{i}.{end}"] = next((s for e, s in by_end.items() if end.endswith(e)), (C,))
    return shapes | {"to_logits.weight": (V, C)}


def check(tensors: dict, m: dict[str, int], path: str) -> dict:
    """The model's tensors in the order of its table; refuses any that is missing, unknown, misshapen or not finite."""
    import numpy
    shapes = expected_shapes(m)
    frequencies = tensors.pop(FREQUENCIES, None)
    rotary = max(32, m["dim_head"] // 2)
    if frequencies is not None and frequencies.shape != ((rotary + 1) // 2,):
        raise Refused(DATA,
                      f"{path}: rotary_pos_emb.inv_freq: expected {rotary // 2} numbers for heads of {m['dim_head']}, "
                      f"found {frequencies.shape}: is model.heads right?")
    for name in shapes.keys() | tensors.keys():
        if name not in shapes:
            raise Refused(DATA, f"{path}: {name}: no tensor of this model")
        if name not in tensors:
            raise Refused(DATA, f"{path}: expected a tensor {name}, found none")
        if tensors[name].shape != shapes[name]:
            raise Refused(DATA, f"{path}: {name}: expected shape {shapes[name]}, found {tensors[name].shape}")
        if not numpy.isfinite(tensors[name]).all():
            raise Refused(DATA, f"{path}: {name}: expected finite numbers, found others")
    if frequencies is None:
        frequencies = (10000.0 ** (-numpy.arange(0, rotary, 2) / rotary)).astype(numpy.float32)
    # so that load_state_dict takes our file too
    return {name: tensors[name] for name in shapes} | {FREQUENCIES: frequencies}


def model_text(m: dict[str, int], section: dict[str, str]) -> str:
    training = {key: section[key] for key in ("prefix_dropout", "dropout", "z_loss") if key in section}
    return "[model]\n" + "".join(f"{key} = {value}\n" for key, value in (m | training).items())


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC-32, many stretches of the data at a time: each is a column of an array, joined at the end."""
    import numpy
    table = numpy.arange(256, dtype=numpy.uint32)
    for _ in range(8):
        table = numpy.where(table & 1, table >> 1 ^ 0x82F63B78, table >> 1).astype(numpy.uint32)
    lanes = 4096
    steps = len(data) // lanes
    body = numpy.frombuffer(data[: lanes * steps], numpy.uint8).reshape(lanes, steps).T.copy()
    crc = numpy.zeros(lanes, numpy.uint32)  # without the usual ones at start and end, a CRC is linear
    for row in body:
        crc = table[(crc ^ row) & 0xFF] ^ crc >> 8
    # each bit of a CRC, moved on by `steps` bytes of zeros
    moved = numpy.uint32(1) << numpy.arange(32, dtype=numpy.uint32)
    for _ in range(steps):
        moved = table[moved & 0xFF] ^ moved >> 8
    moved, table, total = moved.tolist(), table.tolist(), 0xFFFFFFFF
    for lane in crc.tolist():
        joined = lane
        for bit in range(32):
            if total >> bit & 1:
                joined ^= moved[bit]
        total = joined
    for byte in data[lanes * steps:]:
        total = table[(total ^ byte) & 0xFF] ^ total >> 8
    return total ^ 0xFFFFFFFF


def narrow(tensors: dict, path: str) -> dict:
    """The weights as float16, rounded to nearest."""
    import numpy
    with numpy.errstate(over="ignore"):
        halves = {name: t if name == FREQUENCIES else t.astype(numpy.float16) for name, t in tensors.items()}
    for name, half in halves.items():
        if not numpy.isfinite(half).all():
            raise Refused(DATA, f"{path}: {name}: expected at most 65504 for 16 bits, found {abs(tensors[name]).max()}")
    return halves


def write(path: str, tensors: dict, metadata: dict[str, str]) -> None:
    """A safetensors file beside its place, then renamed."""
    data = b"".join(t.astype(t.dtype.newbyteorder("<")).tobytes() for t in tensors.values())
    header = {"__metadata__": metadata}
    metadata["crc32c"] = f"{crc32c(data):08x}"
    at = 0
    for name, tensor in tensors.items():
        dtype = f"F{8 * tensor.itemsize}"
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    temporary = Path(f"{path}.tmp.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text + data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Refused(1, f"{path}: {error.strerror}") from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", metavar="IN.pt")
    parser.add_argument("output", metavar="OUT.safetensors")
    parser.add_argument("--config", required=True, metavar="C.ini")
    parser.add_argument("--encoding", choices=("midi-neural", "performance"), default="midi-neural")
    parser.add_argument("--step", type=int, default=0, help="training steps of the checkpoint, for the record")
    parser.add_argument("--half", action="store_true", help="write 16-bit weights (F16), half the size")
    options = parser.parse_args()
    try:
        section = read_model_section(options.config)
        tensors = load(options.input)
        m = settings(tensors, options.input, section, options.config)
        tensors = check(tensors, m, options.input)
        if options.half:
            tensors = narrow(tensors, options.input)
        write(options.output, tensors,
              {"format": "patrain-checkpoint-1", "model": model_text(m, section), "encoding": options.encoding,
               "step": str(options.step)})
    except Refused as error:
        print(f"import_checkpoint.py: {error}", file=sys.stderr)
        return error.status
    except ImportError as error:
        print(f"import_checkpoint.py: needs torch and numpy: {error}", file=sys.stderr)
        return 1
    parameters = sum(t.size for name, t in tensors.items() if name != FREQUENCIES)
    print(f"{options.output}: {len(tensors) - 1} tensors, {parameters} parameters, context {m['context']}, prefix "
          f"{m['prefix']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
