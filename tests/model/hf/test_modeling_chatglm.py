"""The transformers network matches the original and our SAT network; it loads, saves and trains."""

import json
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from model import CheckpointError, VisualGLMModel
from model.hf import ChatGLMConfig
from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from tests.conftest import relative_error
from tests.helpers.hf_models import (
    CASES,
    SPEC,
    TINY,
    build_golden,
    golden_model,
    image_arguments,
    left_padded_batch,
    prompt_ids,
    tiny_model,
    tiny_tokenizer,
)

TOLERANCE = 1e-5


def full_ids(name: str) -> torch.Tensor:
    """Return the ids [1, T] of a golden case's prompt and answer."""
    case = SPEC["cases"][name]
    return torch.tensor([case["input_ids"] + case["continuation"]])


@torch.no_grad()
def logits_of(model: HfModel, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Return the logits [B, T, V]."""
    return model(input_ids, **kwargs).logits


def test_parameters_have_the_published_names_and_shapes() -> None:
    ours = {name: list(parameter.shape) for name, parameter in golden_model().named_parameters()}
    assert ours == SPEC["hf_parameters"]
    assert set(golden_model().state_dict()) == set(ours)


def test_image_embeddings(golden_pixels: torch.Tensor, golden_numbers: Any) -> None:
    with torch.no_grad():
        embeddings = golden_model().encode_image(golden_pixels)
    assert relative_error(embeddings, golden_numbers["hf/image_embeddings"]) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_logits_are_the_originals(name: str, golden_pixels: torch.Tensor, golden_numbers: Any) -> None:
    logits = logits_of(golden_model(), full_ids(name), **image_arguments(name, golden_pixels))[0]
    assert relative_error(logits[:, :: SPEC["vocab_stride"]], golden_numbers[f"hf/{name}/logits"]) < TOLERANCE
    assert logits.argmax(-1).tolist() == golden_numbers[f"hf/{name}/argmax"].tolist()


@pytest.mark.parametrize("image", [True, False])
def test_logits_are_those_of_the_sat_network(image: bool, golden_pixels: torch.Tensor) -> None:
    sat, _ = VisualGLMModel.from_pretrained("visualglm-tiny", args=Namespace(device="cpu"))
    start = tiny_tokenizer().encode_text("<img>")
    middle = [3] * 32 + tiny_tokenizer().encode_text("</img>问：有几个物体？\n答：") if image else [9, 8, 7]
    ids = torch.tensor([tiny_tokenizer().build_inputs_with_special_tokens(start + middle, [20, 30])])
    image_inputs = {"images": golden_pixels[:1], "pre_image_length": len(start)}
    with torch.no_grad():
        expected = sat.float()(ids, **({"image": golden_pixels[:1], "pre_image": len(start)} if image else {}))[0]
    assert relative_error(logits_of(tiny_model(), ids, **(image_inputs if image else {})), expected) < TOLERANCE


@pytest.mark.parametrize("masked", [True, False])
def test_a_left_padded_batch_gives_each_row_the_logits_that_it_has_alone(
    masked: bool, golden_pixels: torch.Tensor
) -> None:
    batch = left_padded_batch(golden_pixels)
    if not masked:
        del batch["attention_mask"]
    together = logits_of(golden_model(), **batch)
    for row, name in enumerate(CASES):
        alone = logits_of(golden_model(), prompt_ids(name), **image_arguments(name, golden_pixels))[0]
        assert relative_error(together[row, -len(alone) :], alone) < TOLERANCE


@pytest.mark.parametrize("steps", [1, 4])
def test_tokens_after_a_cache_get_the_logits_that_they_have_in_the_whole(
    steps: int, golden_pixels: torch.Tensor
) -> None:
    model, ids = golden_model(), full_ids("zh_image")
    image_inputs = image_arguments("zh_image", golden_pixels)
    full = logits_of(model, ids, **image_inputs)
    length = len(SPEC["cases"]["zh_image"]["input_ids"])
    with torch.no_grad():
        first = model(ids[:, :length], use_cache=True, **image_inputs)
        inputs = model.prepare_inputs_for_generation(
            ids[:, : length + steps], first.past_key_values, torch.ones(1, length + steps), use_cache=True
        )
        later = model(**inputs).logits
    assert inputs["input_ids"].shape == (1, steps)
    assert relative_error(later, full[:, length : length + steps]) < TOLERANCE


def test_the_last_logits_alone_are_the_same(golden_pixels: torch.Tensor) -> None:
    image_inputs = image_arguments("zh_image", golden_pixels)
    full = logits_of(golden_model(), full_ids("zh_image"), **image_inputs)
    last = logits_of(golden_model(), full_ids("zh_image"), logits_to_keep=2, **image_inputs)
    assert last.shape[1] == 2
    assert relative_error(last, full[:, -2:]) < TOLERANCE


def test_hidden_states_and_tuples(golden_pixels: torch.Tensor) -> None:
    with torch.no_grad():
        outputs = golden_model()(full_ids("zh_text"), output_hidden_states=True, use_cache=False)
        plain = golden_model()(full_ids("zh_text"), use_cache=False, return_dict=False)
    assert len(outputs.hidden_states) == SPEC["hf_config"]["num_layers"] + 1
    assert torch.equal(golden_model().lm_head(outputs.hidden_states[-1]), outputs.logits)
    assert outputs.past_key_values is None
    assert torch.equal(plain[0], outputs.logits)


def test_inputs_that_do_not_fit_together_are_refused(golden_pixels: torch.Tensor) -> None:
    model, ids = golden_model(), prompt_ids("zh_image")
    with pytest.raises(ValueError, match="pre_image_length"):
        model(ids, images=golden_pixels[:1])
    with pytest.raises(ValueError, match="<sop>"):
        model(ids[:, :-1])
    with pytest.raises(ValueError, match=r"\[B, 2, T\]"):
        model(ids, position_ids=torch.arange(ids.shape[1])[None])
    with pytest.raises(ValueError, match="attention_mask"):
        model(ids, attention_mask=torch.ones(1, 3))
    with pytest.raises(ValueError, match="position_ids"):
        model(ids[:, -1:], past_key_values=model(ids).past_key_values)


def test_another_chatglm_is_refused() -> None:
    with pytest.raises(CheckpointError, match="eva_config"):
        HfModel(ChatGLMConfig(num_layers=1, hidden_size=8, vocab_size=8))


def test_the_loss_is_the_cross_entropy_of_the_next_token(golden_pixels: torch.Tensor) -> None:
    ids, image_inputs = full_ids("zh_image"), image_arguments("zh_image", golden_pixels)
    labels = ids.clone()
    labels[:, : len(SPEC["cases"]["zh_image"]["input_ids"])] = -100
    with torch.no_grad():
        outputs = golden_model()(ids, labels=labels, **image_inputs)
    taught = labels[0, 1:] != -100
    chosen = outputs.logits[0, :-1].log_softmax(-1)[taught].gather(1, ids[0, 1:][taught][:, None])
    assert outputs.loss.item() == pytest.approx(-chosen.mean().item(), rel=1e-5)


def gradients(model: HfModel, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradient of each parameter for a golden case's loss."""
    ids = full_ids("zh_image")
    model.train()
    model(ids, labels=ids, **image_arguments("zh_image", pixels)).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_gradient_checkpointing_changes_no_gradient(golden_pixels: torch.Tensor) -> None:
    plain = gradients(build_golden(), golden_pixels)
    model = build_golden()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5 prefers a name that 4 lacks
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert all(layer.gradient_checkpointing for layer in model.transformer.layers)
    checkpointed = gradients(model, golden_pixels)
    assert plain.keys() == checkpointed.keys() == dict(model.named_parameters()).keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradient, checkpointed[name], atol=1e-6), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_follows_float32(dtype: torch.dtype, golden_pixels: torch.Tensor) -> None:
    image_inputs = image_arguments("zh_image", golden_pixels)
    expected = logits_of(golden_model(), full_ids("zh_image"), **image_inputs)
    model = build_golden().to(dtype)
    actual = logits_of(model, full_ids("zh_image"), **image_inputs)
    assert actual.dtype == model.dtype == dtype
    assert relative_error(actual, expected) < (1e-2 if dtype == torch.float16 else 3e-2)


def test_a_saved_model_loads_bit_for_bit(tmp_path: Path) -> None:
    model = build_golden()
    model.save_pretrained(tmp_path)
    loaded, report = HfModel.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    assert loaded.lm_head.weight.data_ptr() != loaded.transformer.word_embeddings.weight.data_ptr()


def test_published_files_load_with_their_frequencies_and_a_wrong_word_on_ties(tmp_path: Path) -> None:
    tensors = {f"transformer.layers.{n}.attention.rotary_emb.inv_freq": torch.ones(4) for n in range(3)}
    tensors |= {name: tensor.clone() for name, tensor in golden_model().state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = {**SPEC["hf_config"], "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded, report = HfModel.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert torch.equal(loaded.lm_head.weight, golden_model().lm_head.weight)
    assert not torch.equal(loaded.lm_head.weight, loaded.transformer.word_embeddings.weight)


def test_a_saved_model_is_complete_with_its_tokenizer(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    assert (tmp_path / "modeling_chatglm.py").is_file()
    assert AutoTokenizer.from_pretrained(tmp_path).encode("你好") == tiny_tokenizer().encode("你好")
    assert load_file(tmp_path / "model.safetensors").keys() == tiny_model().state_dict().keys()


def test_sizes_that_callers_ask_for() -> None:
    model = tiny_model()
    assert model.image_length == 32
    assert model.device.type == "cpu"
    assert model.dtype == torch.float32
    assert model.config.num_hidden_layers == model.config.num_layers
    assert model.can_generate()
    assert json.loads((TINY / "config.json").read_text())["eva_config"]["image_size"] == [model.image_size] * 2
