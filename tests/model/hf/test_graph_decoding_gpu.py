"""On a GPU: decoding with CUDA graphs gives the same answers as calling the network."""

import copy
import threading
from typing import Any

import pytest
import torch

from model.hf.generation_chatglm import CAPACITY_STEP, supports_graphs
from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage as HfModel
from tests.conftest import relative_error
from tests.helpers.hf_models import TINY, build_golden, left_padded_batch, tiny_model, tiny_tokenizer
from tests.model.hf.test_gpu import GREEDY, QUESTIONS, SCENE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(dtype: torch.dtype = torch.float32) -> HfModel:
    """Return a new copy of visualglm-tiny on the GPU."""
    return copy.deepcopy(tiny_model()).to("cuda", dtype)


def graphs_of(model: HfModel) -> set[int]:
    """Return the attended lengths of the captured graphs."""
    return set() if model.graph_cache.idle is None else set(model.graph_cache.idle.graphs)


def without_graphs(model: HfModel, ids: torch.Tensor, **settings: Any) -> Any:
    """Generate layer by layer."""
    model.graph_cache.enabled = False
    found = model.generate(ids, **settings)
    model.graph_cache.enabled = True
    return found


def assert_same(model: HfModel, tolerance: float, ids: torch.Tensor, **settings: Any) -> None:
    """Compare logits, in half precision only up to the first different token; in float32, tokens as well."""
    asked = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12, **settings}
    asked.update(return_dict_in_generate=True, output_logits=True)
    expected = without_graphs(model, ids, **asked)
    for _ in range(2):  # captured, then replayed
        found = model.generate(ids, **asked)
        equal = (found.sequences == expected.sequences).cumprod(dim=1).bool()
        assert equal.all() or model.dtype == torch.float16
        for step, (ours, other) in enumerate(zip(found.logits, expected.logits, strict=True)):
            rows = equal[:, ids.shape[1] + step - 1]
            if rows.any():
                assert relative_error(ours[rows], other[rows].cpu()) < tolerance
    assert graphs_of(model)


def prompt_of(model: HfModel, length: int, rows: int = 1) -> torch.Tensor:
    """Return random ids [rows, length] that end with [gMASK] <sop>."""
    ids = torch.randint(20, 60, (rows, length), generator=torch.Generator().manual_seed(length))
    ids[:, -2:] = torch.tensor([model.config.gmask_token_id, model.config.bos_token_id])
    return ids.cuda()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 2e-2)])
def test_single_sequences_and_batches(dtype: torch.dtype, tolerance: float) -> None:
    model = build_golden().to("cuda", dtype)
    for length in (49, CAPACITY_STEP - 6):
        assert_same(model, tolerance, prompt_of(model, length))
    assert graphs_of(model) == {2 * CAPACITY_STEP}
    assert_same(model, tolerance, prompt_of(model, 600))
    assert_same(model, tolerance, prompt_of(model, 5))
    assert graphs_of(model) == {CAPACITY_STEP, 3 * CAPACITY_STEP}
    assert_same(model, tolerance, prompt_of(model, 49, rows=3))


def test_full_buffers_are_replaced_by_larger_ones() -> None:
    model = build_golden().cuda()
    assert_same(model, 1e-4, prompt_of(model, CAPACITY_STEP // 2 - 8), max_new_tokens=140, min_new_tokens=140)
    assert graphs_of(model) == {2 * CAPACITY_STEP}


def test_padded_batch_with_images(golden_pixels: torch.Tensor) -> None:
    model = build_golden().cuda()
    batch = {name: tensor.cuda() for name, tensor in left_padded_batch(golden_pixels).items()}
    assert_same(model, 1e-4, batch.pop("input_ids"), **batch)


@pytest.mark.parametrize("changes", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams(changes: dict[str, Any]) -> None:
    model = build_golden().cuda()
    ids, settings = prompt_of(model, 40), {"max_new_tokens": 12, "do_sample": False, **changes}
    assert torch.equal(model.generate(ids, **settings), without_graphs(model, ids, **settings))
    assert graphs_of(model)


def test_ptuning() -> None:
    model = build_golden(pre_seq_len=5).cuda()
    assert_same(model, 1e-4, prompt_of(model, 40))


def test_samples_are_those_of_the_seed() -> None:
    model = on_gpu()
    settings = {"do_sample": True, "top_p": 0.9, "temperature": 1.5, "max_new_tokens": 20}
    for seed in range(3):
        torch.manual_seed(seed)
        expected = without_graphs(model, prompt_of(model, 30), **settings)
        torch.manual_seed(seed)
        model.generate(prompt_of(model, 30), **settings)  # may capture a graph
        torch.manual_seed(seed)
        assert torch.equal(model.generate(prompt_of(model, 30), **settings), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_chat_and_its_stream(dtype: torch.dtype) -> None:
    model = on_gpu(dtype)
    for question in QUESTIONS:
        expected = tiny_model().chat(tiny_tokenizer(), SCENE, question, **GREEDY)
        assert model.chat(tiny_tokenizer(), SCENE, question, **GREEDY) == expected
        assert [*model.stream_chat(tiny_tokenizer(), SCENE, question, **GREEDY)][-1] == expected
    assert graphs_of(model)


@pytest.mark.parametrize("change", [HfModel.half, lambda model: model.quantize(8), lambda model: model.cpu().cuda()])
def test_changed_weights_are_captured_again(change: Any) -> None:
    model = on_gpu()
    model.chat(tiny_tokenizer(), SCENE, QUESTIONS[0], **GREEDY)
    old = model.graph_cache.idle
    assert old is not None
    model = change(model)
    answer = model.chat(tiny_tokenizer(), SCENE, QUESTIONS[0], **GREEDY)
    assert model.graph_cache.idle is not old
    assert graphs_of(model)
    model.graph_cache.enabled = False
    assert model.chat(tiny_tokenizer(), SCENE, QUESTIONS[0], **GREEDY) == answer


def test_quantized_weights() -> None:
    for bits in (8, 4):
        model = build_golden().quantize(bits).cuda()
        assert_same(model, 1e-3, prompt_of(model, 40))


def test_threads_at_once_sampling_and_greedy() -> None:
    model = HfModel.from_pretrained(TINY, dtype=torch.float32).cuda()
    expected = {question: tiny_model().chat(tiny_tokenizer(), SCENE, question, **GREEDY) for question in QUESTIONS}
    failed: list[str] = []

    def ask(question: str, **settings: Any) -> None:
        try:
            for _ in range(5):
                answer = model.chat(tiny_tokenizer(), SCENE, question, **{**GREEDY, **settings})
                if not settings and answer != expected[question]:
                    failed.append(f"{question}: {answer}")
        except Exception as error:
            failed.append(repr(error))

    threads = [threading.Thread(target=ask, args=(question,)) for question in QUESTIONS]
    threads.append(threading.Thread(target=ask, args=(QUESTIONS[0],), kwargs={"do_sample": True, "num_beams": 1}))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_another_stream_or_autocast_decodes_without_graphs() -> None:
    model = on_gpu()
    expected = tiny_model().chat(tiny_tokenizer(), SCENE, QUESTIONS[0], **GREEDY)
    with torch.cuda.stream(torch.cuda.Stream()):
        assert model.chat(tiny_tokenizer(), SCENE, QUESTIONS[0], **GREEDY) == expected
    assert not graphs_of(model)
    with torch.autocast("cuda", torch.bfloat16):
        assert not supports_graphs(model.device)
    assert supports_graphs(model.device)


def test_graphs_are_freed_with_their_model() -> None:
    torch.cuda.synchronize()
    model = on_gpu()
    model.chat(tiny_tokenizer(), SCENE, QUESTIONS[0], **GREEDY)
    model.cpu()
    assert model.graph_cache.idle is None
    before = torch.cuda.memory_allocated()
    again = on_gpu()
    again.chat(tiny_tokenizer(), SCENE, QUESTIONS[0], **GREEDY)
    del again
    assert torch.cuda.memory_allocated() <= before + 2**20
