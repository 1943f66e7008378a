"""Cached decoding computes the same as full recomputation, also with a foreign mixin."""

import itertools
from typing import Any

import pytest
import torch
from sat.model.base_model import BaseMixin, non_conflict
from sat.model.finetune.prompt_tuning import PTuningV2Mixin
from sat.transformer_defaults import standard_attention

from model.engine import GenerationConfig, Request, generate
from model.engine.batch import log_once, make_decoder
from model.engine.decoder import EagerDecoder, FallbackDecoder, Prefill
from model.engine.kv_cache import KVCache
from model.engine.layers import Layers
from model.kernels.torch_ops import positions_2d
from model.visualglm import VisualGLMModel
from tests.conftest import build_model, relative_error

CASES = ["zh_image", "en_image", "zh_history_image", "zh_text"]
GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0)
END = 130005


def embeddings(model: VisualGLMModel, case: dict[str, Any], pixels: torch.Tensor) -> torch.Tensor | None:
    """Return the image embeddings [1, L, D] of a golden case."""
    with torch.no_grad():
        return model.encode_image(pixels[case["image_index"]][None]) if case["image"] else None


def drain(prefill: Prefill) -> torch.Tensor:
    """Run a prefill to its end; return the logits of the first new tokens."""
    while True:
        try:
            next(prefill)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def make_request(case: dict[str, Any], images: torch.Tensor | None) -> Request:
    """Return the prompt of a golden case."""
    return Request(case["input_ids"], GREEDY, images=images, image_start=case["image_start"] or 0)


def build_prefixed(golden_spec: Any) -> VisualGLMModel:
    """Return the small model of the golden outputs, with a P-tuning prefix."""
    model = build_model(golden_spec)
    num_heads, layers = model.num_heads, len(model.transformer.layers)
    prefix = PTuningV2Mixin(layers, model.transformer.hidden_size // num_heads, num_heads, 5)
    generator = torch.Generator().manual_seed(5)
    for layer in prefix.prefix:
        layer.data = torch.randn(layer.shape, generator=generator)
    model.add_mixin("ptuning", prefix)
    return model


@pytest.fixture(scope="module")
def prefixed_model(golden_spec: Any) -> VisualGLMModel:
    """The goldens' model with a prefix, shared by tests: do not modify it."""
    return build_prefixed(golden_spec)


@pytest.mark.parametrize("decoder_class", [EagerDecoder, FallbackDecoder])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["golden_model", "prefixed_model"])
def test_cached_logits_equal_full_recomputation(
    name: str, decoder_class: Any, kind: str, golden_spec: Any, golden_pixels: torch.Tensor, request: Any
) -> None:
    model = request.getfixturevalue(kind)
    if decoder_class is EagerDecoder:
        assert isinstance(make_decoder(model), EagerDecoder)
    case = golden_spec["cases"][name]
    images = embeddings(model, case, golden_pixels)
    ids = case["input_ids"] + case["continuation"]
    image = {} if images is None else {"image_embeddings": images, "pre_image": case["image_start"]}
    with torch.no_grad():
        expected = model(torch.tensor([ids]), **image)[0][0]
        decoder = decoder_class(Layers(model) if decoder_class is EagerDecoder else model)
        decoder.grow(1, len(ids))
        actual = [drain(decoder.prefill(0, [make_request(case, images)]))]
        first = len(case["input_ids"]) + 1
        actual += [decoder.decode(torch.tensor([token]), first + n) for n, token in enumerate(case["continuation"])]
    start = len(case["input_ids"]) - 1
    assert relative_error(torch.cat(actual), expected[start:]) < 1e-5


@pytest.mark.parametrize("decoder_class", [EagerDecoder, FallbackDecoder])
@pytest.mark.parametrize("kind", ["golden_model", "prefixed_model"])
def test_batched_logits_equal_separate_logits(
    decoder_class: Any, kind: str, golden_spec: Any, golden_pixels: torch.Tensor, request: Any
) -> None:
    model = request.getfixturevalue(kind)
    cases = [golden_spec["cases"][name] for name in CASES]
    images = {id(case): embeddings(model, case, golden_pixels) for case in cases}
    steps = min(len(case["continuation"]) for case in cases)
    longest = max(len(case["input_ids"]) for case in cases)

    def run(chosen: list[dict[str, Any]], groups: list[int], freed_slot: int | None = None) -> torch.Tensor:
        """Decode cases in one batch, prefilled in `groups`; free `freed_slot` before the last step."""
        decoder = decoder_class(Layers(model) if decoder_class is EagerDecoder else model)
        decoder.grow(len(chosen), longest + steps)
        for start, end in itertools.pairwise(itertools.accumulate(groups, initial=0)):
            drain(decoder.prefill(start, [make_request(case, images[id(case)]) for case in chosen[start:end]]))
        for step in range(steps):
            if freed_slot is not None and step == steps - 1:
                last = len(chosen) - 1
                decoder.move(last, freed_slot, len(chosen[last]["input_ids"]) + step)
                chosen = [*chosen[:freed_slot], chosen[-1], *chosen[freed_slot + 1 : -1]]
            longest_now = max(len(case["input_ids"]) for case in chosen) + step + 1
            logits = decoder.decode(torch.tensor([case["continuation"][step] for case in chosen]), longest_now)
        return logits

    with torch.no_grad():
        separate = torch.cat([run([case], [1]) for case in cases])
        assert relative_error(run(cases, [1, 1, 1, 1]), separate) < 1e-5
        assert relative_error(run(cases, [1, 3]), separate) < 1e-5
        assert relative_error(run(cases, [4], freed_slot=1), separate[[0, 3, 2]]) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_greedy_tokens_are_the_original_ones(
    name: str,
    golden_spec: Any,
    golden_model: VisualGLMModel,
    golden_pixels: torch.Tensor,
    golden_numbers: Any,
) -> None:
    case = golden_spec["cases"][name]
    expected = golden_numbers[f"sat/{name}/greedy"].tolist()
    steps = generate(
        golden_model,
        Request(
            case["input_ids"],
            GREEDY.replace(max_new_tokens=len(expected)),
            images=embeddings(golden_model, case, golden_pixels),
            image_start=case["image_start"],
        ),
        eos_token_id=END,
    )
    assert [output.token_id for output in steps] == expected


class SharpAttention(BaseMixin):
    """A foreign mixin that changes the attention."""

    @non_conflict
    def attention_fn(
        self,
        q: Any,
        k: Any,
        v: Any,
        mask: Any,
        dropout_fn: Any,
        old_impl: Any = standard_attention,
        **kw: Any,
    ) -> Any:
        return old_impl(3 * q, k, v, mask, dropout_fn, **kw)


def test_a_foreign_mixin_with_a_known_name_uses_the_fallback_decoder(golden_spec: Any) -> None:
    model = build_model(golden_spec)
    model.add_mixin("ptuning", SharpAttention())
    assert isinstance(make_decoder(model), FallbackDecoder)


def test_a_foreign_mixin_changes_the_answer(
    golden_spec: Any, golden_pixels: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    log_once.cache_clear()
    model = build_model(golden_spec)
    case = golden_spec["cases"]["zh_image"]
    images = embeddings(model, case, golden_pixels)

    def answer() -> list[int | None]:
        config = GREEDY.replace(max_new_tokens=8)
        prompt = {"images": images, "image_start": case["image_start"]}
        return [
            output.token_id
            for output in generate(model, Request(case["input_ids"], config, **prompt), eos_token_id=END)
        ]

    before = answer()
    model.add_mixin("sharp", SharpAttention())
    assert isinstance(make_decoder(model), FallbackDecoder)
    ids = torch.tensor([case["input_ids"]])
    after = answer()
    assert after != before
    assert [record.levelname for record in caplog.records if "complete model" in record.message] == ["WARNING"]
    with torch.no_grad():  # the mixin's own full forward pass is the reference
        for token in after:
            logits = model(ids, image_embeddings=images, pre_image=case["image_start"])[0]
            assert logits[0, -1].argmax() == token
            ids = torch.cat((ids, torch.tensor([[token]])), dim=1)


@pytest.mark.parametrize("name", ["transformer.layers.1.attention.query_key_value", "mixins.chatglm-final.lm_head"])
def test_a_torch_hook_on_a_module_is_called_for_every_token(name: str, golden_spec: Any) -> None:
    model = build_model(golden_spec)
    seen: list[int] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[1])
    )
    prompt = golden_spec["cases"]["zh_text"]["input_ids"]
    hooked = [
        output.token_id
        for output in generate(model, Request(prompt, GREEDY.replace(max_new_tokens=4)), eos_token_id=END)
    ]
    assert seen == [len(prompt), 1, 1, 1]
    handle.remove()
    free = [
        output.token_id
        for output in generate(model, Request(prompt, GREEDY.replace(max_new_tokens=4)), eos_token_id=END)
    ]
    assert free == hooked
    assert len(seen) == 4


@pytest.mark.parametrize("context", [1, 5, 19])
def test_slots_have_the_rotary_tables_of_their_positions(context: int, golden_model: VisualGLMModel) -> None:
    capacity = 20
    cache = KVCache(1, (2, 1, capacity, 4 * len(golden_model.rotary.inv_freq)), torch.device("cpu"), torch.float32)
    cache.set_positions(torch.tensor([1]), torch.tensor([context]), Layers(golden_model).cos_sin_table)
    positions = positions_2d(torch.arange(capacity), context)
    angles = golden_model.rotary.angles(positions.transpose(0, 1)).flatten(1)
    signs = torch.tensor([-1.0, 1.0]).repeat_interleave(angles.shape[1] // 4).repeat(2)
    assert torch.allclose(cache.cos[1], angles.cos()) and torch.allclose(cache.sin[1], angles.sin() * signs)
