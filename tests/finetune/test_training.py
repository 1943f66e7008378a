"""Every method trains, saves, resumes with identical results, and can be loaded by the chat."""

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from finetune import checkpoints
from finetune.checkpoints import Run
from finetune.finetune_visualglm import main
from finetune.optimizer import learning_rate_at
from model import load_hf, load_sat
from model.checkpoint.files import open_tensors
from tests.helpers.finetuning import batch_of, data, loss_of, losses_of, train  # noqa: F401
from tests.helpers.preloaded import ForkedProgram, run_forked

ROOT = Path(__file__).parents[2]
METHODS = {
    "lora": ["--use_lora", "--layer_range", "0", "3"],
    "lora everywhere": [
        "--use_lora",
        "--lora_targets",
        "llm",
        "mlp",
        "head",
        "qformer",
        "vit",
        "--lora_dropout",
        "0.1",
    ],
    "qlora": ["--use_qlora"],
    "p-tuning": ["--use_ptuning", "--pre_seq_len", "8"],
    "full": ["--full", "--lr", "2e-4"],
    "full but the image encoder": ["--full", "--freeze", "vit", "qformer", "proj", "--lr", "2e-4"],
    "all weights saved": ["--use_lora", "--save-full"],
}


@pytest.fixture(scope="module")
def base_loss(data: Path) -> float:  # noqa: F811
    """The loss of the base model."""
    return loss_of("visualglm-tiny", data)


@pytest.mark.parametrize("flags", METHODS.values(), ids=METHODS)
def test_a_loaded_run_has_the_loss_of_its_evaluation(
    flags: list[str],
    data: Path,  # noqa: F811
    base_loss: float,
    tmp_path: Path,
) -> None:
    run = train(data, tmp_path, "--valid-data", str(data), "--eval-answers", "1", "--lr", "1e-2", *flags)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluated = [record for record in records if "valid_loss" in record][-1]
    network = load_sat("visualglm-tiny", device="cpu").network
    tokens = int((batch_of(data, network).labels >= 0).sum())
    loss = loss_of(run, data)
    assert loss / tokens == pytest.approx(evaluated["valid_loss"], rel=2e-3)
    assert loss < base_loss
    assert len(evaluated["samples"]) == 1


def test_an_adapter_is_small_and_names_its_base(data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = train(data, tmp_path, "--use_lora")
    tensors = open_tensors(run / "2" / "weights.safetensors")
    assert all(".matrix_" in name for name in tensors)
    assert sum(file.stat().st_size for file in (run / "2").glob("weights*")) < 500_000
    assert json.loads((run / "model_config.json").read_text(encoding="utf-8"))["base_model"] == "visualglm-tiny"
    assert not (run / "ice_text.model").exists()


def test_both_sides_load_a_run(data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = train(data, tmp_path, "--use_lora", "--lr", "3e-2")
    ours, theirs = load_sat(run, device="cpu").network, load_hf(run, device="cpu").network
    batch = batch_of(data, ours)
    with torch.no_grad():
        mask, ids = batch.attention_mask[:1].float(), batch.input_ids[:1]
        length = len(batch.labels[0])
        logits = ours(ids, position_ids=batch.position_ids[:1], attention_mask=mask)[0][0]
        same = theirs(ids).logits[0]
    assert same.shape == logits.shape == (length, ours.vocab_size)
    assert torch.allclose(same, logits, atol=2e-2)


@pytest.mark.parametrize(
    "flags",
    [["--use_lora", "--lora_dropout", "0.2", "--crop", "0.5", "--flip"], ["--use_qlora"], ["--full"]],
    ids=["lora", "qlora", "full"],
)
@pytest.mark.parametrize("more", [[], ["--gradient-accumulation-steps", "2", "--batch-size", "2"]])
def test_resuming_is_bit_identical(
    flags: list[str],
    more: list[str],
    data: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    flags = [*flags, *more, "--train-iters", "4", "--save-interval", "2"]
    straight = train(data, tmp_path / "straight", *flags)
    interrupted = Path(shutil.copytree(straight, tmp_path / "halted" / straight.name))
    shutil.rmtree(Run(interrupted, 9).folder(4))
    resumed = train(data, tmp_path / "halted", *flags, "--resume")
    assert resumed == interrupted
    assert losses_of(resumed) == losses_of(straight)
    ours, theirs = (open_tensors(run / "4" / "weights.safetensors") for run in (resumed, straight))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_training_is_reproducible(data: Path, tmp_path: Path) -> None:  # noqa: F811
    flags = ["--use_lora", "--lora_dropout", "0.2", "--crop", "0.5", "--flip"]
    one, other = (train(data, tmp_path / name, *flags) for name in ("one", "other"))
    assert losses_of(one) == losses_of(other)
    ours, theirs = (open_tensors(run / "2" / "weights.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_only_the_newest_checkpoints_are_kept(data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = train(data, tmp_path, "--use_lora", "--train-iters", "5", "--save-interval", "1", "--keep", "2")
    assert Run(run, 2).steps() == [4, 5]
    assert (run / "latest").read_text() == "5"
    assert load_sat(run / "4", device="cpu") is not None


def test_a_run_resumes_only_with_the_same_settings(
    data: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(data, tmp_path, "--use_lora")
    given = [
        "--from_pretrained",
        "visualglm-tiny",
        "--device",
        "cpu",
        "--train-data",
        str(data),
        "--save",
        str(tmp_path),
    ]
    for flags, words in (
        (["--use_lora", "--batch-size", "3", "--resume"], "examples in a step"),
        (["--use_lora", "--lora_rank", "3", "--resume"], "with the same command"),
        (["--use_lora", "--resume", "elsewhere"], "no run to resume"),
        (["--use_lora", "--layer_range", "0", "14"], "lists layers"),
    ):
        assert main([*given, *flags]) != 0
        assert words in capsys.readouterr().err


def test_resuming_a_complete_run_changes_nothing(data: Path, tmp_path: Path) -> None:  # noqa: F811
    run = train(data, tmp_path, "--use_lora", "--train-iters", "3", "--save-interval", "1")
    assert train(data, tmp_path, "--use_lora", "--train-iters", "2", "--resume") == run
    assert Run(run, 9).steps() == [1, 2, 3]


def test_a_run_can_be_the_base_model_of_another(data: Path, base_loss: float, tmp_path: Path) -> None:  # noqa: F811
    first = train(data, tmp_path / "first", "--use_lora", "--lr", "1e-2")
    second = train(data, tmp_path / "second", "--use_lora", "--from_pretrained", str(first))
    assert loss_of(second, data) < loss_of(first, data) < base_loss


def test_a_nan_loss_stops_the_training(
    data: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-data", str(data), "--num-workers", "0"]
    assert main([*given, "--full", "--lr", "1e30", "--clip-grad", "0", "--save", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "is not a number" in error
    assert "rows " in error


def limit_files() -> None:
    """Limit files to 200,000 bytes, to simulate a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def program(data: Path, save: Path, *flags: str) -> list[str]:  # noqa: F811
    """Return the program that trains, and its arguments."""
    script = str(ROOT / "finetune" / "finetune_visualglm.py")
    given = ["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-data", str(data), "--save", str(save)]
    return [script, *given, "--use_lora", "--log-interval", "1", "--num-workers", "0", *flags]


def test_a_full_disk_is_reported_and_leaves_no_files(data: Path, tmp_path: Path) -> None:  # noqa: F811
    _, *arguments = program(data, tmp_path, "--train-iters", "3", "--save-interval", "1")
    code = "from tests.finetune.test_training import limit_files, main; limit_files(); raise SystemExit(main())"
    done = run_forked(["-c", code, *arguments], paths=(ROOT,), cwd=tmp_path)
    output = done.stderr.decode()
    assert done.returncode == 1, output
    assert "The training continues." in output
    assert "could not be written" in output.splitlines()[-1]
    (run,) = tmp_path.glob("finetune-*")
    assert not [path for path in run.iterdir() if path.is_dir()]


def test_a_failed_last_checkpoint_is_not_reported_as_saved(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = checkpoints.write_tensors
    written: list[Path] = []

    def write_once(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        if written:
            raise OSError("No space left on device")
        written.append(path)
        write(path, tensors)

    monkeypatch.setattr(checkpoints, "write_tensors", write_once)
    _, *arguments = program(data, tmp_path, "--train-iters", "2", "--save-interval", "1")
    assert main(arguments) == 1
    output = capsys.readouterr().err
    assert "The run is" not in output
    assert "up to step 1 of 2" in output


@pytest.mark.slow
def test_a_killed_training_loses_at_most_one_interval(data: Path, tmp_path: Path) -> None:  # noqa: F811
    flags = ["--train-iters", "12", "--save-interval", "1", "--keep", "2"]
    # In a separate process, too: with the same number of threads, sums are identical to the last bit.
    command = program(data, tmp_path / "straight", "--lr", "1e-3", *flags)
    assert run_forked(command).returncode == 0
    (straight,) = (tmp_path / "straight").iterdir()
    save = tmp_path / "killed"
    command = program(data, save, "--lr", "1e-3", *flags)
    reached = 0
    for round_ in range(4):
        process = ForkedProgram([*command, *(["--resume"] if round_ else [])], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step") and int(line.split()[1].split("/")[0]) >= min(reached + 3, 12):
                break
        if round_ < 3:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        (run,) = save.iterdir()
        steps = Run(run, 2).steps()
        assert steps[-1] >= reached
        reached = steps[-1]
        assert loss_of(run, data) > 0
    assert reached == 12
    ours, theirs = (open_tensors(path / "12" / "weights.safetensors") for path in (run, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list(run.glob(".part-*"))


@pytest.mark.parametrize("style", ["constant", "linear", "cosine", "exponential"])
def test_the_learning_rate_rises_and_decays(style: str) -> None:
    rates = [
        learning_rate_at(step, 100, 2.0, style=style, warmup=0.1, ratio=0.25, decay_steps=None) for step in range(101)
    ]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == pytest.approx(2.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(2.0 if style == "constant" else 0.5)


def test_lora_dropout_is_active_only_in_training(data: Path, tmp_path: Path) -> None:  # noqa: F811
    flags = ["--use_lora", "--lr", "1e-2", "--valid-data", str(data), "--eval-answers", "1", "--train-iters", "3"]
    plain = train(data, tmp_path / "plain", *flags)
    dropped = train(data, tmp_path / "hiding", *flags, "--lora_dropout", "0.5")
    again = train(data, tmp_path / "again", *flags, "--lora_dropout", "0.5", "--checkpoint-activations")
    assert losses_of(plain)[1] == losses_of(dropped)[1]  # LoRA starts with B = 0, so dropout has no effect
    assert losses_of(plain)[3] != losses_of(dropped)[3]
    assert losses_of(again)[3] == pytest.approx(losses_of(dropped)[3], rel=1e-5)
    records = [json.loads(line) for line in (dropped / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluated = [record["valid_loss"] for record in records if "valid_loss" in record][-1]
    tokens = int((batch_of(data, load_sat("visualglm-tiny", device="cpu").network).labels >= 0).sum())
    assert loss_of(dropped, data) / tokens == pytest.approx(evaluated, rel=1e-4)
