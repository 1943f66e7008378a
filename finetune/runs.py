"""The contents of a run: its configuration, and the saving and loading of trained weights."""

import shutil
from collections.abc import Mapping
from typing import Any

import torch

from model.checkpoint import Checkpoint, find_vocabulary
from model.checkpoint.adapters import BASE_KEY
from model.checkpoint.files import open_tensors
from model.checkpoint.layout import SPLIT
from model.checkpoint.resolve import EMBEDDED, TOKENIZER_NAME, VOCABULARY_NAME
from model.checkpoint.sat import WEIGHTS_NAME
from model.checkpoint.save import GENERATION_NAME
from model.description import KEY as DESCRIPTION_KEY
from model.environment import expand_home
from model.finetuned import FineTuneVisualGLMModel

from .checkpoints import Run
from .errors import TrainingError
from .processes import Processes
from .training_state import State


def run_config(base: str, checkpoint: Checkpoint, settings: Mapping[str, Any], is_whole: bool) -> dict[str, Any]:
    """Return the run's model_config.json.

    Args:
        base: name or directory of the base model, which `checkpoint` is.
        settings: what `finetune.methods.method_settings` returns.
        is_whole: whether the run needs no base.
    """
    config = {**checkpoint.config, **settings, "model_class": FineTuneVisualGLMModel.__name__, "qkv_layout": SPLIT}
    config.pop(DESCRIPTION_KEY, None)  # what the base knows is not what the run knows
    if config.get("tokenizer_type") == str(checkpoint.path):
        del config["tokenizer_type"]
    if not is_whole:
        is_path = not (EMBEDDED / base).is_dir() and expand_home(base).exists()
        config[BASE_KEY] = str(expand_home(base).resolve()) if is_path else base
    return config


def copy_beside(checkpoint: Checkpoint, run: Run, is_whole: bool) -> None:
    """Copy what the base says of its answers into the run, and its tokenizer where the run needs no base."""
    if (checkpoint.path / GENERATION_NAME).is_file():
        shutil.copyfile(checkpoint.path / GENERATION_NAME, run.path / GENERATION_NAME)
    if is_whole:
        source = find_vocabulary(checkpoint.path)
        for name in (VOCABULARY_NAME, TOKENIZER_NAME):
            if (source / name).is_file():
                shutil.copyfile(source / name, run.path / name)


def collect(
    tensors: dict[str, torch.Tensor], dtype: torch.dtype | None, processes: Processes
) -> dict[str, torch.Tensor]:
    """Return tensors on the CPU, on the first process; all take part, as ZeRO 3 has cut them among them."""
    collected = {}
    for name, tensor in tensors.items():
        if hasattr(tensor, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([tensor]):
                whole = tensor.detach().to("cpu", dtype, copy=True) if processes.is_first else None
        else:
            whole = tensor.detach().to("cpu", dtype) if processes.is_first else None
        if whole is not None:
            collected[name] = whole
    return collected


def load_trained(run: Run, state: State, trained: dict[str, torch.nn.Parameter]) -> None:
    """Give what is trained the numbers of a checkpoint.

    Raises:
        TrainingError: the checkpoint is of another method, or of other layers.
    """
    stored = open_tensors(run.folder(state.step) / WEIGHTS_NAME)
    differing = [name for name in trained if name not in stored or stored[name].shape != trained[name].shape]
    if differing:
        raise TrainingError(
            f"{run.path} holds no {differing[0]} as this command would train it. Resume with the same command that "
            "began the run."
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(stored[name])
