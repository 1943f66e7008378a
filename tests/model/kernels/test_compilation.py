"""Every supported GPU can run the kernels: they compile for it and fit into its shared memory."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.kernels.autotune import MATMUL_CONFIGS, MIN_BLOCK_B, MIN_STAGES, fit_config, shared_bytes
from model.kernels.dispatch import MIN_SHARED_MEMORY

HALF_BYTES = 2


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("capability", [80, 86, 89, 90])
def test_kernels_compile_within_the_shared_memory(capability: int) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.compile_kernels", str(capability)],
        cwd=Path(__file__).parents[3],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    used = json.loads(done.stdout)
    assert len(used) == 6
    assert max(used.values()) <= MIN_SHARED_MEMORY


@pytest.mark.parametrize("limit", [MIN_SHARED_MEMORY, 163 * 1024, 227 * 1024])
def test_configurations_fit_into_the_shared_memory(limit: int) -> None:
    for (kind, *_), config in MATMUL_CONFIGS.items():
        fitting = fit_config(config, kind, HALF_BYTES, limit)
        assert shared_bytes(fitting, kind, HALF_BYTES) <= limit
        assert fitting.num_stages >= min(MIN_STAGES, config.num_stages)
        assert fitting.block_b >= MIN_BLOCK_B
        if shared_bytes(config, kind, HALF_BYTES) <= limit:
            assert fitting == config
