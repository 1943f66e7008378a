"""Save a model in the Hugging Face or the SAT format, tensor by tensor, in a directory that is created atomically."""

import errno
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..environment import expand_home
from ..errors import CheckpointError
from ..file_writing import unused_name, write_text_atomically
from ..quantization.dequantize import BITS_KEY, SCALE_SUFFIX
from ..tensors import LazyTensors, Tensors
from .files import check_disk_space, write_tensors
from .hf import CONFIG_NAME, INDEX_NAMES, SHARED_KEYS, SINGLE_NAMES, optional_entries
from .layout import SPLIT, interleave_qkv, is_language_qkv, is_loaded, to_hf_name
from .quantize_tensors import Layers, quantize_hf_tensors
from .sat import CONFIG_NAME as SAT_CONFIG_NAME, LATEST_NAME, check_parallel_size, shard_tensor

HF_CLASS = "ChatGLMForConditionalGenerationWithImage"
GENERATION_NAME = "generation_config.json"
SHARD_BYTES = 2_000_000_000
ITERATION = "1"
# SAT's default, which its configurations omit.
LAYERNORM_EPSILON = 1e-5
Progress = Callable[[], object]


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object to a file atomically."""
    write_text_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def to_hf_config(config: Mapping[str, Any], eos_token_id: int, dtype: torch.dtype) -> dict[str, Any]:
    """Convert a SAT model_config.json to the entries of config.json."""
    defaults = {"inner_hidden_size": 4 * config["hidden_size"], "layernorm_epsilon": LAYERNORM_EPSILON}
    return {
        "architectures": [HF_CLASS],
        "model_type": "chatglm",
        **{key: config[key] if config.get(key) is not None else defaults[key] for key in SHARED_KEYS},
        **optional_entries(config),
        "eos_token_id": eos_token_id,
        "position_encoding_2d": True,
        "use_cache": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "eva_config": config["eva_args"],
        "qformer_config": config["qformer_args"],
        **({"pre_seq_len": config["pre_seq_len"]} if config.get("use_ptuning") else {}),
        **({BITS_KEY: config[BITS_KEY]} if config.get(BITS_KEY) else {}),
    }


def to_generation_config(config: Mapping[str, Any], eos_token_id: int, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of generation_config.json: sampling parameters and special token ids."""
    ids = {"bos_token_id": config["bos_token_id"], "eos_token_id": eos_token_id, "pad_token_id": config["pad_token_id"]}
    return {**ids, "do_sample": True, **sampling}


def to_hf_tensors(tensors: Tensors, heads: int, dtype: torch.dtype | None) -> Tensors:
    """Convert SAT tensors to HF names and interleaved QKV rows, on the CPU in `dtype`; None keeps each dtype."""

    def read(name: str) -> torch.Tensor:
        tensor = tensors[name].detach()
        rows = interleave_qkv(tensor, heads) if is_language_qkv(name) else tensor
        return rows.to("cpu", dtype or rows.dtype).contiguous()

    return LazyTensors({to_hf_name(name): partial(read, name) for name in tensors if is_loaded(name)})


def save_hf(
    directory: Path,
    tensors: Tensors,
    config: Mapping[str, Any],
    *,
    eos_token_id: int,
    dtype: torch.dtype | None = torch.float16,
    layers: Layers | None = None,
    sampling: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Save the weights and config.json to `directory` in the Hugging Face format, the configuration last.

    Each file is written atomically.

    Args:
        directory: created if it does not exist.
        tensors: a SAT state dict, rows in the split order.
        config: the entries of a SAT model_config.json.
        eos_token_id: the id that ends an answer.
        dtype: dtype to save; None keeps each tensor's dtype.
        layers: quantized layers by name, whose weights are quantized.
        sampling: sampling entries of generation_config.json; None writes no such file, so the model's defaults apply.
        shard_bytes: maximum size of a shard; several shards get an index.
        progress: called after each tensor.

    Raises:
        OSError: the directory cannot be written, or the disk is full.
    """
    directory.mkdir(parents=True, exist_ok=True)
    renamed = quantize_hf_tensors(to_hf_tensors(tensors, config["num_attention_heads"], dtype), layers or {})
    stored_dtype = write_shards(directory, renamed, shard_bytes, progress)
    if sampling is not None:
        write_json(directory / GENERATION_NAME, to_generation_config(config, eos_token_id, sampling))
    write_json(directory / CONFIG_NAME, to_hf_config(config, eos_token_id, stored_dtype))


def write_shards(directory: Path, tensors: Tensors, shard_bytes: int, progress: Progress | None) -> torch.dtype:
    """Write tensors to safetensors shards, with an index if there are several; return the first unquantized dtype."""
    shards: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    total = pending_bytes = 0
    dtype = None
    for name, tensor in tensors.items():
        if pending and pending_bytes + tensor.nbytes > shard_bytes:
            shards.append(write_shard(directory, len(shards), pending))
            pending, pending_bytes = {}, 0
        if dtype is None and tensor.is_floating_point() and not name.endswith(SCALE_SUFFIX):
            dtype = tensor.dtype
        pending[name] = tensor
        total += tensor.nbytes
        pending_bytes += tensor.nbytes
        if progress is not None:
            progress()
    shards.append(write_shard(directory, len(shards), pending))
    rename_shards(directory, shards, total)
    return dtype or torch.get_default_dtype()


def temporary_shard_path(directory: Path, number: int) -> Path:
    """Return the temporary path of a shard, whose final name contains the number of shards."""
    return directory / f"shard-{number:05d}.part"


def write_shard(directory: Path, number: int, tensors: dict[str, torch.Tensor]) -> list[str]:
    """Write one shard to its temporary path; return the names of its tensors."""
    write_tensors(temporary_shard_path(directory, number), tensors)
    return list(tensors)


def rename_shards(directory: Path, shards: list[list[str]], total: int) -> None:
    """Rename the shards to their final names; write the index if there are several."""
    if len(shards) == 1:
        (directory / INDEX_NAMES[0]).unlink(missing_ok=True)  # of an earlier save with several shards
        temporary_shard_path(directory, 0).replace(directory / SINGLE_NAMES[0])
        return
    weight_map = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        temporary_shard_path(directory, number).replace(directory / file)
        weight_map.update(dict.fromkeys(names, file))
    write_json(directory / INDEX_NAMES[0], {"metadata": {"total_size": total}, "weight_map": weight_map})


def save_sat(
    directory: Path,
    tensors: Tensors,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    model_parallel_size: int = 1,
    templates: Tensors | None = None,
    progress: Progress | None = None,
) -> None:
    """Save the weights, `latest` and model_config.json to `directory` in the SAT format, the configuration last.

    Args:
        directory: created if it does not exist.
        tensors: a SAT state dict, rows in the split order.
        config: the entries of a SAT model_config.json.
        dtype: dtype to save; None keeps each tensor's dtype.
        model_parallel_size: number of weight files, one per model-parallel rank.
        templates: meta tensors, by name, with shape and dtype of tensors that are expensive to read.
        progress: called after each tensor.

    Raises:
        CheckpointError: the model cannot be sharded evenly over that number of ranks.
        OSError: the directory cannot be written, or the disk is full.
    """
    check_parallel_size(model_parallel_size, config)
    folder = directory / ITERATION
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in tensors if is_loaded(name)]
    files = [folder / f"mp_rank_{rank:02d}_model_states.pt" for rank in range(model_parallel_size)]
    known = templates or {}
    shapes = {name: known[name] if name in known else meta_like(tensors[name], dtype) for name in names}
    shards = {name: shard_tensor(name, shapes[name], len(files), config) for name in names}
    ranks = [create_mapped(file, {name: shards[name][rank] for name in names}) for rank, file in enumerate(files)]
    for name in names:
        for target, shard in zip(
            ranks, shard_tensor(name, tensors[name].detach().cpu(), len(files), config), strict=True
        ):
            target[name].copy_(shard)
        if progress is not None:
            progress()
    (directory / LATEST_NAME).write_text(ITERATION, encoding="utf-8")
    entries = {**config, "qkv_layout": SPLIT, "model_parallel_size": model_parallel_size}
    write_json(directory / SAT_CONFIG_NAME, entries)


def meta_like(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """Return a meta tensor with the shape of `tensor`, in `dtype` or its own dtype."""
    return torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device="meta")


def create_mapped(path: Path, shapes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Create a SAT file of uninitialized tensors; return them memory-mapped, so that copies go to the file.

    torch.save with data would need all tensors in memory at once; here they are allocated but never touched.
    """
    module = {name: torch.empty(shape.shape, dtype=shape.dtype) for name, shape in shapes.items()}
    try:
        with torch.serialization.skip_data():
            torch.save({"module": module}, path)
    except RuntimeError as error:  # torch's writer raises no OSError
        raise OSError(f"{path.name} cannot be opened, or the disk is full") from error
    preallocate(path)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        content: dict[str, dict[str, torch.Tensor]] = torch.load(path, mmap=True, weights_only=True)
    return content["module"]


def preallocate(path: Path) -> None:
    """Allocate the disk blocks of a file, so that a full disk is an error now.

    Writing to a memory-mapped file without allocated blocks would kill the program by a signal (SIGBUS), without a
    message or cleanup.
    """
    if not hasattr(os, "posix_fallocate"):  # pragma: no cover  (not on every system)
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not on every file system
                raise OSError(error.errno, error.strerror, str(path)) from error


MAX_PREFIX_LENGTH = 60  # characters; with a suffix, a name stays below 255 bytes in any script


@contextmanager
def new_directory(destination: Path, size: int) -> Iterator[Path]:
    """Yield a temporary directory that is renamed to `destination` at the end, or deleted after an error.

    Args:
        destination: a directory that does not exist yet, or is empty.
        size: required disk space in bytes.

    Raises:
        CheckpointError: the destination is taken, or cannot be written.
    """
    target = Path(os.path.realpath(expand_home(destination)))
    temporary = None
    try:
        check_destination(target)
        check_disk_space(target.parent, size, "Free some space. Give a destination on another disk.")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = unused_name(target.parent, f"{target.name[:MAX_PREFIX_LENGTH]}.part-")
        temporary.mkdir()
        yield temporary
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except OSError as error:
        raise CheckpointError(
            f"{destination} could not be written ({error}). Nothing is left of it. "
            "Free disk space, check the permissions, or give another destination."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_destination(target: Path) -> None:
    """Raise CheckpointError if `target` exists, unless it is an empty directory that can be replaced."""
    if not target.exists():
        return
    if not target.is_dir() or any(target.iterdir()):
        raise CheckpointError(f"{target} already exists. Give a new directory, or an empty one.")
    if target == Path.cwd() or target.is_mount():
        raise CheckpointError(
            f"{target} is in use and cannot be replaced. Give a new directory in it, {target / 'new'}."
        )
