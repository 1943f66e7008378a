"""VisualGLM with the adapters of fine-tuning: LoRA, QLoRA, or P-tuning v2."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .checkpoint import Checkpoint
from .checkpoint.adapters import LORA_DEFAULTS
from .checkpoint.layout import SPLIT
from .checkpoint.quantize_tensors import quantize_tensors
from .quantization.nf4 import Nf4Linear, is_quantized
from .quantization.quantize import EMBEDDING_BITS, QuantizedEmbedding, quantized_layers
from .sat.lora import TARGETS, LoraMixin
from .sat.ptuning import PTUNING, PrefixMixin
from .tensors import LazyTensors, loaders_of
from .visualglm import VisualGLMModel  # before sat

# isort: split
from sat.mpu import ColumnParallelLinear, RowParallelLinear

TRAINABLE_NAMES = ("matrix_A", "matrix_B", f"mixins.{PTUNING}.")


def add_method_flags(add: Callable[..., Any], pre_seq_len: int) -> None:
    """Add the flags of LoRA, QLoRA and P-tuning, with the original's names.

    Args:
        add: `add_argument` of a parser or of a group.
        pre_seq_len: the default of `--pre_seq_len`, which differs between the original's class and program.
    """
    rank, alpha, dropout, layers, targets = LORA_DEFAULTS.values()
    names = f"{', '.join(TARGETS)}, or patterns of layer names (default {', '.join(targets)})"
    add("--use_lora", action="store_true", help="train LoRA")
    add("--use_qlora", action="store_true", help="train LoRA on a language model with frozen 4-bit weights")
    add("--use_ptuning", action="store_true", help="train P-tuning v2")
    add("--lora_rank", type=int, default=rank, help="rank of the LoRA matrices (default %(default)s)")
    add("--lora_alpha", type=float, default=alpha, help="LoRA scale, divided by the rank (default %(default)s)")
    help_ = "dropout probability on the LoRA input (default %(default)s)"
    add("--lora_dropout", type=float, default=dropout, help=help_)
    help_ = "indices of the layers to adapt, listed one by one; default all"
    add("--layer_range", nargs="+", type=int, default=layers, metavar="N", help=help_)
    add("--lora_targets", nargs="+", default=targets, metavar="TARGET", help=f"parts of the model to adapt: {names}")
    help_ = "P-tuning: number of trained key-value pairs per layer (default %(default)s)"
    add("--pre_seq_len", type=int, default=pre_seq_len, help=help_)


class FineTuneVisualGLMModel(VisualGLMModel):  # public name
    """VisualGLM with LoRA, QLoRA or P-tuning v2, selected by `use_lora`, `use_qlora` and `use_ptuning`.

    Args:
        args: a namespace with the entries of model_config.json and the flags of `add_model_specific_args`.
    """

    def __init__(self, args: Namespace, transformer: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(args, transformer=transformer, **kwargs)
        self.args = args
        self.add_methods()

    @classmethod
    def add_model_specific_args(cls, parser: ArgumentParser) -> ArgumentParser:
        """Add the flags of the fine-tuning methods; the original's flags keep their names and defaults."""
        group = parser.add_argument_group("VisualGLM-finetune", "fine-tuning methods")
        add_method_flags(group.add_argument, pre_seq_len=8)
        help_ = "QLoRA: quantize the token embeddings to 8 bits"
        group.add_argument("--round_embeddings", action="store_true", help=help_)
        return super().add_model_specific_args(parser)  # type: ignore[no-any-return]

    def add_methods(self) -> None:
        """Add the adapters that the arguments select, with random initial weights."""
        args = self.args
        if args.use_ptuning:
            head_dim = args.hidden_size // args.num_attention_heads
            prefix = PrefixMixin(args.num_layers, head_dim, args.num_attention_heads, args.pre_seq_len)
            self.add_mixin(PTUNING, prefix)
        if args.use_lora or args.use_qlora:
            settings = {"lora_alpha": args.lora_alpha, "lora_dropout": args.lora_dropout, "targets": args.lora_targets}
            lora = LoraMixin(args.num_layers, args.lora_rank, layer_range=args.layer_range, **settings)
            self.add_mixin("lora", lora, reinit=True)
        if args.use_qlora:
            quantize_linear_layers(self.transformer)
            if args.round_embeddings:
                self.transformer.word_embeddings = quantize_embedding(self.transformer.word_embeddings.weight)

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Load the weights; 4-bit layers are quantized one at a time, on their device."""
        layers = {f"{name}.weight": layer for name, layer in self.named_modules() if isinstance(layer, Nf4Linear)}
        if layers:
            tensors = checkpoint.split_qkv()
            for name, layer in layers.items():
                stored_name = name if name in tensors else name.replace(".original.", ".")
                layer.set_weight(tensors[stored_name].to(self.device, self.dtype))
            rest = {name: load for name, load in loaders_of(tensors).items() if not is_quantized(name)}
            rest = loaders_of(quantize_tensors(LazyTensors(rest), quantized_layers(self)))
            checkpoint = replace(
                checkpoint, stored_tensors=LazyTensors(rest), qkv_layout=SPLIT, layout_is_explicit=True
            )
        super().load_checkpoint(checkpoint)

    def disable_untrainable_params(self) -> None:  # SAT calls it
        """Freeze all parameters except the adapters' parameters."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(any(part in name for part in TRAINABLE_NAMES))


def quantize_embedding(weight: torch.Tensor) -> QuantizedEmbedding:
    """Return an embedding with a quantized copy of `weight` [V, D]; a meta weight gives an empty embedding."""
    if weight.is_meta:
        return QuantizedEmbedding(weight.shape[1], weight.shape[0], EMBEDDING_BITS, None)
    return QuantizedEmbedding.from_weight(weight, EMBEDDING_BITS)


def quantize_linear_layers(module: nn.Module) -> None:
    """Replace every SAT linear layer in `module` by a 4-bit layer with the same weight."""
    for name, child in module.named_children():
        if isinstance(child, ColumnParallelLinear | RowParallelLinear):
            layer: Any = child
            setattr(module, name, Nf4Linear(layer.weight, layer.bias))
        else:
            quantize_linear_layers(child)
