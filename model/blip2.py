"""The image part: EVA-ViT-g looks at the picture, QFormer sums it up in a few vectors for the language model.

    pixels [B, 3, S, S] --EVAViT--> patches [B, 1 + N, Dv] --QFormer--> queries [B, L, Dq] --glm_proj--> [B, L, D]

The published sizes are S = 224, N = 256, Dv = 1408, L = 32, Dq = 768, D = 4096; here every size comes from the
configuration. The parameters' names are those of the published checkpoints.
Papers: BLIP-2, https://arxiv.org/abs/2301.12597; EVA-CLIP, https://arxiv.org/abs/2303.15389.
"""

from argparse import Namespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .images.preprocess import BlipImageEvalProcessor
from .sat import compat as sat_compat  # noqa: F401  (before sat)

# isort: split
from sat.model.base_model import BaseMixin, BaseModel, replacable
from sat.model.official.vit_model import ViTModel

__all__ = ["BLIP2", "BlipImageEvalProcessor", "EVAViT", "QFormer"]


def drop_parallel_output(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Drop `parallel_output`, which callers pass by habit and SAT 0.4.12 reads from its arguments instead."""
    return {name: value for name, value in kwargs.items() if name != "parallel_output"}


def install_hooks(model: BaseModel) -> None:
    """Give the hooks of a model to its transformer, as SAT's `forward` does before it calls this.

    SAT takes them all away first; here a thread that is in the forward pass already keeps those that it goes by.
    """
    installed = model.transformer.hooks
    if installed != model.hooks:
        installed.update(model.hooks)
        for name in installed.keys() - model.hooks.keys():
            installed.pop(name, None)


class VisionLayerNormMixin(BaseMixin):
    """Normalises the features of the whole picture, where SAT's ViT would classify them."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.ln_vision = nn.LayerNorm(hidden_size)  # checkpoint key

    def final_forward(self, logits: torch.Tensor, **_: Any) -> torch.Tensor:
        features: torch.Tensor = self.ln_vision(logits)
        return features


class FullAttentionMixin(BaseMixin):
    """Lets everything see everything, where SAT's attention would ask the mask, and wait for the device to answer."""

    @replacable  # type: ignore[untyped-decorator]
    def attention_fn(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        dropout: nn.Dropout | None = None,
        **_: Any,
    ) -> torch.Tensor:
        rate = dropout.p if dropout is not None and dropout.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=rate)


class EVAViT(ViTModel):
    """Vision transformer without a classifier: pixels [B, 3, S, S] -> features [B, 1 + N, Dv]."""

    def __init__(self, args: Namespace, transformer: nn.Module | None = None, **kwargs: Any) -> None:
        # SAT builds a classifier for any number of classes; torch warns about the published 0.
        classifier_args = Namespace(**{**vars(args), "num_classes": 1})
        super().__init__(classifier_args, transformer=transformer, **drop_parallel_output(kwargs))
        self.del_mixin("cls")
        self.add_mixin("cls", VisionLayerNormMixin(args.hidden_size))  # checkpoint key
        self.add_mixin("full-attention", FullAttentionMixin())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        cls_ids = torch.zeros(image.shape[0], 1, dtype=torch.long, device=image.device)
        every_patch_visible = torch.ones(1, 1, device=image.device)
        install_hooks(self)
        features: torch.Tensor
        features, *_ = self.transformer(
            input_ids=cls_ids, position_ids=None, attention_mask=every_patch_visible, image=image
        )
        return features


class QFormer(BaseModel):
    """Learned queries that read the picture by cross-attention: features [B, 1 + N, Dv] -> [B, L, Dq]."""

    def __init__(self, args: Namespace, transformer: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(
            args,
            transformer=transformer,
            activation_func=nn.functional.gelu,
            **drop_parallel_output(kwargs),
        )
        self.transformer.position_embeddings = None
        self.add_mixin("full-attention", FullAttentionMixin())

    def final_forward(self, logits: torch.Tensor, **_: Any) -> torch.Tensor:
        return logits

    def position_embedding_forward(self, position_ids: Any, **_: Any) -> None:
        return None

    def forward(self, encoder_outputs: torch.Tensor) -> torch.Tensor:
        count = self.transformer.word_embeddings.weight.shape[0]
        query_ids = torch.arange(count, device=encoder_outputs.device).expand(encoder_outputs.shape[0], -1)
        all_visible = torch.ones(1, 1, device=encoder_outputs.device, dtype=encoder_outputs.dtype)
        install_hooks(self)
        queries: torch.Tensor
        queries, *_ = self.transformer(
            input_ids=query_ids,
            position_ids=None,
            attention_mask=all_visible,
            encoder_outputs=encoder_outputs,
            cross_attention_mask=all_visible,
        )
        return queries


class BLIP2(nn.Module):
    """The whole image part: pixels [B, 3, S, S] -> image embeddings [B, L, D], in the model's dtype.

    Args:
        eva_args, qformer_args: the entries of that name in model_config.json.
        hidden_size: D, width of the language model.
        skip_init: leave the weights uninitialised, for a checkpoint that is loaded next.
    """

    def __init__(
        self,
        eva_args: dict[str, Any],
        qformer_args: dict[str, Any],
        hidden_size: int,
        skip_init: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        vit_namespace = EVAViT.get_args(**eva_args, skip_init=skip_init)
        self.vit = EVAViT(vit_namespace, **kwargs)  # checkpoint key
        qformer_namespace = QFormer.get_args(**qformer_args, skip_init=skip_init)
        self.qformer = QFormer(qformer_namespace, **kwargs)  # checkpoint key
        self.glm_proj = nn.Linear(qformer_namespace.hidden_size, hidden_size)  # checkpoint key

    @property
    def image_size(self) -> int:
        """S, the side of the square picture in pixels."""
        return int(self.vit.transformer.property.image_size[0])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        weight = self.glm_proj.weight
        pixels = image.to(weight.device).to(weight.dtype)  # converted where it is used
        embeddings: torch.Tensor = self.glm_proj(self.qformer(self.vit(pixels)))
        return embeddings
