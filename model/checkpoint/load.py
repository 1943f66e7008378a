"""Open a model on disk, of either format: its configuration, and tensors in SAT's names and row order."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..aliases import FormerAttribute, former_keywords
from ..errors import CheckpointError
from ..quantization.dequantize import dequantize_tensors, read_bits, stored_quantized
from ..quantization.nf4 import fake_quantize_tensors
from ..tensors import Tensors
from . import hf, sat
from .adapters import (
    BASE_KEY,
    LORA,
    check_base,
    check_base_name,
    from_prefix_table,
    merge_lora,
    methods_in,
    overlay_adapter,
    plain_config,
)
from .files import translate_os_errors
from .layout import (
    DERIVED_SUFFIX,
    INTERLEAVED,
    LAYOUTS,
    check_heads,
    check_layout,
    is_loaded,
    split_qkv_rows,
)
from .resolve import DEFAULT_MODEL, resolve
from .sat import join_ranks
from .sizes import check_file_sizes


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk.

    Attributes:
        path: the directory of its configuration.
        config: the entries of a SAT model_config.json.
        files: the weight files.
        stored_tensors: the tensors by SAT name, rows in the order of the files, each read when it is accessed; low-bit
            weights are dequantized.
        qkv_layout: the row order of the query-key-value tensors in the files, see `layout.py`.
        layout_is_explicit: whether the caller gave that order; the weights are then not checked for it.
        quantized: the low-bit weights in their stored form, with `_scale` and `_groups`.
    """

    path: Path
    config: dict[str, Any]
    files: list[Path]
    stored_tensors: Tensors
    qkv_layout: str
    layout_is_explicit: bool = False
    quantized: Tensors = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of tensors, for a progress bar."""
        return len(self.stored_tensors)

    @property
    def size(self) -> int:
        """Bytes of the weight files."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def has_lora(self) -> bool:
        """Whether a fine-tune left LoRA's matrices beside the weights."""
        return LORA in methods_in(self.stored_tensors)

    def check_file_sizes(self) -> None:
        """Raise CheckpointError where the configuration describes a far larger model than the files can hold."""
        if not self.files:  # made in memory
            return
        check_file_sizes(
            self.config,
            self.size,
            self.path,
            f"If only what was trained was saved, name the model that it began from, such as --base {DEFAULT_MODEL} or "
            f"base={DEFAULT_MODEL!r}.",
        )

    def split_qkv(self) -> Tensors:
        """Return the tensors with query-key-value rows in the split order, each read when it is asked for.

        Raises:
            CheckpointError: the weights clearly have another row order than the configuration says, or LoRA's
                matrices lie in the interleaved one.
        """
        heads = self.config["num_attention_heads"]
        if self.has_lora and self.qkv_layout == INTERLEAVED:
            raise CheckpointError(
                f"{self.path}: LoRA trained before SAT 0.4.1 belongs to rows in the old order, and can only be merged. "
                "Merge it: python -m model.checkpoint.convert SRC DST --to sat --merge-lora"
            )
        if not self.layout_is_explicit:
            check_layout(self.stored_tensors, self.qkv_layout, heads, self.path)
        return split_qkv_rows(self.stored_tensors, self.qkv_layout, heads)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (SAT name, tensor on the CPU), rows in the split order, one at a time; raises as `split_qkv` does."""
        yield from self.split_qkv().items()

    def merge_lora(self) -> "Checkpoint":
        """Return this model with LoRA merged into its weights; the model itself if there is none to merge.

        Raises:
            CheckpointError: a fine-tune added something that cannot be merged.
        """
        merged = merge_lora(self.stored_tensors, float(self.config.get("lora_alpha") or 1))
        return replace(self, stored_tensors=merged, config=plain_config(self.config)) if self.has_lora else self

    stored = FormerAttribute("stored_tensors")
    is_settled = FormerAttribute("layout_is_explicit")
    split = FormerAttribute("split_qkv")
    check_room = FormerAttribute("check_file_sizes")
    former_keywords = {"stored": "stored_tensors", "is_settled": "layout_is_explicit"}  # noqa: RUF012


Checkpoint.__init__ = former_keywords(**Checkpoint.former_keywords)(Checkpoint.__init__)  # type: ignore[method-assign]


def open_checkpoint(
    name: str | os.PathLike[str],
    *,
    home: str | os.PathLike[str] | None = None,
    qkv_layout: str | None = None,
    iteration: int | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """Open the model called `name` without reading its weights yet.

    Args:
        name: see `resolve`.
        home: where models are kept, instead of $SAT_HOME.
        qkv_layout: split or interleaved, where the configuration is silent or wrong about the files' row order.
        iteration: which one of a SAT run directory, instead of the latest.
        base: the model that a fine-tune began from, where only what was trained was saved; our own fine-tunes name
            it in their configuration.

    Raises:
        CheckpointError: nothing found, or no configuration or weights that we can read, or `base` is no base of it.
    """
    if qkv_layout is not None and qkv_layout not in LAYOUTS:
        raise CheckpointError(f"qkv_layout is {qkv_layout!r}; it should be {' or '.join(LAYOUTS)}.")
    opened = open_without_base(resolve(name, home=home), qkv_layout, iteration)
    named = opened.config.get(BASE_KEY) if base is None else base
    return opened if named is None else overlay_on_base(opened, open_base(named, [opened.path], home))


def open_without_base(path: Path, qkv_layout: str | None = None, iteration: int | None = None) -> Checkpoint:
    """Open the model at `path` without the base that it may need."""
    with translate_os_errors():
        opened = open_sat(path, qkv_layout, iteration) if sat.is_sat_checkpoint(path) else open_hf(path, qkv_layout)
    return replace(opened, layout_is_explicit=qkv_layout is not None)


def open_base(name: Any, runs: list[Path], home: str | os.PathLike[str] | None) -> Checkpoint:
    """Open the model that a fine-tune began from.

    Args:
        name: of the model, as the fine-tune gives it.
        runs: directories of the fine-tune and of those that began from it, the fine-tune's last.
    """
    run = runs[-1]
    check_base_name(name, runs)
    try:
        base = open_without_base(resolve(name, home=home))
    except CheckpointError as error:
        raise CheckpointError(
            f"{run} holds what was trained beside {os.fspath(name)}, which is needed, too. If it has moved, say where "
            f"it is, by --base or base=, or in {BASE_KEY} of {run / sat.CONFIG_NAME}.\n{error}"
        ) from error
    named = base.config.get(BASE_KEY)
    if named is not None:
        base = overlay_on_base(base, open_base(named, [*runs, base.path], home))
    return base.merge_lora()


def overlay_on_base(trained: Checkpoint, base: Checkpoint) -> Checkpoint:
    """Return a fine-tune with what it lacks taken from its base, rounded as it was in training."""
    check_base(trained.config, base.config, trained.path, base.path)
    heads = trained.config["num_attention_heads"]
    tensors, config = base.split_qkv(), trained.config
    if config.get("use_qlora"):
        tensors = fake_quantize_tensors(tensors, embeddings=config.get("round_embeddings", False))
    stored = overlay_adapter(tensors, trained.stored_tensors, trained.qkv_layout, heads)
    config = {key: value for key, value in trained.config.items() if key != BASE_KEY}
    return replace(trained, stored_tensors=stored, config=config, files=base.files + trained.files)


def open_sat(path: Path, qkv_layout: str | None, iteration: int | None) -> Checkpoint:
    """Open a model in the SAT format; `path` is a place of `sat.is_sat_checkpoint`."""
    directory = sat.find_directory(path)
    config, layout = sat.read_config(directory)
    layout = qkv_layout or layout
    files = sat.weight_files(path, config, iteration)
    stored = join_ranks([sat.open_state_dict(file) for file in files], config, layout)
    check_heads(stored, config, directory)
    bits = read_bits(config, directory / sat.CONFIG_NAME)
    config = {**config, "model_parallel_size": 1}
    config.pop("quantization_bit", None)  # from here on the weights are whole
    whole = dequantize_tensors(stored, bits, config["hidden_size"])
    return Checkpoint(directory, config, files, whole, layout, quantized=stored_quantized(stored))


def open_hf(path: Path, qkv_layout: str | None) -> Checkpoint:
    """Open a model in the Hugging Face format; `path` is its directory."""
    config, bits = hf.read_config(path)
    files = hf.weight_files(path)
    tensors = hf.open_files(files)
    check_heads(tensors, config, path)
    stored = hf.to_sat_names(tensors)
    whole, config = from_prefix_table(dequantize_tensors(stored, bits, config["hidden_size"]), config)
    return Checkpoint(path, config, files, whole, qkv_layout or INTERLEAVED, quantized=stored_quantized(stored))


def load_tensors(model: nn.Module, checkpoint: Checkpoint, progress: Callable[[int, int], None] | None = None) -> None:
    """Copy every tensor of `checkpoint` into `model`, to its device and dtype, one at a time.

    LoRA that a fine-tune left is merged where the model itself has none.

    Args:
        progress: is called with (tensors read, tensors in all).

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape; they are named.
    """
    targets = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(DERIVED_SUFFIX)}
    if checkpoint.has_lora and LORA not in methods_in(targets):
        checkpoint = checkpoint.merge_lora()
    missing, unknown = set(targets), []
    for done, (name, tensor) in enumerate(checkpoint.tensors(), start=1):
        if name in targets:
            copy_tensor(targets[name], tensor, name, checkpoint.path)
            missing.discard(name)
        elif is_loaded(name):
            unknown.append(name)
        if progress is not None:
            progress(done, checkpoint.count)
    if missing or unknown:
        raise CheckpointError(describe_mismatch(checkpoint, sorted(missing), unknown))


def copy_tensor(target: torch.Tensor, tensor: torch.Tensor, name: str, path: Path) -> None:
    """Copy `tensor` into the parameter `target` of the same shape."""
    check_shape(name, tensor.shape, target.shape, path)
    with torch.no_grad():
        target.copy_(tensor)


def check_shape(name: str, shape: torch.Size, expected: torch.Size, location: object) -> None:
    """Raise CheckpointError if the tensor called `name` of the model in `location` is not of the shape `expected`."""
    if shape != expected:
        raise CheckpointError(
            f"{location}: {name} has shape {list(shape)}, the configuration asks for {list(expected)}. "
            "The weights and the configuration belong to different models. Get both from one source."
        )


def describe_mismatch(checkpoint: Checkpoint, missing: list[str], unknown: list[str]) -> str:
    """Say which tensors do not fit, a few by name, and why that may be."""
    lines = [f"The weights in {checkpoint.path} do not fit the model that their configuration describes."]
    for title, names in (("missing", missing), ("unknown", unknown)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            lines.append(f"{title}: {', '.join(names[:5])}{more}")
    methods = methods_in(unknown)
    if methods:
        lines.append(f"What is unknown was added by {' and '.join(methods)}: load it with the class that trained it.")
    elif missing and len(missing) > checkpoint.count:
        lines.append(
            f"If only what was trained was saved, name the model that it began from, such as --base {DEFAULT_MODEL} or "
            f"base={DEFAULT_MODEL!r}."
        )
    else:
        lines.append("Is it another model's file, or a fine-tuned one whose method adds tensors of its own?")
    return "\n".join(lines)
