"""Random-weight models of the published sizes, created in seconds without reading a file.

The weights are small and the embeddings large enough that all activations fit into half precision. `--layers` keeps at
most that many layers of each component, to try a benchmark on a small machine.
"""

import argparse
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.parts.prompts import LengthTokenizer
from model import HfChatModel, SatChatModel, load_hf, load_sat, load_tokenizer
from model.checkpoint import Checkpoint, open_checkpoint
from model.checkpoint.convert import copy_tokenizer
from model.checkpoint.layout import HF_TO_SAT, SPLIT
from model.checkpoint.meta_init import build_uninitialized
from model.checkpoint.save import save_hf, to_hf_config
from model.checkpoint.sizes import count_parameters
from model.loading import build_network
from model.placement import DTYPES, choose_device, choose_dtype
from model.quantization.quantize import quantize
from model.tensors import LazyTensors, loaders_of

FULL_SIZE = "full-size"  # name of this model on the command line
EMBEDDED_MODEL = "visualglm-tiny"  # the random model uses its tokenizer and control tokens
WEIGHT_STD, EMBEDDING_STD = 0.02, 1.0
SIZES: Mapping[str, Any] = {  # from the published model_config.json
    "num_layers": 28,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "num_attention_heads": 32,
    "vocab_size": 130528,
    "layernorm_order": "post",
    "model_parallel_size": 1,
    "max_sequence_length": 2048,
    "image_length": 32,
    "eva_args": {
        "num_layers": 39,
        "hidden_size": 1408,
        "inner_hidden_size": 6144,
        "num_attention_heads": 16,
        "vocab_size": 1,
        "layernorm_order": "pre",
        "model_parallel_size": 1,
        "max_sequence_length": 257,
        "use_final_layernorm": False,
        "layernorm_epsilon": 1e-6,
        "image_size": [224, 224],
        "pre_len": 1,
        "post_len": 0,
        "in_channels": 3,
        "num_classes": 0,
        "patch_size": 14,
    },
    "qformer_args": {
        "num_layers": 12,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "vocab_size": 32,
        "layernorm_order": "post",
        "model_parallel_size": 1,
        "max_sequence_length": 0,
        "is_decoder": [True, False] * 6,
        "cross_attn_hidden_size": 1408,
        "layernorm_epsilon": 1e-12,
    },
}


def full_size_config(layers: int | None = None) -> dict[str, Any]:
    """Return a SAT model_config.json of the published sizes, with visualglm-tiny's control tokens.

    Args:
        layers: maximum number of layers of each component; None for all.
    """
    config = {**open_checkpoint(EMBEDDED_MODEL).config, **SIZES}
    for part in ("eva_args", "qformer_args"):
        config[part] = {**config[part], "num_layers": min(layers or 99, config[part]["num_layers"])}
    crosses = config["qformer_args"]["is_decoder"][: config["qformer_args"]["num_layers"]]
    config["qformer_args"]["is_decoder"] = crosses
    return {**config, "num_layers": min(layers or 99, config["num_layers"])}


@torch.no_grad()
def draw_weights(network: nn.Module, seed: int = 0) -> None:
    """Fill a network with random weights: small matrices, identity norms, large token embeddings."""
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in network.named_parameters():
        draw_weight(name, parameter, generator)


def draw_weight(name: str, weight: torch.Tensor, generator: torch.Generator) -> None:
    """Fill one weight of the SAT or the Hugging Face network; see `draw_weights`."""
    if weight.ndim == 1:  # a norm or a bias
        weight.fill_(float(name.endswith("weight")))
    else:
        is_embedding = name == "transformer.word_embeddings.weight"
        weight.normal_(0, EMBEDDING_STD if is_embedding else WEIGHT_STD, generator=generator)


def draw_tensor(name: str, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return a random weight, seeded by its name."""
    weight = torch.empty(shape, device=device, dtype=dtype)
    draw_weight(name, weight, torch.Generator(device).manual_seed(zlib.crc32(name.encode())))
    return weight


def random_checkpoint(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """Return a checkpoint whose tensors are sampled when they are read."""
    plain = replace(open_checkpoint(EMBEDDED_MODEL), config=config, files=[])
    shapes = build_network(plain, torch.device("meta"), dtype).state_dict()
    tensors = {name: partial(draw_tensor, name, meta.shape, device, dtype) for name, meta in shapes.items()}
    return replace(plain, stored_tensors=LazyTensors(tensors), qkv_layout=SPLIT, layout_is_explicit=True)


def write_full_size(directory: Path, config: dict[str, Any], device: torch.device) -> None:
    """Write random weights of these sizes in the Hugging Face format, in float16.

    The rows of lm_head beyond the borrowed vocabulary are 0, so that such tokens are hardly ever sampled.
    """
    tensors, head = random_checkpoint(config, device, torch.float16).stored_tensors, HF_TO_SAT["lm_head.weight"]
    vocabulary = load_tokenizer(EMBEDDED_MODEL).vocab_size

    def draw_head() -> torch.Tensor:
        weight = tensors[head]
        weight[vocabulary:] = 0
        return weight

    directory.mkdir()
    eos_token_id = copy_tokenizer(open_checkpoint(EMBEDDED_MODEL), directory)
    save_hf(directory, LazyTensors({**loaders_of(tensors), head: draw_head}), config, eos_token_id=eos_token_id)


def random_sat(
    config: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    quant: int | None = None,
    quant_vision: bool = False,
) -> Any:
    """Return a SAT network with random weights, quantized to `quant` bits if given."""
    checkpoint = replace(open_checkpoint(EMBEDDED_MODEL), config=config, files=[])
    network = build_network(checkpoint, device, dtype)
    draw_weights(network)
    return quantize(network, quant, quant_vision=quant_vision) if quant else network


def random_hf(config: dict[str, Any], device: torch.device, dtype: torch.dtype, quant: int | None = None) -> Any:
    """Return a Hugging Face network with random weights, quantized to `quant` bits if given."""
    from model.hf.configuration_chatglm import ChatGLMConfig  # transformers takes seconds to import
    from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage

    eos_token_id = load_tokenizer(EMBEDDED_MODEL).eos_token_id
    described = ChatGLMConfig(**to_hf_config(config, eos_token_id, dtype))
    network = build_uninitialized(lambda: ChatGLMForConditionalGenerationWithImage(described), device, dtype).eval()
    draw_weights(network)
    return network.quantize(quant) if quant else network


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose the model and the device."""
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if available)")
    parser.add_argument(
        "--dtype", choices=list(DTYPES), help="dtype of the weights (default: chosen for the device and the size)"
    )
    parser.add_argument(
        "--from_pretrained", metavar="NAME_OR_DIR", help=f"model, or {FULL_SIZE}, which is the default on a GPU"
    )
    parser.add_argument("--layers", type=int, help=f"maximum number of layers of each component of {FULL_SIZE}")


class Source:
    """Creates the models to measure, as the flags of `add_model_arguments` say."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = choose_device(options.device)
        self.name = options.from_pretrained or (EMBEDDED_MODEL if self.device.type == "cpu" else FULL_SIZE)
        self.is_random = self.name == FULL_SIZE
        self.config = full_size_config(options.layers) if self.is_random else open_checkpoint(self.name).config
        self.dtype = choose_dtype(options.dtype, self.device, count_parameters(self.config))
        self.is_full_size = all(self.config.get(name) == size for name, size in SIZES.items())

    def sat(self, quant: int | None = None, quant_vision: bool = False) -> SatChatModel:
        """Return the SAT model, with a `LengthTokenizer`."""
        if self.is_random:
            network = random_sat(self.config, self.device, self.dtype, quant, quant_vision)
            tokenizer = load_tokenizer(EMBEDDED_MODEL)
        else:
            model = load_sat(self.name, **self._placement(), quant=quant, quant_vision=quant_vision)
            network, tokenizer = model.network, model.tokenizer
        return SatChatModel(network, LengthTokenizer(tokenizer, network.image_length))

    def hf(self, quant: int | None = None) -> HfChatModel:
        """Return the Hugging Face model, with a `LengthTokenizer`."""
        if self.is_random:
            network, tokenizer = (
                random_hf(self.config, self.device, self.dtype, quant),
                load_tokenizer(EMBEDDED_MODEL),
            )
        else:
            model = load_hf(self.name, **self._placement(), quant=quant)
            network, tokenizer = model.network, model.tokenizer
        return HfChatModel(network, LengthTokenizer(tokenizer, network.image_length))

    def _placement(self) -> dict[str, Any]:
        return {"device": str(self.device), "dtype": str(self.dtype).removeprefix("torch.")}
