"""Train visualglm-tiny from nothing, on pictures and questions that are drawn as they are needed.

    python -m tiny.train --out model/pretrained/visualglm-tiny

Continues from `--state` where that file exists. Ends by writing the model in the Hugging Face format.
"""

import argparse
import json
import math
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model import load_tokenizer
from model.checkpoint.convert import save_hf
from model.checkpoint.vocabulary import VOCABULARY_NAME
from model.image import CLIP_MEAN, CLIP_STD
from model.visualglm import VisualGLMModel
from tiny.data import IGNORED_LABEL, PICTURE_SIZE, Batch, Batches, Sequences, Sizes, load_batches
from tiny.questions import corpus
from tiny.scenes import COLOURS, KINDS
from tiny.tokenizer import train_tokenizer

VOCABULARY = 1500
VOCABULARY_TEXTS = 60_000
PATCH = 14
VISION_WIDTH, QUERY_WIDTH, LANGUAGE_WIDTH = 192, 128, 256
VISION_LAYERS, LANGUAGE_LAYERS = 5, 4
IMAGE_LENGTH = 32
CROSS_ATTENTION = [True, False, True]
MAP_WEIGHT = 0.5  # of the loss that asks each patch what it shows
BETAS, WEIGHT_DECAY, CLIP = (0.9, 0.98), 0.05, 1.0


def make_config(tokenizer: Any) -> dict[str, Any]:
    """Return the entries of model_config.json for a tokenizer's vocabulary."""
    shared = {"layernorm_order": "pre", "model_parallel_size": 1, "num_attention_heads": 4}
    eva_args = {
        **shared,
        "num_layers": VISION_LAYERS,
        "hidden_size": VISION_WIDTH,
        "inner_hidden_size": 4 * VISION_WIDTH,
        "vocab_size": 1,
        "max_sequence_length": (PICTURE_SIZE // PATCH) ** 2 + 1,
        "use_final_layernorm": False,
        "layernorm_epsilon": 1e-6,
        "image_size": [PICTURE_SIZE, PICTURE_SIZE],
        "pre_len": 1,
        "post_len": 0,
        "in_channels": 3,
        "num_classes": 0,
        "patch_size": PATCH,
    }
    qformer_args = {
        **shared,
        "num_layers": len(CROSS_ATTENTION),
        "hidden_size": QUERY_WIDTH,
        "vocab_size": IMAGE_LENGTH,
        "layernorm_order": "post",
        "max_sequence_length": 0,
        "is_decoder": CROSS_ATTENTION,
        "cross_attn_hidden_size": VISION_WIDTH,
        "layernorm_epsilon": 1e-12,
    }
    return {
        "model_class": "VisualGLMModel",
        "num_layers": LANGUAGE_LAYERS,
        "hidden_size": LANGUAGE_WIDTH,
        "inner_hidden_size": 4 * LANGUAGE_WIDTH,
        "num_attention_heads": 8,
        "vocab_size": len(tokenizer),
        "layernorm_order": "post",
        "layernorm_epsilon": 1e-5,
        "model_parallel_size": 1,
        "max_sequence_length": 2048,
        "image_length": IMAGE_LENGTH,
        "eva_args": eva_args,
        "qformer_args": qformer_args,
        "bos_token_id": tokenizer.bos_token_id,
        "mask_token_id": tokenizer.mask_token_id,
        "gmask_token_id": tokenizer.gmask_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


class Trainee(nn.Module):
    """The network, with heads for the object map that are thrown away after training."""

    def __init__(self, network: VisualGLMModel) -> None:
        super().__init__()
        self.network = network
        self.kind_head = nn.Linear(VISION_WIDTH, len(KINDS) + 1)
        self.colour_head = nn.Linear(VISION_WIDTH, len(COLOURS) + 1)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (loss of the answers' tokens, loss of the object map), each a mean."""
        blip2 = self.network.get_mixin("eva").model
        features = blip2.vit(normalize(batch.pictures))
        images = blip2.glm_proj(blip2.qformer(features))
        total = sum(self.answer_loss(part, images) for part in batch.sequences)
        tokens = sum((part.labels != IGNORED_LABEL).sum() for part in batch.sequences)
        return total / tokens, self.map_loss(features[:, 1:], batch)

    def answer_loss(self, part: Sequences, images: torch.Tensor) -> torch.Tensor:
        """Return the summed cross-entropy of the answers' tokens."""
        picture = {} if part.picture is None else {"image_embeddings": images[part.picture]}
        logits = self.network(
            part.ids,
            position_ids=positions(part),
            attention_mask=visible(part),
            pre_image=part.image_start,
            **picture,
        )[0]
        answered = part.labels != IGNORED_LABEL
        return F.cross_entropy(logits[answered].float(), part.labels[answered], reduction="sum")

    def map_loss(self, patches: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return how badly the patches [P, N, Dv] tell what they show."""
        kind = F.cross_entropy(self.kind_head(patches).flatten(0, 1).float(), batch.kinds.flatten() + 1)
        colour = F.cross_entropy(self.colour_head(patches).flatten(0, 1).float(), batch.colours.flatten() + 1)
        return kind + colour


def normalize(pictures: torch.Tensor) -> torch.Tensor:
    """Turn uint8 [P, S, S, 3] into pixels [P, 3, S, S], as `model.image.preprocess` does."""
    mean, std = (torch.tensor(values, device=pictures.device) for values in (CLIP_MEAN, CLIP_STD))
    return ((pictures.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def positions(part: Sequences) -> torch.Tensor:
    """Return [B, 2, T]: the place in the context, then the place in the answer."""
    index = torch.arange(part.ids.shape[1], device=part.ids.device)[None]
    context = part.context[:, None]
    return torch.stack((index.minimum(context - 1), (index - context + 1).clamp(min=0)), dim=1)


def visible(part: Sequences) -> torch.Tensor:
    """Return [B, 1, T, T], 1 where a row sees a column: what came before, and the whole context."""
    index = torch.arange(part.ids.shape[1], device=part.ids.device)
    earlier = index[None, :] <= index[:, None]
    in_context = index[None, None, :] < part.context[:, None, None]
    return (earlier[None] | in_context)[:, None].float()


def learning_rate(step: int, steps: int, peak: float, warm_up: int = 300) -> float:
    """Return a linear rise, then half a cosine down to a hundredth."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def make_optimizer(trainee: nn.Module, peak: float) -> torch.optim.AdamW:
    """Return AdamW that decays matrices, and neither biases nor norms."""
    parameters = [p for p in trainee.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = next(iter(parameters)).is_cuda
    return torch.optim.AdamW(groups, lr=peak, betas=BETAS, fused=fused)


def build(directory: Path, seed: int) -> tuple[VisualGLMModel, dict[str, Any]]:
    """Build the untrained network, and its tokenizer in `directory` where there is none yet."""
    if not (directory / VOCABULARY_NAME).is_file():
        train_tokenizer(corpus(np.random.default_rng(seed), VOCABULARY_TEXTS), directory, VOCABULARY)
    config = make_config(load_tokenizer(directory))
    torch.manual_seed(seed)
    args = VisualGLMModel.get_args(**config)
    # With fresh pictures in every step there is nothing to overfit: no dropout.
    return VisualGLMModel(Namespace(**vars(args))).eval(), config


def train(trainee: Trainee, options: Namespace, device: torch.device) -> None:
    """Run the remaining steps, keeping the state in a file."""
    optimizer = make_optimizer(trainee, options.lr)
    first = load_state(options.state, trainee, optimizer)
    sizes = Sizes(pictures=options.pictures, questions=options.questions)
    dataset = Batches(options.out, sizes, IMAGE_LENGTH, options.seed, first, options.steps)
    clock = Clock()
    for step, batch in enumerate(load_batches(dataset, options.workers, device.type == "cuda"), start=first):
        clock.data_came()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.lr)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            answer_loss, map_loss = trainee(batch.to(device))
        (answer_loss + MAP_WEIGHT * map_loss).backward()
        norm = nn.utils.clip_grad_norm_(trainee.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % options.report == 0 or step + 1 == options.steps:
            losses = {"answer": answer_loss.item(), "map": map_loss.item(), "norm": norm.item()}
            speed = clock.report(step + 1 - first)
            numbers = {name: round(value, 4) for name, value in {**losses, **speed}.items()}
            print(json.dumps({"step": step + 1, **numbers}), flush=True)
        if (step + 1) % options.save == 0:
            save_state(options.state, trainee, optimizer, step + 1)
        clock.step_done()


class Clock:
    """How fast training goes, and how much of its time is spent waiting for pictures."""

    def __init__(self) -> None:
        self.started = self.done = time.perf_counter()
        self.waited = 0.0

    def data_came(self) -> None:
        self.waited += time.perf_counter() - self.done

    def step_done(self) -> None:
        self.done = time.perf_counter()

    def report(self, steps: int) -> dict[str, float]:
        seconds = time.perf_counter() - self.started
        return {"steps_per_s": steps / seconds, "waiting": self.waited / seconds}


def load_state(path: Path | None, trainee: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take up the state in `path`; return the number of steps done."""
    if path is None or not path.is_file():
        return 0
    state = torch.load(path, map_location=next(trainee.parameters()).device, weights_only=True)
    trainee.load_state_dict(state["trainee"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def save_state(path: Path | None, trainee: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write everything needed to go on from here, whole or not at all."""
    if path is None:
        return
    part = path.with_suffix(".part")
    torch.save({"trainee": trainee.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, part)
    part.replace(path)


def parse_arguments() -> Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the model")
    parser.add_argument("--state", type=Path, help="file to continue from and to keep the state in")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--pictures", type=int, default=256, help="pictures a step")
    parser.add_argument("--questions", type=int, default=4, help="questions a picture, half in each language")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=15, help="processes that draw")
    parser.add_argument("--report", type=int, default=100, help="steps between reports")
    parser.add_argument("--save", type=int, default=1000, help="steps between states kept")
    return parser.parse_args()


def main() -> None:
    """Train, and write the model."""
    options = parse_arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, config = build(options.out, options.seed)
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
    trainee = Trainee(network).to(device)
    train(trainee, options, device)
    save_hf(options.out, network.state_dict(), config, eos_token_id=load_tokenizer(options.out).eos_token_id)


if __name__ == "__main__":
    main()
