"""Load a model that chats: `load_sat`, and its Hugging Face twin `load_hf`."""

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
from .checkpoint.resolve import DEFAULT_MODEL, find_vocabulary
from .checkpoint.save import GENERATION_NAME
from .checkpoint.sizes import choose_cpu_dtype, count_parameters
from .description import Description, read_description
from .engine import DEMO
from .environment import expand_home, read_variable
from .errors import CheckpointError, SettingError, TokenizerError
from .hf_chat import HfChatModel
from .hf_loading import has_published_layout, load_converted_network, load_published_network
from .kernels.torch_ops import check_bits
from .quantization.quantize import allocate_quantized, lay_out_all, quantized_layers
from .resource_errors import translate_resource_errors

# Lengths are not among them: the file's are those of transformers' `generate`, the programs have limits of their own.
SAMPLING_SETTINGS = ("temperature", "top_k", "top_p", "repetition_penalty")


def read_sampling(directory: Path) -> Mapping[str, Any]:
    """Return the sampling settings that a model's directory names, by their names in `GenerationConfig`.

    Raises:
        CheckpointError: generation_config.json cannot be read, or a setting makes no sense.
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

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SMALL_PARAMETERS = 50_000_000
DEVICE = re.compile(r"cpu(:0)?|cuda(:[0-9]{1,3})?")


@translate_resource_errors()
def load_tokenizer(name_or_dir: str | os.PathLike[str]) -> "ChatGLMTokenizer":
    """Load the tokenizer of a model, wherever `find_vocabulary` finds it.

    Raises:
        TokenizerError: it is nowhere, or cannot be read.
    """
    from .hf.tokenization_chatglm import ChatGLMTokenizer  # transformers takes a second to import

    directory = find_vocabulary(name_or_dir)
    try:
        tokenizer: ChatGLMTokenizer = ChatGLMTokenizer.from_pretrained(directory)
    except (OSError, RuntimeError, ValueError) as error:
        raise TokenizerError(f"The tokenizer in {directory} cannot be read: {error}. Get it again.") from error
    return tokenizer


def choose_device(name: str | None) -> torch.device:
    """Return the device called `name`, or the best that this machine has.

    Args:
        name: cpu, cuda or cuda:N; None for a GPU where there is one.

    Raises:
        SettingError: there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = str(name)  # a torch.device has the same names
    if DEVICE.fullmatch(name) is None:
        reason = (
            "a GPU is called cuda, the second one cuda:1" if "gpu" in name.lower() else "only CPUs and CUDA are used"
        )
        raise SettingError(f"The device {name!r} is not known: {reason}. Try cpu, or cuda on a GPU.")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            found = f"only {count} (cuda:0 is the first)" if count else "no GPU that PyTorch can use"
            raise SettingError(f"There is no device {name!r} here: this machine has {found}. Try cpu, or another GPU.")
        try:
            torch.empty(0, device=device)
        except RuntimeError as error:  # in the exclusive use of another program, or broken
            reason = str(error).splitlines()[0]
            raise SettingError(f"The device {name!r} cannot be used: {reason}. Try cpu, or another GPU.") from error
    return device


def choose_dtype(name: str | None, device: torch.device, parameters: int) -> torch.dtype:
    """Return the dtype called `name`, or the one that suits the device and the model's size.

    Raises:
        SettingError: there is no such dtype.
    """
    if name is not None:
        if name not in DTYPES:
            raise SettingError(f"dtype is {name!r}; it should be one of {', '.join(DTYPES)}.")
        return DTYPES[name]
    if device.type != "cpu":
        return torch.float16
    return choose_cpu_dtype(parameters)


def limit_threads(parameters: int) -> None:
    """Let a small model answer from one thread of the CPU.

    Its matrices are too small to gain much from more, and threads that wait for one another lose milliseconds at
    each of hundreds of operations as soon as another program takes a core.
    """
    if parameters < SMALL_PARAMETERS and read_variable("OMP_NUM_THREADS") is None:
        torch.set_num_threads(1)


def describe_model(name: str | os.PathLike[str], checkpoint: Checkpoint) -> Description:
    """Return the description of a checkpoint that was opened by `name`."""
    path = expand_home(name)
    is_path = path.exists() and checkpoint.path.parent.name != "snapshots"  # a name in the hub's cache says nothing
    return Description(checkpoint.path.resolve().name if is_path else path.name, read_description(checkpoint.config))


def build_network(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    quant: int | None = None,
    **wider: bool,
) -> "VisualGLMModel":
    """Build the SAT network of a checkpoint on `device`, its weights still to be loaded, with `quant` bits if given.

    Args:
        wider: what else has few bits, see `quantize`.
    """
    from .finetuned import FineTuneVisualGLMModel
    from .visualglm import VisualGLMModel

    checkpoint.check_file_sizes()
    network_class, args = VisualGLMModel, Namespace(**{"skip_init": True, **checkpoint.config})
    if PTUNING in methods_in(checkpoint.stored_tensors):  # LoRA is merged
        network_class = FineTuneVisualGLMModel
        vars(args).update(use_lora=False, use_qlora=False)

    def make() -> VisualGLMModel:
        network = network_class(args, params_dtype=dtype)
        return allocate_quantized(network, quant, device, **wider) if quant else network

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
    """Load a model to chat with, on the SAT network.

    A small model on the CPU sets torch to one thread for the whole program, unless OMP_NUM_THREADS is set.

    Args:
        name: visualglm-tiny, visualglm-6b, a directory, a .pt file, or a hub id; see `model.checkpoint.resolve`.
        device: cpu, cuda, cuda:1, ...; None for a GPU where there is one.
        dtype: float32, bfloat16 or float16; None for what suits the device.
        quant: bits of the language model's weights, 8 or 4; they are rounded one matrix at a time. None leaves them.
        quant_vision: with `quant`, round the weights of the image part as well.
        quant_embeddings: with `quant`, round the tokens' embeddings as well, to 8 bits.
        qkv_layout, base: as in `open_checkpoint`, where a checkpoint is wrong or silent about its rows or its base.
        progress: is called with (tensors read, tensors in all).
        rows, most_waiting: the most answers at a time and the most questions that wait; see `SatChatModel`.

    Raises:
        VisualGLMError: the model, its tokenizer, the device, the dtype or the number of bits is not to be had.
    """
    if quant is not None:
        check_bits(quant)
    elif quant_vision or quant_embeddings:
        name = "quant_vision" if quant_vision else "quant_embeddings"
        raise SettingError(f"{name} needs quant, the bits that weights are to have: 8 or 4.")
    chosen = choose_device(device)
    checkpoint = open_checkpoint(name, qkv_layout=qkv_layout, base=base)
    tokenizer, sampling = load_tokenizer(checkpoint.path), read_sampling(checkpoint.path)
    parameters = count_parameters(checkpoint.config)
    chosen_dtype = choose_dtype(dtype, chosen, parameters)
    if chosen.type == "cpu":
        limit_threads(parameters)
    network = build_network(
        checkpoint, chosen, chosen_dtype, quant, quant_vision=quant_vision, quant_embeddings=quant_embeddings
    )
    if quant is not None:
        checkpoint = quantized_checkpoint(checkpoint, quantized_layers(network))
    load_tensors(network, checkpoint, progress)
    lay_out_all(network)
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
    """Load a model to chat with, on the Hugging Face network, whose image part and embeddings keep their precision.

    The arguments are those of `load_sat`, and a small model on the CPU sets torch to one thread as there.

    Raises:
        VisualGLMError: the model, its tokenizer, the device or the dtype is not to be had.
    """
    if quant is not None:
        check_bits(quant)
    for part, is_asked in (("quant_vision", quant_vision), ("quant_embeddings", quant_embeddings)):
        if is_asked:
            raise SettingError(f"The Hugging Face side rounds only linear layers. Leave {part} out, or use load_sat.")
    chosen = choose_device(device)
    checkpoint = open_checkpoint(name, qkv_layout=qkv_layout, base=base)
    tokenizer, sampling = load_tokenizer(checkpoint.path), read_sampling(checkpoint.path)
    parameters = count_parameters(checkpoint.config)
    if chosen.type == "cpu":
        limit_threads(parameters)
    wanted = choose_dtype(dtype, chosen, parameters)
    if has_published_layout(checkpoint) and base is None:
        network = load_published_network(checkpoint, chosen, wanted, quant, progress)
    else:
        network = load_converted_network(checkpoint, tokenizer.eos_token_id, chosen, wanted, quant, progress)
    description = describe_model(name, checkpoint)
    return HfChatModel(
        network,
        tokenizer,
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        description=description,
        sampling=sampling,
    )
