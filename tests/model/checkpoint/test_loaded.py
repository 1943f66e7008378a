"""The loading benchmark measures each implementation in a separate process."""

from pathlib import Path

import pytest
import torch

from benchmarks.parts.loading_process import ORIGINAL, OURS, OURS_HF, LoadingJob, LoadingResult, measure_loading
from model.checkpoint.convert import convert
from model.checkpoint.resolve import EMBEDDED

GB = 10**9
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


def test_the_model_counts_where_it_lies() -> None:
    on_cpu = LoadingResult(1.0, 2.0, model=15 * GB, before=GB, peak=17 * GB, gpu_peak=0, on_gpu=False)
    on_gpu = LoadingResult(1.0, 2.0, model=15 * GB, before=GB, peak=2 * GB, gpu_peak=16 * GB, on_gpu=True)
    assert (on_cpu.host_gb, on_gpu.host_gb, on_gpu.gpu_gb) == (2.0, 2.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("way", "format"), [(OURS, "sat"), (OURS_HF, "hf"), (ORIGINAL, "sat")])
def test_every_way_loads_the_same_model(way: str, format: str, tmp_path: Path) -> None:
    convert("visualglm-tiny", tmp_path / format, format, dtype=torch.float32)
    loaded = measure_loading(LoadingJob(way, str(tmp_path / format), "cpu", "float32"))
    in_half = (EMBEDDED / "visualglm-tiny" / "model.safetensors").stat().st_size
    assert loaded.model == pytest.approx(2 * in_half, rel=0.01)
    assert 0 < loaded.before < loaded.peak
    assert 0 < loaded.seconds < loaded.process_s
    assert (loaded.on_gpu, loaded.gpu_peak) == (False, 0)


@pytest.mark.slow
def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="model_config"):
        measure_loading(LoadingJob(OURS, str(tmp_path), "cpu", "float32"))
