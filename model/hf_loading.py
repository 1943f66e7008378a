"""Load a checkpoint of either format into the Hugging Face network, optionally quantizing each weight while reading.

transformers' own loading is not used: it initializes a missing tensor instead of failing, and first loads the model
into CPU memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .checkpoint import Checkpoint, load_tensors
from .checkpoint.adapters import PTUNING, methods_in, to_prefix_table
from .checkpoint.files import read_json
from .checkpoint.hf import CONFIG_NAME, open_files
from .checkpoint.layout import INTERLEAVED, SPLIT
from .checkpoint.meta_init import build_uninitialized, validated_tensors
from .checkpoint.quantize_tensors import quantize_tensors
from .checkpoint.save import GENERATION_NAME, to_hf_config, to_hf_tensors
from .errors import CheckpointError, SettingError
from .kernels.torch_ops import quantize_per_channel
from .quantization.dequantize import SCALE_SUFFIX
from .quantization.quantize import quantized_layers
from .tensors import Tensors

if TYPE_CHECKING:
    from .hf.configuration_chatglm import ChatGLMConfig
    from .hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage

Progress = Callable[[int, int], None]


def has_published_layout(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint's files have the tensor names and the QKV row order of the Hugging Face network."""
    return (checkpoint.path / CONFIG_NAME).is_file() and checkpoint.qkv_layout == INTERLEAVED


def load_published_network(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    bits: int | None = None,
    progress: Progress | None = None,
) -> "ChatGLMForConditionalGenerationWithImage":
    """Load a Hugging Face directory, including low-bit weights and P-tuning prefixes that it contains.

    Args:
        bits: bits of the language model's layers, 8 or 4; None keeps the checkpoint's precision.
        progress: called with (tensors read, total number of tensors).

    Raises:
        SettingError: the weights are quantized already, to a different number of bits.
    """
    from .hf.configuration_chatglm import ChatGLMConfig

    checkpoint.split_qkv()  # checks the QKV row order against the weights
    with translate_config_errors(checkpoint.path / CONFIG_NAME):
        config = ChatGLMConfig.from_pretrained(checkpoint.path, dtype=dtype)
    return load_network(checkpoint, open_files(checkpoint.files), config, device, dtype, bits, progress)


@contextmanager
def translate_config_errors(file: Path) -> Iterator[None]:
    """Translate the exceptions of transformers for an invalid configuration file into CheckpointError."""
    try:
        yield
    except Exception as error:  # transformers' validation raises exception types of its own
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise CheckpointError(f"{file} cannot be used: {reason}. Correct it, or download it again.") from error


def load_converted_network(
    checkpoint: Checkpoint,
    eos_token_id: int,
    device: torch.device,
    dtype: torch.dtype,
    bits: int | None = None,
    progress: Progress | None = None,
) -> "ChatGLMForConditionalGenerationWithImage":
    """Convert a SAT checkpoint, such as a fine-tune, to the Hugging Face network; LoRA is merged.

    The other arguments are those of `load_published_network`.
    """
    from .hf.configuration_chatglm import ChatGLMConfig

    if PTUNING in methods_in(checkpoint.stored_tensors):
        stored, config = to_prefix_table(checkpoint.stored_tensors, checkpoint.config)
        checkpoint = replace(checkpoint, stored_tensors=stored, config=config)
    else:
        checkpoint = checkpoint.merge_lora()
    config = ChatGLMConfig(**to_hf_config(checkpoint.config, eos_token_id, dtype))
    tensors = to_hf_tensors(validated_tensors(checkpoint), checkpoint.config["num_attention_heads"], dtype)
    return load_network(checkpoint, tensors, config, device, dtype, bits, progress)


def check_stored_bits(path: Path, stored: int, bits: int | None) -> None:
    """Check that weights can be quantized to `bits` bits, None for none.

    Args:
        path: of the checkpoint, for the message.
        stored: bits of the checkpoint's weights; 0 if they are not quantized.

    Raises:
        SettingError: they are quantized already, to a different number of bits.
    """
    if bits and stored not in (0, bits):
        raise SettingError(
            f"The weights in {path} have {stored} bits already. Omit quant, or use a checkpoint that is not quantized."
        )


def load_network(
    checkpoint: Checkpoint,
    tensors: Tensors,
    config: "ChatGLMConfig",
    device: torch.device,
    dtype: torch.dtype,
    bits: int | None,
    progress: Progress | None,
) -> "ChatGLMForConditionalGenerationWithImage":
    """Build the network of `config`, copy `tensors` into it one at a time, and read its generation settings.

    Args:
        tensors: tensors by their names in the network.
    """
    from transformers import GenerationConfig

    from .hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage

    checkpoint.check_file_sizes()
    check_stored_bits(checkpoint.path, config.quantization_bit, bits)
    config.name_or_path = str(checkpoint.path)
    config.quantization_bit = bits or config.quantization_bit
    network = build_uninitialized(lambda: ChatGLMForConditionalGenerationWithImage(config), device, dtype)
    network.eval()
    quantized = quantize_tensors(
        tensors,
        {
            name: layer
            for name, layer in quantized_layers(network).items()
            if f"{name}.weight{SCALE_SUFFIX}" not in tensors
        },
        quantizer=lambda weight, layer: quantize_per_channel(weight.to(layer.weight.device, dtype), layer.bits),
    )
    load_tensors(
        network, replace(checkpoint, stored_tensors=quantized, qkv_layout=SPLIT, layout_is_explicit=True), progress
    )
    folder = checkpoint.find_folder(GENERATION_NAME)
    if (folder / GENERATION_NAME).is_file():
        read_json(folder / GENERATION_NAME)
        with translate_config_errors(folder / GENERATION_NAME):
            network.generation_config = GenerationConfig.from_pretrained(folder)
    return network
