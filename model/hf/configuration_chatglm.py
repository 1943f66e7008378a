"""The configuration of a VisualGLM model in config.json: sizes and token ids; and the options of its processor."""

import importlib
import importlib.util
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

EXPORT_MODULE = ".export"


def add_code(directory: str | os.PathLike[str], exporter: str) -> None:
    """Call the function `exporter` of the export module, if that exists, for a directory that was just saved."""
    if __package__ and importlib.util.find_spec(EXPORT_MODULE, __package__):
        getattr(importlib.import_module(EXPORT_MODULE, __package__), exporter)(directory)


class FormerName:
    """An attribute under its former name: reading and setting it warns, and uses the current name."""

    def __init__(self, current: str) -> None:
        self.current = current

    def __set_name__(self, owner: type, name: str) -> None:
        self.message = f"{name} has been renamed; use {self.current} instead."

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        warnings.warn(self.message, DeprecationWarning, stacklevel=2)
        return getattr(instance, self.current)

    def __set__(self, instance: Any, value: Any) -> None:
        warnings.warn(self.message, DeprecationWarning, stacklevel=2)
        setattr(instance, self.current, value)


BITS = (0, 4, 8)
# Accepted values of `attn_implementation`. transformers would take any other for the name of a kernel package, and
# download it from the hub; these networks compute attention themselves.
ATTENTION_IMPLEMENTATIONS = (None, True, False, "eager", "sdpa")

IMPLEMENTATION_KEYS = ("attn_implementation", "attn_implementation_internal", "attn_implementation_autoset")


class ChatGLMConfig(PretrainedConfig):  # public name
    """The content of config.json. The defaults describe the language model of the published VisualGLM-6B.

    Missing entries of the image encoder are reported when the network is built, so that `ChatGLMConfig()` is valid:
    transformers compares configurations with it.
    """

    model_type = "chatglm"  # checkpoint key
    # transformers' caches and tools read the sizes under these names.
    attribute_map = {  # noqa: RUF012  as in transformers
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "image_token_id": "pad_token_id",  # of the placeholders
    }
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  Trainer appends to it, so it cannot be a tuple

    def __init__(
        self,
        vocab_size: int = 130528,
        hidden_size: int = 4096,
        num_layers: int = 28,
        num_attention_heads: int = 32,
        inner_hidden_size: int | None = None,
        max_sequence_length: int = 2048,
        layernorm_epsilon: float = 1e-5,
        use_cache: bool = True,
        bos_token_id: int = 130004,
        eos_token_id: int = 130005,
        pad_token_id: int = 3,
        mask_token_id: int = 130000,
        gmask_token_id: int = 130001,
        position_encoding_2d: bool = True,
        quantization_bit: int = 0,
        image_length: int = 32,
        eva_config: dict[str, Any] | None = None,
        qformer_config: dict[str, Any] | None = None,
        pre_seq_len: int | None = None,
        prompt_language: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Store the sizes of the language model and of the image encoder.

        Args:
            vocab_size: rows of the embedding, including ids without a sentencepiece.
            hidden_size: width of the language model.
            num_layers, num_attention_heads: layers of the language model, and attention heads per layer.
            inner_hidden_size: hidden size of its MLPs; None for four times `hidden_size`.
            max_sequence_length: context length, in tokens, that it was trained with.
            layernorm_epsilon: epsilon of its LayerNorms.
            use_cache: whether `forward` returns a KV cache by default.
            bos_token_id, mask_token_id, gmask_token_id: <sop>, [MASK] and [gMASK].
            position_encoding_2d: must be true; the published file contains it.
            quantization_bit: 4 or 8 if the language model's weights are quantized, else 0.
            image_length: number of embeddings of an image.
            eva_config, qformer_config: sizes of the ViT and the Q-Former of the image encoder.
            pre_seq_len: number of P-tuning v2 keys and values in each layer; None or 0 for none.
            prompt_language: language of the prompts that `chat` builds: "zh", "en", or "auto" to follow the question;
                None for Chinese, as in the published model.
            kwargs: entries that every transformers configuration accepts.

        Raises:
            ValueError: an unsupported variant of ChatGLM, attention implementation or bit width.
        """
        if not position_encoding_2d:
            raise ValueError("position_encoding_2d is false: this network has two-dimensional positions only.")
        if kwargs.get("prefix_projection"):
            raise ValueError("prefix_projection is true: only P-tuning without a projection network is supported.")
        for key, value in kwargs.items():
            if key.endswith(IMPLEMENTATION_KEYS) and value not in ATTENTION_IMPLEMENTATIONS:
                raise ValueError(
                    f"{key} is {value!r}: this network computes attention itself and loads no kernels from the hub. "
                    "Remove the entry."
                )
        if quantization_bit not in BITS:
            raise ValueError(f"quantization_bit is {quantization_bit!r}; it should be 4, 8, or 0 for none.")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_attention_heads = num_attention_heads
        self.inner_hidden_size = 4 * hidden_size if inner_hidden_size is None else inner_hidden_size
        self.max_sequence_length = max_sequence_length
        self.layernorm_epsilon = layernorm_epsilon
        self.use_cache = use_cache
        self.mask_token_id = mask_token_id
        self.gmask_token_id = gmask_token_id
        self.position_encoding_2d = position_encoding_2d
        self.quantization_bit = quantization_bit
        self.image_length = image_length
        self.eva_config = eva_config
        self.qformer_config = qformer_config
        self.pre_seq_len = pre_seq_len
        self.prompt_language = prompt_language
        kwargs["tie_word_embeddings"] = False  # the output matrix is never tied, even if a file says so
        kwargs.setdefault("tokenizer_class", "ChatGLMTokenizer")
        super().__init__(bos_token_id=bos_token_id, eos_token_id=eos_token_id, pad_token_id=pad_token_id, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save config.json as transformers does, and export the code that loads the directory without this package.

        Saving a model calls this as well.
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        add_code(save_directory, "export_code")


OPTION_GROUPS = ("processor_kwargs", "text_kwargs", "images_kwargs", "common_kwargs")


def flat_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a processor's call without the nesting of transformers' `processor_kwargs`."""
    options: dict[str, Any] = {}
    for name, value in given.items():
        options |= flat_options(value) if name in OPTION_GROUPS and isinstance(value, Mapping) else {name: value}
    return options


def assign_images(images: Any, texts: Sequence[str], mark: str) -> list[list[Any]]:
    """Return the images of each text, at most one.

    Args:
        images: None; an image; a list of one for each text, or for each text with `mark`; or a list of lists.

    Raises:
        ValueError: images and texts do not match.
    """
    given = [] if images is None else list(images) if isinstance(images, list | tuple) else [images]
    if any(isinstance(one, list | tuple) for one in given):
        owned = [list(one or ()) for one in given]
    elif len(given) in (0, len(texts)):
        owned = [[one] for one in given] or [[] for _ in texts]
    else:
        remaining = iter(given)
        owned = [[image for _, image in zip(range(mark in text), remaining, strict=False)] for text in texts]
    if len(owned) != len(texts) or any(len(one) > 1 for one in owned) or sum(map(len, owned)) < len(given):
        raise ValueError(f"There are {len(given)} images for {len(texts)} texts; each text can have one image.")
    return owned


def pad_rows(rows: list[list[int]], value: int, side: str, options: Mapping[str, Any]) -> list[list[int]]:
    """Truncate and pad rows with `value`, as transformers' `padding`, `truncation` and `max_length` define it.

    Args:
        side: "left" or "right"; the option `padding_side` overrides it.
    """
    limit, step = options.get("max_length"), options.get("pad_to_multiple_of") or 1
    if limit and options.get("truncation"):
        rows = [row[:limit] for row in rows]
    if not options.get("padding"):
        return rows
    length = limit if limit and options["padding"] == "max_length" else max(map(len, rows))
    pads = [[value] * (-(-length // step) * step - len(row)) for row in rows]
    if (options.get("padding_side") or side) == "right":
        return [row + pad for row, pad in zip(rows, pads, strict=True)]
    return [pad + row for row, pad in zip(rows, pads, strict=True)]
