"""Build the network of a fine-tuning method, and choose its trainable parameters."""

import re
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from model.checkpoint import Checkpoint, open_checkpoint
from model.checkpoint.adapters import LORA_DEFAULTS, METHOD_SWITCHES
from model.checkpoint.meta_init import build_uninitialized
from model.checkpoint.resolve import find_cached_snapshot, is_model, local_search_paths
from model.checkpoint.sizes import count_parameters
from model.command_line import ArgumentParser, print_text, run_program
from model.errors import SettingError
from model.finetuned import FineTuneVisualGLMModel
from model.names import DEFAULT_MODEL, HUB_IDS
from model.placement import choose_dtype
from model.sat.lora import LLM

from .config import TrainingConfig

# The components of --freeze, by the prefixes of their parameters' names; all other parameters are the language model's.
COMPONENT_PREFIXES = {
    "vit": "mixins.eva.model.vit.",
    "qformer": "mixins.eva.model.qformer.",
    "proj": "mixins.eva.model.glm_proj.",
}
IMAGE_ENCODER_PREFIX = "mixins.eva."


def choose_precision(
    config: TrainingConfig, device: torch.device, model_config: Mapping[str, Any]
) -> tuple[torch.dtype, str]:
    """Return the dtype of the forward pass, and a notice for the user or "".

    The default is bfloat16 on a GPU that supports it, float16 on other GPUs, and float32 on a CPU.
    """
    if device.type != "cpu":
        supports_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported()
        wants_fp16 = config.fp16 or not (config.bf16 or supports_bf16)
        return torch.float16 if wants_fp16 else torch.bfloat16, ""
    if config.bf16:
        return torch.bfloat16, ""
    if config.fp16:
        return torch.float32, "--fp16 has no effect on a CPU: the training uses float32."
    return choose_dtype(None, device, count_parameters(model_config)), ""


def open_base(name: str) -> Checkpoint:
    """Open the checkpoint of the base model; LoRA of an earlier fine-tuning is merged into its weights."""
    return open_checkpoint(name).merge_lora()


def method_settings(config: TrainingConfig, layers: int) -> dict[str, Any]:
    """Return the entries of model_config.json that describe the adapter.

    Raises:
        SettingError: `layer_range` contains a layer that does not exist.
    """
    wrong = [number for number in config.layer_range or [] if not 0 <= number < layers]
    if wrong:
        raise SettingError(
            f"--layer_range names layer {wrong[0]}; the model has layers 0 to {layers - 1}. It lists layers and is not "
            "a range: omit it for all layers."
        )
    settings: dict[str, Any] = {name: getattr(config, name) for name in METHOD_SWITCHES}
    if config.use_qlora:
        # Not with ZeRO 3, which shards weights of a single dtype and saves enough memory itself.
        settings["round_embeddings"] = config.zero_stage < 3
    if config.use_lora or config.use_qlora:
        settings.update({name: getattr(config, name) for name in LORA_DEFAULTS})
    if config.use_ptuning:
        settings["pre_seq_len"] = config.pre_seq_len
    return settings


def build_network(
    checkpoint: Checkpoint, settings: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> FineTuneVisualGLMModel:
    """Build the network of a checkpoint, in eval mode, with the adapter of `method_settings`.

    The trainer switches on LoRA's dropout only.

    Raises:
        CheckpointError: the checkpoint is incomplete or does not fit the configuration.
    """
    checkpoint.check_file_sizes()
    defaults = vars(FineTuneVisualGLMModel.get_args())
    args = Namespace(**{**defaults, **checkpoint.config, **settings, "skip_init": True})
    network = build_uninitialized(lambda: FineTuneVisualGLMModel(args, params_dtype=dtype), device, dtype)
    network.eval()
    network.load_checkpoint(checkpoint)
    return network


def choose_trained(network: FineTuneVisualGLMModel, config: TrainingConfig) -> dict[str, torch.nn.Parameter]:
    """Freeze all parameters except the ones to train; return the trainable parameters by name.

    Raises:
        SettingError: no parameter would be trained.
    """
    if config.full:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(component_of(name) not in config.freeze)
    else:
        network.disable_untrainable_params()
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if not trained:
        raise SettingError("--freeze names every component, so that there is nothing to train.")
    return trained


def component_of(name: str) -> str:
    """Return the component of a parameter: vit, qformer, proj or llm."""
    return next((part for part, start in COMPONENT_PREFIXES.items() if name.startswith(start)), LLM)


def trains_image_encoder(trained: dict[str, torch.nn.Parameter]) -> bool:
    """Return whether the image encoder has trainable parameters, so that image embeddings change in training."""
    return any(name.startswith(IMAGE_ENCODER_PREFIX) for name in trained)


def describe_trained(trained: dict[str, torch.nn.Parameter], network: torch.nn.Module) -> str:
    """Return a message with the number and the names of the trainable parameters; 4-bit weights are not counted."""
    kinds = dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in trained)
    count, total = sum(tensor.numel() for tensor in trained.values()), sum(map(torch.numel, network.parameters()))
    named = ", ".join(list(kinds)[:4]) + (f" and {len(kinds) - 4} more kinds" if len(kinds) > 4 else "")
    return f"Trainable parameters: {count:,} in {len(trained)} tensors ({named}); frozen: {total - count:,}."


SMALL_MODEL = "visualglm-tiny"


def choose_base() -> tuple[str, str]:
    """Return the name of the default base model, and a notice for the user or ""."""
    has_weights = any(map(is_model, local_search_paths(DEFAULT_MODEL, None))) or find_cached_snapshot(
        HUB_IDS[DEFAULT_MODEL]
    )
    if torch.cuda.is_available() or has_weights:
        return DEFAULT_MODEL, ""
    notice = f"There is neither a GPU nor {DEFAULT_MODEL} here: the small model {SMALL_MODEL} is trained instead."
    return SMALL_MODEL, notice


def parse_arguments(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse `--from_pretrained` among the arguments of a training."""
    parser = ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--from_pretrained")
    given, _ = parser.parse_known_args(arguments)
    return {"from_pretrained": given.from_pretrained}


def run(from_pretrained: str | None) -> None:
    """Print the name of the base model: the given one or the default."""
    name, notice = (from_pretrained, "") if from_pretrained else choose_base()
    if notice:
        print_text(notice, file=sys.stderr)
    print_text(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return run_program(lambda: run(**parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
