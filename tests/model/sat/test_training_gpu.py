"""Training our model with SAT's `training_main`, as the original does; its checkpoint can be used for chat."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
from sat.model import AutoModel

from model import chat, load_tokenizer
from tests.helpers.sat_programs import ROOT, sat_directory  # noqa: F401

MISSING = [name for name in ("deepspeed", "wandb") if importlib.util.find_spec(name) is None]
PROGRAM = ROOT / "tests" / "helpers" / "sat_training_program.py"


@pytest.mark.gpu
@pytest.mark.skipif(bool(MISSING), reason=f"SAT's training imports {' and '.join(MISSING)}")
@pytest.mark.parametrize("method", ["--use_lora", "--use_ptuning"])
def test_training_main_trains_our_model(method: str, base: str, tmp_path: Path) -> None:
    zipfile.ZipFile(ROOT / "fewshot-data.zip").extractall(tmp_path)
    data = tmp_path / "fewshot-data" / "dataset.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", str(PROGRAM)]
    command += [base, str(data), method, "--lora_rank", "10", "--pre_seq_len", "8"]
    command += [
        "--save",
        str(tmp_path / "runs"),
        "--experiment-name",
        "sat",
        "--train-iters",
        "400",
        "--mode",
        "finetune",
    ]
    command += ["--batch-size", "4", "--lr", "0.01", "--fp16", "--log-interval", "20", "--save-interval", "400"]
    command += ["--eval-interval", "1000", "--num-workers", "0", "--skip-init", "--zero-stage", "1", "--split", "1"]
    command += ["--warmup", "0.02", "--checkpoint-activations"] if method == "--use_ptuning" else []
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    losses = [float(loss) for loss in re.findall(r"^loss (\S+)", done.stdout, re.MULTILINE)]
    assert len(losses) == 400
    assert sum(losses[-20:]) < sum(losses[:20]) / 2, losses[::20]
    (run,) = (tmp_path / "runs").iterdir()
    rows = json.loads(data.read_text(encoding="utf-8"))
    given = [answer_of(run, data.parents[1] / row["img"]) for row in rows[:8]]
    # SAT uses a twentieth of the learning rate for the first hundred steps. At the end, LoRA knows the form of answers.
    if method == "--use_lora":
        assert all(answer.startswith("图片中是") for answer in given), (given, losses[::20])
    assert given != [answer_of(Path(base), data.parents[1] / row["img"]) for row in rows[:8]]


def environment() -> dict[str, str]:
    """Return an environment in which the program finds the packages and our modules."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "WANDB_MODE": "disabled"}


def answer_of(run: Path, picture: Path) -> str:
    """Return a trained checkpoint's answer about an image."""
    network, _ = AutoModel.from_pretrained(str(run), args=Namespace(fp16=True, skip_init=True, device="cuda"))
    tokenizer = load_tokenizer("visualglm-tiny")
    return chat(str(picture), network.eval(), tokenizer, "这张图片的背景里有什么内容？", temperature=0)[0]
