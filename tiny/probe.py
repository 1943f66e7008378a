"""How clearly a model holds what is in a picture's background, on the way from the picture to the answer.

    python -m tiny.probe --from_pretrained visualglm-tiny

Looks at the image embeddings, their mean, and the states with which each layer of the language model begins where the
answer to the question of `tiny.fewshot` begins. Prints of each what share of its variance over pictures lies between
backgrounds, and of how many other pictures the nearest of eight means is the right one, each of a background's two or
three pictures: what twenty labelled ones can teach at the least.
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
    """Yield each place with its vectors [P, N] for pixels [P, 3, S, S]."""
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
    for some in images.split(BATCH_SIZE):
        run_question(model, some)
    for hook in hooks:
        hook.remove()
    for number, states in list(kept.items())[1:]:  # the first are the token's own
        yield f"states after {number} of {len(layers)} layers", torch.cat(states)


def _keep_last_state(
    kept: dict[int, list[torch.Tensor]], number: int, _: object, given: tuple[torch.Tensor, ...]
) -> None:
    """Keep the last states [P, D] of those [P, T, D] that a layer is given."""
    kept.setdefault(number, []).append(given[0][:, -1])


def run_question(model: SatChatModel, images: torch.Tensor) -> None:
    """Have the network read the question after each of the image embeddings [P, L, D]."""
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
    """Return the share of the variance of vectors [P, N] that lies between the means of their kinds [P]."""
    away = vectors - vectors.mean(0)
    means = torch.stack([away[classes == label].mean(0) for label in classes])
    return float(means.square().sum() / away.square().sum())


def nearest_mean_accuracy(vectors: torch.Tensor, classes: torch.Tensor) -> float:
    """Return how often the nearest mean of a few vectors of each kind is right about the others, over several draws."""
    rng, right = np.random.default_rng(0), []
    for _ in range(TRIALS):
        order = torch.from_numpy(rng.permutation(len(classes)))
        few = [order[classes[order] == label] for label in range(len(ANSWERS))]
        few = [some[: COUNT // len(few) + (label < COUNT % len(few))] for label, some in enumerate(few)]
        means = torch.stack([vectors[some].mean(0) for some in few])
        others = torch.ones(len(classes), dtype=torch.bool)
        others[torch.cat(few)] = False
        right.append((torch.cdist(vectors[others], means).argmin(1) == classes[others]).float().mean())
    return float(torch.stack(right).mean())


def main() -> None:
    """Print the table."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--from_pretrained", default="visualglm-tiny", metavar="NAME_OR_DIR", help="(default %(default)s)"
    )
    parser.add_argument("--count", type=int, default=IMAGES, help="pictures (default %(default)s)")
    options = parser.parse_args()
    model = load_sat(options.from_pretrained, device="cpu", dtype="float32")
    labeled = list(sample_labeled(SEED, options.count))
    pixels = torch.stack([preprocess(one.draw(), model.network.image_size) for one in labeled])
    labels = list(ANSWERS.values())
    classes = torch.tensor([labels.index(one.label) for one in labeled])
    print("| | between backgrounds | told by the nearest of 20 |\n|---|---|---|")
    for place, vectors in measure_points(model, pixels):
        between, accuracy = between_class_variance(vectors, classes), nearest_mean_accuracy(vectors, classes)
        print(f"| {place} | {between:.0%} | {accuracy:.0%} |", flush=True)


if __name__ == "__main__":
    sys.exit(run_program(main))
