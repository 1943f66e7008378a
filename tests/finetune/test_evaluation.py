"""Training and `finetune.compare` score answers alike, with the generation settings of the model's directory."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune.compare import main as compare
from finetune.progress import LOG_NAME
from model import CheckpointError, GenerationConfig, SatChatModel, load_hf, load_sat
from model.chat_model import demo_config
from model.checkpoint.resolve import EMBEDDED
from model.prompt import clean_answer
from tests.helpers.finetuning import train

LABELS = ["It is a cat .", "①", " Ｙｅｓ ", "有一只球,红色的!", "a " * 300 + "b"]
WRITTEN = {"repetition_penalty": 1.3, "top_k": 7, "temperature": 0.5, "top_p": 0.9}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Questions without an image, whose answers the tokenizer decodes differently; two in one conversation."""
    rows: list[dict[str, Any]] = [{"prompt": f"question {index}", "label": label} for index, label in enumerate(LABELS)]
    messages = [{"role": "user", "content": "甲"}, {"role": "assistant", "content": "③"}]
    path = tmp_path / "data.json"
    path.write_text(json.dumps([*rows, {"messages": messages * 2}]), encoding="utf-8")
    return path


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch, data: Path) -> list[GenerationConfig]:
    """Make every model generate the tokens of each question's label, up to its limit; collect the settings."""
    rows = json.loads(data.read_text(encoding="utf-8"))
    labels = {row["prompt"]: row["label"] for row in rows if "prompt" in row} | {"甲": "③"}
    seen: list[GenerationConfig] = []

    def answer(
        model: SatChatModel, questions: Sequence[Any], config: GenerationConfig, max_batch_size: int = 16
    ) -> list[str]:
        seen.append(config)
        tokenizer = model.tokenizer
        ids = [tokenizer.encode_text(labels[question])[: config.max_new_tokens] for _, question in questions]
        return [clean_answer(tokenizer.clean_up_spaces(tokenizer.decode_text(one))) for one in ids]

    monkeypatch.setattr(SatChatModel, "answer_batch", answer)
    return seen


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A copy of visualglm-tiny with other sampling settings."""
    folder = tmp_path / "base"
    shutil.copytree(EMBEDDED / "visualglm-tiny", folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **WRITTEN}), encoding="utf-8")
    return folder


def test_training_and_compare_count_the_same_correct_answers(
    data: Path, perfect: list[GenerationConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(data, tmp_path / "runs", "--train-iters", "1", "--use_lora", "--valid-data", str(data))
    records = [json.loads(line) for line in (run / LOG_NAME).read_text(encoding="utf-8").splitlines()]
    assert [record["valid_exact"] for record in records if "valid_exact" in record] == [1.0]
    capsys.readouterr()
    assert compare([str(run), str(run), "--data", str(data), "--device", "cpu", "--show", "0"]) == 0
    assert capsys.readouterr().out.count(f"{len(LABELS) + 2} of {len(LABELS) + 2} (100.0 %)") == 2


def test_a_run_is_evaluated_with_the_settings_of_its_directory(
    data: Path, perfect: list[GenerationConfig], base: Path, tmp_path: Path
) -> None:
    flags = ("--from_pretrained", str(base), "--train-iters", "1", "--use_lora", "--valid-data", str(data))
    run = train(data, tmp_path / "runs", *flags)
    trained = perfect.pop()
    assert compare([str(run), str(run), "--data", str(data), "--device", "cpu"]) == 0
    for config in (trained, *perfect[-2:]):
        assert (config.repetition_penalty, config.temperature) == (WRITTEN["repetition_penalty"], 0)
    assert load_sat(run, device="cpu").sampling == load_hf(run, device="cpu").sampling == WRITTEN


def test_a_directorys_settings_override_the_demo_settings_except_lengths(base: Path) -> None:
    path = base / "generation_config.json"
    path.write_text(json.dumps({**WRITTEN, "max_length": 9, "min_length": 9, "do_sample": False}), encoding="utf-8")
    config = demo_config(load_sat(base, device="cpu"))
    assert config == demo_config(None).replace(**WRITTEN).replace(temperature=0)
    path.unlink()
    assert demo_config(load_sat(base, device="cpu")) == demo_config(None)


@pytest.mark.parametrize("content", ["{", "[]", '{"top_k": "many"}', '{"repetition_penalty": 0.5}'])
def test_an_error_of_invalid_settings_names_their_file(content: str, base: Path) -> None:
    (base / "generation_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        load_sat(base, device="cpu")
