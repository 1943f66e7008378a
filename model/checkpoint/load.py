"""Open a checkpoint of either format: its configuration, and its tensors by SAT name."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..aliases import FormerAttribute, former_keywords
from ..description import CONFIG_KEY as DESCRIPTION_KEY
from ..errors import CheckpointError
from ..names import DEFAULT_MODEL
from ..quantization.dequantize import BITS_KEY, SCALE_SUFFIX, dequantize_tensors, read_bits, stored_quantized
from ..quantization.nf4 import fake_quantize_tensors
from ..tensors import LazyTensors, Tensors, loaders_of
from . import hf, peft_adapter, sat
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
from .files import open_tensors, translate_os_errors
from .layout import (
    DERIVED_SUFFIX,
    INTERLEAVED,
    LAYOUTS,
    SPLIT,
    check_heads,
    check_layout,
    is_language_qkv,
    is_loaded,
    split_qkv_rows,
)
from .peft_adapter import read_peft
from .resolve import base_entry, is_adapter, read_base_name, resolve
from .sat import join_ranks
from .sizes import check_file_sizes


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        path: the directory of the configuration.
        config: the entries of a SAT model_config.json.
        files: the weight files.
        stored_tensors: the tensors by SAT name, rows in the order of the files, each read when it is accessed; low-bit
            weights are dequantized.
        qkv_layout: the row order of the query-key-value tensors in the files, see `layout.py`.
        layout_is_explicit: whether the caller gave that order; the weights are then not checked for it.
        quantized: the low-bit weights in their stored form, with `_scale` and `_groups`.
        bits: bits per weight of those, by the configuration; 0 without low-bit weights.
        base_paths: the directories of its base model, of that one's base model, and so on.
    """

    path: Path
    config: dict[str, Any]
    files: list[Path]
    stored_tensors: Tensors
    qkv_layout: str
    layout_is_explicit: bool = False
    quantized: Tensors = field(default_factory=dict)
    bits: int = 0
    base_paths: tuple[Path, ...] = ()

    def find_folder(self, file: str) -> Path:
        """Return the first directory with a file of this name: its own, else its base model's; its own if none has."""
        return next((folder for folder in (self.path, *self.base_paths) if (folder / file).is_file()), self.path)

    @property
    def count(self) -> int:
        """Number of tensors, as the total of a progress bar."""
        return len(self.stored_tensors)

    @property
    def size(self) -> int:
        """Total size of the weight files in bytes."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def has_lora(self) -> bool:
        """Whether the checkpoint contains LoRA matrices."""
        return LORA in methods_in(self.stored_tensors)

    def check_file_sizes(self) -> None:
        """Raise CheckpointError if the files are far too small for the model that the configuration describes."""
        if not self.files:  # a model in memory
            return
        check_file_sizes(
            self.config,
            self.size,
            self.path,
            f"If the checkpoint contains only the trained weights of a fine-tune, give its base model, such as --base "
            f"{DEFAULT_MODEL} or base={DEFAULT_MODEL!r}.",
        )

    def split_qkv(self) -> Tensors:
        """Return the tensors with query-key-value rows in the split order, each loaded on access.

        Raises:
            CheckpointError: the weights contradict the configured row order, or LoRA matrices have the interleaved
                order.
        """
        heads = self.config["num_attention_heads"]
        if self.has_lora and self.qkv_layout == INTERLEAVED:
            raise CheckpointError(
                f"{self.path}: LoRA that was trained with SAT < 0.4.1 has interleaved rows, and can only be merged. "
                "Merge it: python -m model.checkpoint.convert SRC DST --to sat --merge-lora"
            )
        if not self.layout_is_explicit:
            check_layout(self._layout_evidence(), self.qkv_layout, heads, self.path)
        return split_qkv_rows(self.stored_tensors, self.qkv_layout, heads)

    def _layout_evidence(self) -> Tensors:
        """Return a tensor for each query-key-value tensor, by its name, whose row norms show the row order.

        For a low-bit weight these are its scales, which grow with the norms of its rows: to dequantize all of these
        weights would take longer than to load the model.
        """
        loaders = {name: load for name, load in loaders_of(self.stored_tensors).items() if is_language_qkv(name)}
        for name in loaders:
            if (scale := name + SCALE_SUFFIX) in self.quantized:
                loaders[name] = partial(self.quantized.__getitem__, scale)
        return LazyTensors(loaders)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (SAT name, tensor on the CPU) one at a time, rows in the split order; raises as `split_qkv` does."""
        yield from self.split_qkv().items()

    def merge_lora(self) -> "Checkpoint":
        """Return the checkpoint with LoRA merged into the weights; the checkpoint itself if it has no LoRA.

        Raises:
            CheckpointError: there are adapter tensors that cannot be merged.
        """
        merged = merge_lora(self.stored_tensors, float(self.config.get("lora_alpha") or 1))
        if not self.has_lora:
            return self
        return replace(self, stored_tensors=merged, config=plain_config(self.config), quantized={}, bits=0)

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
    """Open the checkpoint of the model called `name` without reading its weights yet.

    Args:
        name: see `resolve`.
        home: directory of models, instead of $SAT_HOME.
        qkv_layout: row order of the files, split or interleaved, if the configuration lacks it or is wrong.
        iteration: iteration of a SAT run directory to open, instead of the latest.
        base: base model of a fine-tune that contains only the trained weights; our own fine-tunes name it in their
            configuration.

    Raises:
        CheckpointError: the model is not found, its configuration or weights cannot be read, or `base` has other sizes.
    """
    if qkv_layout is not None and qkv_layout not in LAYOUTS:
        raise CheckpointError(f"qkv_layout is {qkv_layout!r}; it should be {' or '.join(LAYOUTS)}.")
    opened = open_without_base(resolve(name, home=home), qkv_layout, iteration)
    named = opened.config.get(BASE_KEY) if base is None else base
    return opened if named is None else overlay_on_base(opened, open_base(named, [opened.path], home))


def open_without_base(path: Path, qkv_layout: str | None = None, iteration: int | None = None) -> Checkpoint:
    """Open the checkpoint at `path` without its base model."""
    with translate_os_errors():
        if is_adapter(path):
            return open_adapter(path)
        opened = open_sat(path, qkv_layout, iteration) if sat.is_sat_checkpoint(path) else open_hf(path, qkv_layout)
    return replace(opened, layout_is_explicit=qkv_layout is not None)


def open_base(name: Any, runs: list[Path], home: str | os.PathLike[str] | None) -> Checkpoint:
    """Open the base model of a fine-tune, LoRA merged.

    Args:
        name: name of the base model.
        runs: directories of a chain of fine-tunes, each the base of the one before it; the last one needs the base.
        home: directory of models, instead of $SAT_HOME.
    """
    run = runs[-1]
    file, entry = base_entry(run)
    check_base_name(name, runs, entry)
    try:
        base = open_without_base(resolve(name, home=home))
    except CheckpointError as error:
        raise CheckpointError(
            f"{run} contains only the trained weights of a fine-tune of {os.fspath(name)}, which is needed as well. If "
            f"it has moved, give its path by --base or base=, or in {entry} of {file}.\n{error}"
        ) from error
    named = base.config.get(BASE_KEY)
    if named is not None:
        base = overlay_on_base(base, open_base(named, [*runs, base.path], home))
    return base.merge_lora()


def overlay_on_base(trained: Checkpoint, base: Checkpoint) -> Checkpoint:
    """Return a fine-tune with missing tensors taken from its base; QLoRA's base is quantized as in training."""
    if is_adapter(trained.path):
        trained = convert_adapter(trained, base)
    check_base(trained.config, base.config, trained.path, base.path)
    heads = trained.config["num_attention_heads"]
    tensors, config = base.split_qkv(), trained.config
    if config.get("use_qlora"):
        tensors = fake_quantize_tensors(tensors, embeddings=config.get("round_embeddings", False))
    stored = overlay_adapter(tensors, trained.stored_tensors, trained.qkv_layout, heads)
    config = {key: value for key, value in trained.config.items() if key != BASE_KEY}
    return replace(
        trained,
        stored_tensors=stored,
        config=config,
        files=base.files + trained.files,
        base_paths=(base.path, *base.base_paths),
    )


def open_sat(path: Path, qkv_layout: str | None, iteration: int | None) -> Checkpoint:
    """Open a checkpoint in the SAT format; `path` satisfies `sat.is_sat_checkpoint`."""
    directory = sat.find_directory(path)
    config, layout = sat.read_config(directory)
    layout = qkv_layout or layout
    files = sat.weight_files(path, config, iteration)
    stored = join_ranks([sat.open_state_dict(file) for file in files], config, layout)
    check_heads(stored, config, directory)
    bits = read_bits(config, directory / sat.CONFIG_NAME)
    config = {**config, "model_parallel_size": 1}
    config.pop(BITS_KEY, None)  # the tensors are dequantized below
    tensors = dequantize_tensors(stored, bits, config["hidden_size"])
    return Checkpoint(directory, config, files, tensors, layout, quantized=stored_quantized(stored), bits=bits)


def open_hf(path: Path, qkv_layout: str | None) -> Checkpoint:
    """Open a checkpoint in the Hugging Face format; `path` is its directory."""
    config, bits = hf.read_config(path)
    files = hf.weight_files(path)
    tensors = hf.open_files(files)
    check_heads(tensors, config, path)
    stored = hf.to_sat_names(tensors)
    dequantized, config = from_prefix_table(dequantize_tensors(stored, bits, config["hidden_size"]), config)
    return Checkpoint(
        path, config, files, dequantized, qkv_layout or INTERLEAVED, quantized=stored_quantized(stored), bits=bits
    )


def open_adapter(path: Path) -> Checkpoint:
    """Open the PEFT adapter in directory `path`, whose tensors have no SAT names before it meets its base model."""
    # The configuration contains scales, so that a digest of the files needs it.
    files = [path / peft_adapter.CONFIG_NAME, peft_adapter.weights_file(path)]
    return Checkpoint(path, {BASE_KEY: read_base_name(path) or ""}, files, open_tensors(files[1]), INTERLEAVED)


def convert_adapter(adapter: Checkpoint, base: Checkpoint) -> Checkpoint:
    """Return a PEFT adapter as a LoRA run of the base model, which is not part of it.

    Raises:
        CheckpointError: the adapter is not plain LoRA, or does not fit the base model.
    """
    tensors, settings = read_peft(adapter.path, base.split_qkv(), base.config["num_attention_heads"])
    config = {**base.config, **settings, "model_class": "FineTuneVisualGLMModel"}
    for entry in ("tokenizer_type", DESCRIPTION_KEY):  # of the base model's directory and knowledge
        config.pop(entry, None)
    return replace(adapter, config=config, stored_tensors=tensors, qkv_layout=SPLIT)


def load_tensors(model: nn.Module, checkpoint: Checkpoint, progress: Callable[[int, int], None] | None = None) -> None:
    """Copy the tensors of `checkpoint` into `model` one at a time, converted to the model's device and dtype.

    LoRA in the checkpoint is merged if the model has no LoRA layers.

    Args:
        model: a network with the checkpoint's tensor names.
        checkpoint: the source.
        progress: called with (tensors read, total number of tensors).

    Raises:
        CheckpointError: tensors are missing, unknown, or have a different shape; the message names them.
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
    """Copy `tensor` into the parameter `target`; raise CheckpointError if the shapes differ."""
    check_shape(name, tensor.shape, target.shape, path)
    with torch.no_grad():
        target.copy_(tensor)


def check_shape(name: str, shape: torch.Size, expected: torch.Size, location: object) -> None:
    """Raise CheckpointError if the tensor called `name` of the model in `location` does not have the expected shape."""
    if shape != expected:
        raise CheckpointError(
            f"{location}: {name} has shape {list(shape)}, the configuration requires {list(expected)}. "
            "The weights and the configuration belong to different models. Get both from one source."
        )


def describe_mismatch(checkpoint: Checkpoint, missing: list[str], unknown: list[str]) -> str:
    """Describe missing and unknown tensors, some of them by name, and a likely cause."""
    lines = [f"The weights in {checkpoint.path} do not fit the model that their configuration describes."]
    for title, names in (("missing", missing), ("unknown", unknown)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            lines.append(f"{title}: {', '.join(names[:5])}{more}")
    methods = methods_in(unknown)
    if methods:
        lines.append(
            f"The unknown tensors belong to {' and '.join(methods)}: load them with the class that trained them."
        )
    elif missing and len(missing) > checkpoint.count:
        lines.append(
            f"If the checkpoint contains only the trained weights of a fine-tune, give its base model, such as --base "
            f"{DEFAULT_MODEL} or base={DEFAULT_MODEL!r}."
        )
    else:
        lines.append("Is it the file of another model, or of a fine-tuning method that adds its own tensors?")
    return "\n".join(lines)
