"""Compile kernels for a GPU that this machine need not have; print the shared memory of each as JSON.

python -m tests.helpers.compile_kernels 86          the largest product of each kind, and the sampling, for 8.6
python -m tests.helpers.compile_kernels 86 --all    all tuned products, in minutes
"""

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model.engine.sampling import CANDIDATE_BUCKETS
from model.kernels.autotune import MATMUL_CONFIGS, KernelConfig, fit_config, shared_bytes
from model.kernels.dispatch import MIN_SHARED_MEMORY, PDL_CAPABILITY
from model.kernels.triton import matmul, sampling
from model.kernels.triton.sampling import BLOCK_LOGITS

GROUP = 128
HALF_BYTES = 2
WARP_SIZE = 32
VOCAB_SIZE = 130528
SAMPLING_TYPES = {
    "logits": "*fp16",
    "banned": "*u8",
    "seen": "*u8",
    "penalty": "*fp32",
    "temperature": "*fp32",
    "num_sampled": "*i64",
    "min_new_tokens": "*i64",
    "eos_token_id": "i32",
    "vocab_size": "i32",
    "maxima": "*i32",
    "groups": "*i32",
    "words": "*i64",
    "top_k": "*i64",
    "top_p": "*fp32",
    "uniform": "*fp32",
    "do_sample": "*u8",
    "tokens": "*i64",
    "max_new_tokens": "i32",
    "nan_token": "i32",
}


def largest_configs() -> dict[tuple[str, int, int, int], KernelConfig]:
    """Return the tuned configuration of each kind that needs the most shared memory."""
    keys = sorted(MATMUL_CONFIGS, key=lambda key: shared_bytes(MATMUL_CONFIGS[key], key[0], HALF_BYTES))
    return {key: MATMUL_CONFIGS[key] for key in {key[0]: key for key in keys}.values()}


def compile_matmul(kind: str, outputs: int, inputs: int, config: KernelConfig, capability: int) -> int:
    """Compile a product in float16 and return the bytes of its shared memory."""
    weight = "*fp16" if kind == "dense" else "*i8"
    types = {"x": "*fp16", "weight": weight, "bias": "*fp16", "residual": "*fp16", "out": "*fp16"}
    types |= {"scale": "*fp32", "groups": "*i32", "partials": "*fp32", "alpha": "fp32", "rows": "i32"}
    constants: dict[str, Any] = {
        "OUTPUTS": outputs,
        "INPUTS": inputs,
        "GROUP": GROUP,
        "GELU": "exact",
        "BLOCK_B": config.block_b,
        "BLOCK_O": config.block_o,
        "BLOCK_I": config.block_i,
        "SPLIT_K": config.split_k,
        "WEIGHT_FIRST": config.weight_first,
        "STAGES": config.num_stages,
        "PTX": True,
        "PDL": capability >= 10 * PDL_CAPABILITY[0],
    }
    absent = {"scale": kind != "dense", "groups": kind == "int4", "partials": config.split_k > 1}
    constants |= {name: None for name, is_present in absent.items() if not is_present}
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    return compile_kernel(matmul.matmul, types, constants, options, capability)


def compile_sampling(num_candidates: int, capability: int) -> int:
    """Compile the kernels that sample from float16 logits and return the bytes of their shared memory."""
    sizes: dict[str, Any] = sampling.choose_sizes(VOCAB_SIZE, num_candidates)
    sizes["PDL"] = capability >= 10 * PDL_CAPABILITY[0]
    first = compile_kernel(sampling.find_group_maxima, SAMPLING_TYPES, sizes | {"BLOCK": BLOCK_LOGITS}, {}, capability)
    sizes |= {"NUM_CANDIDATES": num_candidates, "WIDTH": num_candidates}
    options = {"num_warps": sampling.SAMPLE_WARPS}
    return max(first, compile_kernel(sampling.sample_token, SAMPLING_TYPES, sizes, options, capability))


def compile_kernel(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, int], capability: int
) -> int:
    """Compile a kernel for pointers that are aligned to 16 bytes; return the bytes of its shared memory."""
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, WARP_SIZE), options=options)
    return int(compiled.metadata.shared)


def main() -> None:
    """Compile the largest products, made to fit, and the sampling for the capability on the command line."""
    used = {}
    configs = MATMUL_CONFIGS if "--all" in sys.argv else largest_configs()
    for (kind, outputs, inputs, rows), config in configs.items():
        fitting = fit_config(config, kind, HALF_BYTES, MIN_SHARED_MEMORY)
        used[f"{kind} {outputs} {inputs} {rows}"] = compile_matmul(kind, outputs, inputs, fitting, int(sys.argv[1]))
    for num_candidates in CANDIDATE_BUCKETS:
        used[f"sampling {num_candidates}"] = compile_sampling(num_candidates, int(sys.argv[1]))
    print(json.dumps(used))


if __name__ == "__main__":
    main()
