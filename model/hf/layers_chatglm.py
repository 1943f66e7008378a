"""Layers of the image encoder (EVA-ViT-g, Q-Former) and of ChatGLM-6B; masks and positions of a batch.

    pixels [B, 3, S, S] --ViT--> patches [B, 1 + N, Dv] --QFormer--> queries [B, L, Dq] --glm_proj--> [B, L, D]

The published sizes are S = 224, N = 256, Dv = 1408, L = 32, Dq = 768, D = 4096. Module names are those of the
published checkpoints. Papers: BLIP-2, https://arxiv.org/abs/2301.12597; EVA, https://arxiv.org/abs/2303.15389.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..attribution import split_heads
from ..kernels.torch_ops import QuantizedLinear, apply_rotary, positions_2d, prefix_mask
from .configuration_chatglm import ChatGLMConfig

Sizes = dict[str, Any]  # eva_config or qformer_config of config.json


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Compute unmasked attention for queries, keys and values [B, H, T, D / H]; return [B, T, D]."""
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class VisionAttention(nn.Module):
    """Self-attention without a mask."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.heads = sizes["hidden_size"], sizes["num_attention_heads"]
        self.query_key_value = nn.Linear(width, 3 * width)  # checkpoint key
        self.dense = nn.Linear(width, width)  # checkpoint key

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        context: torch.Tensor = self.dense(attention(*split_heads(self.query_key_value(h), 3, self.heads)))
        return context


class CrossAttention(nn.Module):
    """Attention of queries over the features of an image."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.heads = sizes["hidden_size"], sizes["num_attention_heads"]
        self.query = nn.Linear(width, width)  # checkpoint key
        self.key_value = nn.Linear(sizes["cross_attn_hidden_size"], 2 * width)  # checkpoint key
        self.dense = nn.Linear(width, width)  # checkpoint key

    def forward(self, h: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        query = split_heads(self.query(h), 1, self.heads)[0]
        key, value = split_heads(self.key_value(features), 2, self.heads)
        context: torch.Tensor = self.dense(attention(query, key, value))
        return context


class MLP(nn.Module):
    """Two linear layers with an exact (erf) GELU between them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes["hidden_size"]
        inner = sizes.get("inner_hidden_size") or 4 * width
        self.dense_h_to_4h = nn.Linear(width, inner)  # checkpoint key
        self.dense_4h_to_h = nn.Linear(inner, width)  # checkpoint key

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(h)))
        return out


def layer_norm(sizes: Sizes) -> nn.LayerNorm:
    """Return a LayerNorm of the network's width."""
    return nn.LayerNorm(sizes["hidden_size"], eps=sizes.get("layernorm_epsilon", 1e-5))


class ViTLayer(nn.Module):
    """A pre-norm transformer layer: LayerNorm before attention and before the MLP."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.input_layernorm = layer_norm(sizes)  # checkpoint key
        self.attention = VisionAttention(sizes)  # checkpoint key
        self.post_attention_layernorm = layer_norm(sizes)  # checkpoint key
        self.mlp = MLP(sizes)  # checkpoint key

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.input_layernorm(x))
        out: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class QFormerLayer(nn.Module):
    """A post-norm transformer layer: the skip connections start from the normalized values.

    The LayerNorm after the MLP is the `input_layernorm` of the next layer.
    """

    def __init__(self, sizes: Sizes, has_cross_attention: bool) -> None:
        super().__init__()
        self.input_layernorm = layer_norm(sizes)  # checkpoint key
        self.attention = VisionAttention(sizes)  # checkpoint key
        self.post_attention_layernorm = layer_norm(sizes)  # checkpoint key
        if has_cross_attention:
            self.cross_attention = CrossAttention(sizes)  # checkpoint key
            self.post_cross_attention_layernorm = layer_norm(sizes)  # checkpoint key
        self.has_cross_attention = has_cross_attention
        self.mlp = MLP(sizes)  # checkpoint key

    def forward(self, x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        h = self.input_layernorm(x)
        h = self.post_attention_layernorm(h + self.attention(h))
        if self.has_cross_attention:
            h = self.post_cross_attention_layernorm(h + self.cross_attention(h, features))
        out: torch.Tensor = h + self.mlp(h)
        return out


class Transformer(nn.Module):
    """The embeddings and layers of a network, which the checkpoints keep under `transformer`."""

    def __init__(self, embeddings: int, width: int, layers: list[nn.Module], **others: nn.Module) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(embeddings, width)  # checkpoint key
        self.layers = nn.ModuleList(layers)  # checkpoint key
        for name, module in others.items():
            self.add_module(name, module)

    def embed_all(self, batch: int, device: torch.device) -> torch.Tensor:
        """Return the complete embedding table, repeated for each image: [B, count, D]."""
        ids = torch.arange(self.word_embeddings.num_embeddings, device=device)
        queries: torch.Tensor = self.word_embeddings(ids).expand(batch, -1, -1)
        return queries


class PatchEmbedding(nn.Module):
    """Splits an image into square patches and embeds each."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        patch = sizes["patch_size"]
        self.proj = nn.Conv2d(sizes["in_channels"], sizes["hidden_size"], patch, stride=patch)  # checkpoint key

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches: torch.Tensor = self.proj(pixels).flatten(2).transpose(1, 2)
        return patches


class FeatureNorm(nn.Module):
    """LayerNorm of all features of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_vision = nn.LayerNorm(width)  # checkpoint key

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        normalized: torch.Tensor = self.ln_vision(features)
        return normalized


class ViT(nn.Module):
    """The ViT: pixels [B, 3, S, S] -> features [B, 1 + N, Dv], with the class token's first."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, patch = sizes["hidden_size"], sizes["patch_size"]
        count = sizes.get("pre_len", 1) + (sizes["image_size"][0] // patch) * (sizes["image_size"][1] // patch)
        layers: list[nn.Module] = [ViTLayer(sizes) for _ in range(sizes["num_layers"])]
        positions = nn.Embedding(count, width)
        self.transformer: Any = Transformer(  # checkpoint key
            sizes.get("vocab_size", 1), width, layers, position_embeddings=positions
        )
        self.mixins = nn.ModuleDict({"patch_embedding": PatchEmbedding(sizes), "cls": FeatureNorm(width)})

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.mixins["patch_embedding"](pixels)
        x = torch.cat((self.transformer.embed_all(len(pixels), pixels.device), patches), dim=1)
        x = x + self.transformer.position_embeddings(torch.arange(x.shape[1], device=x.device))
        for layer in self.transformer.layers:
            x = layer(x)
        normalized: torch.Tensor = self.mixins["cls"](x)
        return normalized


class QFormer(nn.Module):
    """The Q-Former: features [B, 1 + N, Dv] -> outputs [B, L, Dq] of learned queries that attend to them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        count = sizes["num_layers"]
        has_cross_attention = sizes.get("is_decoder", False)
        if isinstance(has_cross_attention, bool):
            has_cross_attention = [has_cross_attention] * count
        layers: list[nn.Module] = [QFormerLayer(sizes, has_cross_attention[layer_idx]) for layer_idx in range(count)]
        self.transformer: Any = Transformer(  # checkpoint key
            sizes["vocab_size"], sizes["hidden_size"], layers, final_layernorm=layer_norm(sizes)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.transformer.embed_all(len(features), features.device)
        for layer in self.transformer.layers:
            x = layer(x, features)
        queries: torch.Tensor = self.transformer.final_layernorm(x)
        return queries


class ImageEncoder(nn.Module):
    """ViT, Q-Former and projection: pixels [B, 3, S, S] -> image embeddings [B, L, D]."""

    def __init__(self, eva_config: Sizes, qformer_config: Sizes, hidden_size: int) -> None:
        super().__init__()
        self.vit = ViT(eva_config)  # checkpoint key
        self.qformer = QFormer(qformer_config)  # checkpoint key
        self.glm_proj = nn.Linear(qformer_config["hidden_size"], hidden_size)  # checkpoint key

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        convolution: Any = self.vit.mixins["patch_embedding"]
        weight = convolution.proj.weight  # a convolution, which no library quantizes
        # Offloaded weights report the meta device until the hook of the offloading library loads them.
        pixels = pixels if weight.device.type == "meta" else pixels.to(weight.device)
        pixels = pixels.to(weight.dtype)  # converted on the device
        embeddings: torch.Tensor = self.glm_proj(self.qformer(self.vit(pixels)))
        return embeddings


def make_linear(config: ChatGLMConfig, inputs: int, outputs: int) -> nn.Module:
    """Return a linear layer with a bias; a quantized one if the configuration sets `quantization_bit`."""
    if config.quantization_bit:
        bias = nn.Parameter(torch.zeros(outputs))
        return QuantizedLinear(inputs, outputs, config.quantization_bit, bias, scale_dtype=torch.float16)
    return nn.Linear(inputs, outputs)


def stored_length(cache: Any, layer_idx: int = 0) -> int:
    """Return the number of tokens in a layer of a transformers cache; 0 without a cache."""
    return 0 if cache is None else int(cache.get_seq_length(layer_idx))


class PrefixEncoder(nn.Module):
    """Keys and values of P-tuning v2 for each layer, without positions; every token attends to them."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.shape = (config.num_layers, 2, config.num_attention_heads, -1)
        self.embedding = nn.Embedding(
            config.pre_seq_len or 0, config.num_layers * 2 * config.hidden_size
        )  # checkpoint key

    def forward(self) -> tuple[torch.Tensor, ...]:
        """Return keys and values [2, H, P, head_dim] for each layer."""
        prefixes: torch.Tensor = self.embedding.weight.unflatten(-1, self.shape)  # [P, layers, 2, H, head_dim]
        return prefixes.permute(1, 2, 3, 0, 4).unbind(0)


class SelfAttention(nn.Module):
    """Self-attention with two-dimensional rotary position embeddings."""

    def __init__(self, config: ChatGLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.head_dim: int = config.hidden_size // config.num_attention_heads
        self.query_key_value = make_linear(config, config.hidden_size, 3 * config.hidden_size)  # checkpoint key
        self.dense = make_linear(config, config.hidden_size, config.hidden_size)  # checkpoint key

    def forward(
        self,
        h: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None,
        cache: Any,
        prefix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return [B, T, D] for h [B, T, D].

        Args:
            cos, sin: rotary tables, see `apply_rotary`.
            mask: [B, 1, T, S], True where a query attends to a key; None for all. The first columns belong to the
                prefix, if there is one.
            cache: a transformers cache, or None.
            prefix: keys and values [2, H, P, head_dim] of P-tuning.
        """
        qkv = self.query_key_value(h).unflatten(-1, (-1, 3, self.head_dim))  # [B, T, H, 3, head_dim]
        rotated = apply_rotary(qkv[..., :2, :], cos, sin)  # queries and keys together
        query, key, value = (
            one.transpose(1, 2) for one in (*rotated.unbind(-2), qkv[..., 2, :])
        )  # [B, H, T, head_dim]
        if cache is not None:
            length = stored_length(cache, self.layer_idx) + h.shape[1]
            key, value = cache.update(key, value, self.layer_idx)
            key, value = key[:, :, :length], value[:, :, :length]  # a static cache returns its whole capacity
        if prefix is not None:
            prefix = prefix.to(key.dtype)[:, None].expand(-1, len(key), -1, -1, -1)
            key, value = torch.cat((prefix[0], key), dim=2), torch.cat((prefix[1], value), dim=2)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: torch.Tensor = self.dense(context.transpose(1, 2).flatten(2))
        return out


class GLU(nn.Module):
    """The MLP; despite its name, which is the published code's, it has no gate."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = make_linear(config, config.hidden_size, config.inner_hidden_size)  # checkpoint key
        self.dense_4h_to_h = make_linear(config, config.inner_hidden_size, config.hidden_size)  # checkpoint key

    def forward(self, m: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(m), approximate="tanh"))
        return out


class GLMBlock(GradientCheckpointingLayer):  # public name
    """One layer of the language model."""

    def __init__(self, config: ChatGLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.alpha = float((2 * config.num_layers) ** 0.5)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)  # checkpoint key
        self.attention = SelfAttention(config, layer_idx)  # checkpoint key
        self.post_attention_layernorm = nn.LayerNorm(  # checkpoint key
            config.hidden_size, eps=config.layernorm_epsilon
        )
        self.mlp = GLU(config)  # checkpoint key

    def forward(
        self,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None,
        past_key_values: Any = None,
        prefix: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return [B, T, D] for x [B, T, D]."""
        h = self.input_layernorm(x)
        a = torch.add(self.attention(h, cos, sin, mask, past_key_values, prefix), h, alpha=self.alpha)
        m = self.post_attention_layernorm(a)
        return torch.add(self.mlp(m), m, alpha=self.alpha)


ImageStarts = int | Sequence[int] | torch.Tensor


@dataclass(frozen=True)
class SpecialTokenIds:
    """Ids of the special tokens that determine positions and masks."""

    bos: int
    gmask: int
    mask: int
    pad: int

    @classmethod
    def from_config(cls, config: Any) -> "SpecialTokenIds":
        """Return the ids in a model's configuration."""
        return cls(config.bos_token_id, config.gmask_token_id, config.mask_token_id, config.pad_token_id)


def image_starts(pre_image_length: ImageStarts | None, batch: int, device: torch.device) -> torch.Tensor:
    """Return [B], the index of the first image placeholder of each sequence; negative without an image.

    Args:
        pre_image_length: number of tokens before the image, padding included: one for all sequences, or one each.

    Raises:
        ValueError: there is not one number, or one per sequence.
    """
    if pre_image_length is None:
        pre_image_length = -1
    starts = torch.as_tensor(pre_image_length, dtype=torch.long, device=device).reshape(-1)
    if len(starts) not in (1, batch):
        raise ValueError(f"pre_image_length has {len(starts)} numbers for {batch} sequences; give one, or one each.")
    return starts.expand(batch)


def placeholder_indices(starts: torch.Tensor, image_length: int, length: int) -> torch.Tensor:
    """Return [B, length], the index of the image embedding that replaces each token; -1 for other tokens."""
    offsets = torch.arange(length, device=starts.device) - starts[:, None]
    inside = (starts[:, None] >= 0) & (offsets >= 0) & (offsets < image_length)
    return offsets.where(inside, -1)


def insert_images(embeddings: torch.Tensor, images: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Replace token embeddings [B, T, D] by image embeddings [B or 1, L, D] from `starts[b]` on, in a new tensor.

    Raises:
        ValueError: an image does not fit into the prompt, or there is not one image, or one per sequence.
    """
    batch, length, width = embeddings.shape
    if len(images) not in (1, batch):
        raise ValueError(f"There are {len(images)} images for {batch} sequences; give one, or one each.")
    if int(starts.max()) + images.shape[1] > length:
        raise ValueError(f"The prompt of {length} tokens is too short for an image's {images.shape[1]} embeddings.")
    indices = placeholder_indices(starts, images.shape[1], length)
    images = images.to(embeddings.device, embeddings.dtype).expand(batch, -1, -1)
    chosen = images.gather(1, indices.clamp(min=0)[..., None].expand(-1, -1, width))
    return chosen.where((indices >= 0)[..., None], embeddings)


def visible_tokens(
    ids: torch.Tensor, attention_mask: torch.Tensor | None, starts: torch.Tensor, image_length: int, pad: int
) -> torch.Tensor:
    """Return [B, S], False for the tokens that are hidden from attention.

    Image placeholders stay visible, even if they have the pad id and the mask was computed as `ids != pad`. Without a
    mask, leading pads are hidden.

    Raises:
        ValueError: the mask has not the shape of `ids`.
    """
    if attention_mask is None:
        attention_mask = (ids != pad).cumsum(dim=-1)
    if attention_mask.shape != ids.shape:
        raise ValueError(f"attention_mask has shape {list(attention_mask.shape)}; it should be {list(ids.shape)}.")
    return attention_mask.bool() | (placeholder_indices(starts, image_length, ids.shape[1]) >= 0)


def first_index(found: torch.Tensor) -> torch.Tensor:
    """Return [B, 1], the index of the first True in each row of [B, S]; S if there is none."""
    index = found.int().argmax(dim=-1, keepdim=True)
    return index.where(found.any(dim=-1, keepdim=True), found.shape[1])


def context_lengths(ids: torch.Tensor, bos: int) -> torch.Tensor:
    """Return [B, 1], the context length of each sequence: the index of its first <sop>.

    Raises:
        ValueError: a sequence has no <sop>.
    """
    lengths = first_index(ids == bos)
    if bool((lengths == ids.shape[1]).any()):
        raise ValueError(
            "A prompt has no <sop>. End each with [gMASK] <sop>, as tokenizer.build_inputs_with_special_tokens does."
        )
    return lengths


def token_positions(ids: torch.Tensor, visible: torch.Tensor | None, special_ids: SpecialTokenIds) -> torch.Tensor:
    """Return the positions [B, 2, S] of complete sequences ids [B, S]; `visible` is [B, S], or None for all."""
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    context = first_index(ids == special_ids.bos)
    mask_index = first_index((ids == special_ids.gmask) & (index < context))
    fallback = first_index((ids == special_ids.mask) & (index < context))
    mask_index = mask_index.where(mask_index < context, fallback)
    answer_position = mask_index.where(mask_index < context, index)  # without a mask token, keep counting
    positions = positions_2d(index, context, answer_position)
    if visible is not None:
        positions[:, 0].sub_(first_index(visible)).clamp_(min=0)
    return positions


def check_positions(position_ids: torch.Tensor) -> torch.Tensor:
    """Return `position_ids` if their shape is [B, 2, T]; otherwise raise ValueError."""
    if position_ids.ndim != 3 or position_ids.shape[1] != 2:
        raise ValueError(f"position_ids have shape {list(position_ids.shape)}; they should be [B, 2, T].")
    return position_ids


def linear_positions(ids: torch.Tensor, visible: torch.Tensor, special_ids: SpecialTokenIds) -> torch.Tensor:
    """Return [B, 2, 2], offset and slope of the positions that follow prompts ids [B, T], visible [B, T].

    The position of the token with index i >= T is offset + i * slope.
    """
    longer, visible = F.pad(ids, (0, 2), value=special_ids.pad), F.pad(visible, (0, 2), value=True)
    first, second = token_positions(longer, visible, special_ids)[..., -2:].unbind(-1)
    slope = second - first
    return torch.stack((first - ids.shape[1] * slope, slope), dim=-1)


def prefill_mask(context: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Return the prefix mask [B, 1, S, S] for context lengths [B, 1] and visible tokens [B, S]; True: attend."""
    index = torch.arange(visible.shape[1], device=visible.device)
    mask = prefix_mask(index, context[..., None]) & visible[:, None]
    # Every token attends to itself: a row of the mask without any True, as a pad's may be, would give NaN, which the
    # values of other tokens would take over.
    return (mask | (index == index[:, None]))[:, None]


def decode_mask(visible: torch.Tensor, count: int) -> torch.Tensor:
    """Return the causal mask [B, 1, count, S] of the last `count` tokens, which all follow <sop>; True: attend.

    `visible` [B, S] is False for tokens that must not be attended to.
    """
    length = visible.shape[1]
    index = torch.arange(length, device=visible.device)
    causal = index <= index[length - count :, None]
    return (causal & visible[:, None])[:, None]
