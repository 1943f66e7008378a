"""Load a chat model with its tokenizer: `load_sat` on the SAT network, `load_hf` on the Hugging Face network."""

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .aliases import former_keywords
from .chat_model import SatChatModel
from .checkpoint import Checkpoint, load_tensors, open_checkpoint
from .checkpoint.adapters import PTUNING, methods_in
from .checkpoint.files import read_json
from .checkpoint.low_bit import quantized_checkpoint
from .checkpoint.meta_init import build_uninitialized
from .checkpoint.resolve import VOCABULARY_NAME, find_vocabulary
from .checkpoint.save import GENERATION_NAME
from .checkpoint.sizes import count_parameters
from .description import Description, read_description
from .engine import DEMO
from .environment import expand_home
from .errors import CheckpointError, SettingError, TokenizerError
from .hf_chat import HfChatModel
from .hf_loading import check_stored_bits, has_published_layout, load_converted_network, load_published_network
from .kernels.torch_ops import check_bits
from .names import DEFAULT_MODEL
from .placement import (
    DEVICE as DEVICE,
    DTYPES as DTYPES,
    SMALL_PARAMETERS as SMALL_PARAMETERS,
    choose_device,
    choose_dtype,
    limit_threads,
)
from .quantization.quantize import allocate_quantized, allocate_stored, prepack_all, quantized_layers
from .resource_errors import translate_resource_errors

# The lengths in the file are not read: they are for transformers' `generate`; the programs have limits of their own.
SAMPLING_SETTINGS = ("temperature", "top_k", "top_p", "repetition_penalty")


def read_sampling(directory: Path) -> Mapping[str, Any]:
    """Read the sampling settings of a model's generation_config.json, under their names in `GenerationConfig`.

    Raises:
        CheckpointError: the file cannot be read, or a setting is invalid.
    """
    path = directory / GENERATION_NAME
    if not path.is_file():
        return {}
    written = read_json(path)
    try:
        settings = {name: written[name] for name in SAMPLING_SETTINGS if written.get(name) is not None}
        if written.get("do_sample") is False:
            settings["temperature"] = 0
        DEMO.replace(**settings)
    except SettingError as error:
        raise CheckpointError(f"{path} cannot be used: {error} Correct it, or remove it.") from error
    return settings


if TYPE_CHECKING:
    from .hf.tokenization_chatglm import ChatGLMTokenizer
    from .visualglm import VisualGLMModel


@translate_resource_errors()
def load_tokenizer(name_or_dir: str | os.PathLike[str]) -> "ChatGLMTokenizer":
    """Load the tokenizer of a model from the directory that `find_vocabulary` returns.

    Raises:
        TokenizerError: it is not found, or cannot be read.
    """
    from .hf.tokenization_chatglm import ChatGLMTokenizer  # transformers takes a second to import

    directory = find_vocabulary(name_or_dir)
    try:
        tokenizer: ChatGLMTokenizer = ChatGLMTokenizer.from_pretrained(directory)
    except (OSError, RuntimeError, ValueError) as error:
        raise TokenizerError(f"The tokenizer in {directory} cannot be read: {error}. Download it again.") from error
    return tokenizer


def describe_model(name: str | os.PathLike[str], checkpoint: Checkpoint) -> Description:
    """Return the name and training domain of a checkpoint that was opened by `name`."""
    path = expand_home(name)
    # Directories in the hub's cache are named by commit hashes.
    is_path = path.exists() and checkpoint.path.parent.name != "snapshots"
    return Description(checkpoint.path.resolve().name if is_path else path.name, read_description(checkpoint.config))


def stored_bits(checkpoint: Checkpoint) -> int:
    """Return the bits of weights that are loaded as they are quantized; 0 if there are none, or LoRA is merged."""
    return 0 if checkpoint.has_lora else checkpoint.bits


def build_network(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    quant: int | None = None,
    **quant_options: bool,
) -> "VisualGLMModel":
    """Build the SAT network of a checkpoint on `device`, without loading its weights.

    Weights that the checkpoint stores quantized get quantized layers.

    Args:
        quant: bits of all linear layers, 8 or 4; None for other layers that are not quantized.
        quant_options: further layers to quantize, see `quantize`.
    """
    from .finetuned import FineTuneVisualGLMModel
    from .visualglm import VisualGLMModel

    checkpoint.check_file_sizes()
    network_class, args = VisualGLMModel, Namespace(**{"skip_init": True, **checkpoint.config})
    if PTUNING in methods_in(checkpoint.stored_tensors):  # LoRA needs no class of its own: it is merged
        network_class = FineTuneVisualGLMModel
        vars(args).update(use_lora=False, use_qlora=False)

    def make() -> VisualGLMModel:
        network = network_class(args, params_dtype=dtype)
        if quant:
            allocate_quantized(network, quant, device, **quant_options)
        if not stored_bits(checkpoint):
            return network
        names = {name.removesuffix(".weight") for name in checkpoint.quantized}
        return allocate_stored(network, checkpoint.bits, device, names)

    network = build_uninitialized(make, device, dtype)
    network.eval()
    return network


def check_quantization(quant: int | None, further: Mapping[str, bool], *, is_hf: bool) -> None:
    """Check the options that quantize a model.

    Args:
        quant: bits of the linear layers; None does not quantize.
        further: quant_vision and quant_embeddings.
        is_hf: whether the network is the Hugging Face one.

    Raises:
        SettingError: the number of bits is unsupported, or an option cannot be used.
    """
    if quant is not None:
        check_bits(quant)
    for option in (name for name, is_set in further.items() if is_set):
        if is_hf:
            raise SettingError(f"The Hugging Face side quantizes only linear layers. Omit {option}, or use load_sat.")
        if quant is None:
            raise SettingError(f"{option} needs quant, the number of bits of the weights: 8 or 4.")


def check_stored_precision(checkpoint: Checkpoint, quant: int | None, *, is_hf: bool) -> None:
    """Raise SettingError if weights that are stored quantized cannot have `quant` bits on the side to load."""
    stored = stored_bits(checkpoint)
    check_stored_bits(checkpoint.path, stored, quant)
    if is_hf and stored and quant is not None and not has_published_layout(checkpoint):
        raise SettingError(
            f"The weights in {checkpoint.path} have {stored} bits already, in the SAT format. Omit quant, use "
            "load_sat, or use a checkpoint that is not quantized."
        )


@dataclass(frozen=True)
class ModelSource:
    """The parts of a model that are read before its weights.

    Attributes:
        parameters: number of parameters.
        device, dtype: of the network to build.
    """

    checkpoint: Checkpoint
    tokenizer: "ChatGLMTokenizer"
    sampling: Mapping[str, Any]
    parameters: int
    device: torch.device
    dtype: torch.dtype


def open_source(
    name: str | os.PathLike[str],
    device: str | None,
    dtype: str | None,
    qkv_layout: str | None = None,
    base: str | os.PathLike[str] | None = None,
) -> ModelSource:
    """Open the checkpoint and load the tokenizer of a model, with the arguments of `load_sat`."""
    chosen_device = choose_device(device)
    checkpoint = open_checkpoint(name, qkv_layout=qkv_layout, base=base)
    tokenizer = load_tokenizer(checkpoint.find_folder(VOCABULARY_NAME))
    sampling = read_sampling(checkpoint.find_folder(GENERATION_NAME))
    parameters = count_parameters(checkpoint.config)
    chosen_dtype = choose_dtype(dtype, chosen_device, parameters)
    return ModelSource(checkpoint, tokenizer, sampling, parameters, chosen_device, chosen_dtype)


@translate_resource_errors()
def check_loadable(
    name: str | os.PathLike[str],
    *,
    is_hf: bool,
    device: str | None = None,
    dtype: str | None = None,
    quant: int | None = None,
    quant_vision: bool = False,
    quant_embeddings: bool = False,
    base: str | os.PathLike[str] | None = None,
) -> None:
    """Check that a model can be loaded, without reading its weights.

    Args:
        is_hf: whether `load_hf` is to load it, otherwise `load_sat`; the other arguments are those of these functions.

    Raises:
        VisualGLMError: as these functions do.
    """
    check_quantization(quant, {"quant_vision": quant_vision, "quant_embeddings": quant_embeddings}, is_hf=is_hf)
    checkpoint = open_source(name, device, dtype, base=base).checkpoint
    checkpoint.check_file_sizes()
    check_stored_precision(checkpoint, quant, is_hf=is_hf)


@former_keywords(rows="max_batch_size", most_waiting="max_queue_size")
@translate_resource_errors()
def load_sat(
    name: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quant: int | None = None,
    quant_vision: bool = False,
    quant_embeddings: bool = False,
    qkv_layout: str | None = None,
    base: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    max_batch_size: int | None = None,
    max_queue_size: int | None = None,
) -> SatChatModel:
    """Load a chat model on the SAT network.

    A small model on the CPU sets torch to one thread for the entire process, unless OMP_NUM_THREADS is set.

    Args:
        name: visualglm-tiny, visualglm-6b, a directory, a .pt file, or a hub id; see `model.checkpoint.resolve`.
        device: cpu, cuda, cuda:1, ...; None for a GPU if there is one, else the CPU.
        dtype: float32, bfloat16 or float16; None for the dtype that suits the device.
        quant: bits of the language model's weights, 8 or 4, quantized one matrix at a time; None keeps the checkpoint's
            precision.
        quant_vision: with `quant`, quantize the weights of the vision encoder as well.
        quant_embeddings: with `quant`, quantize the token embeddings as well, to 8 bits.
        qkv_layout, base: see `open_checkpoint`; override the checkpoint's QKV row order and its base model.
        progress: called with (tensors read, total number of tensors).
        max_batch_size, max_queue_size: maximum numbers of concurrent answers and of waiting questions; see
            `NetworkChatModel`.

    Raises:
        VisualGLMError: the model, its tokenizer, the device, the dtype or the number of bits is not available.
    """
    further = {"quant_vision": quant_vision, "quant_embeddings": quant_embeddings}
    check_quantization(quant, further, is_hf=False)
    source = open_source(name, device, dtype, qkv_layout, base)
    checkpoint = source.checkpoint
    check_stored_precision(checkpoint, quant, is_hf=False)
    if source.device.type == "cpu":
        limit_threads(source.parameters)
    network = build_network(checkpoint, source.device, source.dtype, quant, **further)
    if quantized_layers(network):
        checkpoint = quantized_checkpoint(checkpoint, quantized_layers(network))
    load_tensors(network, checkpoint, progress)
    prepack_all(network)
    description = describe_model(name, checkpoint)
    return SatChatModel(
        network,
        source.tokenizer,
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        description=description,
        sampling=source.sampling,
    )


@former_keywords(rows="max_batch_size", most_waiting="max_queue_size")
@translate_resource_errors()
def load_hf(
    name: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quant: int | None = None,
    quant_vision: bool = False,
    quant_embeddings: bool = False,
    qkv_layout: str | None = None,
    base: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    max_batch_size: int | None = None,
    max_queue_size: int | None = None,
) -> HfChatModel:
    """Load a chat model on the Hugging Face network, whose vision encoder and embeddings cannot be quantized.

    The arguments are those of `load_sat`. As there, a small model on the CPU sets torch to one thread.

    Raises:
        VisualGLMError: the model, its tokenizer, the device, the dtype or the number of bits is not available.
    """
    check_quantization(quant, {"quant_vision": quant_vision, "quant_embeddings": quant_embeddings}, is_hf=True)
    source = open_source(name, device, dtype, qkv_layout, base)
    checkpoint, tokenizer = source.checkpoint, source.tokenizer
    check_stored_precision(checkpoint, quant, is_hf=True)
    if source.device.type == "cpu":
        limit_threads(source.parameters)
    if has_published_layout(checkpoint) and base is None:
        network = load_published_network(checkpoint, source.device, source.dtype, quant, progress)
    else:
        network = load_converted_network(
            checkpoint, tokenizer.eos_token_id, source.device, source.dtype, quant, progress
        )
    description = describe_model(name, checkpoint)
    return HfChatModel(
        network,
        tokenizer,
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        description=description,
        sampling=source.sampling,
    )
