"""Write a model in the other format, whole and complete in itself, or not at all.

    python -m model.checkpoint.convert SRC DST --to hf
    python -m model.checkpoint.convert RUN DST --to sat --merge-lora
    python -m model.checkpoint.convert --refresh-code DIR

SRC is any model that can be loaded: a name, a directory of either format, a SAT run, one of its iterations, a .pt
file. DST is a directory that is not there yet. --refresh-code exchanges the old remote code in a directory of the
Hugging Face format for ours, and keeps a copy of the old.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, VisualGLMError
from .adapters import methods_in
from .files import read_json
from .layout import LAYOUTS
from .load import Checkpoint, open_checkpoint
from .names import is_loaded
from .resolve import check_disk_space
from .save import GENERATION_NAME, Progress, save_hf, save_sat, write_json
from .vocabulary import VOCABULARY_NAME, find_vocabulary

__all__ = ["convert", "main", "save_hf"]

FORMATS = ("sat", "hf")
DTYPES = ("float32", "bfloat16", "float16")
TOKENIZER_NAME = "tokenizer_config.json"
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
SAMPLING_KEYS = ("max_length", "min_length", "top_p", "top_k", "temperature", "repetition_penalty")


def convert(
    source: str | os.PathLike[str],
    destination: Path,
    to: str,
    *,
    dtype: torch.dtype | None = None,
    merge_lora: bool = False,
    model_parallel_size: int = 1,
    qkv_layout: str | None = None,
    progress: Callable[[int], Progress] | None = None,
) -> None:
    """Write the model called `source` into the new directory `destination`.

    Args:
        to: sat or hf.
        dtype: None keeps each tensor's own, so that converting there and back changes no bit.
        merge_lora: merge what LoRA trained into the weights; else a model with additions is refused.
        model_parallel_size: number of weight files of the SAT format.
        qkv_layout: the row order of `source`, where its configuration is silent or wrong about it.
        progress: given the number of tensors, returns what is called after each.

    Raises:
        VisualGLMError: the model or its tokenizer cannot be read, or the destination cannot be written.
    """
    checkpoint = open_checkpoint(source, qkv_layout=qkv_layout)
    checkpoint = checkpoint.merge_lora() if merge_lora else refuse_additions(checkpoint)
    with new_directory(destination, checkpoint.size) as part:
        vocabulary = copy_tokenizer(checkpoint, part)
        report = progress(sum(map(is_loaded, checkpoint.stored))) if progress is not None else None
        if to == "hf":
            write_hf(checkpoint, part, vocabulary, dtype, report)
        else:
            write_sat(checkpoint, part, dtype, model_parallel_size, report)


def write_hf(
    checkpoint: Checkpoint, directory: Path, vocabulary: Path, dtype: torch.dtype | None, report: Progress | None
) -> None:
    """Write a model of the Hugging Face format with its tokenizer and the code that it runs on."""
    from ..hf.export import export_code

    save_hf(
        directory,
        checkpoint.split(),
        checkpoint.config,
        eos_token_id=find_eos(vocabulary),
        dtype=dtype,
        sampling=read_sampling(checkpoint.path),
        progress=report,
    )
    export_code(directory)


def write_sat(
    checkpoint: Checkpoint, directory: Path, dtype: torch.dtype | None, size: int, report: Progress | None
) -> None:
    """Write a model of the SAT format with its tokenizer."""
    if (checkpoint.path / GENERATION_NAME).is_file():
        shutil.copyfile(checkpoint.path / GENERATION_NAME, directory / GENERATION_NAME)
    config = dict(checkpoint.config)
    if config.get("tokenizer_type") == str(checkpoint.path):  # a Hugging Face model's lies beside it
        config["tokenizer_type"] = "."
    save_sat(directory, checkpoint.split(), config, dtype=dtype, model_parallel_size=size, progress=report)


def refuse_additions(checkpoint: Checkpoint) -> Checkpoint:
    """Return a model to which fine-tuning added no tensors; raise CheckpointError for another."""
    methods = methods_in(checkpoint.stored)
    if methods:
        added = "; ".join(f"{method}: {names[0]} and {len(names) - 1} more" for method, names in methods.items())
        raise CheckpointError(
            f"{checkpoint.path} holds tensors that fine-tuning added ({added}), which the format has no place for. "
            "LoRA can be merged into the weights: --merge-lora."
        )
    return checkpoint


def copy_tokenizer(checkpoint: Checkpoint, directory: Path) -> Path:
    """Copy the model's tokenizer into `directory`; return the vocabulary's file there."""
    source = find_vocabulary(checkpoint.path)
    shutil.copyfile(source / VOCABULARY_NAME, directory / VOCABULARY_NAME)
    if (source / TOKENIZER_NAME).is_file():
        shutil.copyfile(source / TOKENIZER_NAME, directory / TOKENIZER_NAME)
    else:
        write_json(directory / TOKENIZER_NAME, TOKENIZER_CONFIG)
    return directory / VOCABULARY_NAME


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
    from ..generation import HF_CHAT

    given = read_json(directory / GENERATION_NAME) if (directory / GENERATION_NAME).is_file() else {}
    return {key: given.get(key, getattr(HF_CHAT, key)) for key in SAMPLING_KEYS}


@contextmanager
def new_directory(destination: Path, size: int) -> Iterator[Path]:
    """Give a directory to write into, which becomes `destination` when all is written, and vanishes otherwise."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise CheckpointError(f"{destination} is there already. Give a directory that is not, or an empty one.")
    destination.absolute().parent.mkdir(parents=True, exist_ok=True)
    check_disk_space(destination.absolute().parent, size, "Give a destination on another disk.")
    part = Path(tempfile.mkdtemp(prefix=f"{destination.name}.part-", dir=destination.absolute().parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's is for its owner alone
        if destination.exists():
            destination.rmdir()
        part.rename(destination)
    except OSError as error:
        raise CheckpointError(f"{destination} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
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
    parser.add_argument("--refresh-code", type=Path, metavar="DIR", help="exchange the remote code in DIR for ours")
    options = parser.parse_args(arguments)
    if options.refresh_code is None and None in (options.source, options.destination, options.to):
        parser.error("give SRC, DST and --to, or --refresh-code DIR")
    if options.model_parallel_size != 1 and options.to == "hf":
        parser.error("--model-parallel-size is for --to sat")
    return options


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    if options.refresh_code is not None:
        from ..hf.export import refresh_code

        print(
            f"The code in {options.refresh_code} is ours now. The old files are in {refresh_code(options.refresh_code)}"
        )
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    bars: list[Any] = []

    def start(total: int) -> Progress:
        bars.append(tqdm(total=total, unit="tensor", desc=f"writing {options.destination}"))
        return bars[0].update  # type: ignore[no-any-return]

    try:
        convert(
            options.source,
            options.destination,
            options.to,
            dtype=getattr(torch, options.dtype) if options.dtype else None,
            merge_lora=options.merge_lora,
            model_parallel_size=options.model_parallel_size,
            qkv_layout=options.qkv_layout,
            progress=start,
        )
    finally:
        for bar in bars:
            bar.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    try:
        run(parse_arguments(arguments))
    except VisualGLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
