"""The image part: EVA-ViT-g looks at the picture, QFormer sums it up in a few vectors for the language model.

    pixels [B, 3, S, S] --ViT--> patches [B, 1 + N, Dv] --QFormer--> queries [B, L, Dq] --glm_proj--> [B, L, D]

The published sizes are S = 224, N = 256, Dv = 1408, L = 32, Dq = 768, D = 4096. Module names are those of the
published checkpoints. Papers: BLIP-2, https://arxiv.org/abs/2301.12597; EVA, https://arxiv.org/abs/2303.15389.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Sizes = dict[str, Any]  # an entry eva_config or qformer_config


def split_heads(x: torch.Tensor, parts: int, heads: int) -> torch.Tensor:
    """Split x [B, T, parts * D], part by part, into [parts, B, H, T, D / H]."""
    return x.view(*x.shape[:2], parts, heads, -1).permute(2, 0, 3, 1, 4)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Let every query [B, H, T, D / H] see every key; return [B, T, D]."""
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Everything sees everything."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.heads = sizes["hidden_size"], sizes["num_attention_heads"]
        self.query_key_value = nn.Linear(width, 3 * width)  # checkpoint key
        self.dense = nn.Linear(width, width)  # checkpoint key

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.dense(attend(*split_heads(self.query_key_value(h), 3, self.heads)))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Queries look at the picture's features."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, self.heads = sizes["hidden_size"], sizes["num_attention_heads"]
        self.query = nn.Linear(width, width)  # checkpoint key
        self.key_value = nn.Linear(sizes["cross_attn_hidden_size"], 2 * width)  # checkpoint key
        self.dense = nn.Linear(width, width)  # checkpoint key

    def forward(self, h: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        query = split_heads(self.query(h), 1, self.heads)[0]
        key, value = split_heads(self.key_value(features), 2, self.heads)
        return self.dense(attend(query, key, value))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes["hidden_size"]
        inner = sizes.get("inner_hidden_size") or 4 * width
        self.dense_h_to_4h = nn.Linear(width, inner)  # checkpoint key
        self.dense_4h_to_h = nn.Linear(inner, width)  # checkpoint key

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(h)))  # type: ignore[no-any-return]


def layer_norm(sizes: Sizes) -> nn.LayerNorm:
    """Return a normalisation of the network's width."""
    return nn.LayerNorm(sizes["hidden_size"], eps=sizes.get("layernorm_epsilon", 1e-5))


class ViTLayer(nn.Module):
    """Normalises before attention and before the MLP."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.input_layernorm = layer_norm(sizes)  # checkpoint key
        self.attention = SelfAttention(sizes)  # checkpoint key
        self.post_attention_layernorm = layer_norm(sizes)  # checkpoint key
        self.mlp = MLP(sizes)  # checkpoint key

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class QFormerLayer(nn.Module):
    """Normalises after the layer before, and after each attention; the residual branch is the normalised value."""

    def __init__(self, sizes: Sizes, crosses: bool) -> None:
        super().__init__()
        self.input_layernorm = layer_norm(sizes)  # checkpoint key
        self.attention = SelfAttention(sizes)  # checkpoint key
        self.post_attention_layernorm = layer_norm(sizes)  # checkpoint key
        if crosses:
            self.cross_attention = CrossAttention(sizes)  # checkpoint key
            self.post_cross_attention_layernorm = layer_norm(sizes)  # checkpoint key
        self.crosses = crosses
        self.mlp = MLP(sizes)  # checkpoint key

    def forward(self, x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        h = self.input_layernorm(x)
        h = self.post_attention_layernorm(h + self.attention(h))
        if self.crosses:
            h = self.post_cross_attention_layernorm(h + self.cross_attention(h, features))
        return h + self.mlp(h)  # type: ignore[no-any-return]


class Trunk(nn.Module):
    """The embeddings and layers of a network; the checkpoints keep them one level down."""

    def __init__(self, embeddings: int, width: int, layers: list[nn.Module], **others: nn.Module) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(embeddings, width)  # checkpoint key
        self.layers = nn.ModuleList(layers)  # checkpoint key
        for name, module in others.items():
            self.add_module(name, module)

    def embed_all(self, batch: int, device: torch.device) -> torch.Tensor:
        """Return all embeddings in their order, [B, count, D]."""
        ids = torch.arange(self.word_embeddings.num_embeddings, device=device)
        return self.word_embeddings(ids).expand(batch, -1, -1)  # type: ignore[no-any-return]


class PatchEmbedding(nn.Module):
    """Cuts a picture into squares and embeds each."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        patch = sizes["patch_size"]
        self.proj = nn.Conv2d(sizes["in_channels"], sizes["hidden_size"], patch, stride=patch)  # checkpoint key

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class FeatureNorm(nn.Module):
    """Normalises the features of the whole picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_vision = nn.LayerNorm(width)  # checkpoint key

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.ln_vision(features)  # type: ignore[no-any-return]


class ViT(nn.Module):
    """Pixels [B, 3, S, S] -> features [B, 1 + N, Dv], the first of which stands for the whole picture."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width, patch = sizes["hidden_size"], sizes["patch_size"]
        count = sizes.get("pre_len", 1) + (sizes["image_size"][0] // patch) * (sizes["image_size"][1] // patch)
        layers: list[nn.Module] = [ViTLayer(sizes) for _ in range(sizes["num_layers"])]
        positions = nn.Embedding(count, width)
        self.transformer: Any = Trunk(  # checkpoint key
            sizes.get("vocab_size", 1), width, layers, position_embeddings=positions
        )
        self.mixins = nn.ModuleDict({"patch_embedding": PatchEmbedding(sizes), "cls": FeatureNorm(width)})

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.mixins["patch_embedding"](pixels)
        x = torch.cat((self.transformer.embed_all(len(pixels), pixels.device), patches), dim=1)
        x = x + self.transformer.position_embeddings(torch.arange(x.shape[1], device=x.device))
        for layer in self.transformer.layers:
            x = layer(x)
        return self.mixins["cls"](x)  # type: ignore[no-any-return]


class QFormer(nn.Module):
    """Features [B, 1 + N, Dv] -> [B, L, Dq]: learned queries that read the picture."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        count = sizes["num_layers"]
        crosses = sizes.get("is_decoder", False)
        if isinstance(crosses, bool):
            crosses = [crosses] * count
        layers: list[nn.Module] = [QFormerLayer(sizes, crosses[number]) for number in range(count)]
        self.transformer: Any = Trunk(  # checkpoint key
            sizes["vocab_size"], sizes["hidden_size"], layers, final_layernorm=layer_norm(sizes)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.transformer.embed_all(len(features), features.device)
        for layer in self.transformer.layers:
            x = layer(x, features)
        return self.transformer.final_layernorm(x)  # type: ignore[no-any-return]


class ImageEncoder(nn.Module):
    """The whole image part: pixels [B, 3, S, S] -> image embeddings [B, L, D]."""

    def __init__(self, eva_config: Sizes, qformer_config: Sizes, hidden_size: int) -> None:
        super().__init__()
        self.vit = ViT(eva_config)  # checkpoint key
        self.qformer = QFormer(qformer_config)  # checkpoint key
        self.glm_proj = nn.Linear(qformer_config["hidden_size"], hidden_size)  # checkpoint key

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        weight = self.glm_proj.weight
        # Where weights are kept elsewhere until they are used, the device is no place yet.
        pixels = pixels if weight.device.type == "meta" else pixels.to(weight.device)
        pixels = pixels.to(weight.dtype)  # converted where it is used
        return self.glm_proj(self.qformer(self.vit(pixels)))  # type: ignore[no-any-return]
