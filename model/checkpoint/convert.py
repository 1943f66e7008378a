"""Convert a model between the SAT and the Hugging Face format.

    python -m model.checkpoint.convert SRC DST --to hf
    python -m model.checkpoint.convert RUN DST --to sat --merge-lora
    python -m model.checkpoint.convert RUN DST --to sat --base visualglm-6b
    python -m model.checkpoint.convert SRC DST --to sat --quant 4
    python -m model.checkpoint.convert --refresh-code DIR

SRC is any model that can be loaded: a name, a directory in either format, a SAT run, an iteration of a run, or a .pt
file. DST is a new directory. It is self-contained, and is only created if the conversion succeeds. --base is the base
model of SRC, required if SRC contains only the trained weights of a fine-tune and does not name its base, or if the
base has moved. --quant writes quantized weights, which load without being quantized again. --refresh-code replaces the
remote code in a directory in the Hugging Face format with the current code, and keeps a backup.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..command_line import ArgumentParser, print_text, run_program
from ..engine.config import HF_CHAT, ORIGINAL_SETTINGS
from ..errors import CheckpointError, SettingError
from ..kernels.torch_ops import BITS, check_bits
from ..quantization.dequantize import BITS_KEY, SCALE_SUFFIX
from ..tensors import Tensors
from .adapters import PTUNING, methods_in, refuse_unmergeable, to_prefix_table
from .files import read_json
from .layout import LAYOUTS
from .load import Checkpoint, open_checkpoint
from .meta_init import expected_shapes, validated_tensors
from .quantize_tensors import (
    Layers,
    allocate_hf_layers,
    allocate_sat_layers,
    component_tensors,
    quantize_sat_tensors,
)
from .resolve import TOKENIZER_NAME, VOCABULARY_NAME, find_vocabulary
from .sat import check_parallel_size
from .save import GENERATION_NAME, Progress, new_directory, save_hf, save_sat, write_json

__all__ = ["convert", "main", "save_hf"]

FORMATS = ("sat", "hf")
DTYPES = ("float32", "bfloat16", "float16")
END_OF_ANSWER = "<eop>"
# The published entries; the ids of these tokens are in the vocabulary.
TOKENIZER_CONFIG = {
    "bos_token": "<sop>",
    "eos_token": END_OF_ANSWER,
    "end_token": "</s>",
    "gmask_token": "[gMASK]",
    "mask_token": "[MASK]",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "remove_space": False,
    "do_lower_case": False,
    "num_image_tokens": 0,
    "tokenizer_class": "ChatGLMTokenizer",
}


def convert(
    source: str | os.PathLike[str],
    destination: Path,
    to: str,
    *,
    dtype: torch.dtype | None = None,
    merge_lora: bool = False,
    model_parallel_size: int = 1,
    qkv_layout: str | None = None,
    base: str | os.PathLike[str] | None = None,
    quant: int | None = None,
    quant_vision: bool = False,
    quant_embeddings: bool = False,
    progress: Callable[[int], Progress] | None = None,
) -> None:
    """Convert the model called `source`; write it to the new directory `destination`.

    Args:
        source: see `model.checkpoint.resolve`.
        destination: a directory that does not exist yet, or is empty.
        to: sat or hf.
        dtype: dtype to save; None keeps each tensor's dtype, so that a conversion and its inverse change no bit.
        merge_lora: merge LoRA into the weights; without it, a model with an adapter is rejected, except for P-tuning
            if `to` is hf, a format that stores its keys and values.
        model_parallel_size: number of weight files in the SAT format.
        qkv_layout: row order of `source`, if its configuration lacks it or is wrong.
        base: base model of `source`, if `source` contains only trained weights.
        quant: bits of the weights, 8 or 4, quantized as `load_sat` or `load_hf` would quantize them; None does not
            quantize, and dequantizes the weights of a quantized source.
        quant_vision, quant_embeddings: with `quant` and the SAT format, see `load_sat`.
        progress: called with the number of tensors; returns a function that is called after each tensor.

    Raises:
        VisualGLMError: the model or its tokenizer cannot be read, the source is quantized already, the settings
            exclude each other, or the destination cannot be written.
    """
    check_quantization(to, quant, model_parallel_size, quant_vision=quant_vision, quant_embeddings=quant_embeddings)
    checkpoint = open_checkpoint(source, qkv_layout=qkv_layout, base=base)
    if quant is not None and checkpoint.bits:
        raise SettingError(
            f"The weights in {checkpoint.path} have {checkpoint.bits} bits already. Omit quant to dequantize them, or "
            "convert the model that is not quantized."
        )
    if to == "hf" and set(methods_in(checkpoint.stored_tensors)) == {PTUNING}:
        stored, config = to_prefix_table(checkpoint.stored_tensors, checkpoint.config)
        checkpoint = replace(checkpoint, stored_tensors=stored, config=config)
    else:
        checkpoint = checkpoint.merge_lora() if merge_lora else refuse_additions(checkpoint)
    if to == "sat":
        check_parallel_size(model_parallel_size, checkpoint.config)
    tensors = validated_tensors(checkpoint)
    shapes = expected_shapes(checkpoint.config)
    layers: Layers = {}
    if quant is not None:
        checkpoint = replace(checkpoint, config={**checkpoint.config, BITS_KEY: quant})
        layers = (
            allocate_hf_layers(shapes, quant)
            if to == "hf"
            else allocate_sat_layers(shapes, quant, quant_vision=quant_vision, quant_embeddings=quant_embeddings)
        )
    with new_directory(destination, estimate_size(checkpoint, shapes, layers, dtype)) as temporary:
        eos_token_id = copy_tokenizer(checkpoint, temporary)
        added = len(component_tensors(layers)) - len(layers)  # scales and groups
        report = progress(len(tensors) + added) if progress is not None else None
        if to == "hf":
            write_hf(checkpoint, tensors, temporary, eos_token_id, dtype, layers, report)
        else:
            quantized = quantize_sat_tensors(tensors, layers)
            write_sat(checkpoint, quantized, temporary, dtype, model_parallel_size, report, component_tensors(layers))


def check_quantization(
    to: str, quant: int | None, model_parallel_size: int, *, quant_vision: bool, quant_embeddings: bool
) -> None:
    """Raise SettingError for quantization settings that are not supported, or not in the format `to`."""
    if quant is not None:
        check_bits(quant)
    for name, is_set in (("quant_vision", quant_vision), ("quant_embeddings", quant_embeddings)):
        if is_set and quant is None:
            raise SettingError(f"{name} needs quant, the number of bits of the weights: 8 or 4.")
        if is_set and to == "hf":
            raise SettingError(f"The Hugging Face format has only quantized linear layers. Omit {name}, or write sat.")
    if quant is not None and model_parallel_size != 1:
        raise SettingError("Quantized weights are written to one file. Omit the model-parallel size, or quant.")


def estimate_size(
    checkpoint: Checkpoint, shapes: Mapping[str, torch.Size], layers: Layers, dtype: torch.dtype | None
) -> int:
    """Estimate the size in bytes of the weight files in `dtype`, with the weights of `layers` quantized.

    Args:
        shapes: shape of each tensor by SAT name.
    """
    stored = checkpoint.stored_tensors["transformer.final_layernorm.weight"].dtype
    if not layers and not checkpoint.bits:
        return checkpoint.size * (dtype or stored).itemsize // stored.itemsize
    quantized = sum(tensor.nbytes for tensor in component_tensors(layers).values())
    return quantized + sum(
        shape.numel() * (dtype or dequantized_dtype(checkpoint, name) or stored).itemsize
        for name, shape in shapes.items()
        if name.removesuffix(".weight") not in layers
    )


def dequantized_dtype(checkpoint: Checkpoint, name: str) -> torch.dtype | None:
    """Return the dtype of the dequantized tensor called `name`; None if it is not quantized in the files."""
    scale = checkpoint.quantized.get(name + SCALE_SUFFIX)
    return None if scale is None else scale.dtype


def write_hf(
    checkpoint: Checkpoint,
    tensors: Tensors,
    directory: Path,
    eos_token_id: int,
    dtype: torch.dtype | None,
    layers: Layers,
    report: Progress | None,
) -> None:
    """Write weights, configurations and remote code in the Hugging Face format, the weights of `layers` quantized."""
    from ..hf.export import export_code

    save_hf(
        directory,
        tensors,
        checkpoint.config,
        eos_token_id=eos_token_id,
        dtype=dtype,
        layers=layers,
        sampling=read_sampling(checkpoint.find_folder(GENERATION_NAME)),
        progress=report,
    )
    export_code(directory)


def write_sat(
    checkpoint: Checkpoint,
    tensors: Tensors,
    directory: Path,
    dtype: torch.dtype | None,
    size: int,
    report: Progress | None,
    templates: Tensors | None = None,
) -> None:
    """Write weights and configurations in the SAT format; for `templates` see `save_sat`."""
    settings = checkpoint.find_folder(GENERATION_NAME) / GENERATION_NAME
    if settings.is_file():
        shutil.copyfile(settings, directory / GENERATION_NAME)
    config = dict(checkpoint.config)
    if config.get("tokenizer_type") == str(checkpoint.path):  # a Hugging Face directory, which contains the tokenizer
        config["tokenizer_type"] = "."
    save_sat(directory, tensors, config, dtype=dtype, model_parallel_size=size, templates=templates, progress=report)


def refuse_additions(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint if it has no adapter tensors; otherwise raise CheckpointError."""
    refuse_unmergeable(checkpoint.stored_tensors)
    methods = methods_in(checkpoint.stored_tensors)
    if methods:
        added = "; ".join(f"{method}: {names[0]} and {len(names) - 1} more" for method, names in methods.items())
        raise CheckpointError(
            f"{checkpoint.path} contains adapter tensors ({added}), which the format does not support. "
            "LoRA can be merged into the weights: --merge-lora."
        )
    return checkpoint


def copy_tokenizer(checkpoint: Checkpoint, directory: Path) -> int:
    """Copy the model's tokenizer to `directory`; return the id of the end-of-answer token."""
    source = find_vocabulary(checkpoint.find_folder(VOCABULARY_NAME))
    shutil.copyfile(source / VOCABULARY_NAME, directory / VOCABULARY_NAME)
    if (source / TOKENIZER_NAME).is_file():
        shutil.copyfile(source / TOKENIZER_NAME, directory / TOKENIZER_NAME)
    else:
        write_json(directory / TOKENIZER_NAME, TOKENIZER_CONFIG)
    return find_eos(source / VOCABULARY_NAME)


def find_eos(vocabulary: Path) -> int:
    """Return the id of the end-of-answer token, which a SAT configuration lacks, from the vocabulary."""
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(vocabulary))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"The tokenizer's vocabulary {vocabulary} cannot be read: {error}. Get it again."
        ) from error
    return int(processor.piece_to_id(END_OF_ANSWER))


def read_sampling(directory: Path) -> dict[str, Any]:
    """Return the sampling parameters in a model's generation_config.json, by default the original HF chat's."""
    given = read_json(directory / GENERATION_NAME) if (directory / GENERATION_NAME).is_file() else {}
    return {key: given.get(key, getattr(HF_CHAT, key)) for key in ORIGINAL_SETTINGS}


def parse_arguments(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse the command line."""
    parser = ArgumentParser(
        prog="python -m model.checkpoint.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", nargs="?", help="the model to read")
    parser.add_argument("destination", metavar="DST", nargs="?", type=Path, help="the new directory")
    parser.add_argument("--to", choices=FORMATS, help="the format to write")
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of the saved weights (default: unchanged)")
    parser.add_argument("--merge-lora", action="store_true", help="merge LoRA into the weights")
    parser.add_argument("--model-parallel-size", type=int, default=1, metavar="N", help="number of SAT weight files")
    help_ = "row order of the QKV weights in SRC, if its configuration states a wrong one"
    parser.add_argument("--qkv-layout", choices=LAYOUTS, help=help_)
    parser.add_argument("--base", metavar="NAME", help="base model, if SRC contains only trained weights")
    parser.add_argument("--quant", type=int, choices=BITS, help="quantize the weights to this many bits")
    help_ = "with --quant --to sat, also quantize the image encoder"
    parser.add_argument("--quant_vision", action="store_true", help=help_)
    help_ = "with --quant --to sat, also quantize the token embeddings, to 8 bits"
    parser.add_argument("--quant_embeddings", action="store_true", help=help_)
    parser.add_argument("--refresh-code", type=Path, metavar="DIR", help="replace the remote code in DIR")
    options = parser.parse_args(arguments)
    if options.refresh_code is None and None in (options.source, options.destination, options.to):
        parser.error("give SRC, DST and --to, or --refresh-code DIR")
    if options.model_parallel_size != 1 and options.to == "hf":
        parser.error("--model-parallel-size is for --to sat")
    return vars(options)


def refresh(directory: Path) -> None:
    """Replace the remote code in `directory` with the current code."""
    from ..hf.export import refresh_code

    try:
        backup = refresh_code(directory)
    except OSError as error:
        raise CheckpointError(
            f"The code in {directory} could not be replaced ({error}). Check the write permissions and the free disk "
            "space, and run this again."
        ) from error
    print_text(f"The code in {directory} has been replaced. The old files are in {backup}")


def run(
    source: str,
    destination: Path,
    *,
    to: str,
    dtype: str | None,
    merge_lora: bool,
    model_parallel_size: int,
    qkv_layout: str | None,
    base: str | None,
    quant: int | None,
    quant_vision: bool,
    quant_embeddings: bool,
    refresh_code: Path | None,
) -> None:
    """Convert a model, or refresh the code of an export."""
    if refresh_code is not None:
        refresh(refresh_code)
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    bars: list[Any] = []

    def start(total: int) -> Progress:
        bars.append(tqdm(total=total, unit="tensor", desc=f"writing {destination}"))
        update: Progress = bars[0].update
        return update

    try:
        convert(
            source,
            destination,
            to,
            dtype=getattr(torch, dtype) if dtype else None,
            merge_lora=merge_lora,
            model_parallel_size=model_parallel_size,
            qkv_layout=qkv_layout,
            base=base,
            quant=quant,
            quant_vision=quant_vision,
            quant_embeddings=quant_embeddings,
            progress=start,
        )
    finally:
        for bar in bars:
            bar.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    message = "Interrupted. The new directory has been removed: run it again."
    return run_program(lambda: run(**parse_arguments(arguments)), interrupted=message)


if __name__ == "__main__":
    sys.exit(main())
