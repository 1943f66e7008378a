"""Vision encoder: EVA-ViT-g computes features of the image, QFormer compresses them to L embeddings.

    pixels [B, 3, S, S] --EVAViT--> patches [B, 1 + N, Dv] --QFormer--> queries [B, L, Dq] --glm_proj--> [B, L, D]

The published sizes are S = 224, N = 256, Dv = 1408, L = 32, Dq = 768, D = 4096; the code reads every size from the
configuration. The parameter names are those of the published checkpoints.
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
    """Drop `parallel_output`, which older programs pass as a keyword; SAT 0.4.12 reads it from `args` instead."""
    return {name: value for name, value in kwargs.items() if name != "parallel_output"}


def install_hooks(model: BaseModel) -> None:
    """Install the hooks of a model in its transformer, as SAT's `forward` does before it calls the transformer.

    SAT first removes all hooks. Here they are updated in place, because another thread may be in the forward pass.
    """
    installed = model.transformer.hooks
    if installed != model.hooks:
        installed.update(model.hooks)
        for name in installed.keys() - model.hooks.keys():
            installed.pop(name, None)


class VisionLayerNormMixin(BaseMixin):
    """Normalizes the features of all patches, in place of the classifier of SAT's ViT."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.ln_vision = nn.LayerNorm(hidden_size)  # checkpoint key

    def final_forward(self, logits: torch.Tensor, **_: Any) -> torch.Tensor:
        features: torch.Tensor = self.ln_vision(logits)
        return features


class FullAttentionMixin(BaseMixin):
    """Attention without a mask: SAT's own checks the mask's values, which synchronizes with the device."""

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
    """Learned queries with cross-attention to the image features: [B, 1 + N, Dv] -> [B, L, Dq]."""

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
    """The complete vision encoder: pixels [B, 3, S, S] -> image embeddings [B, L, D], in the model's dtype.

    Args:
        eva_args, qformer_args: the entries of that name in model_config.json.
        hidden_size: D, width of the language model.
        skip_init: leave the weights uninitialized, because a checkpoint is loaded next.
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
        """S, the side of the square input image in pixels."""
        return int(self.vit.transformer.property.image_size[0])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        weight = self.glm_proj.weight
        pixels = image.to(weight.device).to(weight.dtype)  # converted on the device
        embeddings: torch.Tensor = self.glm_proj(self.qformer(self.vit(pixels)))
        return embeddings
