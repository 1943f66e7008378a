"""VisualGLM: ChatGLM-6B on SAT, with the picture's vectors standing where the prompt has placeholders.

Paper of the language model: GLM, https://arxiv.org/abs/2103.10360.
"""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .aliases import FormerAttribute
from .blip2 import BLIP2, drop_parallel_output
from .checkpoint import Checkpoint, load_tensors, open_checkpoint
from .checkpoint.adapters import LORA, is_factor, methods_in
from .checkpoint.layout import SPLIT
from .checkpoint.meta_init import build_uninitialized
from .kernels.linear import Linear, LinearAdapter, bind_dense
from .kernels.torch_ops import QuantizedLinear, rotary_frequencies
from .quantization.quantize import bind_quantized
from .sat.compat import resolve_placement  # before sat
from .sat.ptuning import PTUNING, find_prefix, prefixes_of
from .tensors import LazyTensors, Tensors, loaders_of

# isort: split
from sat.model.base_model import BaseMixin, get_model
from sat.model.official.chatglm_model import ChatGLMModel
from sat.mpu import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding, get_model_parallel_world_size

# Who answers each SAT hook in the model as built here. The decoder may then walk the layers itself; where a
# user's mixin answers a hook, it must call the whole model instead.
BUILT_IN_HOOKS = {
    "attention_forward": "chatglm-attn",
    "final_forward": "chatglm-final",
    "layer_forward": "chatglm-layer",
    "position_embedding_forward": "model",
    "word_embedding_forward": "eva",
}
PARALLEL_LAYERS = (ColumnParallelLinear, RowParallelLinear)
# SAT's cache stores what our decoder caches itself, and changes no result; P-tuning's prefix goes into that cache.
CACHE_ATTENTION_HOOKS = {"auto-regressive -> default"}
PREFIX_ATTENTION_HOOKS = {f"{PTUNING} -> default", f"auto-regressive -> {PTUNING} -> default"}
# What every checkpoint has; other parts a subclass has added.
BASE_COMPONENTS = ("transformer", "mixins.chatglm-final", "mixins.chatglm-attn", "mixins.eva")


class RotaryEmbedding(nn.Module):
    """Tables of cosines and sines that do not change with the model's dtype.

    Stands where SAT has its own table, with the same call. Its buffer is saved for older readers and never loaded.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.inv_freq: torch.Tensor
        self.register_buffer("inv_freq", rotary_frequencies(dim))  # checkpoint key

    def _apply(self, fn: Any, recurse: bool = True) -> "RotaryEmbedding":
        super()._apply(fn, recurse)
        self.inv_freq = rotary_frequencies(self.dim, self.inv_freq.device)  # follow the device, not the dtype
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        return None

    def angles(self, positions: torch.Tensor) -> torch.Tensor:
        """Return float32 angles [..., dim] for integer `positions` [...]."""
        half = positions.float().unsqueeze(-1) * self.inv_freq
        return torch.cat((half, half), dim=-1)

    def forward(self, x: torch.Tensor, seq_len: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cos and sin [seq_len, 1, dim] in the dtype of `x`."""
        angles = self.angles(torch.arange(int(seq_len), device=x.device)).unsqueeze(1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


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
        embeddings: torch.Tensor = self.transformer.word_embeddings(input_ids)
        starts = [pre_image] * len(input_ids) if isinstance(pre_image, int) else list(pre_image)
        # A cached decoding step is shorter than what stands before the picture: nothing to insert.
        if max(starts) + self.image_length > input_ids.shape[1]:
            return embeddings
        if image_embeddings is None and image is not None:
            image_embeddings = self.model(image)
        if image_embeddings is None:
            return embeddings
        return insert_image_embeddings(embeddings, image_embeddings, starts)


def insert_image_embeddings(embeddings: torch.Tensor, images: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
    """Replace embeddings [B, T, D] by images [B or 1, L, D] from `starts[b]` on, in a new tensor."""
    images = images.to(embeddings.device, embeddings.dtype).expand(len(starts), -1, -1)
    length = images.shape[1]
    if len(set(starts)) == 1 and starts[0] >= 0:
        return torch.cat((embeddings[:, : starts[0]], images, embeddings[:, starts[0] + length :]), dim=1)
    inserted = [
        row if start < 0 else torch.cat((row[:start], image, row[start + length :]))
        for row, image, start in zip(embeddings, images, starts, strict=True)
    ]
    return torch.stack(inserted)


def component_of(name: str) -> str:
    """Return the part of a network that a parameter belongs to: a mixin, or an attribute of the model."""
    return ".".join(name.split(".")[: 2 if name.startswith("mixins.") else 1])


def find_new_parameters(targets: Tensors, stored: Tensors) -> list[str]:
    """List the parameters of `targets` that a subclass adds and that the checkpoint, as a whole, knows nothing of."""
    known = {*BASE_COMPONENTS, *map(component_of, stored)}
    has_lora = LORA in methods_in(stored)
    return [name for name in targets if component_of(name) not in known or (is_factor(name) and not has_lora)]


def adapt_checkpoint(checkpoint: Checkpoint, model: nn.Module) -> tuple[Checkpoint, list[str]]:
    """Return `checkpoint` as a fine-tuning class wants it, and the parameters that are new.

    Weights are found under the names that LoRA's wrapping gives them, and what is new keeps the values it has.
    """
    targets = model.state_dict()
    if checkpoint.has_lora and LORA not in methods_in(targets):
        checkpoint = checkpoint.merge_lora()
    new = find_new_parameters(targets, checkpoint.stored_tensors)
    wrapped = [name for name in targets if ".original." in name and name not in checkpoint.stored_tensors]
    if not new and not wrapped:
        return checkpoint, []
    if not checkpoint.has_lora:  # so that no row order has to be told from wrapped weights
        checkpoint = replace(
            checkpoint, stored_tensors=checkpoint.split_qkv(), qkv_layout=SPLIT, layout_is_explicit=True
        )
    loaders = loaders_of(checkpoint.stored_tensors)
    for name in wrapped:
        plain = name.replace(".original.", ".")
        if plain in loaders:
            loaders[name] = loaders.pop(plain)
    loaders.update((name, partial(targets.__getitem__, name)) for name in new)
    return replace(checkpoint, stored_tensors=LazyTensors(loaders)), new


class VisualGLMModel(ChatGLMModel):
    """The SAT model. `model(input_ids, image=pixels, pre_image=n)` returns [logits [B, T, V], ...layers].

    Args:
        args: a namespace with the entries of model_config.json.
    """

    def __init__(self, args: Namespace, transformer: nn.Module | None = None, **kwargs: Any) -> None:
        kwargs = drop_parallel_output(kwargs)
        super().__init__(args, transformer=transformer, **kwargs)
        self.image_length: int = args.image_length  # public name
        self.max_sequence_length: int = args.max_sequence_length
        self.prompt_language: str | None = getattr(args, "prompt_language", None)
        self.tp_size: int = get_model_parallel_world_size()
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
    def from_pretrained(
        cls, name: str, args: Namespace | None = None, *, overwrite_args: dict[str, Any] | None = None, **kwargs: Any
    ) -> tuple["VisualGLMModel", Namespace]:
        """Load the model called `name`; see `from_pretrained_base` for the arguments."""
        changes = dict(overwrite_args or {})
        if changes.get("model_parallel_size") == 1:  # the shares of several ranks are joined anyway
            del changes["model_parallel_size"]
        return super().from_pretrained(name, args, overwrite_args=changes, **kwargs)  # type: ignore[no-any-return]

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
        and `overwrite_args` over both; what none of them says is the class's default. The model answers at once (no
        dropout); call `train()` to train it. What a subclass adds and the checkpoint lacks starts as it was built.
        Further keywords: `specific_iteration` of a run, and `qkv_layout` and `base` as in `open_checkpoint`.

        Raises:
            CheckpointError: nothing found, or nothing readable.
        """
        checkpoint = open_checkpoint(
            name,
            home=home_path,
            qkv_layout=kwargs.pop("qkv_layout", None),
            iteration=kwargs.pop("specific_iteration", None),
            base=kwargs.pop("base", None),
        )
        checkpoint.check_file_sizes()
        given = {**vars(cls.get_args()), "skip_init": not build_only, **vars(args or Namespace())}
        merged = Namespace(**{**given, **checkpoint.config, **(overwrite_args or {})})
        device, dtype = resolve_placement(merged)
        options = {key: value for key, value in kwargs.items() if key not in {"url", "prefix"}}
        if build_only or cls is not VisualGLMModel:  # what a subclass computes while it is built needs its data
            with torch.random.fork_rng(devices=[]):  # SAT draws some weights that are then overwritten
                model = get_model(merged, cls, **options)
        else:
            dtype = options.pop("params_dtype", dtype)
            model = build_uninitialized(lambda: cls(merged, params_dtype=dtype, **options), device, dtype)
        if not build_only:
            model.load_checkpoint(checkpoint)
        return model.eval(), merged

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Load the weights; mixins that are new to them are asked to initialise themselves, as SAT does."""
        fitted, new = adapt_checkpoint(checkpoint, self)
        load_tensors(self, fitted)
        components = {component_of(name) for name in new} - set(BASE_COMPONENTS)
        self.reinit(sorted(name.removeprefix("mixins.") for name in components if name.startswith("mixins.")))

    heads = FormerAttribute("num_heads")
    qkv_by_head = FormerAttribute("qkv_interleaved")
    vocabulary = FormerAttribute("vocab_size")

    @property
    def device(self) -> torch.device:
        return self.vision_encoder.glm_proj.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.vision_encoder.glm_proj.weight.dtype

    @property
    def image_size(self) -> int:
        """Side of the square picture in pixels."""
        return self.vision_encoder.image_size

    @property
    def vocab_size(self) -> int:
        """How many tokens the logits are of."""
        return int(self.transformer.word_embeddings.num_embeddings)

    @property
    def lm_head(self) -> nn.Module:
        head: nn.Module = self.get_mixin("chatglm-final").lm_head
        return head

    @property
    def rotary(self) -> RotaryEmbedding:
        rotary: RotaryEmbedding = self.get_mixin("chatglm-attn").rotary_emb
        return rotary

    @property
    def num_heads(self) -> int:
        """Attention heads of the language model."""
        return int(self.transformer.layers[0].attention.num_attention_heads)

    @property
    def residual_scale(self) -> float:
        """Factor of the residual branch, sqrt(2 x layers)."""
        return float((2 * len(self.transformer.layers)) ** 0.5)

    @property
    def qkv_interleaved(self) -> bool:
        """Whether the rows of query_key_value lie head by head; SAT's lie part by part."""
        return False

    @property
    def has_foreign_mixins(self) -> bool:
        """Whether a mixin that is not ours wants to see or change the forward pass."""
        origins = dict(self.hook_origins)
        attention = origins.pop("attention_fn", None)
        known = PREFIX_ATTENTION_HOOKS if find_prefix(self.mixins) else CACHE_ATTENTION_HOOKS
        mixins = attention not in {None, *known} or any(BUILT_IN_HOOKS.get(name) != by for name, by in origins.items())
        # The decoder embeds pictures itself, as this mixin does.
        embeds = getattr(type(self.mixins["eva"]), "word_embedding_forward", None)
        return mixins or embeds is not ImageMixin.word_embedding_forward

    @property
    def prefix(self) -> Sequence[torch.Tensor]:
        """Keys and values [2, H, P, head_dim] of P-tuning for each layer, which the tokens of every row see."""
        return prefixes_of(self.mixins)

    image_part = FormerAttribute("vision_encoder")

    @property
    def vision_encoder(self) -> BLIP2:
        encoder: BLIP2 = self.get_mixin("eva").model
        return encoder

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S]."""
        embeddings: torch.Tensor = self.vision_encoder(pixels)
        return embeddings

    def bind_linear(self, module: nn.Module) -> Linear:
        """Return how to call a linear layer; in a single process, SAT's without their communication."""
        if self.tp_size == 1 and type(module) in PARALLEL_LAYERS:
            return bind_dense(module)
        return bind_quantized(module) if isinstance(module, QuantizedLinear) else LinearAdapter(module)

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embed tokens [N]; return [N, D]."""
        table = self.transformer.word_embeddings
        if self.tp_size == 1 and type(table) is VocabParallelEmbedding:
            return F.embedding(token_ids, table.weight)
        embeddings: torch.Tensor = table(token_ids)
        return embeddings

    def embed(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Embed one prompt [1, T] whose picture, if any, has embeddings [1, L, D]; return [1, T, D]."""
        mixin: ImageMixin = self.get_mixin("eva")
        return mixin.word_embedding_forward(token_ids, image_embeddings=images, pre_image=image_start)
