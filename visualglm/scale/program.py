"""Run `visualglm serve --replicas N` and `visualglm serve --ray ADDRESS`."""

import argparse
import os
from pathlib import Path
from typing import Any

from model import SettingError
from visualglm.arguments import check_model, choose_loader
from visualglm.server.settings import Settings

from .arguments import ALL
from .cluster_config import ClusterSettings
from .errors import require_ray
from .ray_environment import prepare_connection, prepare_local_ray
from .replica import ModelSettings

MODEL_OPTIONS = ("from_pretrained", "base", "quant", "quant_vision", "quant_embeddings", "device", "dtype")


def serve_on_ray(options: argparse.Namespace, settings: Settings, hf: bool) -> None:
    """Serve with the replicas that the flags ask for.

    Raises:
        SettingError: the flags are invalid, or this machine has too few GPUs.
        ClusterError: Ray is not installed.
        VisualGLMError: the server cannot be started.
    """
    require_ray()
    model = model_settings(options, settings, hf)
    if options.ray is not None:
        prepare_connection(options.ray)
        from .cluster import deploy_on_cluster

        deploy_on_cluster(options.ray, ClusterSettings(**options.cluster_values), model, settings)
        return
    prepare_local_ray()
    from .local import serve_locally

    check_model(argparse.Namespace(**model.options, language=None), choose_loader(hf, None))
    serve_locally(local_cluster(options.replicas, options.device), model, settings)


def model_settings(options: argparse.Namespace, settings: Settings, hf: bool) -> ModelSettings:
    """Return the model that the flags name; a directory becomes an absolute path."""
    given: dict[str, Any] = {name: getattr(options, name) for name in MODEL_OPTIONS}
    for name in ("from_pretrained", "base"):
        if given[name] and Path(given[name]).is_dir():
            given[name] = str(Path(given[name]).resolve())
    language = None if options.language is None else options.language.code
    return ModelSettings(given, language, hf, settings.max_batch, settings.max_concurrent_answers)


def local_cluster(replicas: int | str, device: str | None) -> ClusterSettings:
    """Return the replicas on this machine: each has a GPU of its own, or a share of the CPU cores.

    Raises:
        SettingError: there are too few GPUs, or the device names one of several.
    """
    available = count_gpus()
    if device is not None and device not in ("cpu", "cuda"):
        raise SettingError(f"--device {device} is not possible with --replicas; use cuda or cpu.")
    if device == "cpu" or (device is None and not available):
        count = 1 if replicas == ALL else int(replicas)
        return ClusterSettings(replicas=count, cpus=max(1, (os.cpu_count() or 1) // count))
    count = available if replicas == ALL else int(replicas)
    if not 1 <= count <= available:
        advice = f"Use --replicas {available}" if available else "Install a GPU's driver"
        raise SettingError(f"--replicas {replicas}: this machine has {available} GPUs. {advice}, or --device cpu.")
    return ClusterSettings(replicas=count, gpus=1)


def count_gpus() -> int:
    """Return the number of GPUs that PyTorch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
