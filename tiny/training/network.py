"""The network of visualglm-tiny, its training losses, and faster equivalents of some of its operations."""

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from model import load_tokenizer
from model.images.preprocess import CLIP_MEAN, CLIP_STD
from model.kernels.torch_ops import positions_2d, prefix_mask
from model.visualglm import RotaryEmbedding, VisualGLMModel
from tiny.training.data import IGNORED_LABEL, IMAGE_SIZE, Batch, Sequences
from tiny.training.encoding import MAX_TOKENS, BatchLayout
from visualglm.scenes import COLORS, KINDS

# isort: split
from sat.model.base_model import BaseMixin

PATCH = 14
VISION_WIDTH, QUERY_WIDTH, LANGUAGE_WIDTH = 192, 128, 256
VISION_LAYERS, LANGUAGE_LAYERS = 5, 4
IMAGE_LENGTH = BatchLayout.image_length
RARE_LOGIT = -4.0  # initial logit of a kind or color in a cell
APPEARANCE_CELLS = 8  # rows of the low-resolution image predicted from the image embeddings
APPEARANCE_SCALE = 0.2  # the mean embedding is this times the low-resolution image, which has as many values
STATE_LAYER, STATE_CELLS = 2, 4  # the layer whose input predicts an even coarser image, and its rows
CROSS_ATTENTION = [True, True, True]


def make_config(tokenizer: Any) -> dict[str, Any]:
    """Return the content of model_config.json, with the vocabulary size and special tokens of a tokenizer."""
    shared = {"layernorm_order": "pre", "model_parallel_size": 1, "num_attention_heads": 4}
    eva_args = {
        **shared,
        "num_layers": VISION_LAYERS,
        "hidden_size": VISION_WIDTH,
        "inner_hidden_size": 4 * VISION_WIDTH,
        "vocab_size": 1,
        "max_sequence_length": (IMAGE_SIZE // PATCH) ** 2 + 1,
        "use_final_layernorm": False,
        "layernorm_epsilon": 1e-6,
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
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
        "description": {
            "en": "drawn scenes only; of photographs it knows nothing",
            "zh": "只认识绘制的场景，对照片一无所知",
        },
        "prompt_language": "auto",  # it was trained on each language with that language's prompt
    }


def build(directory: Path, seed: int) -> tuple[VisualGLMModel, dict[str, Any]]:
    """Build an untrained network for the tokenizer in `directory`; return it and its configuration."""
    config = make_config(load_tokenizer(directory))
    torch.manual_seed(seed)
    args = VisualGLMModel.get_args(**config)
    # Every step has new images, so there is nothing to overfit: no dropout.
    return VisualGLMModel(Namespace(**vars(args))).eval(), config


class FusedAttention(BaseMixin):
    """The language model's attention as one kernel. SAT's reads the mask back to the host, which cannot be captured."""

    def attention_fn(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, *_: Any, **__: Any
    ) -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask > 0)


class FixedLengthRotary(RotaryEmbedding):
    """Rotary tables of the maximum length: the actual length stays on the GPU, without a synchronization."""

    def forward(self, x: torch.Tensor, seq_len: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x, MAX_TOKENS)


def install_fast_ops(network: VisualGLMModel) -> None:
    """Replace weightless operations of the network by faster equivalents."""
    network.get_mixin("chatglm-attn").rotary_emb = FixedLengthRotary(network.rotary.dim)
    for layer in network.transformer.layers:
        layer.mlp.activation_func = partial(F.gelu, approximate="tanh")
    network.add_mixin("fused-attention", FusedAttention())


class Losses(NamedTuple):
    """The training losses, each a scalar.

    Attributes:
        answer: mean cross-entropy of the answer tokens, in nats.
        map: cross-entropy of kind and color at each ViT patch (segmentation).
        places: cross-entropy of which kinds and colors are in which cell, from the image embeddings.
        look: mean squared error of the low-resolution image predicted from, or equal to, the mean image embedding.
        state: mean squared error of the low-resolution image predicted from the language model's states at the answer.
    """

    answer: torch.Tensor
    map: torch.Tensor
    places: torch.Tensor
    look: torch.Tensor
    state: torch.Tensor


class TrainingModel(nn.Module):
    """The network with linear auxiliary heads that are discarded after training.

    Args:
        network: the network to train.
        direct_appearance: whether the mean image embedding itself must equal the low-resolution image. Otherwise a head
            predicts it, however small its share of the embedding's variance is.
    """

    def __init__(self, network: VisualGLMModel, direct_appearance: bool = False) -> None:
        super().__init__()
        install_fast_ops(network)
        self.network = network
        self.kind_head = nn.Linear(VISION_WIDTH, len(KINDS) + 1)
        # The names of the heads are keys of saved training states.
        self.colour_head = nn.Linear(VISION_WIDTH, len(COLORS) + 1)
        self.place_head = nn.Linear(
            IMAGE_LENGTH * LANGUAGE_WIDTH, BatchLayout.presence_grid**2 * (len(KINDS) + len(COLORS))
        )
        nn.init.constant_(self.place_head.bias, RARE_LOGIT)
        self.look_head = None if direct_appearance else nn.Linear(LANGUAGE_WIDTH, 4 * APPEARANCE_CELLS**2)
        self.state_head = nn.Linear(LANGUAGE_WIDTH, 4 * STATE_CELLS**2)
        self.states = torch.empty(0)
        network.transformer.layers[STATE_LAYER].input_layernorm.register_forward_pre_hook(self._keep_states)

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of a batch."""
        blip2 = self.network.get_mixin("eva").model
        pixels = normalize(batch.images)
        features = blip2.vit(pixels)
        embeddings = blip2.glm_proj(blip2.qformer(features))
        coarse = appearance_of(pixels, STATE_CELLS).flatten(1)
        sums = [(self.answer_loss(part, embeddings), self.state_error(part, coarse)) for part in batch.sequences]
        answers, errors = (torch.stack(values).sum() for values in zip(*sums, strict=True))
        tokens = torch.stack([(part.labels != IGNORED_LABEL).sum() for part in batch.sequences]).sum()
        places = self.place_head(embeddings.flatten(1)).float()
        mean = embeddings.mean(dim=1)
        look = (mean / APPEARANCE_SCALE if self.look_head is None else self.look_head(mean)).float()
        return Losses(
            answers / tokens,
            self.map_loss(features[:, 1:], batch),
            F.binary_cross_entropy_with_logits(places, batch.presence.flatten(1).float()),
            F.mse_loss(look, appearance_of(pixels, APPEARANCE_CELLS).flatten(1)),
            errors / tokens,
        )

    def answer_loss(self, part: Sequences, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the summed cross-entropy of the answer tokens."""
        image_arguments = (
            {} if part.image_index is None else {"image_embeddings": embeddings.index_select(0, part.image_index)}
        )
        logits = self.network(
            part.ids,
            position_ids=position_ids(part),
            attention_mask=attention_mask(part),
            pre_image=part.image_start,
            **image_arguments,
        )[0]
        return F.cross_entropy(
            logits.flatten(0, 1).float(), part.labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
        )

    def state_error(self, part: Sequences, appearance: torch.Tensor) -> torch.Tensor:
        """Return the error of the appearance [P, C] predicted from the states, summed over answer tokens.

        Uses the states of the preceding `answer_loss` call. The head's rows have unit length, so that the states cannot
        encode the appearance with a tiny amplitude.
        """
        states = F.layer_norm(self.states, (LANGUAGE_WIDTH,))
        predicted = F.linear(states, F.normalize(self.state_head.weight, dim=1), self.state_head.bias).float()
        if part.image_index is None:
            return 0 * predicted.sum()
        errors = (predicted - appearance.index_select(0, part.image_index)[:, None]).square().mean(dim=-1)
        return (errors * (part.labels != IGNORED_LABEL)).sum()

    def _keep_states(self, module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        self.states = given[0]

    def map_loss(self, patches: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the cross-entropy of kind and color at the patches [P, N, Dv]."""
        kind = F.cross_entropy(self.kind_head(patches).flatten(0, 1).float(), batch.kinds.flatten() + 1)
        color = F.cross_entropy(self.colour_head(patches).flatten(0, 1).float(), batch.colors.flatten() + 1)
        return kind + color


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Normalize uint8 [P, S, S, 3] to pixels [P, 3, S, S], as `model.images.preprocess.preprocess` does."""
    scale = [1 / (255 * std) for std in CLIP_STD]
    shift = [mean / std for mean, std in zip(CLIP_MEAN, CLIP_STD, strict=True)]
    # Scalars: no tensor to copy to the device.
    channels = [images[..., i].float() * scale[i] - shift[i] for i in range(3)]
    return torch.stack(channels, dim=1)


def appearance_of(pixels: torch.Tensor, cells: int) -> torch.Tensor:
    """Return the low-resolution appearance [P, 4, cells, cells] of pixels [P, 3, S, S].

    The channels are the mean of each color, and the standard deviation of the brightness.
    """
    size = pixels.shape[-1] // cells
    brightness = pixels.mean(dim=1, keepdim=True)
    variance = F.avg_pool2d(brightness.square(), size) - F.avg_pool2d(brightness, size).square()
    return torch.cat((F.avg_pool2d(pixels, size), variance.clamp(min=0).sqrt()), dim=1)


def position_ids(part: Sequences) -> torch.Tensor:
    """Return [B, 2, T]: the positions in the context and in the answer."""
    return positions_2d(torch.arange(part.ids.shape[1], device=part.ids.device), part.context[:, None])


def attention_mask(part: Sequences) -> torch.Tensor:
    """Return the prefix mask [B, 1, T, T]: 1 for the context and for earlier tokens."""
    index = torch.arange(part.ids.shape[1], device=part.ids.device)
    return prefix_mask(index, part.context[:, None, None])[:, None].float()
