"""Generation by transformers, timed.

The other side of `npm run bench:decode`. Prints one JSON line for each case: seconds to the first token, and seconds of each further one, for `sequences` prompts of one length.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import Qwen2Config, Qwen2ForCausalLM


def load(folder):
    config = json.loads((folder / "config.json").read_text())
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
            "max_position_embeddings", "rms_norm_eps", "rope_theta", "tie_word_embeddings", "bos_token_id", "eos_token_id")
    with torch.device("meta"):
        model = Qwen2ForCausalLM(Qwen2Config(**{key: config[key] for key in keys}, dtype="bfloat16")).to(torch.bfloat16)
    state = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                if name.startswith("llm."):
                    state[name[len("llm."):]] = tensors.get_tensor(name)
    model.load_state_dict(state, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its buffers are not in the checkpoint
    return model.eval()


def timed(model, ids, tokens):
    start = time.perf_counter()
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--case", action="append", required=True, help="sequences:length")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load(args.checkpoint)
    with torch.inference_mode():
        for case in args.case:
            count, length = (int(part) for part in case.split(":"))
            ids = (torch.arange(length) * 31 + torch.arange(count)[:, None] * 7 + 5) % 30000
            timed(model, ids, 2)
            first = [timed(model, ids, 1) for _ in range(args.rounds)]
            whole = [timed(model, ids, 1 + args.tokens) for _ in range(args.rounds)]
            step = (min(whole) - min(first)) / args.tokens
            print(json.dumps({"sequences": count, "length": length, "first_s": min(first), "step_s": step}), flush=True)


main()
