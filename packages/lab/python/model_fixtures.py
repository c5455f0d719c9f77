"""Makes the reference numbers of packages/minicpm-v/test. Small models whose weights follow from a hash of their names,
computed with PyTorch and transformers, independent of this project's code. Needs torch, transformers, safetensors.

    python packages/lab/python/model_fixtures.py --out packages/minicpm-v/test/fixtures/models      writes <model>.json
    python packages/lab/python/model_fixtures.py --check DIR…     compares this file's arithmetic with folders that hold reference values
"""

import argparse
import copy
import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

LLM = {
    "hidden_size": 128, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 96, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
    "torch_dtype": "float32", "query_num": 4, "drop_vision_last_layer": False,
}
VISION = {"vision_config": {
    "hidden_size": 16, "image_size": 980, "intermediate_size": 28, "num_attention_heads": 2, "num_hidden_layers": 2, "patch_size": 14,
}}
CONFIGS = {
    "minicpm-v-2_6": LLM | VISION | {"architectures": ["MiniCPMV"], "version": 2.6, "rope_theta": 1000000.0},
    "minicpm-o-2_6": LLM | VISION | {"architectures": ["MiniCPMO"], "version": 2.6, "rope_theta": 1000000.0, "query_num": 6},
    "minicpm-llama3-v-2_5": LLM | VISION | {"architectures": ["MiniCPMV"], "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
    "minicpm-v-4": LLM | VISION | {
        "architectures": ["MiniCPMV"], "version": 4.0, "rope_theta": 10000.0, "hidden_size": 256, "head_dim": 32,
        "rope_scaling": {
            "rope_type": "longrope", "original_max_position_embeddings": 16,
            "short_factor": [1 + k / 8 for k in range(16)], "long_factor": [1 + k / 2 for k in range(16)],
        },
    },
    "minicpm-v-4_5": LLM | VISION | {"architectures": ["MiniCPMV"], "version": 4.5, "rope_theta": 1000000.0, "head_dim": 24},
    "minicpm-o-4_5": LLM | VISION | {"architectures": ["MiniCPMO"], "version": 4.5, "rope_theta": 1000000.0, "head_dim": 40},
    "minicpm-v-2": LLM | {
        "architectures": ["MiniCPMV"], "rope_theta": 10000.0, "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 32,
        "num_key_value_heads": 4, "drop_vision_last_layer": True, "vision_encoder": "vit_so400m_patch14_siglip_384.webli",
        "vision_encoder_args": {"embed_dim": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 1.9, "img_size": 112, "patch_size": 14},
    },
}
# these are computed by transformers' own classes, a picture at a time
TEXT_CONFIG = {
    "model_type": "qwen3_5_text", "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 96, "max_position_embeddings": 4096, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 24, "linear_conv_kernel_dim": 4, "full_attention_interval": 4,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
NATIVE = {
    "minicpm-v-4_6": {
        "architectures": ["MiniCPMV4_6ForConditionalGeneration"], "model_type": "minicpmv4_6", "insert_layer_id": 0,
        "tie_word_embeddings": True, "image_token_id": 90, "video_token_id": 91, "text_config": TEXT_CONFIG | {"rope_parameters": ROPE},
    } | VISION,
    "minicpm-v-4_7": {
        "architectures": ["MiniCPMV4_7ForConditionalGeneration"], "model_type": "minicpmv4_7", "insert_layer_id": 1,
        "tie_word_embeddings": False, "image_token_id": 90, "video_token_id": 91, "image_start_id": 92, "image_end_id": 93,
        "slice_start_id": 94, "slice_end_id": 95, "newline_id": 1,
        "text_config": TEXT_CONFIG | {"rope_parameters": ROPE | {"mrope_interleaved": True, "mrope_section": [3, 3, 2]}},
    } | VISION,
}
NATIVE_SIDES = 4  # patches that the sides of pictures are multiples of there
GROUP_TIMES = [0, 3, -1]  # of the first sample's pictures as one group of frames
# rows and columns in patches of each sample's pictures; tokens in front of each picture and at the end
PICTURES = [[(3, 5), (4, 2), (3, 5)], [(2, 9)]]
TEXT = [([2, 1, 3], 7), ([4], 5)]


def hashed(name, count):
    """`count` numbers in [-0.5, 0.5) that follow from a name: exact in float64."""
    h = (np.arange(1, count + 1, dtype=np.uint64) * 0x9E3779B1 & 0xFFFFFFFF) ^ zlib.crc32(name.encode())
    h ^= h >> 16
    h = h * 0x85EBCA6B & 0xFFFFFFFF
    h ^= h >> 13
    h = h * 0xC2B2AE35 & 0xFFFFFFFF
    h ^= h >> 16
    return h / 2**32 - 0.5


def weight(name, shape):
    u = hashed(name, math.prod(shape))
    if name.endswith("bias"):
        x = u * 0.4
    elif len(shape) == 1:
        x = 1 + u * 0.4
    elif "embed" in name and "patch" not in name or name == "resampler.query":
        x = u
    else:
        x = u * (4 / math.sqrt(math.prod(shape[1:])))
    return torch.from_numpy(x.astype(np.float32)).reshape(shape)


class Model:
    """The forward pass as functions over a dictionary of weights with the checkpoint's names."""

    def __init__(self, config):
        config = copy.deepcopy(config)  # transformers writes into it
        self.c, self.w = config, {}
        self.v2 = "vision_encoder" in config
        self.v25 = not self.v2 and "version" not in config
        config_class, model_class = {2.6: (Qwen2Config, Qwen2ForCausalLM), 4.5: (Qwen3Config, Qwen3ForCausalLM)}.get(
            config.get("version"), (LlamaConfig, LlamaForCausalLM))
        keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
                "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "head_dim", "tie_word_embeddings")
        llm_config = config_class(**{k: config[k] for k in keys if config.get(k) is not None})
        llm_config._attn_implementation = "eager"
        self.llm = model_class(llm_config)

    def shapes(self):
        c, d, q = self.c, self.c["hidden_size"], self.c["query_num"]
        s = {f"llm.{n}": tuple(p.shape) for n, p in self.llm.named_parameters()}
        linear = lambda n, o, i: s.update({f"{n}.weight": (o, i), f"{n}.bias": (o,)})
        norm = lambda n, k: s.update({f"{n}.weight": (k,), f"{n}.bias": (k,)})
        if self.v2:
            a = c["vision_encoder_args"]
            v, hidden, side = a["embed_dim"], int(a["embed_dim"] * a["mlp_ratio"]), a["img_size"] // 14
            s |= {"vpm.pos_embed": (1, side * side, v), "vpm.patch_embed.proj.weight": (v, 3, 14, 14), "vpm.patch_embed.proj.bias": (v,)}
            for i in range(a["depth"] - 1):
                p = f"vpm.blocks.{i}"
                norm(f"{p}.norm1", v), norm(f"{p}.norm2", v), linear(f"{p}.attn.qkv", 3 * v, v), linear(f"{p}.attn.proj", v, v)
                linear(f"{p}.mlp.fc1", hidden, v), linear(f"{p}.mlp.fc2", v, hidden)
            norm("vpm.norm", v)
            s["resampler.pos_embed"] = (q, d)
        else:
            a = c["vision_config"]
            v, hidden = a["hidden_size"], a["intermediate_size"]
            e = "vpm.embeddings"
            s |= {f"{e}.patch_embedding.weight": (v, 3, 14, 14), f"{e}.patch_embedding.bias": (v,), f"{e}.position_embedding.weight": (4900, v)}
            for i in range(a["num_hidden_layers"]):
                p = f"vpm.encoder.layers.{i}"
                norm(f"{p}.layer_norm1", v), norm(f"{p}.layer_norm2", v)
                for n in "qkv":
                    linear(f"{p}.self_attn.{n}_proj", v, v)
                linear(f"{p}.self_attn.out_proj", v, v), linear(f"{p}.mlp.fc1", hidden, v), linear(f"{p}.mlp.fc2", v, hidden)
            norm("vpm.post_layernorm", v)
        s |= {"resampler.query": (q, d), "resampler.proj": (d, d), "resampler.kv_proj.weight": (d, v),
              "resampler.attn.in_proj_weight": (3 * d, d), "resampler.attn.in_proj_bias": (3 * d,)}
        linear("resampler.attn.out_proj", d, d)
        for n in ("ln_q", "ln_kv", "ln_post"):
            norm(f"resampler.{n}", d)
        return s

    def linear(self, x, name):
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-6)

    def attend(self, q, k, v, heads, mask=None):
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-3, -2) for x in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return ((scores if mask is None else scores + mask).softmax(-1) @ v).transpose(-3, -2).flatten(-2)

    def tower(self, pictures):
        """pictures: (pixels, rows, cols), pixels [3, 14, 14n] or, for V-2, [3, H, W]; features [n, width] each"""
        return [self.timm(*p) for p in pictures] if self.v2 else self.navit(pictures)

    def navit(self, pictures, grid=False):
        strip = self.v25 and not grid
        longest = max(r * c for _, r, c in pictures)
        edges = torch.arange(1 / 70, 1.0, 1 / 70)
        bucket = lambda n: torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / torch.tensor(n)), edges, right=True)  # a float32 step, as published
        x, ids, pad = [], torch.zeros(len(pictures), longest, dtype=torch.long), torch.zeros(len(pictures), longest)
        for i, (pixels, r, c) in enumerate(pictures):
            x.append(F.pad(pixels, (0, 14 * longest - pixels.shape[-1])))
            if strip:
                ids[i] = bucket(longest)
            else:
                ids[i, : r * c] = (bucket(r)[:, None] * 70 + bucket(c)).flatten()
                pad[i, r * c :] = torch.finfo(torch.float32).min
        e = "vpm.embeddings"
        x = F.conv2d(torch.stack(x), self.w[f"{e}.patch_embedding.weight"], self.w[f"{e}.patch_embedding.bias"], 14).flatten(2).transpose(1, 2)
        x = x + self.w[f"{e}.position_embedding.weight"][ids]
        a = self.c["vision_config"]
        for i in range(a["num_hidden_layers"]):
            p = f"vpm.encoder.layers.{i}"
            y = self.norm(x, f"{p}.layer_norm1")
            y = self.attend(*(self.linear(y, f"{p}.self_attn.{n}_proj") for n in "qkv"), a["num_attention_heads"], pad[:, None, None])
            x = x + self.linear(y, f"{p}.self_attn.out_proj")
            y = F.gelu(self.linear(self.norm(x, f"{p}.layer_norm2"), f"{p}.mlp.fc1"), approximate="tanh")
            x = x + self.linear(y, f"{p}.mlp.fc2")
        x = self.norm(x, "vpm.post_layernorm")
        return [x[i, : r * c] for i, (_, r, c) in enumerate(pictures)]

    def timm(self, pixels, r, c):
        a = self.c["vision_encoder_args"]
        x = F.conv2d(pixels[None], self.w["vpm.patch_embed.proj.weight"], self.w["vpm.patch_embed.proj.bias"], 14).flatten(2).transpose(1, 2)
        side = a["img_size"] // 14
        pos = self.w["vpm.pos_embed"]
        if (r, c) != (side, side):
            pos = pos.reshape(1, side, side, -1).permute(0, 3, 1, 2)
            pos = F.interpolate(pos, (r, c), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(1, r * c, -1)
        x = x + pos
        for i in range(a["depth"] - 1):
            p = f"vpm.blocks.{i}"
            y = self.attend(*self.linear(self.norm(x, f"{p}.norm1"), f"{p}.attn.qkv").chunk(3, -1), a["num_heads"])
            x = x + self.linear(y, f"{p}.attn.proj")
            x = x + self.linear(F.gelu(self.linear(self.norm(x, f"{p}.norm2"), f"{p}.mlp.fc1")), f"{p}.mlp.fc2")
        return self.norm(x, "vpm.norm")[0]

    def resample(self, x, r, c):
        return self.resample_group([x], [(r, c)], None)

    def resample_group(self, features, grids, times):
        """frames' features and grids, and their times, -1 without; None: no picture has one"""
        d = self.c["hidden_size"]
        omega = 1.0 / 10000 ** (torch.arange(d // 4, dtype=torch.float32) / (d / 4.0))
        axis = lambda n: (lambda a: torch.cat([a.sin(), a.cos()], -1))(torch.arange(n, dtype=torch.float32)[:, None] * omega)
        place = lambda r, c: torch.cat([axis(c)[None].expand(r, c, -1), axis(r)[:, None].expand(r, c, -1)], -1).flatten(0, 1)
        half = torch.arange(d // 2, dtype=torch.float32)
        time = lambda t: 0 if t < 0 else (lambda a: torch.cat([a.sin(), a.cos()]))(t * (1.0 / 10000 ** (half / (d / 2.0))))
        table = torch.cat([place(r, c) + time(-1 if times is None else times[i]) for i, (r, c) in enumerate(grids)])
        x = self.norm(self.linear(torch.cat(features), "resampler.kv_proj"), "resampler.ln_kv")
        q = self.norm(self.w["resampler.query"], "resampler.ln_q")
        if self.v2:
            q = q + self.w["resampler.pos_embed"]
        weights, biases = self.w["resampler.attn.in_proj_weight"].chunk(3), self.w["resampler.attn.in_proj_bias"].chunk(3)
        y = self.attend(*(F.linear(z, m, b) for z, m, b in zip((q, x + table, x), weights, biases)), d // 128)
        return self.norm(self.linear(y, "resampler.attn.out_proj"), "resampler.ln_post") @ self.w["resampler.proj"]

    def forward(self, ids, positions, pictures, bounds):
        """ids, positions [B, L]; pictures and bounds per sample; returns features, tokens, embeddings, logits"""
        flat = [p for sample in pictures for p in sample]
        features = self.tower(flat) if flat else []
        tokens = [self.resample(x, r, c) for x, (_, r, c) in zip(features, flat)]
        x = self.w["llm.model.embed_tokens.weight"][ids] * self.c.get("scale_emb", 1)
        x, left = x.clone(), iter(tokens)
        for b, ranges in enumerate(bounds):
            for start, end in ranges:
                x[b, start:end] = next(left)
        depth = self.c.get("scale_depth", 0) / math.sqrt(self.c["num_hidden_layers"]) or 1
        scaled = lambda n: depth if n.endswith(("o_proj.weight", "down_proj.weight")) else 1
        weights = {n: self.w[f"llm.{n}"] * scaled(n) for n, _ in self.llm.named_parameters()}
        mask = torch.ones(ids.shape, dtype=torch.long)
        inputs = {"inputs_embeds": x, "position_ids": positions, "attention_mask": mask, "use_cache": False}
        base = {n.removeprefix("model."): w for n, w in weights.items() if n.startswith("model.")}
        hidden = torch.func.functional_call(self.llm.model, base, (), inputs).last_hidden_state
        width = self.c["hidden_size"] / self.c.get("dim_model_base", self.c["hidden_size"])
        return features, tokens, x, F.linear(hidden / width, weights["lm_head.weight"])


def inputs_of(config, native=False):
    """The batch that the fixtures are computed from; the test makes the same one."""
    vocab, timm = (config["text_config"] if native else config)["vocab_size"], "vision_encoder" in config
    sides = NATIVE_SIDES if native else 1
    pictures, bounds, lengths = [], [], []
    for b, shapes in enumerate(PICTURES):
        before, after = TEXT[b]
        pictures.append([])
        bounds.append([])
        at = 0
        for i, (r, c) in enumerate((r * sides, c * sides) for r, c in shapes):
            q = r * c // 16 if native else config["query_num"]
            shape = (3, 14 * r, 14 * c) if timm else (3, 14, 14 * r * c)
            pixels = torch.from_numpy((hashed(f"pixels.{b}.{i}", math.prod(shape)) * 2).astype(np.float32)).reshape(shape)
            pictures[b].append((pixels, r, c))
            bounds[b].append((at + before[i], at + before[i] + q))
            at += before[i] + q
        lengths.append(at + after)
    longest = max(lengths)
    ids, labels = torch.zeros(2, longest, dtype=torch.long), torch.full((2, longest), -100)
    positions = torch.zeros(2, longest, dtype=torch.long)
    for b, n in enumerate(lengths):
        ids[b, :n] = torch.from_numpy(((hashed(f"ids.{b}", n) + 0.5) * vocab).astype(np.int64))
        labels[b, n - 5 : n] = torch.from_numpy(((hashed(f"labels.{b}", 5) + 0.5) * vocab).astype(np.int64))
        positions[b, :n] = torch.arange(n)
    return ids, positions, labels, pictures, bounds, lengths


def probe(x):
    """Two numbers that tell a tensor: its norm and its product with a fixed vector."""
    x = x.detach().double().flatten()
    return [x.norm().item(), (x @ torch.from_numpy(hashed("probe", x.numel()))).item()]


def fixture(config):
    model = Model(config)
    model.w = {n: weight(n, s).requires_grad_() for n, s in model.shapes().items()}
    ids, positions, labels, pictures, bounds, lengths = inputs_of(config)
    features, tokens, embeds, logits = model.forward(ids, positions, pictures, bounds)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    loss.backward()
    blank = torch.zeros(3, 224, 224) if model.v2 else torch.zeros(3, 14, 14 * 256)
    dummy = model.timm(blank, 16, 16) if model.v2 else model.navit([(blank, 16, 16)], grid=True)[0]
    valid = lambda x: [probe(x[b, :n]) for b, n in enumerate(lengths)]
    return {
        "config": config,
        "vision": [probe(x) for x in features],
        "tokens": [probe(x) for x in tokens],
        **({} if config.get("version") != 4.5 else {
            "group_tokens": probe(model.resample_group(features[:3], [(r, c) for _, r, c in pictures[0]], GROUP_TIMES))}),
        "dummy_tokens": probe(model.resample(dummy, 16, 16)),
        "inputs_embeds": valid(embeds),
        "logits": valid(logits),
        "loss": loss.item(),
        "gradients": {n: probe(w.grad) for n, w in model.w.items() if n != "resampler.pos_embed"},
    }


def native_fixture(config):
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**copy.deepcopy(config)), attn_implementation="eager").float().eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(weight(n, tuple(p.shape)))
    ids, positions, labels, pictures, bounds, lengths = inputs_of(config, native=True)
    if "image_start_id" in config:  # three positions for each token
        steps = [torch.from_numpy(((hashed(f"axis.{a}", ids.numel()) + 0.5) * 9).astype(np.int64)).view_as(ids) for a in range(3)]
        positions = torch.stack([positions + s for s in steps])
    embeds, features, tokens = model.model.language_model.embed_tokens(ids).clone(), [], []
    tower = model.model.vision_tower
    tower.register_forward_hook(lambda _m, _i, out: features.append(out.last_hidden_state[0]))
    for b, sample in enumerate(pictures):
        for (pixels, r, c), (start, end) in zip(sample, bounds[b]):
            out = model.model.get_image_features(pixels[None], torch.tensor([[r, c]], dtype=torch.int32))
            tokens.append(out.pooler_output[0] if isinstance(out.pooler_output, (list, tuple)) else out.pooler_output.flatten(0, -2))
            embeds[b, start:end] = tokens[-1]
    hidden = model.model.language_model(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    loss.backward()
    valid = lambda x: [probe(x[b, :n]) for b, n in enumerate(lengths)]
    return {
        "config": config,
        "vision": [probe(x) for x in features],
        "tokens": [probe(x) for x in tokens],
        "inputs_embeds": valid(embeds),
        "logits": valid(logits),
        "loss": loss.item(),
        "gradients": {n: probe(p.grad) for n, p in model.named_parameters()},
    }


def check(folder):
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    model = Model(config)
    stored = load_file(folder / "model.safetensors")
    shapes = model.shapes()
    assert all(stored[n].shape == s for n, s in shapes.items()), "names or shapes"
    model.w = {n: stored[n] for n in shapes}
    for case in sorted((folder / "cases").iterdir()):
        i, e = load_file(case / "inputs.safetensors"), load_file(case / "expected.safetensors")
        pictures, bounds = [], []
        for b in range(len(i["input_ids"])):
            bounds.append(i[f"image_bound.{b}"].tolist())
            pixels = [i[f"pixel_values.{b}.{k}"] for k in range(len(bounds[b]))]
            sizes = i[f"tgt_sizes.{b}"].tolist() if f"tgt_sizes.{b}" in i else [[p.shape[1] // 14, p.shape[2] // 14] for p in pixels]
            pictures.append([(p, r, c) for p, (r, c) in zip(pixels, sizes)])
        with torch.no_grad():
            logits = model.forward(i["input_ids"].long(), i["position_ids"], pictures, bounds)[-1]
        valid = i["attention_mask"]
        print(folder.name, case.name, "logits differ by", (logits - e["logits"])[valid].abs().max().item())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", type=Path, nargs="+", default=[])
    args = parser.parse_args()
    if args.out is None and not args.check:
        sys.exit(parser.format_usage())
    for folder in args.check:
        check(folder)
    for name, config in CONFIGS.items() if args.out else []:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / f"{name}.json").write_text(json.dumps(fixture(config), indent=1) + "\n")
    for name, config in NATIVE.items() if args.out else []:
        (args.out / f"{name}.json").write_text(json.dumps(native_fixture(config), indent=1) + "\n")


if __name__ == "__main__":
    main()
