"""Linear separability of the background in a model's hidden states, from the image embeddings to the answer.

    python -m tiny.probe --from_pretrained visualglm-tiny

Measures the image embeddings, their mean, and the input of each language-model layer at the position where the answer
to the question of `tiny.fewshot` starts. Two numbers are printed for each: the share of variance between backgrounds,
and the accuracy of a nearest-class-mean classifier whose eight means come from two or three images each. The second is
a lower bound of what fine-tuning on twenty labeled images can learn.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from model import CHINESE, DEMO, Conversation, SatChatModel, load_sat
from model.command_line import ArgumentParser, run_program
from model.images.preprocess import preprocess
from tiny.fewshot import ANSWERS, COUNT, QUESTION, sample_labeled
from tiny.training.data import Sequences
from tiny.training.network import attention_mask, position_ids

IMAGES, SEED, TRIALS = 400, 55, 20
BATCH_SIZE = 50


@torch.inference_mode()
def measure_points(model: SatChatModel, pixels: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each measured point by name, with its vectors [P, N] for pixels [P, 3, S, S]."""
    network = model.network
    images = torch.cat([network.encode_image(part) for part in pixels.split(BATCH_SIZE)])
    yield "image embeddings", images.flatten(1)
    yield "their mean", images.mean(dim=1)
    kept: dict[int, list[torch.Tensor]] = {}
    layers = network.transformer.layers
    hooks = [
        norm.register_forward_pre_hook(partial(_keep_last_state, kept, number))
        for number, norm in enumerate(
            (*(layer.input_layernorm for layer in layers), network.transformer.final_layernorm)
        )
    ]
    for part in images.split(BATCH_SIZE):
        run_question(model, part)
    for hook in hooks:
        hook.remove()
    for number, states in list(kept.items())[1:]:  # the first is the token embedding, which is independent of the image
        yield f"states after {number} of {len(layers)} layers", torch.cat(states)


def _keep_last_state(
    kept: dict[int, list[torch.Tensor]], number: int, _: object, given: tuple[torch.Tensor, ...]
) -> None:
    """Forward pre-hook: append the last position [P, D] of a layer input [P, T, D] to `kept[number]`."""
    kept.setdefault(number, []).append(given[0][:, -1])


def run_question(model: SatChatModel, images: torch.Tensor) -> None:
    """Run a forward pass of the question after each image; images holds embeddings [P, L, D]."""
    size = model.network.image_size
    blank = torch.zeros(1, 3, size, size)
    prompt = model.encode_prompt(Conversation(blank, language=CHINESE), QUESTION, DEMO)
    ids = torch.tensor(prompt.token_ids).expand(len(images), -1)
    context = torch.full((len(images),), ids.shape[1] - 1)
    part = Sequences(ids, ids, context, torch.arange(len(images)), prompt.image_start or 0)
    model.network(
        ids,
        position_ids=position_ids(part),
        attention_mask=attention_mask(part),
        image_embeddings=images,
        pre_image=part.image_start,
    )


def between_class_variance(vectors: torch.Tensor, classes: torch.Tensor) -> float:
    """Return the share of the variance of vectors [P, N] between the means of their classes [P]."""
    centered = vectors - vectors.mean(0)
    means = torch.stack([centered[classes == label].mean(0) for label in classes])
    return float(means.square().sum() / centered.square().sum())


def nearest_mean_accuracy(vectors: torch.Tensor, classes: torch.Tensor) -> float:
    """Return the accuracy of a nearest-class-mean classifier fit on a few vectors, averaged over draws."""
    rng, accuracies = np.random.default_rng(0), []
    for _ in range(TRIALS):
        order = torch.from_numpy(rng.permutation(len(classes)))
        few = [order[classes[order] == label] for label in range(len(ANSWERS))]
        few = [indices[: COUNT // len(few) + (label < COUNT % len(few))] for label, indices in enumerate(few)]
        means = torch.stack([vectors[chosen].mean(0) for chosen in few])
        is_held_out = torch.ones(len(classes), dtype=torch.bool)
        is_held_out[torch.cat(few)] = False
        accuracies.append((torch.cdist(vectors[is_held_out], means).argmin(1) == classes[is_held_out]).float().mean())
    return float(torch.stack(accuracies).mean())


def main() -> None:
    """Measure the model and print the table."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from_pretrained", default="visualglm-tiny", metavar="NAME_OR_DIR", help="(default %(default)s)"
    )
    parser.add_argument("--count", type=int, default=IMAGES, help="number of images (default %(default)s)")
    options = parser.parse_args()
    model = load_sat(options.from_pretrained, device="cpu", dtype="float32")
    labeled = list(sample_labeled(SEED, options.count))
    pixels = torch.stack([preprocess(example.render(), model.network.image_size) for example in labeled])
    labels = list(ANSWERS.values())
    classes = torch.tensor([labels.index(example.label) for example in labeled])
    print("| | variance between backgrounds | accuracy of the nearest mean of 20 |\n|---|---|---|")
    for name, vectors in measure_points(model, pixels):
        between, accuracy = between_class_variance(vectors, classes), nearest_mean_accuracy(vectors, classes)
        print(f"| {name} | {between:.0%} | {accuracy:.0%} |", flush=True)


if __name__ == "__main__":
    sys.exit(run_program(main))
