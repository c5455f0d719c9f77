"""Makes the reference numbers of preference tuning. For packages/finetune/test/engine/preference.test.ts: the losses of preference tuning as TRL writes them, in
PyTorch, on the small MiniCPM-V 2.6 of model_fixtures.py, both answers of a pair encoded whole. Needs torch, transformers, safetensors.

    python packages/lab/python/preference_fixtures.py --out packages/finetune/test/fixtures/preference.json
"""

import argparse
import base64
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from model_fixtures import CONFIGS, Model, hashed, probe, weight

CONFIG = CONFIGS["minicpm-v-2_6"]
# of each record: pictures in patches, tokens before them, between and after, tokens of the first and of the other answer
RECORDS = [([(3, 5)], [2, 4], 5, 7), ([(4, 2), (3, 5)], [3, 1, 2], 6, 3), ([], [9], 4, 8), ([(2, 9)], [1, 6], 1, 2)]
DESIRABLE = [True, False, False, True]
LOSSES = {
    "dpo": {}, "dpo_smoothed": {"loss": "dpo", "label_smoothing": 0.2}, "rpo": {"loss": "dpo", "rpo_alpha": 0.7},
    "ipo": {}, "hinge": {}, "simpo": {"beta": 2.0, "simpo_gamma": 1.0}, "orpo": {},
    "kto": {"desirable_weight": 1.25, "undesirable_weight": 0.75}, "mpo": {"rpo_alpha": 1.0},
}
STEPS = 10
PLACES = 16  # of each parameter's gradient, whose values are in the fixture
LEARNING_RATE = 1e-3


def tokens(name, count):
    return torch.from_numpy(((hashed(name, count) + 0.5) * CONFIG["vocab_size"]).astype(np.int64))


def sequences():
    """Of each record two sequences: ids, labels (shifted), pictures, bounds."""
    q, found = CONFIG["query_num"], []
    for b, (shapes, around, *answers) in enumerate(RECORDS):
        bounds, at = [], 0
        for i, _ in enumerate(shapes):
            at += around[i]
            bounds.append((at, at + q))
            at += q
        prompt = tokens(f"prompt.{b}", at + around[-1])
        pictures = []
        for i, (r, c) in enumerate(shapes):
            shape = (3, 14, 14 * r * c)
            # whole bytes, as pixels are stored
            levels = np.floor((hashed(f"picture.{b}.{i}", math.prod(shape)) + 0.5) * 256)
            pictures.append((torch.from_numpy((levels / 127.5 - 1).astype(np.float32)).reshape(shape), r, c))
        for k, length in enumerate(answers):
            ids = torch.cat([prompt, tokens(f"answer.{b}.{k}", length)])
            labels = torch.full_like(ids, -100)
            labels[len(prompt) - 1 : -1] = ids[len(prompt) :]
            found.append((ids, labels, pictures, bounds))
    return found


def log_probs(model, found):
    """Summed log-probabilities of the answers, and their tokens. [2 * records] each"""
    sums, counts = [], []
    for ids, labels, pictures, bounds in found:
        logits = model.forward(ids[None], torch.arange(len(ids))[None], [pictures], [bounds])[-1][0]
        mask = labels != -100
        per_token = torch.gather(logits.log_softmax(-1), 1, labels.clamp(min=0)[:, None])[:, 0]
        sums.append((per_token * mask).sum())
        counts.append(mask.sum())
    return torch.stack(sums), torch.stack(counts)


class RunningMean:
    """TRL's RunningMoments, the mean alone."""

    def __init__(self):
        self.mean, self.count = 0.0, 1e-24

    def update(self, xs):
        total = self.count + xs.numel()
        self.mean += (xs.mean().item() - self.mean) * xs.numel() / total
        self.count = total


def loss_of(kind, policy, reference, counts, running, beta=0.1, label_smoothing=0.0, rpo_alpha=0.0, simpo_gamma=0.0,
            desirable_weight=1.0, undesirable_weight=1.0):
    chosen, rejected = policy[0::2], policy[1::2]
    n_chosen, n_rejected = counts[0::2], counts[1::2]
    chosen_logratios, rejected_logratios = chosen - reference[0::2], rejected - reference[1::2]
    logits = chosen_logratios - rejected_logratios
    sigmoid = -F.logsigmoid(beta * logits) * (1 - label_smoothing) - F.logsigmoid(-beta * logits) * label_smoothing
    nll = -chosen / n_chosen
    if kind == "dpo":
        losses = sigmoid
    elif kind == "ipo":
        losses = (chosen_logratios / n_chosen - rejected_logratios / n_rejected - 1 / (2 * beta)) ** 2
    elif kind == "hinge":
        losses = torch.relu(1 - beta * logits)
    elif kind == "simpo":
        losses = -F.logsigmoid(beta * (chosen / n_chosen - rejected / n_rejected - simpo_gamma / beta))
    elif kind == "orpo":
        w, l = chosen / n_chosen, rejected / n_rejected
        log_odds = (w - l) - (torch.log1p(-torch.exp(w)) - torch.log1p(-torch.exp(l)))
        return (nll - beta * F.logsigmoid(log_odds)).mean()
    elif kind == "mpo":
        running.update(torch.cat((beta * chosen_logratios, beta * rejected_logratios)).detach())
        bco = -F.logsigmoid(beta * chosen_logratios - running.mean) - F.logsigmoid(-(beta * rejected_logratios - running.mean))
        losses = 0.8 * sigmoid + 0.2 * bco
    elif kind == "kto":
        kl = rejected_logratios.mean().clamp(min=0).detach()
        good = torch.tensor(DESIRABLE)
        return torch.where(
            good,
            desirable_weight * (1 - torch.sigmoid(beta * (chosen_logratios - kl))),
            undesirable_weight * (1 - torch.sigmoid(beta * (kl - chosen_logratios))),
        ).mean()
    return (losses + rpo_alpha * nll).mean()


def model_of(change=0.0):
    model = Model(CONFIG)
    model.w = {}
    for name, shape in model.shapes().items():
        w = weight(name, shape)
        if change:
            w = w * (1 + change * torch.from_numpy(hashed(f"{name}.other", w.numel()).astype(np.float32)).reshape(w.shape))
        model.w[name] = w.requires_grad_()
    return model


def sampled(gradients):
    """Values of gradients at places that follow from the parameter's name, float32."""
    values = []
    for name, gradient in gradients.items():
        places = ((hashed(f"places.{name}", PLACES) + 0.5) * gradient.numel()).astype(np.int64)
        values.append(gradient.detach().flatten().numpy()[places])
    return base64.b64encode(np.concatenate(values).astype("<f4").tobytes()).decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    found = sequences()
    with torch.no_grad():
        other, counts = log_probs(model_of(0.3), found)
        start, _ = log_probs(model_of(), found)
    fixture = {"config": CONFIG, "other": other.tolist(), "start": start.tolist(), "losses": {}}
    for name, options in LOSSES.items():
        options = {"loss": name, **options}
        kind = options.pop("loss")
        model = model_of()
        loss = loss_of(kind, log_probs(model, found)[0], other, counts, RunningMean(), **options)
        loss.backward()
        gradients = {n: w.grad if w.grad is not None else torch.zeros_like(w) for n, w in model.w.items()}
        known = {"gradients": {n: probe(g) for n, g in gradients.items()}, "sampled": sampled(gradients)}
        model, running, steps = model_of(), RunningMean(), []
        optimizer = torch.optim.AdamW(model.w.values(), lr=LEARNING_RATE, weight_decay=0.0)
        for _ in range(STEPS):
            optimizer.zero_grad()
            step = loss_of(kind, log_probs(model, found)[0], start, counts, running, **options)
            step.backward()
            optimizer.step()
            steps.append(step.item())
        fixture["losses"][name] = {"kind": kind, "options": options, "loss": loss.item(), **known, "steps": steps}
        print(name, loss.item(), steps[0], steps[-1])
    out.write_text(json.dumps(fixture) + "\n")


if __name__ == "__main__":
    main()
