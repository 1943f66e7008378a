"""Write a model in the other format, whole and complete in itself, or not at all.

    python -m model.checkpoint.convert SRC DST --to hf
    python -m model.checkpoint.convert RUN DST --to sat --merge-lora
    python -m model.checkpoint.convert RUN DST --to sat --base visualglm-6b
    python -m model.checkpoint.convert --refresh-code DIR

SRC is any model that can be loaded: a name, a directory of either format, a SAT run, one of its iterations, a .pt
file. DST is a directory that is not there yet. --base names what SRC was trained from, where SRC holds only what was
trained. --refresh-code exchanges the old remote code in a directory of the Hugging Face format for ours, and keeps a
copy of the old.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..command_line import ArgumentParser, print_text, run_program
from ..engine.config import HF_CHAT, ORIGINAL_SETTINGS
from ..errors import CheckpointError
from ..tensors import Tensors
from .adapters import PTUNING, methods_in, refuse_unmergeable, to_prefix_table
from .files import read_json
from .layout import LAYOUTS
from .load import Checkpoint, open_checkpoint
from .meta_init import validated_tensors
from .resolve import TOKENIZER_NAME, VOCABULARY_NAME, find_vocabulary
from .sat import check_parallel_size
from .save import GENERATION_NAME, Progress, new_directory, save_hf, save_sat, write_json

__all__ = ["convert", "main", "save_hf"]

FORMATS = ("sat", "hf")
DTYPES = ("float32", "bfloat16", "float16")
END_OF_ANSWER = "<eop>"
# As published; the vocabulary itself says which ids these are.
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
    progress: Callable[[int], Progress] | None = None,
) -> None:
    """Write the model called `source` into the new directory `destination`.

    Args:
        to: sat or hf.
        dtype: None keeps each tensor's own, so that converting there and back changes no bit.
        merge_lora: merge what LoRA trained into the weights; else a model with additions is refused, but for P-tuning's
            keys and values, which the Hugging Face format has a place for.
        model_parallel_size: number of weight files of the SAT format.
        qkv_layout: the row order of `source`, where its configuration is silent or wrong about it.
        base: the model that `source` began from, where that holds only what was trained.
        progress: given the number of tensors, returns what is called after each.

    Raises:
        VisualGLMError: the model or its tokenizer cannot be read, or the destination cannot be written.
    """
    checkpoint = open_checkpoint(source, qkv_layout=qkv_layout, base=base)
    if to == "hf" and set(methods_in(checkpoint.stored_tensors)) == {PTUNING}:
        stored, config = to_prefix_table(checkpoint.stored_tensors, checkpoint.config)
        checkpoint = replace(checkpoint, stored_tensors=stored, config=config)
    else:
        checkpoint = checkpoint.merge_lora() if merge_lora else refuse_additions(checkpoint)
    if to == "sat":
        check_parallel_size(model_parallel_size, checkpoint.config)
    tensors = validated_tensors(checkpoint)
    with new_directory(destination, estimate_size(checkpoint, tensors, dtype)) as part:
        eos_token_id = copy_tokenizer(checkpoint, part)
        report = progress(len(tensors)) if progress is not None else None
        if to == "hf":
            write_hf(checkpoint, tensors, part, eos_token_id, dtype, report)
        else:
            write_sat(checkpoint, tensors, part, dtype, model_parallel_size, report)


def estimate_size(checkpoint: Checkpoint, tensors: Tensors, dtype: torch.dtype | None) -> int:
    """Return about how many bytes the model takes once written in `dtype`."""
    stored = tensors["transformer.final_layernorm.weight"].dtype
    return checkpoint.size * (dtype or stored).itemsize // stored.itemsize


def write_hf(
    checkpoint: Checkpoint,
    tensors: Tensors,
    directory: Path,
    eos_token_id: int,
    dtype: torch.dtype | None,
    report: Progress | None,
) -> None:
    """Write a model of the Hugging Face format with its tokenizer and the code that it runs on."""
    from ..hf.export import export_code

    save_hf(
        directory,
        tensors,
        checkpoint.config,
        eos_token_id=eos_token_id,
        dtype=dtype,
        sampling=read_sampling(checkpoint.path),
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
) -> None:
    """Write a model of the SAT format with its tokenizer."""
    if (checkpoint.path / GENERATION_NAME).is_file():
        shutil.copyfile(checkpoint.path / GENERATION_NAME, directory / GENERATION_NAME)
    config = dict(checkpoint.config)
    if config.get("tokenizer_type") == str(checkpoint.path):  # a Hugging Face model's lies beside it
        config["tokenizer_type"] = "."
    save_sat(directory, tensors, config, dtype=dtype, model_parallel_size=size, progress=report)


def refuse_additions(checkpoint: Checkpoint) -> Checkpoint:
    """Return a model to which fine-tuning added no tensors; raise CheckpointError for another."""
    refuse_unmergeable(checkpoint.stored_tensors)
    methods = methods_in(checkpoint.stored_tensors)
    if methods:
        added = "; ".join(f"{method}: {names[0]} and {len(names) - 1} more" for method, names in methods.items())
        raise CheckpointError(
            f"{checkpoint.path} holds tensors that fine-tuning added ({added}), which the format has no place for. "
            "LoRA can be merged into the weights: --merge-lora."
        )
    return checkpoint


def copy_tokenizer(checkpoint: Checkpoint, directory: Path) -> int:
    """Copy the model's tokenizer into `directory`; return the id that ends an answer."""
    source = find_vocabulary(checkpoint.path)
    shutil.copyfile(source / VOCABULARY_NAME, directory / VOCABULARY_NAME)
    if (source / TOKENIZER_NAME).is_file():
        shutil.copyfile(source / TOKENIZER_NAME, directory / TOKENIZER_NAME)
    else:
        write_json(directory / TOKENIZER_NAME, TOKENIZER_CONFIG)
    return find_eos(source / VOCABULARY_NAME)


def find_eos(vocabulary: Path) -> int:
    """Return the id that ends an answer, which a SAT configuration does not tell."""
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(vocabulary))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"The tokenizer's vocabulary {vocabulary} cannot be read: {error}. Get it again."
        ) from error
    return int(processor.piece_to_id(END_OF_ANSWER))


def read_sampling(directory: Path) -> dict[str, Any]:
    """Return how a model's answers are sampled: as its directory says, else as the original's Hugging Face chat."""
    given = read_json(directory / GENERATION_NAME) if (directory / GENERATION_NAME).is_file() else {}
    return {key: given.get(key, getattr(HF_CHAT, key)) for key in ORIGINAL_SETTINGS}


def parse_arguments(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the command line."""
    parser = ArgumentParser(
        prog="python -m model.checkpoint.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", nargs="?", help="the model to read")
    parser.add_argument("destination", metavar="DST", nargs="?", type=Path, help="the new directory")
    parser.add_argument("--to", choices=FORMATS, help="the format to write")
    parser.add_argument("--dtype", choices=DTYPES, help="of the written weights (default: as they are)")
    parser.add_argument("--merge-lora", action="store_true", help="merge what LoRA trained into the weights")
    parser.add_argument("--model-parallel-size", type=int, default=1, metavar="N", help="weight files to write for SAT")
    parser.add_argument("--qkv-layout", choices=LAYOUTS, help="row order of SRC, where its configuration is wrong")
    parser.add_argument("--base", metavar="NAME", help="what SRC was trained from, if it holds only what was trained")
    parser.add_argument("--refresh-code", type=Path, metavar="DIR", help="exchange the remote code in DIR for ours")
    options = parser.parse_args(arguments)
    if options.refresh_code is None and None in (options.source, options.destination, options.to):
        parser.error("give SRC, DST and --to, or --refresh-code DIR")
    if options.model_parallel_size != 1 and options.to == "hf":
        parser.error("--model-parallel-size is for --to sat")
    return vars(options)


def refresh(directory: Path) -> None:
    """Exchange the remote code in `directory` for ours."""
    from ..hf.export import refresh_code

    try:
        backup = refresh_code(directory)
    except OSError as error:
        raise CheckpointError(
            f"The code in {directory} could not be exchanged ({error}). Give yourself the right to write there, or "
            "make room, and run this again."
        ) from error
    print_text(f"The code in {directory} is ours now. The old files are in {backup}")


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
    refresh_code: Path | None,
) -> None:
    """Convert a model, or exchange the code of an export."""
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
            progress=start,
        )
    finally:
        for bar in bars:
            bar.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    said = "Interrupted. Nothing is left of the new directory: run it again."
    return run_program(lambda: run(**parse_arguments(arguments)), interrupted=said)


if __name__ == "__main__":
    sys.exit(main())
