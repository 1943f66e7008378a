"""transformers' Trainer trains, evaluates and saves the model; TRL's trainers can call its language model."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.prompt import ENGLISH, encode_turns
from tests.helpers.hf_models import load_tiny, tiny_model, tiny_tokenizer

pytest.importorskip("accelerate", reason="accelerate is not installed")
PAIRS = (("你好", "你好！"), ("What is this?", "A red car."), ("图片里有什么？", "有一个圆环。"))


def examples() -> list[dict[str, list[int]]]:
    """Return a few questions without an image, with the answers as labels."""
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


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_model_below_the_head_takes_ids_as_trl_gives_them(side: str) -> None:
    model, rows = tiny_model(), examples()
    length = max(len(row["input_ids"]) for row in rows)

    def pad(row: list[int], value: int) -> list[int]:
        pads = [value] * (length - len(row))
        return [*pads, *row] if side == "left" else [*row, *pads]

    ids = torch.tensor([pad(row["input_ids"], model.config.pad_token_id) for row in rows])
    attention_mask = torch.tensor([pad([1] * len(row["input_ids"]), 0) for row in rows])
    hidden = model.base_model(input_ids=ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    seen = attention_mask.bool()
    assert torch.equal(model.lm_head(hidden)[seen], model(input_ids=ids, attention_mask=attention_mask).logits[seen])
    for row, states, visible in zip(rows, hidden, seen, strict=True):
        alone = model.base_model(input_ids=torch.tensor([row["input_ids"]])).last_hidden_state[0]
        assert torch.allclose(states[visible], alone, atol=1e-4)


@torch.no_grad()
def test_the_model_below_the_head_takes_pixels_as_trl_gives_them() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    ids = torch.tensor([encode_turns(tokenizer, (), "What is this?", ENGLISH, 32).token_ids])
    inputs = {"input_ids": ids, "pixel_values": torch.rand(1, 3, 224, 224)}
    hidden = copy.deepcopy(model).base_model(**inputs, return_dict=True, use_cache=False).last_hidden_state
    assert torch.equal(model.lm_head(hidden), model(**inputs).logits)
    assert not torch.equal(hidden, model.base_model(input_ids=ids).last_hidden_state)


def test_the_model_below_the_head_says_what_it_lacks() -> None:
    backbone, ids = tiny_model().base_model, torch.tensor([examples()[0]["input_ids"]])
    embeddings = backbone.get_input_embeddings()(ids)
    for inputs in ({}, {"inputs_embeds": embeddings}, {"input_ids": ids, "inputs_embeds": embeddings}):
        with pytest.raises(ValueError, match="inputs_embeds"):
            backbone(**inputs)
    with pytest.raises(ValueError, match="sop"):
        backbone(input_ids=ids[:, :3])


@torch.no_grad()
def test_the_model_below_the_head_continues_from_its_cache() -> None:
    model, ids = tiny_model(), torch.tensor([examples()[0]["input_ids"]])
    full = model.base_model(input_ids=ids)
    assert full.past_key_values is None
    prefix = model.base_model(input_ids=ids[:, :-1], use_cache=True)
    position_ids = model.base_model.prepare_positions_and_mask(ids, None, None, None)[0][..., -1:]
    last = model.base_model(input_ids=ids[:, -1:], position_ids=position_ids, past_key_values=prefix.past_key_values)
    assert torch.allclose(last.last_hidden_state, full.last_hidden_state[:, -1:], atol=1e-4)
