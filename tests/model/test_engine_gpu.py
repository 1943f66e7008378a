"""On a GPU, CUDA graphs, kernels and batches of any size generate the same tokens as on the CPU."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from model import CHINESE, DEMO, Conversation, SatChatModel, Turn, load_hf, load_sat
from model.engine import Request
from model.engine.network import to_device
from model.images.preprocess import load_image
from tests.conftest import build_model
from tests.model.engine.test_batch import draw_requests, generate_batched, prompts  # noqa: F401  (a fixture)
from tests.model.engine.test_decoder import SharpAttention, build_prefixed
from tests.model.engine.test_logprobs import assert_logprobs
from tests.model.images.test_embedding_cache import drawn, threads_started
from tests.model.test_gpu import SCENE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GREEDY = DEMO.replace(temperature=0, repetition_penalty=1.0)
QUESTIONS = (
    "描述这张图片。",
    "图片里有几个物体？",
    "小汽车是什么颜色？",
    "红色的星星在哪里？",
    "你好",
    "图片里有猫吗？",
)


@pytest.fixture(scope="module")
def questions() -> list[tuple[Conversation, str]]:
    """Return questions with and without a history, of different lengths."""
    rng, image = random.Random(0), load_image(SCENE)
    turns = [Turn("图片里有几个物体？", "图片中一共有三个物体。")] * 9
    return [(Conversation(image, turns[: rng.randrange(10)], CHINESE), rng.choice(QUESTIONS)) for _ in range(40)]


@pytest.fixture(scope="module")
def expected(questions: list[tuple[Conversation, str]]) -> list[Any]:
    return load_sat("visualglm-tiny", device="cpu").answer_batch(questions, GREEDY)


@pytest.fixture(scope="module")
def on_gpu() -> Iterator[SatChatModel]:
    return load_sat("visualglm-tiny", device="cuda", dtype="float32")


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 33])
def test_batches_of_any_size(batch_size: int, on_gpu: SatChatModel, questions: Any, expected: list[Any]) -> None:
    assert on_gpu.answer_batch(questions, GREEDY, max_batch_size=batch_size) == expected


def test_the_hugging_face_side_gives_the_same_answers(questions: Any, expected: list[Any]) -> None:
    assert (
        load_hf("visualglm-tiny", device="cuda", dtype="float32").answer_batch(questions, GREEDY, max_batch_size=5)
        == expected
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_low_bit_answers_in_any_batch_size(bits: int, questions: Any) -> None:
    model = load_sat("visualglm-tiny", device="cuda", dtype="float32", quant=bits)
    single, batched = (model.answer_batch(questions, GREEDY, max_batch_size=batch_size) for batch_size in (1, 16))
    cpu = load_sat("visualglm-tiny", device="cpu", quant=bits).answer_batch(questions, GREEDY)
    for answers in (single, batched):
        assert sum(map(str.__eq__, answers, cpu)) >= 0.9 * len(cpu)


def test_sampled_answers_do_not_depend_on_the_batch_size(on_gpu: SatChatModel, questions: Any) -> None:
    config = DEMO.replace(seed=3, top_k=5)
    assert on_gpu.answer_batch(questions, config, max_batch_size=1) == on_gpu.answer_batch(
        questions, config, max_batch_size=12
    )


def test_mixed_sampling_parameters_in_one_batch(golden_spec: Any, golden_model: Any, prompts: Any) -> None:  # noqa: F811
    model = build_model(golden_spec).to("cuda")
    requests = draw_requests(prompts, 30, seed=5)
    assert generate_batched(model, requests, 6) == generate_batched(golden_model, draw_requests(prompts, 30, seed=5), 6)


def test_logprobs_and_forced_tokens_of_captured_steps(golden_spec: Any, golden_model: Any, prompts: Any) -> None:  # noqa: F811
    model = build_model(golden_spec).to("cuda")
    config = GREEDY.replace(top_logprobs=5, max_new_tokens=9)
    asking = [
        Request(config=config, forced_ids=[7, 300, 12] * (number % 2), **prompts[number % 4]) for number in range(9)
    ]
    for request, outputs in zip(asking, generate_batched(model, asking, 4), strict=True):
        assert_logprobs(golden_model, request, outputs, 5)


def test_a_prefix_is_attended_to(golden_spec: Any, prompts: Any) -> None:  # noqa: F811
    gpu, cpu = build_prefixed(golden_spec).to("cuda"), build_prefixed(golden_spec)
    assert generate_batched(gpu, draw_requests(prompts, 12, seed=4), 4) == generate_batched(
        cpu, draw_requests(prompts, 12, seed=4), 4
    )


def test_a_foreign_mixin_is_called(golden_spec: Any, prompts: Any) -> None:  # noqa: F811
    gpu, cpu = build_model(golden_spec).to("cuda"), build_model(golden_spec)
    for model in (gpu, cpu):
        model.add_mixin("sharp", SharpAttention())
    assert generate_batched(gpu, draw_requests(prompts, 6, seed=3), 4) == generate_batched(
        cpu, draw_requests(prompts, 6, seed=3), 4
    )


def test_images_encoded_by_graphs(on_gpu: SatChatModel) -> None:
    pixels = list(torch.randn(21, 1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).unbind())
    embeddings = torch.cat(on_gpu.image_cache.encode(pixels))
    with torch.no_grad():
        expected_embeddings = torch.cat([on_gpu.network.encode_image(one) for one in pixels])
    assert torch.allclose(embeddings, expected_embeddings, atol=1e-4, rtol=1e-4)
    assert 16 in on_gpu.image_cache.encoder.graphs.graphs


@pytest.mark.parametrize("load", [load_sat, load_hf])
def test_no_graph_is_captured_after_the_warm_up(load: Callable[..., Any]) -> None:
    model, [pixels] = load("visualglm-tiny", device="cuda", dtype="float16"), drawn(1)
    model.warm_up()
    batch, images = model.scheduler.batch, model.image_cache

    def captured_graphs() -> list[set[Any]]:
        return [set(one.graphs.values()) for one in (batch.graphs, batch.decoder.graphs, images.encoder.graphs)]

    graphs = captured_graphs()
    assert all(graphs)
    [*model.stream_answer(Conversation(pixels), "图片里有什么？", DEMO)]
    assert captured_graphs() == graphs


def test_an_image_reaches_the_gpu_without_torch_s_threads() -> None:
    cache, [first, second] = load_sat("visualglm-tiny", device="cuda", dtype="float16").image_cache, drawn(2)
    cache.embed(first)  # initializes CUDA and captures the graphs
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert threads_started(lambda: cache.embed(second)) == 0
    finally:
        torch.set_num_threads(before)


def test_a_copy_to_the_gpu_does_not_wait_for_its_queued_work() -> None:
    numbers, busy = torch.randn(16, 2**18), torch.cuda.Event()
    to_device(numbers, torch.device("cuda"))  # allocates page-locked memory
    torch.cuda.synchronize()
    torch.cuda._sleep(10**9)  # cycles, more than 0.4 s
    busy.record()
    copied = to_device(numbers, torch.device("cuda"))
    assert not busy.query()
    assert torch.equal(copied.cpu(), numbers)
