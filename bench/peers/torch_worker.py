"""One PyTorch peer in a process of its own, driven over stdin by compare.py: a line "step" runs one training step,
"forward" one forward pass without gradients; the answer is a line of JSON with seconds (and the loss). Everything
before READY is set-up and is not timed.

Forms: "published" is perceiver_ar_pytorch 0.0.10 as it is, with the optimizer as its user calls it (torch.optim.Adam).
"best" is the same model with scaled_dot_product_attention in both attentions and fused Adam; precision bf16 runs it
under autocast, compile wraps it in torch.compile. The batch is random tokens: time does not depend on them.
"""
import contextlib
import json
import sys
import time

import torch
import torch.nn.functional as F
from perceiver_ar_pytorch import PerceiverAR, perceiver_ar_pytorch as library

VOCAB, PAD = 390, 389


def heads(t, count):
    return t.unflatten(-1, (count, -1)).transpose(1, 2)  # (B, rows, H D) -> (B, H, rows, D)


def self_attention(self, x, rotary_pos_emb=None):
    q, k, v = (heads(t, self.heads) for t in self.to_qkv(self.norm(x)).chunk(3, dim=-1))
    q, k = (library.apply_rotary_pos_emb(rotary_pos_emb, t) for t in (q, k))
    o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return self.to_out(o.transpose(1, 2).flatten(2))


def prefix_attention(self, x, context, context_mask=None, rotary_pos_emb=None):
    batch, prefix, rows = x.shape[0], context.shape[1], x.shape[1]
    positions = rotary_pos_emb
    if self.training and self.cross_attn_dropout > 0:
        kept = prefix - int(prefix * self.cross_attn_dropout)
        keep = torch.rand(batch, prefix).topk(kept, dim=-1).indices.sort(dim=-1).values
        context = context.gather(1, keep[..., None].expand(-1, -1, context.shape[-1]))
        positions = torch.cat((rotary_pos_emb[keep], rotary_pos_emb[prefix:].expand(batch, -1, -1)), dim=1)[:, None]
    x, context = self.norm(x), self.context_norm(context)
    k, v = (heads(t, self.heads) for t in self.to_kv(torch.cat((context, x), dim=1)).chunk(2, dim=-1))
    q = library.apply_rotary_pos_emb(rotary_pos_emb, heads(self.to_q(x), self.heads))
    k = library.apply_rotary_pos_emb(positions, k)
    if q.is_cuda:
        from torch.nn.attention.bias import causal_lower_right  # takes the fused kernels, which a mask does not
        visible = causal_lower_right(rows, k.shape[-2])
    else:
        visible = torch.ones(rows, k.shape[-2], dtype=torch.bool).tril(k.shape[-2] - rows)
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    return self.to_out(o.transpose(1, 2).flatten(2))


def build(m: dict, form: str):
    if form == "best":
        library.CausalAttention.forward = self_attention
        library.CausalPrefixAttention.forward = prefix_attention
    torch.manual_seed(1)
    return PerceiverAR(num_tokens=VOCAB, dim=m["dim"], depth=m["depth"], max_seq_len=m["context"],
                       cross_attn_seq_len=m["prefix"], dim_head=m["dim_head"], heads=m["heads"], ff_mult=m["ff_mult"],
                       perceive_depth=m["perceive_depth"], cross_attn_dropout=m["prefix_dropout"])


def main(options: dict) -> None:
    torch.set_num_threads(options["threads"])
    m, form, bf16 = options["model"], options["form"], options["precision"] == "bf16"
    device, batch = options.get("device", "cpu"), options.get("batch", 1)
    model = build(m, form).to(device)
    torch.set_default_device(device)
    adam = torch.optim.Adam(model.parameters(), lr=3e-4, betas=(0.9, 0.999), eps=1e-8,
                            **({"fused": True} if form == "best" else {}))
    run = torch.compile(model) if options["compile"] else model
    x = torch.randint(0, PAD - 1, (batch, m["context"]), generator=torch.Generator("cpu").manual_seed(2), device="cpu")
    x = x.to(device)
    cast = torch.autocast(device, torch.bfloat16) if bf16 else contextlib.nullcontext()
    if options.get("cudnn"):  # cuDNN's attention wherever it takes the call, else the others in PyTorch's order
        from torch.nn.attention import SDPBackend as kind, sdpa_kernel
        order = [kind.CUDNN_ATTENTION, kind.FLASH_ATTENTION, kind.EFFICIENT_ATTENTION, kind.MATH]
        preferred = sdpa_kernel(order, set_priority=True)
        preferred.__enter__()  # for good

    def step() -> float:
        model.train()
        adam.zero_grad()
        with cast:
            loss = run(x, labels=x)
        loss.backward()
        adam.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    def forward() -> float:
        model.eval()
        with torch.no_grad(), cast:
            return run(x)[0, -1, 0].item()

    def warm_up() -> None:
        for _ in range(options["warm"]):
            step()

    # The first loss, of the first weights with every prefix position kept, is the check that all forms compute the
    # same.
    first = None
    if device == "cpu":
        model.eval()
        with torch.no_grad():
            first = model(x, labels=x).item()
    if options["weights"]:
        from safetensors.torch import save_file
        save_file({"x": x, **{f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}}, options["weights"])
    tries = 0
    while True:  # other processes may take memory for a while; what does not fit by itself is halved
        full = False
        try:
            warm_up()
        except torch.OutOfMemoryError:
            full = True
        if not full:
            break
        adam.zero_grad()
        torch.cuda.empty_cache()
        tries += 1
        if tries < options.get("tries", 1):
            time.sleep(5)
        elif len(x) == 1:
            raise SystemExit("out of memory with one sequence")
        else:
            x, tries = x[: len(x) // 2], 0
    if device == "cuda":
        torch.cuda.empty_cache()
    print("READY", json.dumps({"loss": first, "batch": len(x)}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        value = {"step": step, "forward": forward}[line.strip()]()
        print(json.dumps({"seconds": time.perf_counter() - began, "value": value}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
