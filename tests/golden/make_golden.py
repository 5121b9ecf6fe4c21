#!/usr/bin/env python3
"""Writes golden.safetensors: what perceiver_ar_pytorch on PyTorch computes for tiny models.

Needed only to make the file again: python3 tests/golden/make_golden.py (torch, perceiver-ar-pytorch, safetensors,
numpy)

Each value is computed in float64 and beside it stands `…error`: how far PyTorch's own float32 is from the stored value
(Euclidean norm), and `…error_bf16`: how far its bf16 autocast is. test_golden.c holds ours to a small multiple of
those. Tensors of a case:
    CASE/shape (12) I64             context prefix dim heads dim_head depth perceive_depth ff_mult vocab batch length
                                    latents
    CASE/input (B, M) CASE/target (B, N) U16, CASE/keep (B, K) I32 where prefix positions are dropped
    CASE/param/NAME F32, CASE/logits (B, N, V) F64, CASE/loss F64: mean over targets that are not PAD (vocab - 1)
    CASE/grad/NAME F32 of that mean, CASE/adam/NAME, CASE/adamw/NAME F32: parameters after three steps on that batch
    CASE/greedy U16: tokens that follow input[0, :P + 1], the most probable each time, a full forward pass a token,
                     until the window has its context - prefix latents
"""
import contextlib
import copy
import json
import platform
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from perceiver_ar_pytorch import PerceiverAR
from safetensors.numpy import save_file

SHAPE = ["context", "prefix", "dim", "heads", "dim_head", "depth", "perceive_depth", "ff_mult", "vocab", "batch",
         "length", "latents"]
# The seed's form, with heads * dim_head wider than dim; two cross-attentions with dropped prefix positions and dims
# that rotary passes; a short window with one head, whose inner width is narrower than dim.
CASES = {
    "default": dict(zip(SHAPE, [24, 9, 8, 2, 32, 2, 1, 4, 390, 2, 24, 15])),
    "dropped": dict(zip(SHAPE, [20, 11, 12, 3, 40, 1, 2, 3, 60, 2, 20, 9])) | {"keep": [[0, 3, 4, 10], [1, 2, 7, 8]]},
    "short": dict(zip(SHAPE, [32, 16, 40, 1, 34, 1, 1, 2, 60, 1, 13, 8])),
}
ADAM = dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8)


def build(case: dict) -> PerceiverAR:
    model = PerceiverAR(num_tokens=case["vocab"], dim=case["dim"], depth=case["depth"], max_seq_len=case["context"],
                        cross_attn_seq_len=case["length"] - case["latents"], dim_head=case["dim_head"],
                        heads=case["heads"], ff_mult=case["ff_mult"], perceive_depth=case["perceive_depth"],
                        cross_attn_dropout=0.7 if "keep" in case else 0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1:  # the norms' ones and zeros would hide mistakes
                value.add_(0.3 * torch.randn_like(value))
    return model


@contextlib.contextmanager
def drawn(keep, prefix: int):
    """The library keeps the positions with the largest of its random numbers: let those be the given ones."""
    if keep is None:
        yield
        return
    with mock.patch.object(torch.Tensor, "uniform_",
                           lambda self: torch.zeros_like(self).scatter_(1, torch.tensor(keep), 1.0)):
        yield


@contextlib.contextmanager
def plain_bf16(enabled: bool):
    """Autocast; the library masks scores, then bf16, with the lowest float32, which does not fit: let it be the lowest
    bf16."""
    lowest = torch.finfo(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        with mock.patch.object(torch, "finfo", lambda dtype: lowest) if enabled else contextlib.nullcontext():
            yield


def forward(model, case: dict, tokens, target, bf16: bool = False):
    model.train()
    with drawn(case.get("keep"), case["prefix"]), plain_bf16(bf16):
        logits = model(tokens)
    logits = logits.to(next(model.parameters()).dtype)
    return logits, F.cross_entropy(logits.transpose(1, 2), target, ignore_index=case["vocab"] - 1)


def decays(name: str, value) -> bool:
    return value.dim() == 2 and "emb" not in name


def optimised(model, case: dict, tokens, target, kind, decay: float) -> dict:
    model = copy.deepcopy(model)
    named = list(model.named_parameters())
    groups = [{"params": [v for n, v in named if decays(n, v) == wanted], "weight_decay": decay * wanted}
              for wanted in (True, False)]
    optimizer = kind(groups, **ADAM)
    for _ in range(3):
        optimizer.zero_grad()
        forward(model, case, tokens, target)[1].backward()
        optimizer.step()
    return {n: v.detach().double().numpy() for n, v in named}


def results(model, case: dict, tokens, target, optimisers: bool, bf16: bool = False) -> dict:
    """Everything of a case as {path: float64 array}, in the model's own precision."""
    model.zero_grad()
    logits, loss = forward(model, case, tokens, target, bf16)
    loss.backward()
    out = {"logits": logits.detach().double().numpy(), "loss": np.array([loss.item()])}
    out |= {f"grad/{n}": v.grad.double().numpy() for n, v in model.named_parameters()}
    if optimisers:
        out |= {f"adam/{n}": v for n, v in optimised(model, case, tokens, target, torch.optim.Adam, 0).items()}
        out |= {f"adamw/{n}": v for n, v in optimised(model, case, tokens, target, torch.optim.AdamW, 0.1).items()}
    return out


@torch.no_grad()
def greedy(model, case: dict, tokens) -> np.ndarray:
    model.eval()
    window = tokens[:1, : case["length"] - case["latents"] + 1]
    start = window.shape[1]
    full = start - 1 + case["context"] - case["prefix"]  # as many latents as a window has
    while window.shape[1] < full:
        window = torch.cat((window, model(window)[:, -1].argmax(-1, keepdim=True)), 1)
    return window[0, start:].numpy().astype(np.uint16)


def make(name: str, case: dict) -> dict:
    model = build(case)
    pad = case["vocab"] - 1
    tokens = torch.randint(0, pad, (case["batch"], case["length"]))
    target = torch.randint(0, pad, (case["batch"], case["latents"]))
    target[0, 2] = pad
    target[-1, -3:] = pad
    single = copy.deepcopy(model)
    exact = copy.deepcopy(model).double()
    with torch.no_grad():  # rotary frequencies as float64 has them: ours are no float32 products
        dim = exact.rotary_pos_emb.inv_freq.numel() * 2
        exact.rotary_pos_emb.inv_freq = 1.0 / 10000 ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    file = {"shape": np.array([case[k] for k in SHAPE], np.int64), "input": tokens.numpy().astype(np.uint16),
            "target": target.numpy().astype(np.uint16), "greedy": greedy(exact, case, tokens)}
    if "keep" in case:
        file["keep"] = np.array(case["keep"], np.int32)
    file |= {f"param/{n}": v.detach().numpy() for n, v in single.named_parameters()}
    optimisers = name == "default"
    truth, near = results(exact, case, tokens, target, optimisers), results(single, case, tokens, target, optimisers)
    coarse = results(single, case, tokens, target, False, bf16=True)
    for path, value in truth.items():
        stored = value if path in ("logits", "loss") else value.astype(np.float32)
        file[path] = stored
        file[f"{path}/error"] = np.array([np.linalg.norm(near[path] - stored)])
        if path in coarse:
            file[f"{path}/error_bf16"] = np.array([np.linalg.norm(coarse[path] - stored)])
    return {f"{name}/{path}": np.ascontiguousarray(value) for path, value in file.items()}


def main() -> None:
    torch.manual_seed(20221122)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    file: dict = {}
    for name, case in CASES.items():
        file |= make(name, case)
    made_by = {"torch": torch.__version__, "perceiver_ar_pytorch": version("perceiver-ar-pytorch"),
               "numpy": np.__version__, "safetensors": version("safetensors"), "python": platform.python_version(),
               "machine": platform.machine()}
    path = Path(__file__).with_name("golden.safetensors")
    save_file(file, path, metadata={"made_by": json.dumps(made_by)})  # one entry: their order in the file is not fixed
    print(f"{path}: {len(file)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
