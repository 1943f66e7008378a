"""Load a chat model with its tokenizer: `load_sat` on the SAT network, `load_hf` on the Hugging Face network."""

import os
import re
from argparse import Namespace
from collections.abc import Callable, Mapping
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
from .checkpoint.resolve import find_vocabulary
from .checkpoint.save import GENERATION_NAME
from .checkpoint.sizes import choose_cpu_dtype, count_parameters
from .description import Description, read_description
from .engine import DEMO
from .environment import expand_home, read_variable
from .errors import CheckpointError, SettingError, TokenizerError
from .hf_chat import HfChatModel
from .hf_loading import has_published_layout, load_converted_network, load_published_network
from .kernels.torch_ops import check_bits
from .names import DEFAULT_MODEL, DTYPE_NAMES
from .quantization.quantize import allocate_quantized, prepack_all, quantized_layers
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

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}
SMALL_PARAMETERS = 50_000_000
DEVICE = re.compile(r"cpu(:0)?|cuda(:[0-9]{1,3})?")


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


def choose_device(name: str | None) -> torch.device:
    """Return the device called `name`, by default the fastest device of this machine.

    Args:
        name: cpu, cuda or cuda:N; None for a GPU if there is one, else the CPU.

    Raises:
        SettingError: the device does not exist or cannot be used.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = str(name)  # a torch.device has the same names
    if DEVICE.fullmatch(name) is None:
        is_gpu = "gpu" in name.lower()
        reason = "a GPU is called cuda, the second one cuda:1" if is_gpu else "only cpu and cuda are supported"
        raise SettingError(f"The device {name!r} is not known: {reason}. Try cpu, or cuda on a GPU.")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            found = f"only {count} (cuda:0 is the first)" if count else "no GPU that PyTorch can use"
            raise SettingError(f"There is no device {name!r} here: this machine has {found}. Try cpu, or another GPU.")
        try:
            torch.empty(0, device=device)
        except RuntimeError as error:  # the GPU is broken, or used exclusively by another program
            reason = str(error).splitlines()[0]
            raise SettingError(f"The device {name!r} cannot be used: {reason}. Try cpu, or another GPU.") from error
    return device


def choose_dtype(name: str | None, device: torch.device, parameters: int) -> torch.dtype:
    """Return the dtype called `name`, by default the one that suits the device and the model's size.

    Raises:
        SettingError: the name is not in `DTYPES`.
    """
    if name is not None:
        if name not in DTYPES:
            raise SettingError(f"dtype is {name!r}; it should be one of {', '.join(DTYPES)}.")
        return DTYPES[name]
    if device.type != "cpu":
        return torch.float16
    return choose_cpu_dtype(parameters)


def limit_threads(parameters: int) -> None:
    """Set torch to one CPU thread for a small model, unless OMP_NUM_THREADS is set.

    The matrices are too small to gain much from more threads. And as soon as another program takes a core, threads
    that wait for each other lose milliseconds in each of hundreds of operations.
    """
    if parameters < SMALL_PARAMETERS and read_variable("OMP_NUM_THREADS") is None:
        torch.set_num_threads(1)


def describe_model(name: str | os.PathLike[str], checkpoint: Checkpoint) -> Description:
    """Return the name and training domain of a checkpoint that was opened by `name`."""
    path = expand_home(name)
    # Directories in the hub's cache are named by commit hashes.
    is_path = path.exists() and checkpoint.path.parent.name != "snapshots"
    return Description(checkpoint.path.resolve().name if is_path else path.name, read_description(checkpoint.config))


def build_network(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    quant: int | None = None,
    **quant_options: bool,
) -> "VisualGLMModel":
    """Build the SAT network of a checkpoint on `device`, without loading its weights.

    Args:
        quant: bits of the linear layers, 8 or 4; None for layers that are not quantized.
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
        return allocate_quantized(network, quant, device, **quant_options) if quant else network

    network = build_uninitialized(make, device, dtype)
    network.eval()
    return network


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
        quant: bits of the language model's weights, 8 or 4, quantized one matrix at a time; None does not quantize.
        quant_vision: with `quant`, quantize the weights of the vision encoder as well.
        quant_embeddings: with `quant`, quantize the token embeddings as well, to 8 bits.
        qkv_layout, base: see `open_checkpoint`; override the checkpoint's QKV row order and its base model.
        progress: called with (tensors read, total number of tensors).
        max_batch_size, max_queue_size: maximum numbers of concurrent answers and of waiting questions; see
            `NetworkChatModel`.

    Raises:
        VisualGLMError: the model, its tokenizer, the device, the dtype or the number of bits is not available.
    """
    if quant is not None:
        check_bits(quant)
    elif quant_vision or quant_embeddings:
        name = "quant_vision" if quant_vision else "quant_embeddings"
        raise SettingError(f"{name} needs quant, the number of bits of the weights: 8 or 4.")
    chosen_device = choose_device(device)
    checkpoint = open_checkpoint(name, qkv_layout=qkv_layout, base=base)
    tokenizer, sampling = load_tokenizer(checkpoint.path), read_sampling(checkpoint.path)
    parameters = count_parameters(checkpoint.config)
    chosen_dtype = choose_dtype(dtype, chosen_device, parameters)
    if chosen_device.type == "cpu":
        limit_threads(parameters)
    network = build_network(
        checkpoint, chosen_device, chosen_dtype, quant, quant_vision=quant_vision, quant_embeddings=quant_embeddings
    )
    if quant is not None:
        checkpoint = quantized_checkpoint(checkpoint, quantized_layers(network))
    load_tensors(network, checkpoint, progress)
    prepack_all(network)
    description = describe_model(name, checkpoint)
    return SatChatModel(
        network,
        tokenizer,
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        description=description,
        sampling=sampling,
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
    if quant is not None:
        check_bits(quant)
    for option, is_set in (("quant_vision", quant_vision), ("quant_embeddings", quant_embeddings)):
        if is_set:
            raise SettingError(f"The Hugging Face side quantizes only linear layers. Omit {option}, or use load_sat.")
    chosen_device = choose_device(device)
    checkpoint = open_checkpoint(name, qkv_layout=qkv_layout, base=base)
    tokenizer, sampling = load_tokenizer(checkpoint.path), read_sampling(checkpoint.path)
    parameters = count_parameters(checkpoint.config)
    if chosen_device.type == "cpu":
        limit_threads(parameters)
    chosen_dtype = choose_dtype(dtype, chosen_device, parameters)
    if has_published_layout(checkpoint) and base is None:
        network = load_published_network(checkpoint, chosen_device, chosen_dtype, quant, progress)
    else:
        network = load_converted_network(
            checkpoint, tokenizer.eos_token_id, chosen_device, chosen_dtype, quant, progress
        )
    description = describe_model(name, checkpoint)
    return HfChatModel(
        network,
        tokenizer,
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        description=description,
        sampling=sampling,
    )
