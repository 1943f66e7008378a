"""VisualGLM: ChatGLM-6B on SAT, with image embeddings in the placeholder positions of the prompt.

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

# The origin of each SAT hook in the model as built here. With these the engine's decoder may run the layers itself;
# if a mixin of the user implements a hook, the decoder must call the complete model instead.
BUILT_IN_HOOKS = {
    "attention_forward": "chatglm-attn",
    "final_forward": "chatglm-final",
    "layer_forward": "chatglm-layer",
    "position_embedding_forward": "model",
    "word_embedding_forward": "eva",
}
PARALLEL_LAYERS = (ColumnParallelLinear, RowParallelLinear)
# SAT's cache mixin changes no result: our decoder has a KV cache of its own, which also holds P-tuning's prefix.
CACHE_ATTENTION_HOOKS = {"auto-regressive -> default"}
PREFIX_ATTENTION_HOOKS = {f"{PTUNING} -> default", f"auto-regressive -> {PTUNING} -> default"}
# Components that every checkpoint has; others were added by a subclass.
BASE_COMPONENTS = ("transformer", "mixins.chatglm-final", "mixins.chatglm-attn", "mixins.eva")


class RotaryEmbedding(nn.Module):
    """Rotary cosine and sine tables, computed in float32 for every model dtype.

    Replaces SAT's module of the same interface. The buffer `inv_freq` is saved for older programs and never loaded.
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
    """SAT mixin that inserts image embeddings into the embedded prompt."""

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
        """Embed prompts with their images.

        Args:
            input_ids: [B, T], with `image_length` placeholders in the positions of an image.
            image: pixels [B or 1, 3, S, S]; alternatively `image_embeddings` [B or 1, L, D].
            pre_image: number of tokens before the image, including padding: one number, or one for each of the B
                sequences; a negative number means no image.

        Returns:
            [B, T, D].
        """
        embeddings: torch.Tensor = self.transformer.word_embeddings(input_ids)
        starts = [pre_image] * len(input_ids) if isinstance(pre_image, int) else list(pre_image)
        # A decode step with a KV cache is shorter than the prompt up to the image: nothing to insert.
        if max(starts) + self.image_length > input_ids.shape[1]:
            return embeddings
        if image_embeddings is None and image is not None:
            image_embeddings = self.model(image)
        return embeddings if image_embeddings is None else insert_image_embeddings(embeddings, image_embeddings, starts)


def insert_image_embeddings(embeddings: torch.Tensor, images: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
    """Insert images [B or 1, L, D] into embeddings [B, T, D] at position `starts[b]`; return a new tensor."""
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
    """Return the component that contains a parameter: a mixin, or an attribute of the model."""
    return ".".join(name.split(".")[: 2 if name.startswith("mixins.") else 1])


def find_new_parameters(targets: Tensors, stored: Tensors) -> list[str]:
    """List the parameters of `targets` in components that a subclass added and the checkpoint does not have."""
    known = {*BASE_COMPONENTS, *map(component_of, stored)}
    has_lora = LORA in methods_in(stored)
    return [name for name in targets if component_of(name) not in known or (is_factor(name) and not has_lora)]


def adapt_checkpoint(checkpoint: Checkpoint, model: nn.Module) -> tuple[Checkpoint, list[str]]:
    """Adapt a checkpoint to the parameters of a fine-tuning class; also return the names of new parameters.

    Weights get the names that LoRA's wrapping gives them. New parameters keep their initial values.
    """
    targets = model.state_dict()
    if checkpoint.has_lora and LORA not in methods_in(targets):
        checkpoint = checkpoint.merge_lora()
    new = find_new_parameters(targets, checkpoint.stored_tensors)
    wrapped = [name for name in targets if ".original." in name and name not in checkpoint.stored_tensors]
    if not new and not wrapped:
        return checkpoint, []
    if not checkpoint.has_lora:  # the QKV order could not be detected in wrapped weights later
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
        """Add the flags of VisualGLM to the flags of ChatGLM."""
        group = parser.add_argument_group("VisualGLM", "VisualGLM configuration")
        group.add_argument("--image_length", type=int, help="number of embeddings per image")
        group.add_argument("--eva_args", type=json.loads, default={}, help="sizes of the ViT, as JSON")
        group.add_argument("--qformer_args", type=json.loads, default={}, help="sizes of the QFormer, as JSON")
        return super().add_model_specific_args(parser)  # type: ignore[no-any-return]

    @classmethod
    def from_pretrained(
        cls, name: str, args: Namespace | None = None, *, overwrite_args: dict[str, Any] | None = None, **kwargs: Any
    ) -> tuple["VisualGLMModel", Namespace]:
        """Load the model called `name`; see `from_pretrained_base` for the arguments."""
        changes = dict(overwrite_args or {})
        if changes.get("model_parallel_size") == 1:  # shards of several ranks are merged anyway
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

        SAT's `from_pretrained` calls this method. Entries of the checkpoint's configuration override those of `args`,
        and `overwrite_args` overrides both; missing entries have the class's defaults. The model is returned in
        evaluation mode. Parameters that a subclass adds and the checkpoint lacks keep their initial values. Further
        keywords: `specific_iteration` of a run; `qkv_layout` and `base`, see `open_checkpoint`.

        Raises:
            CheckpointError: no checkpoint was found, or it cannot be read.
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
        if build_only or cls is not VisualGLMModel:  # a subclass may compute with its weights while it is built
            with torch.random.fork_rng(devices=[]):  # SAT draws some weights that are then overwritten
                model = get_model(merged, cls, **options)
        else:
            dtype = options.pop("params_dtype", dtype)
            model = build_uninitialized(lambda: cls(merged, params_dtype=dtype, **options), device, dtype)
        if not build_only:
            model.load_checkpoint(checkpoint)
        return model.eval(), merged

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Load the weights, then let mixins that the checkpoint lacks initialize themselves, as SAT does."""
        adapted, new = adapt_checkpoint(checkpoint, self)
        load_tensors(self, adapted)
        components = {component_of(name) for name in new} - set(BASE_COMPONENTS)
        self.reinit(sorted(name.removeprefix("mixins.") for name in components if name.startswith("mixins.")))

    heads = FormerAttribute("num_heads")
    qkv_by_head = FormerAttribute("qkv_interleaved")
    vocabulary = FormerAttribute("vocab_size")
    image_part = FormerAttribute("vision_encoder")

    @property
    def device(self) -> torch.device:
        return self.vision_encoder.glm_proj.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.vision_encoder.glm_proj.weight.dtype

    @property
    def image_size(self) -> int:
        """S, the side of the square input image in pixels."""
        return self.vision_encoder.image_size

    @property
    def vocab_size(self) -> int:
        """V, the number of tokens in the vocabulary."""
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
        """Number of attention heads of the language model."""
        return int(self.transformer.layers[0].attention.num_attention_heads)

    @property
    def residual_scale(self) -> float:
        """Factor of the skip connections, sqrt(2 x layers)."""
        return float((2 * len(self.transformer.layers)) ** 0.5)

    @property
    def qkv_interleaved(self) -> bool:
        """Whether the rows of query_key_value are interleaved by head; SAT stores all q, then all k, then all v."""
        return False

    @property
    def has_foreign_mixins(self) -> bool:
        """Whether a mixin of the user implements a hook of the forward pass."""
        origins = dict(self.hook_origins)
        attention = origins.pop("attention_fn", None)
        known = PREFIX_ATTENTION_HOOKS if find_prefix(self.mixins) else CACHE_ATTENTION_HOOKS
        mixins = attention not in {None, *known} or any(BUILT_IN_HOOKS.get(name) != by for name, by in origins.items())
        # The decoder inserts image embeddings itself, exactly as `ImageMixin` does.
        embeds = getattr(type(self.mixins["eva"]), "word_embedding_forward", None)
        return mixins or embeds is not ImageMixin.word_embedding_forward

    @property
    def prefix(self) -> Sequence[torch.Tensor]:
        """P-tuning keys and values [2, H, P, head_dim] of each layer, which every sequence attends to."""
        return prefixes_of(self.mixins)

    @property
    def vision_encoder(self) -> BLIP2:
        encoder: BLIP2 = self.get_mixin("eva").model
        return encoder

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S]."""
        embeddings: torch.Tensor = self.vision_encoder(pixels)
        return embeddings

    def bind_linear(self, module: nn.Module) -> Linear:
        """Return a function that computes a linear layer; without tensor parallelism it skips SAT's communication."""
        if self.tp_size == 1 and type(module) in PARALLEL_LAYERS:
            return bind_dense(module)
        return bind_quantized(module) if isinstance(module, QuantizedLinear) else LinearAdapter(module)

    def embed_tokens(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embed tokens [N]; return [N, D]."""
        table = self.transformer.word_embeddings
        is_plain = self.tp_size == 1 and type(table) is VocabParallelEmbedding
        embeddings: torch.Tensor = F.embedding(token_ids, table.weight) if is_plain else table(token_ids)
        return embeddings

    def embed(self, token_ids: torch.Tensor, images: torch.Tensor | None, image_start: int) -> torch.Tensor:
        """Embed one prompt [1, T] and insert its image embeddings [1, L, D], if any; return [1, T, D]."""
        mixin: ImageMixin = self.get_mixin("eva")
        return mixin.word_embedding_forward(token_ids, image_embeddings=images, pre_image=image_start)
