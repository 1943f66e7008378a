"""SAT imports silently without its training dependencies, and without slow packages."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.preloaded import run_preloaded

ROOT = Path(__file__).parents[3]
HEAVY = [
    "deepspeed",
    "wandb",
    "boto3",
    "datasets",
    "webdataset",
    "torchvision",
    "triton",
    "cpm_kernels",
    "transformers",
]


def run(code: str, *extra_paths: Path) -> str:
    """Run code in a new interpreter with `extra_paths` first on the import path; return its output."""
    search = f"import sys; sys.path[:0] = {[str(path) for path in (*extra_paths, ROOT)]!r}\n"
    command = [sys.executable, "-W", "error", "-c", search + code]
    return output_of(subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False))


def run_after_torch(code: str, *extra_paths: Path) -> str:
    """Run code as `run` does, in an interpreter that has imported torch."""
    return output_of(run_preloaded(code, *extra_paths, ROOT, strict=True))


def output_of(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def break_modules(directory: Path, names: list[str]) -> Path:
    """Create modules that raise on import, in place of installed packages."""
    for name in names:
        (directory / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')")
    return directory


def test_importing_is_silent_and_light(tmp_path: Path) -> None:
    code = f"""
from model import VisualGLMModel, chat
import sys
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert run(code, break_modules(tmp_path, HEAVY)) == "[]"


def test_the_classes_are_really_built_and_chat(tmp_path: Path) -> None:
    code = """
from model import VisualGLMModel, chat, load_tokenizer
model, args = VisualGLMModel.from_pretrained("visualglm-tiny")
print(chat("examples/scene.png", model, load_tokenizer("visualglm-tiny"), "车是什么颜色的？", temperature=0)[0])
"""
    names = [name for name in HEAVY if name not in ("transformers", "torchvision")]
    assert "紫色" in run(code, break_modules(tmp_path, names))


def test_deferred_imports_happen_on_use() -> None:
    code = """
import model, sys, torch
assert "transformers" not in sys.modules
from sat.model.official import GPT2Model, ChatGLMModel
from sat.model.official.gpt2_model import gelu
print(round(float(gelu(torch.tensor(1.0))), 3), sys.modules["transformers"].__file__ is not None)
"""
    assert run_after_torch(code) == "0.841 True"


def test_training_needs_deepspeed_only_when_called(tmp_path: Path) -> None:
    code = """
import model, sat
try:
    sat.training_main(None, None, None)
except RuntimeError as error:
    print(error)
"""
    assert run_after_torch(code, break_modules(tmp_path, ["deepspeed"])) == "deepspeed was imported"


def test_what_the_program_imported_itself_stays(tmp_path: Path) -> None:
    (tmp_path / "deepspeed.py").write_text("mark = 7")
    code = """
import deepspeed, model, sys
print(sys.modules["deepspeed"].mark)
"""
    assert run_after_torch(code, tmp_path) == "7"


def test_torch_script_is_restored() -> None:
    assert (
        run_after_torch("import torch; before = torch.jit.script; import model; print(torch.jit.script is before)")
        == "True"
    )


def test_a_missing_sat_is_named_with_the_command_that_installs_it() -> None:
    code = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "sat" else find(name, *rest)
try:
    from model import VisualGLMModel
except ModuleNotFoundError as error:
    print(error)
"""
    assert "pip install --no-deps SwissArmyTransformer" in run_after_torch(code)


def test_looking_for_sat_imports_nothing() -> None:
    code = """
import importlib.util, sys
import model
print(importlib.util.find_spec("sat") is not None, "sat" in sys.modules, "torch" in sys.modules)
import sat
print(sys.modules["sat"] is sat, "model.sat.compat" in sys.modules)
"""
    assert run(code).split() == ["True", "False", "False", "True", "True"]


def test_a_process_group_of_the_program_is_used() -> None:
    code = """
import torch
store = torch.distributed.HashStore()
torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
from model import VisualGLMModel
VisualGLMModel.from_pretrained("visualglm-tiny")
from sat import mpu
print(mpu.get_model_parallel_world_size())
"""
    assert run_after_torch(code) == "1"


@pytest.mark.parametrize("level", ["INFO"])
def test_sats_own_log_level_is_respected(level: str) -> None:
    code = f"""
import os, sys
os.environ["SAT_LOGLEVEL"] = "{level}"
sys.stderr = sys.stdout
import model
print(os.environ["SAT_LOGLEVEL"])
"""
    assert level in run_after_torch(code).splitlines()[-1]
