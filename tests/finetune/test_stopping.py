"""After SIGTERM or SIGINT a training finishes its step and saves; a second signal ends it immediately."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from finetune import stopping
from finetune.checkpoints import Run
from finetune.finetune_visualglm import main
from finetune.optimizer import PlainOptimizer
from finetune.stopping import StopRequest, catch_signals
from finetune.trainer import Trainer
from tests.helpers.finetuning import SHORT, data, train  # noqa: F401
from tests.helpers.ports import free_port
from tests.helpers.preloaded import ForkedProgram

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "finetune" / "finetune_visualglm.py")
PLAIN = [SCRIPT]  # runs in a fork
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", SCRIPT]
DEEPSPEED = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port"]
LONG = ("--train-iters", "100000", "--save-interval", "50000", "--log-interval", "1", "--batch-size", "2")
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def start(launcher: list[str], data: Path, save: Path, *flags: str) -> "subprocess.Popen[str]":  # noqa: F811
    """Start a long training in a new session, and wait for its first step."""
    given = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-data", str(data), "--save", str(save)]
    command = [*launcher, *given, "--use_lora", "--layer_range", "0", *LONG, *flags]
    settings: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True, "cwd": save.parent}
    process = (
        ForkedProgram(command, **settings)
        if launcher is PLAIN
        else subprocess.Popen(command, start_new_session=True, **settings)
    )
    wait_for(process, "step 1/")
    return process


def wait_for(process: "subprocess.Popen[str]", start: str) -> None:
    """Read the error output of a process up to a line that starts with `start`."""
    assert process.stderr is not None
    output = []
    for line in process.stderr:
        output.append(line)
        if line.startswith(start):
            return
    raise AssertionError("".join(output))


def saved_step(save: Path) -> int:
    """Return the step of the only checkpoint of the only run, after checking that it is intact."""
    (run,) = save.iterdir()
    (step,) = Run(run, 9).directory_steps()
    assert Run(run, 9).find_damage(step) is None
    assert json.loads((run / "latest").read_text()) == step
    assert not list(run.glob(".part-*"))
    return step


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_lets_the_training_save(number: signal.Signals, data: Path, tmp_path: Path) -> None:  # noqa: F811
    """The workers get the signal, too, as from a terminal or a service manager."""
    process = start(PLAIN, data, tmp_path / "save", "--num-workers", "2")
    os.killpg(process.pid, number)
    _, output = process.communicate(timeout=100)
    assert process.returncode == 128 + number
    step = saved_step(tmp_path / "save")
    assert number.name in output
    assert f"saved up to step {step} of 100000" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("launcher", [TORCHRUN, DEEPSPEED], ids=["torchrun", "deepspeed"])
def test_a_signal_to_a_launcher_lets_all_processes_save(
    launcher: list[str],
    number: signal.Signals,
    data: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    command = [*launcher, str(free_port()), SCRIPT] if launcher is DEEPSPEED else launcher
    process = start(command, data, tmp_path / "save", "--num-workers", "1")
    # As a terminal does: the outer one of deepspeed's two processes does not forward signals.
    if launcher is DEEPSPEED:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, output = process.communicate(timeout=100)
    assert f"saved up to step {saved_step(tmp_path / 'save')} of 100000" in output


class SlowOptimizer(PlainOptimizer):
    """An optimizer that never finishes its first step."""

    def step(self, lr: float) -> Any:
        print("the step has begun", file=sys.stderr, flush=True)
        time.sleep(10_000)


class SlowToSave(PlainOptimizer):
    """An optimizer whose second checkpoint is never written to its end."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        if (folder.parent / "1").is_dir():
            print("saving has begun", file=sys.stderr, flush=True)
            time.sleep(10_000)


def run_slowly(optimizer: str) -> None:
    """Run the fine-tuning program with an optimizer of this file and the process's command line."""
    from finetune import preparation

    preparation.PlainOptimizer = globals()[optimizer]  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))


def start_slowly(optimizer: str, data: Path, save: Path, line: str, *flags: str) -> "subprocess.Popen[str]":  # noqa: F811
    """Start a training with an optimizer of this file, and wait until it prints `line`."""
    given = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-data", str(data), "--save", str(save)]
    code = f"from tests.finetune.test_stopping import run_slowly; run_slowly({optimizer!r})"
    command = ["-c", code, *given, *SHORT, "--use_lora", "--layer_range", "0", *flags]
    process = ForkedProgram(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    wait_for(process, line)
    return process


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_a_hanging_step(
    number: signal.Signals,
    data: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    process = start_slowly("SlowOptimizer", data, tmp_path, "the step has begun")
    process.send_signal(number)
    wait_for(process, number.name)
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=100) == 128 + number
    process.communicate()


def test_killing_while_a_checkpoint_is_written_keeps_the_last_one_intact(data: Path, tmp_path: Path) -> None:  # noqa: F811
    flags = ("--train-iters", "3", "--save-interval", "1")
    process = start_slowly("SlowToSave", data, tmp_path, "saving has begun", *flags)
    process.send_signal(signal.SIGTERM)
    wait_for(process, "SIGTERM")
    process.kill()  # as launchers do after a grace period
    process.communicate()
    (run,) = tmp_path.iterdir()
    assert Run(run, 9).directory_steps() == [1]
    assert Run(run, 9).find_damage(1) is None
    assert train(data, tmp_path, "--use_lora", "--layer_range", "0", *flags, "--resume") == run
    assert Run(run, 9).directory_steps() == [1, 2, 3]
    assert not list(run.glob(".part-*"))


def test_a_signal_at_the_last_step_stops_nothing(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pause = Trainer._evaluate_and_save

    def signalled(self: Trainer) -> bool:
        self.stop_request.signal = signal.SIGTERM
        return pause(self)

    monkeypatch.setattr(Trainer, "_evaluate_and_save", signalled)
    run = train(data, tmp_path, "--use_lora", "--layer_range", "0", "--save-interval", "9")
    assert Run(run, 9).directory_steps() == [2]


def test_repeated_signals_of_a_launcher_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ended = [100.0], []
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(stopping.os, "_exit", ended.append)
    launched, alone = StopRequest(announces=False, is_launched=True), StopRequest(announces=False)
    for request in (launched, alone):
        request.handle(signal.SIGINT)
    launched.handle(signal.SIGTERM)
    assert not ended
    now[0] += stopping.REPEATED_S
    launched.handle(signal.SIGTERM)
    alone.handle(signal.SIGINT)
    assert ended == [128 + signal.SIGTERM, 128 + signal.SIGINT]


def test_signal_handlers_are_restored_after_a_training() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    threads = threading.active_count()
    with catch_signals(StopRequest()):
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert threading.active_count() == threads
