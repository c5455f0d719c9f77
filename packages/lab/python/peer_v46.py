"""MiniCPM-V 4.6 by transformers and PEFT.

The other side of `npm run bench:peer -- --only transformers`. `checkpoint` writes random weights in the published layout, `batches` collated batches for it,
`train` trains LoRA adapters with transformers.Trainer and prints one JSON line: losses, seconds per step, peak memory.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SIZES = {
    #       hidden, ffn, layers, heads, kv, head, linear heads, vocab, vision: hidden, ffn, layers, heads, merger after
    "nano": (64, 128, 4, 2, 1, 32, 2, 512, 32, 64, 3, 2, 1),
    "4_6": (1024, 3584, 24, 8, 2, 256, 16, 248094, 1152, 4304, 27, 16, 6),
}
IMAGE_PAD = 7
MARKS = (3, 4)  # around a picture


def config_of(size):
    d, f, layers, heads, kv, head, linear, vocab, vd, vf, vl, vh, insert = SIZES[size]
    width = 128 if size == "4_6" else 16
    return {
        "architectures": ["MiniCPMV4_6ForConditionalGeneration"], "model_type": "minicpmv4_6", "image_size": 1120,
        "insert_layer_id": insert, "image_token_id": IMAGE_PAD, "video_token_id": IMAGE_PAD + 1, "tie_word_embeddings": True,
        "drop_vision_last_layer": False,
        "text_config": {
            "model_type": "qwen3_5_text", "hidden_size": d, "intermediate_size": f, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv, "head_dim": head, "full_attention_interval": 4, "linear_num_key_heads": linear,
            "linear_num_value_heads": linear, "linear_key_head_dim": width, "linear_value_head_dim": width, "linear_conv_kernel_dim": 4,
            "vocab_size": vocab, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6, "attention_bias": False, "attn_output_gate": True,
            "hidden_act": "silu", "tie_word_embeddings": True, "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
        },
        "vision_config": {
            "model_type": "minicpmv4_6_vision", "hidden_size": vd, "intermediate_size": vf, "num_hidden_layers": vl, "num_attention_heads": vh,
            "patch_size": 14, "image_size": 980, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
        },
    }


def make_checkpoint(args):
    from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration

    torch.manual_seed(0)
    config = config_of(args.size)
    torch.set_default_dtype(torch.bfloat16)
    model = MiniCPMV4_6ForConditionalGeneration(MiniCPMV4_6Config(**config))
    model.save_pretrained(args.out)
    (args.out / "config.json").write_text(json.dumps(config, indent=2))  # as published: what is a default is left out
    (args.out / "preprocessor_config.json").write_text(json.dumps({"max_slice_nums": 9, "scale_resolution": 448, "slice_mode": True, "use_image_id": True}))


def make_batches(args):
    """Each record: pictures of one size (this transformers mixes up grids that differ), a prompt and an answer, `tokens` in all or a few less."""
    side, vocab = args.side, config_of(args.size)["text_config"]["vocab_size"]
    generator = torch.Generator().manual_seed(0)
    rand = lambda low, high: int(torch.randint(low, high + 1, (1,), generator=generator))
    out = {}
    for b in range(args.batches):
        rows = []
        for s in range(args.batch_size):
            ids, bounds = [], []
            for i in range(args.pictures):
                ids.append(MARKS[0])
                bounds.append([len(ids), len(ids) + side * side // 16])
                ids += [IMAGE_PAD] * (side * side // 16) + [MARKS[1]]
                out[f"{b}.{s}.{i}.pixel_values"] = torch.rand(3, 14, side * side * 14, generator=generator) * 2 - 1
            length = rand(int(args.tokens * args.shortest), args.tokens)
            start = len(ids) + (length - len(ids)) // 3
            ids = torch.tensor(ids + [rand(10, vocab - 1) for _ in range(length - len(ids))])
            labels = torch.full_like(ids, -100)
            labels[start - 1 : -1] = ids[start:]
            out[f"{b}.{s}.image_bound"], out[f"{b}.{s}.tgt_sizes"] = torch.tensor(bounds).view(-1, 2), torch.tensor([[side, side]] * args.pictures).view(-1, 2)
            rows.append((ids, labels))
        pad = lambda rows, value: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
        out[f"{b}.input_ids"] = pad([row[0] for row in rows], 0)
        out[f"{b}.labels"] = pad([row[1] for row in rows], -100)
        out[f"{b}.attention_mask"] = pad([torch.ones(len(row[0]), dtype=torch.bool) for row in rows], 0)
    save_file(out, args.out)


def read_batches(path):
    flat = load_file(path)
    batches = []
    for b in range(1 + max(int(key.split(".")[0]) for key in flat)):
        batch = {key: flat[f"{b}.{key}"] for key in ("input_ids", "labels", "attention_mask")}
        batch["labels"] = torch.nn.functional.pad(batch["labels"][:, :-1], (1, 0), value=-100)  # the model shifts them itself
        batch["attention_mask"] = batch["attention_mask"].long()
        pictures = sorted((int(key.split(".")[1]), int(key.split(".")[2]), key) for key in flat if key.startswith(f"{b}.") and key.endswith("pixel_values"))
        if pictures:
            batch["pixel_values"] = torch.cat([flat[key] for _, _, key in pictures], -1)[None]
            batch["target_sizes"] = torch.cat([flat[f"{b}.{s}.tgt_sizes"] for s in range(len(batch["labels"]))])
        batches.append(batch)
    return batches


def train(args):
    from peft import LoraConfig, get_peft_model
    from transformers import MiniCPMV4_6ForConditionalGeneration, Trainer, TrainerCallback, TrainingArguments, set_seed

    torch.set_num_threads(args.threads)
    set_seed(0)
    model = MiniCPMV4_6ForConditionalGeneration.from_pretrained(args.checkpoint, dtype=torch.bfloat16)
    model.config.use_cache = model.config.text_config.use_cache = False
    lora = LoraConfig(r=args.lora_r, lora_alpha=args.lora_r, lora_dropout=0.0, bias="none", target_modules=args.lora_target_modules)
    model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    if args.gradient_checkpointing:
        model.enable_input_require_grads()
    batches, losses, stamps = read_batches(args.batches), [], []
    for batch in batches:
        if "pixel_values" in batch:
            batch["pixel_values"] = batch["pixel_values"].to(torch.bfloat16)

    class Watch(TrainerCallback):
        def on_step_begin(self, *_, **__):
            stamps.append([(time.perf_counter(), time.process_time())])

        def on_step_end(self, *_, **__):
            stamps[-1].append((time.perf_counter(), time.process_time()))

        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in (logs or {}):
                losses.append(float(logs["loss"]))

    fixed = [batches[i % len(batches)] for i in range(args.steps)]
    trainer = Trainer(
        model=model, train_dataset=fixed, data_collator=lambda rows: rows[0], callbacks=[Watch()],
        args=TrainingArguments(
            output_dir=tempfile.mkdtemp(), max_steps=args.steps, per_device_train_batch_size=1, learning_rate=1e-4, adam_beta2=0.95, weight_decay=0.1,
            lr_scheduler_type="constant", logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False, remove_unused_columns=False,
            disable_tqdm=True, max_grad_norm=1.0, gradient_checkpointing=args.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        ),
    )
    trainer.get_train_dataloader = lambda: torch.utils.data.DataLoader(fixed, batch_size=1, collate_fn=lambda rows: rows[0])
    trainer.train()
    times, cpu = ([end[i] - start[i] for start, end in stamps] for i in (0, 1))
    samples = sum(len(batch["labels"]) for batch in fixed[1:])
    print(json.dumps({
        "losses": losses, "step_s": [round(t, 4) for t in times], "step_cpu_s": [round(t, 3) for t in cpu],
        "median_step_s": sorted(times[1:])[len(times[1:]) // 2],
        "samples_per_s": samples / sum(times[1:]), "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["checkpoint", "batches", "train"])
    parser.add_argument("--size", choices=SIZES, default="4_6")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--batches", type=lambda text: int(text) if text.isdigit() else text, default=3, help="how many, or the file of them")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512, help="of the longest record")
    parser.add_argument("--shortest", type=float, default=0.5, help="part of `tokens` that the shortest record has")
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--side", type=int, default=32, help="patches along each side of a picture")
    parser.add_argument("--checkpoint")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--lora_r", type=int, default=16)
    parser.add_argument("--lora_target_modules", help="a pattern of names")
    parser.add_argument("--modules_to_save", choices=[""], default="")
    for same in ("--lora", "--bf16", "--freeze_vision"):
        parser.add_argument(same, action="store_true", help="always so, said as this project's side says it")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    {"checkpoint": make_checkpoint, "batches": make_batches, "train": train}[args.what](args)


main()
