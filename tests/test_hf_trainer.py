"""transformers' Trainer trains, evaluates and saves the Hugging Face model; TRL's trainers call its language model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.hf_models import load_tiny, tiny_tokenizer

pytest.importorskip("accelerate", reason="accelerate is not installed")
PAIRS = (("你好", "你好！"), ("What is this?", "A red car."), ("图片里有什么？", "有一个圆环。"))


def examples() -> list[dict[str, list[int]]]:
    """Return a few questions without a picture, whose answers are the labels."""
    tokenizer, rows = tiny_tokenizer(), []
    for question, answer in PAIRS:
        prompt = tokenizer.encode(f"问：{question}\n答：")
        learned = [*tokenizer.encode_text(answer), tokenizer.eos_token_id]
        rows.append({"input_ids": prompt + learned, "labels": [-100] * len(prompt) + learned})
    return rows


def trainer(directory: Path, **options: Any) -> Any:
    """Build a Trainer of visualglm-tiny on the CPU."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(directory), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False, dataloader_pin_memory=False, **options,
    )  # fmt: skip
    return Trainer(
        load_tiny(),
        arguments,
        train_dataset=examples(),
        eval_dataset=examples(),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer()),
        processing_class=tiny_tokenizer(),
        compute_metrics=lambda result: {"rows": len(result.predictions), "vocabulary": result.predictions.shape[-1]},
    )


def test_trainer_trains_evaluates_and_saves(tmp_path: Path) -> None:
    training = trainer(tmp_path, eval_strategy="steps", eval_steps=1, save_steps=2)
    before = training.evaluate()["eval_loss"]
    training.train()
    result = training.evaluate()
    assert np.isfinite(before)
    assert result["eval_loss"] != before
    assert (result["eval_rows"], result["eval_vocabulary"]) == (len(PAIRS), load_tiny().config.vocab_size)
    saved = tmp_path / "checkpoint-2"
    assert "auto_map" in json.loads((saved / "tokenizer_config.json").read_text())
    assert "auto_map" in json.loads((saved / "config.json").read_text())
