"""DPO in plain PyTorch and peft, as TRL does it. Both answers in one batch, each with its prompt and its pictures; the reference is the same
batch with the adapter off. Takes the checkpoint and batches of bench:peer and prints one JSON line of figures. The rejected answer of a
sample is its answer backwards.

    python packages/lab/python/dpo_peer.py --peer DIR --checkpoint DIR --batches FILE --lora --bf16 --freeze_vision
"""

import argparse
import json
import resource
import sys
import time

import torch
import torch.nn.functional as F


def both(batch):
    """The batch with its answers, then with its answers backwards."""
    ids, labels = batch["input_ids"], batch["labels"]
    other_ids, other_labels = ids.clone(), labels.clone()
    for s in range(len(ids)):
        at = (labels[s] != -100).nonzero().flatten()
        answer = ids[s, at + 1].flip(0)
        other_ids[s, at + 1] = answer
        other_labels[s, at] = answer
    twice = {k: torch.cat([batch[k]] * 2) for k in ("position_ids", "attention_mask")}
    twice |= {k: batch[k] * 2 for k in ("image_bound", "tgt_sizes", "pixel_values")}
    return twice | {"input_ids": torch.cat([ids, other_ids])}, torch.cat([labels, other_labels])


def log_probs(model, inputs, labels):
    logits = model.base_model(data=dict(inputs)).logits
    sums = []
    for row, label in zip(logits, labels):  # row by row, as TRL saves memory
        per_token = torch.gather(row.float().log_softmax(-1), 1, label.clamp(min=0)[:, None].long())[:, 0]
        sums.append((per_token * (label != -100)).sum())
    return torch.stack(sums)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer", required=True)
    p.add_argument("--checkpoint", required=True)
    p.add_argument("--batches", required=True)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--lora", action="store_true")
    p.add_argument("--lora_r", type=int, default=64)
    p.add_argument("--modules_to_save", default="")
    p.add_argument("--freeze_vision", action="store_true")
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--vision_attention", choices=["eager", "sdpa"], default="eager")
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--beta", type=float, default=0.1)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    sys.path.insert(0, a.peer)
    from model import MiniCPMV26
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    model = MiniCPMV26.load(a.checkpoint, torch.bfloat16 if a.bf16 else torch.float32, a.vision_attention)
    model.requires_grad_(False)
    model = get_peft_model(model, LoraConfig(
        r=a.lora_r, lora_alpha=a.lora_r, lora_dropout=0.0, bias="none",
        target_modules=r"llm\..*layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)",
    ))
    flat, batches = load_file(a.batches), []
    for b in range(1 + max(int(k.split(".")[0]) for k in flat)):
        d = {k: flat[f"{b}.{k}"] for k in ("input_ids", "labels", "position_ids", "attention_mask")}
        samples = range(len(d["input_ids"]))
        d["image_bound"] = [flat[f"{b}.{s}.image_bound"] for s in samples]
        d["tgt_sizes"] = [flat[f"{b}.{s}.tgt_sizes"] for s in samples]
        d["pixel_values"] = [[flat[f"{b}.{s}.{i}.pixel_values"] for i in range(len(d["tgt_sizes"][s]))] for s in samples]
        batches.append(d)
    trainable = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=a.lr, betas=(0.9, 0.95), weight_decay=0.1)
    losses, seconds = [], []
    for step in range(a.steps):
        start = time.perf_counter()
        inputs, labels = both(batches[step % len(batches)])
        with torch.no_grad(), model.disable_adapter():
            reference = log_probs(model, inputs, labels)
        policy = log_probs(model, inputs, labels)
        chosen, rejected = (policy - reference).chunk(2)
        loss = -F.logsigmoid(a.beta * (chosen - rejected)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    body = seconds[1:]
    pairs = sum(len(batches[i % len(batches)]["input_ids"]) for i in range(1, a.steps))
    print(json.dumps({
        "losses": losses,
        "step_s": [round(s, 4) for s in seconds],
        "median_step_s": round(sorted(body)[len(body) // 2], 4),
        "samples_per_s": round(pairs / sum(body), 4),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "trainable": sum(w.numel() for w in trainable),
    }))


main()
