"""Compile kernels for a GPU that this machine need not have; print the shared memory of each as JSON.

python -m tests.helpers.compile_kernels 86          the largest product of each kind, sampling and prefill attention
python -m tests.helpers.compile_kernels 86 --all    all tuned products, in minutes
"""

import json
import re
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model.engine.sampling import CANDIDATE_BUCKETS
from model.kernels.autotune import MATMUL_CONFIGS, KernelConfig, fit_config, shared_bytes
from model.kernels.dispatch import MIN_SHARED_MEMORY, PDL_CAPABILITY
from model.kernels.triton import matmul, prefill_attention, sampling
from model.kernels.triton.sampling import BLOCK_LOGITS

GROUP = 128
HALF_BYTES = 2
WARP_SIZE = 32
VOCAB_SIZE = 130528
PREFILL_TYPES = {
    "queries": "*fp16",
    "table": "*i64",
    "first_row": "i32",
    "lengths": "*i64",
    "slots": "*i64",
    "context": "*fp16",
    "first": "i32",
    "tokens": "i32",
    "scale": "fp32",
}
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
    return shared_memory(compile_kernel(matmul.matmul, types, constants, options, capability))


def compile_sampling(num_candidates: int, capability: int) -> int:
    """Compile the kernels that sample from float16 logits and return the bytes of their shared memory."""
    sizes: dict[str, Any] = sampling.choose_sizes(VOCAB_SIZE, num_candidates)
    sizes["PDL"] = capability >= 10 * PDL_CAPABILITY[0]
    maxima_sizes = sizes | {"BLOCK": BLOCK_LOGITS}
    maxima = compile_kernel(sampling.find_group_maxima, SAMPLING_TYPES, maxima_sizes, {}, capability)
    sizes |= {"NUM_CANDIDATES": num_candidates, "WIDTH": num_candidates}
    options = {"num_warps": sampling.SAMPLE_WARPS}
    sample = compile_kernel(sampling.sample_token, SAMPLING_TYPES, sizes, options, capability)
    return max(shared_memory(maxima), shared_memory(sample))


def compile_prefill_attention(capability: int) -> int:
    """Compile prefill attention in float16 and return the bytes of its shared memory.

    With PDL, check that it signals decode attention only after it has waited for the keys of the prompt.
    """
    constants = {
        "HEADS": 32,
        "HEAD_DIM": 128,
        "BLOCK_Q": prefill_attention.BLOCK_QUERIES,
        "BLOCK_K": prefill_attention.BLOCK_KEYS,
        "PDL": capability >= 10 * PDL_CAPABILITY[0],
    }
    options = {"num_warps": 4, "num_stages": 2}
    compiled = compile_kernel(prefill_attention.attend_block, PREFILL_TYPES, constants, options, capability)
    order = re.findall(r"griddepcontrol\.\w+|ld\.global", compiled.asm["ptx"])
    assert order[:3] == ["griddepcontrol.wait", "griddepcontrol.launch_dependents", "ld.global"] or not constants["PDL"]
    return shared_memory(compiled)


def compile_kernel(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, int], capability: int
) -> Any:
    """Compile a kernel for pointers that are aligned to 16 bytes."""
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, WARP_SIZE), options=options)


def shared_memory(compiled: Any) -> int:
    """Return the bytes of shared memory of a compiled kernel."""
    return int(compiled.metadata.shared)


def main() -> None:
    """Compile the largest products, made to fit, sampling and prefill attention for the given capability."""
    used = {}
    configs = MATMUL_CONFIGS if "--all" in sys.argv else largest_configs()
    for (kind, outputs, inputs, rows), config in configs.items():
        fitting = fit_config(config, kind, HALF_BYTES, MIN_SHARED_MEMORY)
        used[f"{kind} {outputs} {inputs} {rows}"] = compile_matmul(kind, outputs, inputs, fitting, int(sys.argv[1]))
    for num_candidates in CANDIDATE_BUCKETS:
        used[f"sampling {num_candidates}"] = compile_sampling(num_candidates, int(sys.argv[1]))
    used["prefill attention"] = compile_prefill_attention(int(sys.argv[1]))
    print(json.dumps(used))


if __name__ == "__main__":
    main()
