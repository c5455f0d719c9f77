"""Checks adapters and merged checkpoints with PEFT. Do PEFT and safetensors read the files of this project, and does PyTorch
compute the same with them?

Needs torch, peft, safetensors (and transformers for `logits`). Prints one JSON line per check; exit 1 if any fails.

    # an adapter and, if given, the checkpoint it was merged into, against the base's tensors; works for every model
    python packages/lab/python/check_adapter.py keys --model BASE --adapter DIR [--merged DIR] [--names adapter_names.json]

    # logits written by `node packages/lab/python/adapter-logits.mjs` against a PyTorch model with the same adapter
    python packages/lab/python/check_adapter.py logits --peer model.py --model BASE --adapter DIR --logits FILE

    # the same for models that transformers has itself, with the merged checkpoint: all as transformers loads them
    python packages/lab/python/check_adapter.py native --model BASE --adapter DIR --merged DIR --logits FILE

`--peer` is a Python file with a class MiniCPMV26 that has `load(folder)` and the forward of the published model.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict, load_peft_weights
from safetensors import safe_open
from torch import nn

failed = False


def report(check, error, tolerance, **more):
    global failed
    ok = error <= tolerance
    failed |= not ok
    print(json.dumps({"check": check, "error": error, "tolerance": tolerance, "ok": ok, **more}))


def difference(ours, theirs):
    """How many names are on one side only, and which."""
    ours, theirs = set(ours), set(theirs)
    return len(ours ^ theirs), {"missing": sorted(theirs - ours)[:5], "unexpected": sorted(ours - theirs)[:5]}


def read_checkpoint(folder):
    """All tensors of a folder; with an index, exactly those it lists, each in its file."""
    index = Path(folder) / "model.safetensors.index.json"
    listed = json.loads(index.read_text())["weight_map"] if index.exists() else None
    tensors = {}
    for file in sorted(set(listed.values())) if listed else ["model.safetensors"]:
        with safe_open(Path(folder) / file, "pt") as f:
            assert f.metadata().get("format") == "pt", f"{file}: transformers asks for the metadata format=pt"
            tensors.update({k: f.get_tensor(k) for k in f.keys()})
    if listed is not None:
        assert tensors.keys() == listed.keys(), f"{index}: not the tensors of the files"
    return tensors


class Node(nn.Module):
    """A module with a copy of a checkpoint's names and no forward."""


def skeleton(tensors):
    """A tree of modules with the tensors of a checkpoint: Linear and Embedding where names and shapes say so, else bare parameters."""
    root = Node()
    for name in sorted(tensors):
        *path, last = name.split(".")
        node = root
        for i, part in enumerate(path):
            if not hasattr(node, part):
                node.add_module(part, make_module(".".join(path[: i + 1]), tensors))
            node = getattr(node, part)
        if not isinstance(node, (nn.Linear, nn.Embedding)):
            node.register_parameter(last, nn.Parameter(tensors[name].clone()))
    return root


def make_module(name, tensors):
    weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
    if weight is None or weight.ndim != 2:
        return Node()
    if name.endswith(("embed_tokens", "position_embedding")):
        module = nn.Embedding(*weight.shape, dtype=weight.dtype)
    else:
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    module.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return module


def on_peft(model, adapter):
    """The model with the adapter, and a check that PEFT found every key of the file and no other."""
    model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
    stored = load_peft_weights(adapter, device="cpu")
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    count, names = difference(stored, loaded)
    report("adapter/keys", count, 0, tensors=len(stored), **names)
    worst = max((stored[k].float() - loaded[k].float()).abs().max().item() for k in stored.keys() & loaded.keys())
    report("adapter/values", worst, 0.0)
    return model


def check_keys(args):
    base = read_checkpoint(args.model)
    if args.names:
        expected = json.loads(Path(args.names).read_text())
        expected = expected["adapter_tensor_names"] if isinstance(expected, dict) else expected
        count, names = difference(load_peft_weights(args.adapter, device="cpu"), expected)
        report("adapter/names", count, 0, **names)
    model = on_peft(skeleton(base), args.adapter)
    if not args.merged:
        return
    ours, theirs = read_checkpoint(args.merged), model.merge_and_unload().state_dict()
    count, names = difference(ours, base)
    report("merged/keys", count, 0, tensors=len(ours), **names)
    report("merged/shapes", sum(ours[k].shape != base[k].shape for k in ours.keys() & base.keys()), 0)
    worst = max((ours[k].float() - theirs[k].float()).abs().max().item() for k in base)
    report("merged/values", worst, args.tolerance, changed=sum(not torch.equal(ours[k], base[k]) for k in base))


@torch.no_grad()
def check_logits(args):
    spec = importlib.util.spec_from_file_location("peer", args.peer)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    with safe_open(args.logits, "pt") as f:
        data = {k: f.get_tensor(k) for k in f.keys()}
    pixels = [data[f"pixel_values.{i}"] for i in range(len(data["tgt_sizes"]))]
    batch = {
        "input_ids": data["input_ids"], "position_ids": data["position_ids"], "pixel_values": [pixels],
        "tgt_sizes": [data["tgt_sizes"]], "image_bound": [data["image_bound"]],
    }
    base = peer.MiniCPMV26.load(args.model).eval()
    without = base(batch).logits.float()
    logits = on_peft(base, args.adapter).eval()(batch).logits.float()
    scale = logits.abs().max().item()
    report("logits", (logits - data["logits"]).abs().max().item() / scale, args.tolerance, largest=scale)
    moved = (without - logits).abs().max().item() / scale
    report("logits/adapter_matters", 0 if moved > 100 * args.tolerance else 1, 0, moved=moved)


@torch.no_grad()
def native_logits(model, data):
    inner = model.base_model.model.model if isinstance(model, PeftModel) else model.model
    ids, sizes = data["input_ids"], data["tgt_sizes"].int()
    embeds = inner.language_model.embed_tokens(ids).clone()
    for i, (start, end) in enumerate(data["image_bound"].tolist()):  # one at a time: 4.6 mixes pictures of unequal grids
        features = inner.get_image_features(data[f"pixel_values.{i}"][None], sizes[i : i + 1]).pooler_output
        embeds[0, start:end] = features[0] if isinstance(features, (list, tuple)) else features.flatten(0, -2)
    positions = data["position_ids"]
    if positions.dim() == 3:
        kinds = torch.zeros_like(ids, dtype=torch.int32)
        for start, end in data["image_bound"].tolist():
            kinds[0, start:end] = 1
        theirs, _ = inner.get_rope_index(ids, mm_token_type_ids=kinds, target_sizes=sizes.long())
        report("position_ids", (theirs - positions).abs().max().item(), 0)
    return (model.base_model.model if isinstance(model, PeftModel) else model)(inputs_embeds=embeds, position_ids=positions).logits.float()


@torch.no_grad()
def check_native(args):
    from transformers import AutoModelForImageTextToText

    with safe_open(args.logits, "pt") as f:
        data = {k: f.get_tensor(k) for k in f.keys()}
    load = lambda folder: AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    without = native_logits(load(args.model), data)
    for what, model in (("adapter", on_peft(load(args.model), args.adapter).eval()), ("merged", load(args.merged))):
        logits = native_logits(model, data)
        scale = logits.abs().max().item()
        report(f"{what}/logits", (logits - data["logits"]).abs().max().item() / scale, args.tolerance, largest=scale)
        moved = (without - logits).abs().max().item() / scale
        report(f"{what}/matters", 0 if moved > 100 * args.tolerance else 1, 0, moved=moved)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run in (("keys", check_keys), ("logits", check_logits), ("native", check_native)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--model", required=True, help="folder of the base checkpoint")
        command.add_argument("--adapter", required=True)
        command.add_argument("--tolerance", type=float, default=1e-5 if name == "keys" else 1e-4)
    keys, logits = (commands.choices[name] for name in ("keys", "logits"))
    keys.add_argument("--merged", help="checkpoint that the adapter was merged into")
    keys.add_argument("--names", help="JSON list of the adapter's tensor names, or an object with it as adapter_tensor_names")
    logits.add_argument("--peer", required=True, help="Python file with a class MiniCPMV26")
    logits.add_argument("--logits", required=True, help="written by packages/lab/python/adapter-logits.mjs")
    native = commands.choices["native"]
    native.add_argument("--merged", required=True)
    native.add_argument("--logits", required=True, help="written by packages/lab/python/adapter-logits.mjs")
    args = parser.parse_args()
    args.run(args)
    sys.exit(1 if failed else 0)


main()
