"""VisualGLM: ChatGLM-6B on SAT, with the picture's vectors standing where the prompt has placeholders.

Paper of the language model: GLM, https://arxiv.org/abs/2103.10360.
"""

import json
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from . import sat_compat  # noqa: F401  (before sat)
from .blip2 import BLIP2, without_parallel_output
from .checkpoint import open_checkpoint
from .checkpoint.load import load_tensors
from .checkpoint.memory import build_empty
from .rotary import RotaryEmbedding

# isort: split
from sat.model.base_model import BaseMixin, get_model
from sat.model.official.chatglm_model import ChatGLMModel
from sat.mpu import ColumnParallelLinear, RowParallelLinear, get_model_parallel_world_size

# Who answers each SAT hook in the model as built here. The decoder may then walk the layers itself; where a
# user's mixin answers a hook, it must call the whole model instead.
OWN_HOOKS = {
    "attention_forward": "chatglm-attn",
    "final_forward": "chatglm-final",
    "layer_forward": "chatglm-layer",
    "position_embedding_forward": "model",
    "word_embedding_forward": "eva",
}
PARALLEL_LAYERS = (ColumnParallelLinear, RowParallelLinear)
# SAT's cache stores what our decoder caches itself, and changes no result.
HARMLESS_HOOKS = {"attention_fn": "auto-regressive -> default"}


class ImageMixin(BaseMixin):
    """Puts image embeddings into the embedded prompt."""

    def __init__(self, args: Namespace, **kwargs: Any) -> None:
        super().__init__()
        self.image_length = args.image_length
        self.model = BLIP2(  # checkpoint key
            args.eva_args, args.qformer_args, args.hidden_size, getattr(args, "skip_init", False), **kwargs
        )

    def word_embedding_forward(
        self,
        input_ids: torch.Tensor,
        *,
        image: torch.Tensor | None = None,
        image_embeddings: torch.Tensor | None = None,
        pre_image: int | Sequence[int] = 0,
        **_: Any,
    ) -> torch.Tensor:
        """Embed a prompt with its pictures.

        Args:
            input_ids: [B, T], with `image_length` placeholders where a picture stands.
            image: pixels [B or 1, 3, S, S]; or give `image_embeddings` [B or 1, L, D] already computed.
            pre_image: tokens before the picture, padding included: one number, or one for each row; a negative
                number marks a row without a picture.

        Returns:
            [B, T, D].
        """
        embeddings = self.transformer.word_embeddings(input_ids)
        starts = [pre_image] * len(input_ids) if isinstance(pre_image, int) else list(pre_image)
        # A cached decoding step is shorter than what stands before the picture: nothing to insert.
        if max(starts) + self.image_length > input_ids.shape[1]:
            return embeddings  # type: ignore[no-any-return]
        if image_embeddings is None and image is not None:
            image_embeddings = self.model(image)
        if image_embeddings is None:
            return embeddings  # type: ignore[no-any-return]
        return insert_rows(embeddings, image_embeddings, starts)


def insert_rows(embeddings: torch.Tensor, images: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
    """Replace embeddings [B, T, D] by images [B or 1, L, D] from `starts[b]` on, in a new tensor."""
    images = images.to(embeddings.dtype).expand(len(starts), -1, -1)
    length = images.shape[1]
    if len(set(starts)) == 1 and starts[0] >= 0:
        return torch.cat((embeddings[:, : starts[0]], images, embeddings[:, starts[0] + length :]), dim=1)
    rows = [
        row if start < 0 else torch.cat((row[:start], picture, row[start + length :]))
        for row, picture, start in zip(embeddings, images, starts, strict=True)
    ]
    return torch.stack(rows)


def wanted_dtype(args: Namespace) -> torch.dtype:
    """Return the dtype that a SAT namespace asks for."""
    if getattr(args, "fp16", False):
        return torch.float16
    return torch.bfloat16 if getattr(args, "bf16", False) else torch.float32


def wanted_device(args: Namespace) -> torch.device:
    """Return the device that a SAT namespace asks for, by default a GPU where there is one; write it into `args`."""
    given = getattr(args, "device", None)
    has_gpu = torch.cuda.is_available()
    if given in (None, -1):
        given = torch.cuda.current_device() if has_gpu else "cpu"
    device = torch.device("cuda", given) if isinstance(given, int) else torch.device(given)
    if device.type == "cuda" and not has_gpu:
        warnings.warn("There is no GPU here: the model is built on the CPU.", stacklevel=3)
        device = torch.device("cpu")
    args.device = given if device.type == "cuda" else str(device)
    return device


class VisualGLMModel(ChatGLMModel):
    """The SAT model. `model(input_ids, image=pixels, pre_image=n)` returns [logits [B, T, V], ...layers].

    Args:
        args: a namespace with the entries of model_config.json.
    """

    def __init__(self, args: Namespace, transformer: nn.Module | None = None, **kwargs: Any) -> None:
        kwargs = without_parallel_output(kwargs)
        super().__init__(args, transformer=transformer, **kwargs)
        self.image_length: int = args.image_length  # public name
        self.max_sequence_length: int = args.max_sequence_length
        self.is_whole: bool = get_model_parallel_world_size() == 1
        rotary_dim = args.hidden_size // (args.num_attention_heads * 2)
        self.get_mixin("chatglm-attn").rotary_emb = RotaryEmbedding(rotary_dim)
        self.add_mixin("eva", ImageMixin(args, **kwargs))  # checkpoint key

    @classmethod
    def add_model_specific_args(cls, parser: ArgumentParser) -> ArgumentParser:
        """Add the flags that VisualGLM has beyond ChatGLM."""
        group = parser.add_argument_group("VisualGLM", "VisualGLM configuration")
        group.add_argument("--image_length", type=int, help="vectors that stand for a picture")
        group.add_argument("--eva_args", type=json.loads, default={}, help="sizes of the ViT, as JSON")
        group.add_argument("--qformer_args", type=json.loads, default={}, help="sizes of the QFormer, as JSON")
        return super().add_model_specific_args(parser)  # type: ignore[no-any-return]

    @classmethod
    def from_pretrained_base(
        cls,
        name: str,
        args: Namespace | None = None,
        *,
        home_path: str | None = None,
        build_only: bool = False,
        overwrite_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> tuple["VisualGLMModel", Namespace]:
        """Build the model called `name` (or in directory `name`) and load its weights.

        SAT's `from_pretrained` ends here. Entries of the checkpoint's configuration win over those of `args`,
        and `overwrite_args` over both. The model answers at once (no dropout); call `train()` to train it.
        Further keywords: `specific_iteration` of a run, and `qkv_layout` as in `open_checkpoint`.

        Raises:
            CheckpointError: nothing found, or nothing readable.
        """
        checkpoint = open_checkpoint(
            name,
            home=home_path,
            qkv_layout=kwargs.pop("qkv_layout", None),
            iteration=kwargs.pop("specific_iteration", None),
        )
        given = vars(args) if args is not None else vars(cls.get_args())
        merged = Namespace(**{"skip_init": True, **given, **checkpoint.config, **(overwrite_args or {})})
        options = {key: value for key, value in kwargs.items() if key not in {"url", "prefix"}}
        if build_only or cls is not VisualGLMModel:  # what a subclass computes while it is built needs its data
            with torch.random.fork_rng(devices=[]):  # SAT draws some weights that are then overwritten
                model = get_model(merged, cls, **options)
        else:
            dtype = options.pop("params_dtype", wanted_dtype(merged))
            model = build_empty(lambda: cls(merged, params_dtype=dtype, **options), wanted_device(merged), dtype)
        if not build_only:
            load_tensors(model, checkpoint)
        return model.eval(), merged

    @property
    def device(self) -> torch.device:
        return self.get_mixin("eva").model.glm_proj.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return self.get_mixin("eva").model.glm_proj.weight.dtype  # type: ignore[no-any-return]

    @property
    def image_size(self) -> int:
        """Side of the square picture in pixels."""
        return self.get_mixin("eva").model.image_size  # type: ignore[no-any-return]

    @property
    def lm_head(self) -> nn.Module:
        return self.get_mixin("chatglm-final").lm_head  # type: ignore[no-any-return]

    @property
    def rotary(self) -> RotaryEmbedding:
        return self.get_mixin("chatglm-attn").rotary_emb  # type: ignore[no-any-return]

    @property
    def residual_scale(self) -> float:
        """Factor of the residual branch, sqrt(2 x layers)."""
        return float((2 * len(self.transformer.layers)) ** 0.5)

    @property
    def has_foreign_hooks(self) -> bool:
        """Whether a mixin that is not ours, or a torch hook on a module, wants to see the forward pass."""
        mixins = any(
            origin not in (OWN_HOOKS.get(name), HARMLESS_HOOKS.get(name)) for name, origin in self.hook_origins.items()
        )
        parts = (*self.transformer.modules(), self.lm_head)
        return mixins or any(part._forward_hooks or part._forward_pre_hooks for part in parts)

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S]."""
        return self.get_mixin("eva").model(pixels)  # type: ignore[no-any-return]

    def apply_linear(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Return module(x). In a single process, SAT's parallel layers are called without their communication."""
        if self.is_whole and type(module) in PARALLEL_LAYERS:
            parallel: Any = module
            return F.linear(x, parallel.weight, parallel.bias)
        return module(x)  # type: ignore[no-any-return]

    def embed(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Embed one prompt [1, T] whose picture, if any, has embeddings [1, L, D]; return [1, T, D]."""
        mixin = self.get_mixin("eva")
        return mixin.word_embedding_forward(  # type: ignore[no-any-return]
            token_ids, image_embeddings=images, pre_image=image_start
        )
