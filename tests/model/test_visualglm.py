"""The SAT networks equal the original's: image embeddings, positions, logits and greedy tokens."""

from argparse import Namespace
from typing import Any

import pytest
import torch
from sat.model.cached_autoregressive_model import CachedAutoregressiveMixin
from sat.model.finetune.lora2 import LoraMixin

from model.engine.network import has_foreign_hooks
from model.visualglm import VisualGLMModel
from tests.conftest import build_model, relative_error

TOLERANCE = 1e-5
CASES = ["zh_image", "en_image", "zh_history_image", "zh_text"]


def forward(model: VisualGLMModel, ids: torch.Tensor, case: dict[str, Any], pixels: torch.Tensor) -> torch.Tensor:
    """Return the logits [1, T, V] of a golden case's ids."""
    picture = {"image": pixels[case["image_index"]][None], "pre_image": case["image_start"]}
    with torch.no_grad():
        return model(ids, **(picture if case["image"] else {}))[0]


def test_parameters_have_the_published_names_and_shapes(golden_spec: Any, golden_model: VisualGLMModel) -> None:
    ours = {name: list(parameter.shape) for name, parameter in golden_model.named_parameters()}
    assert ours == golden_spec["sat_parameters"]


def test_image_embeddings(golden_model: VisualGLMModel, golden_pixels: torch.Tensor, golden_numbers: Any) -> None:
    with torch.no_grad():
        embeddings = golden_model.encode_image(golden_pixels)
    assert relative_error(embeddings, golden_numbers["sat/image_embeddings"]) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_logits(
    name: str,
    golden_spec: Any,
    golden_model: VisualGLMModel,
    golden_pixels: torch.Tensor,
    golden_numbers: Any,
) -> None:
    case = golden_spec["cases"][name]
    ids = torch.tensor([case["input_ids"] + case["continuation"]])
    logits = forward(golden_model, ids, case, golden_pixels)[0]
    expected = golden_numbers[f"sat/{name}/logits"]
    assert relative_error(logits[:, :: golden_spec["vocab_stride"]], expected) < TOLERANCE
    assert logits.argmax(-1).tolist() == golden_numbers[f"sat/{name}/argmax"].tolist()


@pytest.mark.parametrize("name", CASES)
def test_positions(name: str, golden_spec: Any, golden_model: VisualGLMModel, golden_numbers: Any) -> None:
    expected = golden_numbers[f"sat/{name}/position_ids"]
    prompt = golden_spec["cases"][name]["input_ids"]
    ids = torch.tensor([prompt + [5] * (expected.shape[-1] - len(prompt))])
    _, positions = golden_model.get_inputs(ids)
    assert positions.tolist() == expected.tolist()


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_by_full_recomputation(
    name: str,
    golden_spec: Any,
    golden_model: VisualGLMModel,
    golden_pixels: torch.Tensor,
    golden_numbers: Any,
) -> None:
    case = golden_spec["cases"][name]
    ids = torch.tensor([case["input_ids"]])
    for expected in golden_numbers[f"sat/{name}/greedy"].tolist():
        token = forward(golden_model, ids, case, golden_pixels)[0, -1].argmax()
        assert token.item() == expected
        ids = torch.cat((ids, token.view(1, 1)), dim=1)


def test_left_padded_batch_gives_each_row_the_logits_that_it_has_alone(
    golden_spec: Any, golden_model: VisualGLMModel, golden_pixels: torch.Tensor
) -> None:
    cases = [golden_spec["cases"][name] for name in CASES]
    prompts = [case["input_ids"] for case in cases]
    longest = max(map(len, prompts))
    pads = [longest - len(prompt) for prompt in prompts]
    ids = torch.tensor([[3] * pad + prompt for pad, prompt in zip(pads, prompts, strict=True)])
    pixels = torch.stack([golden_pixels[case["image_index"] or 0] for case in cases])
    starts = [pad + case["image_start"] if case["image"] else -1 for pad, case in zip(pads, cases, strict=True)]
    with torch.no_grad():
        together = golden_model(ids, image=pixels, pre_image=starts)[0]
    for row, case in enumerate(cases):
        alone = forward(golden_model, torch.tensor([case["input_ids"]]), case, golden_pixels)[0]
        assert relative_error(together[row, pads[row] :], alone) < TOLERANCE


def test_accepts_what_callers_of_the_original_pass(golden_spec: Any, golden_pixels: torch.Tensor) -> None:
    args = VisualGLMModel.get_args(**golden_spec["sat_config"])
    model = VisualGLMModel(args, parallel_output=True).eval()
    case = golden_spec["cases"]["zh_image"]
    ids = torch.tensor([case["input_ids"]])
    before = forward(model, ids, case, golden_pixels)
    model.add_mixin("auto-regressive", CachedAutoregressiveMixin())
    assert not has_foreign_hooks(model)
    assert torch.equal(before, forward(model, ids, case, golden_pixels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_cpu(
    dtype: torch.dtype, golden_spec: Any, golden_model: VisualGLMModel, golden_pixels: torch.Tensor
) -> None:
    case = golden_spec["cases"]["zh_image"]
    ids = torch.tensor([case["input_ids"]])
    expected = forward(golden_model, ids, case, golden_pixels)
    model = build_model(golden_spec).to(dtype)
    actual = forward(model, ids, case, golden_pixels)
    assert actual.dtype == dtype
    assert relative_error(actual, expected) < (1e-2 if dtype == torch.float16 else 3e-2)


def test_rotary_frequencies_do_not_follow_the_dtype(golden_spec: Any) -> None:
    model = build_model(golden_spec)
    before = model.rotary.inv_freq.clone()
    model.bfloat16()
    assert model.rotary.inv_freq.dtype == torch.float32
    assert torch.equal(model.rotary.inv_freq, before)


class Mine(VisualGLMModel):
    """A typical subclass of a user of the original."""

    def __init__(self, args: Any, transformer: Any = None, parallel_output: bool = True, **kwargs: Any) -> None:
        super().__init__(args, transformer=transformer, parallel_output=parallel_output, **kwargs)
        self.add_mixin("lora", LoraMixin(args.num_layers, args.lora_rank, layer_range=[0, 2]), reinit=True)

    @classmethod
    def add_model_specific_args(cls, parser: Any) -> Any:
        parser.add_argument("--lora_rank", type=int, default=4)
        return super().add_model_specific_args(parser)


def test_subclasses_with_lora_answer_as_before_until_trained(golden_spec: Any, golden_pixels: torch.Tensor) -> None:
    case = golden_spec["cases"]["zh_image"]
    ids = torch.tensor([case["input_ids"]])
    plain = build_model(golden_spec)
    expected = forward(plain, ids, case, golden_pixels)
    adapted = Mine(Mine.get_args(**golden_spec["sat_config"])).eval()
    adapted.load_state_dict(plain.state_dict(), strict=False)
    for number in (0, 2):
        layer, source = adapted.transformer.layers[number], plain.transformer.layers[number]
        layer.attention.query_key_value.original.load_state_dict(source.attention.query_key_value.state_dict())
        layer.attention.dense.original.load_state_dict(source.attention.dense.state_dict())
    assert relative_error(forward(adapted, ids, case, golden_pixels), expected) < TOLERANCE
    assert not has_foreign_hooks(adapted)


def test_from_pretrained_takes_the_originals_namespace() -> None:
    model, args = VisualGLMModel.from_pretrained("visualglm-tiny", args=Namespace(bf16=True, skip_init=True))
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert args.image_length == model.image_length == 32
