#!/usr/bin/env python3
"""Writes muon.safetensors: three steps of torch.optim.Muon and AdamW on a tiny model's tensors, with drawn gradients.

Needed only to make the file again:  python3 tests/golden/make_muon.py   (torch 2.9 or newer, safetensors, numpy)

PyTorch's Muon orthogonalises in bf16. Its code is run here in float64, which is stored, and in float32 and bf16, whose
distances (Euclidean norm) from the stored values stand beside them. test_muon.c holds ours to a small multiple of
those. Tensors:
    shape (9) I64           context prefix dim heads dim_head depth perceive_depth ff_mult vocab
    param/NAME F32, grad/STEP/NAME F32
    STEP/NAME F32: parameters after steps 1, 2, 3; STEP/NAME/error, STEP/NAME/error_bf16 F64
"""
import json
import platform
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors.numpy import save_file

SHAPE = {"context": 8, "prefix": 4, "dim": 12, "heads": 2, "dim_head": 8, "depth": 1, "perceive_depth": 1, "ff_mult": 2,
         "vocab": 10}
STEPS = 3
MUON = dict(lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="original")
ADAMW = dict(betas=(0.9, 0.99), eps=1e-8)
RATES = {"embedding": 3e-3, "head": 1e-3, "rest": 2e-3}


def tensors() -> dict:
    """Name: (shape, how many matrices share it, group)."""
    C, I, F, V = SHAPE["dim"], SHAPE["heads"] * SHAPE["dim_head"], SHAPE["ff_mult"] * SHAPE["dim"], SHAPE["vocab"]
    table = {"token_emb.weight": ((V, C), 1, "embedding"), "pos_emb.weight": ((SHAPE["context"], C), 1, "embedding")}
    for at, cross in (("perceive_layers.0", True), ("layers.0", False)):
        table |= {f"{at}.0.norm.{w}": ((C,), 1, "rest") for w in ("weight", "bias")}
        if cross:
            table |= {f"{at}.0.context_norm.{w}": ((C,), 1, "rest") for w in ("weight", "bias")}
            table |= {f"{at}.0.to_q.weight": ((I, C), 1, "matrix"), f"{at}.0.to_kv.weight": ((2 * I, C), 2, "matrix")}
            table |= {f"{at}.0.to_out.bias": ((C,), 1, "rest")}
        else:
            table |= {f"{at}.0.to_qkv.weight": ((3 * I, C), 3, "matrix")}
        table |= {f"{at}.0.to_out.weight": ((C, I), 1, "matrix")}
        table |= {f"{at}.1.0.{w}": ((C,), 1, "rest") for w in ("weight", "bias")}
        table |= {f"{at}.1.1.weight": ((F, C), 1, "matrix"), f"{at}.1.4.weight": ((C, F), 1, "matrix")}
    return table | {"to_logits.weight": ((V, C), 1, "head")}


def trajectory(param: dict, grad: list, dtype, iteration) -> list:
    """Parameters after each step, {name: float64 array}, of parameters in `dtype` and Newton-Schulz steps in
    `iteration`."""
    parts, others = {}, {group: [] for group in RATES}
    for name, (_, count, group) in tensors().items():
        parts[name] = [torch.nn.Parameter(x.clone()) for x in param[name].to(dtype).chunk(count)]
        if group != "matrix":
            others[group] += parts[name]
    matrices = [x for name, (_, _, group) in tensors().items() if group == "matrix" for x in parts[name]]
    optimisers = [torch.optim.Muon(matrices, **MUON)]
    for group, values in others.items():
        optimisers.append(torch.optim.AdamW(values, lr=RATES[group], weight_decay=0.1 if group == "head" else 0,
                                            **ADAMW))
    out = []
    for step in range(STEPS):
        for name, values in parts.items():
            for x, g in zip(values, grad[step][name].to(dtype).chunk(len(values))):
                x.grad = g.clone()
        with mock.patch.object(torch, "bfloat16", iteration):
            for optimiser in optimisers:
                optimiser.step()
        out.append({name: torch.cat(list(values)).detach().double().numpy() for name, values in parts.items()})
    return out


def main() -> None:
    generator = torch.Generator().manual_seed(20241003)
    param = {name: torch.randn(shape, generator=generator) / 4 for name, (shape, _, _) in tensors().items()}
    grad = [{name: torch.randn(shape, generator=generator) for name, (shape, _, _) in tensors().items()}
            for _ in range(STEPS)]
    truth = trajectory(param, grad, torch.float64, torch.float64)
    single = trajectory(param, grad, torch.float32, torch.float32)
    coarse = trajectory(param, grad, torch.float32, torch.bfloat16)
    file = {"shape": np.array(list(SHAPE.values()), np.int64)} | {f"param/{name}": x.numpy()
                                                                  for name, x in param.items()}
    for step in range(STEPS):
        file |= {f"grad/{step + 1}/{name}": x.numpy() for name, x in grad[step].items()}
        for name, value in truth[step].items():
            at, stored = f"{step + 1}/{name}", value.astype(np.float32)
            file[at] = stored
            file[f"{at}/error"] = np.array([np.linalg.norm(single[step][name] - stored)])
            file[f"{at}/error_bf16"] = np.array([np.linalg.norm(coarse[step][name] - stored)])
    made_by = {"torch": torch.__version__, "numpy": np.__version__, "safetensors": version("safetensors"),
               "python": platform.python_version(), "machine": platform.machine()}
    path = Path(__file__).with_name("muon.safetensors")
    save_file(file, path, metadata={"made_by": json.dumps(made_by)})
    print(f"{path}: {len(file)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
