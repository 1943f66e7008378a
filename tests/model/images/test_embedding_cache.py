"""Image embeddings do not depend on the batch, are computed once, and use at most as many threads as cores."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import model.images.embedding_cache
from model import ImageError, SatChatModel
from model.images.embedding_cache import ImageEmbeddingCache, image_digest
from model.images.preprocess import preprocess
from model.visualglm import VisualGLMModel

TASKS = Path("/proc/self/task")  # contains a directory for each thread of the process


@pytest.fixture(autouse=True)
def three_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to have cores for three threads, each with torch's number of threads per operation."""
    monkeypatch.setattr(model.images.embedding_cache, "count_cores", lambda: 3 * torch.get_num_threads())


def drawn(count: int, size: int = 224) -> list[torch.Tensor]:
    """Return `count` random images as pixels."""
    return list(torch.randn(count, 1, 3, size, size, generator=torch.Generator().manual_seed(0)).unbind())


def counted(monkeypatch: pytest.MonkeyPatch, network: Any) -> list[tuple[int, int]]:
    """Return a list that records batch size and thread of each call of the vision encoder."""
    calls: list[tuple[int, int]] = []
    original = network.encode_image

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        calls.append((len(pixels), threading.get_ident()))
        return original(pixels)  # type: ignore[no-any-return]

    monkeypatch.setattr(network, "encode_image", encode_image)
    return calls


def test_the_digest_depends_on_values_shape_and_dtype():
    pixels = torch.arange(12.0).reshape(3, 2, 2)
    same = [pixels, pixels.clone(), pixels.flip(0).flip(0), pixels.requires_grad_(True)]
    other = [pixels + 1, pixels.reshape(3, 4), pixels.to(torch.bfloat16), pixels.transpose(1, 2)]
    assert len({image_digest(tensor) for tensor in same}) == 1
    assert len({image_digest(tensor) for tensor in [pixels, *other]}) == 5


def test_an_image_s_embeddings_do_not_depend_on_the_batch(tiny_model: SatChatModel) -> None:
    images = drawn(9)
    alone = [ImageEmbeddingCache(tiny_model.network).encode([pixels])[0] for pixels in images]
    for count in (2, 5, 9):
        together = ImageEmbeddingCache(tiny_model.network).encode(images[:count])
        # Not bit-identical on every CPU: a larger matrix product may sum in another order.
        torch.testing.assert_close(together, alone[:count], rtol=1e-5, atol=1e-5)
        assert all(rows.is_contiguous() and rows.is_inference() for rows in together)


def test_the_embeddings_are_those_of_the_original(
    golden_model: VisualGLMModel, golden_pixels: torch.Tensor, golden_numbers: Any
) -> None:
    rows = torch.cat(ImageEmbeddingCache(golden_model).encode(list(golden_pixels[:, None])))
    torch.testing.assert_close(rows, golden_model.encode_image(golden_pixels), rtol=1e-5, atol=1e-5)


def test_several_images_are_computed_in_threads(tiny_model: SatChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, tiny_model.network)
    images = drawn(7)
    ImageEmbeddingCache(tiny_model.network).encode([*images, *images])
    assert sorted(count for count, _ in calls) == [1, 3, 3]
    assert threading.get_ident() not in {thread for _, thread in calls}


def test_threads_compute_concurrently_within_the_number_of_cores(
    golden_model: VisualGLMModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, meeting, lock = golden_model.encode_image, threading.Barrier(3), threading.Lock()
    inside, most, images = [0], set[int](), drawn(6)

    def meet(pixels: torch.Tensor) -> torch.Tensor:
        with lock:
            inside[0] += 1
        meeting.wait(60)  # passed only if all slots are active
        with lock:
            most.add(inside[0])
            inside[0] -= 1
        return original(pixels)

    monkeypatch.setattr(golden_model, "encode_image", meet)
    with ThreadPoolExecutor(6) as threads:  # each with its own cache, as in calls of chat()
        answers = list(threads.map(lambda pixels: ImageEmbeddingCache(golden_model).embed(pixels), images))
    assert max(most) == 3
    monkeypatch.undo()
    for pixels, answer in zip(images, answers, strict=True):
        assert answer is not None
        assert torch.equal(answer, golden_model.encode_image(pixels))


def test_concurrent_requests_for_one_image_compute_it_once(
    golden_model: VisualGLMModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, golden_model)
    images, kept = drawn(3), ImageEmbeddingCache(golden_model)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(kept.embed, images * 8))
    assert len(calls) == len(images)
    assert all(row is answers[number % 3] for number, row in enumerate(answers))


def test_a_known_image_does_not_wait_for_others(golden_model: VisualGLMModel, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, [pixels] = ImageEmbeddingCache(golden_model), drawn(1)
    known = kept.embed(pixels)
    # Neither the CPU pool nor the GPU batcher is called.
    monkeypatch.setattr(kept, "_batcher", None)
    monkeypatch.setattr(model.images.embedding_cache, "cpu_pool", None)
    assert kept.embed(pixels) is known


def test_a_failed_image_is_retried_by_a_waiting_thread(
    golden_model: VisualGLMModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, entered, another_asks = golden_model.encode_image, threading.Event(), threading.Event()
    kept, [pixels, other] = ImageEmbeddingCache(golden_model), drawn(2)

    def fail_once(pixels: torch.Tensor) -> torch.Tensor:
        monkeypatch.setattr(golden_model, "encode_image", original)
        entered.set()
        assert another_asks.wait(60)
        raise MemoryError("once")

    def ask_later() -> torch.Tensor | None:
        assert entered.wait(60)
        another_asks.set()
        return kept.embed(pixels)

    monkeypatch.setattr(golden_model, "encode_image", fail_once)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.submit(kept.embed, pixels), threads.submit(ask_later)
        with pytest.raises(MemoryError):
            first.result()
        answer = second.result()
    assert answer is not None and answer is kept.embed(pixels)
    assert kept.embed(other) is not None


def test_pixels_of_another_shape_are_refused(golden_model: VisualGLMModel) -> None:
    kept = ImageEmbeddingCache(golden_model)
    for shape in ((3, 224, 225), (1, 1, 224, 224), (2, 3, 224, 224), (224, 224), (3, 448, 448)):
        with pytest.raises(ImageError, match="shape"):
            kept.embed(torch.zeros(shape))
    assert torch.equal(kept.to_pixels(torch.ones(3, 224, 224)), torch.ones(1, 3, 224, 224))


class HooksInUse(dict[str, Any]):
    """Hooks that another thread is using."""

    def clear(self) -> None:
        raise AssertionError("hooks were taken away from who may be in the forward pass")


def test_a_thread_does_not_remove_the_hooks_of_another(golden_model: VisualGLMModel) -> None:
    part = golden_model.get_mixin("eva").model
    pixels = torch.cat(drawn(1))
    for network in (part.vit, part.qformer):
        network.transformer.hooks.clear()  # as a forward pass of another model with the same transformer does
        network.transformer.hooks["word_embedding_forward"] = None
        network.transformer.hooks["routing_forward"] = None
    want = golden_model.encode_image(pixels)
    for network in (part.vit, part.qformer):
        assert network.transformer.hooks == network.hooks
        network.transformer.hooks, before = HooksInUse(network.hooks), network.transformer.hooks
        try:
            assert torch.equal(golden_model.encode_image(pixels), want)
        finally:
            network.transformer.hooks = before


def threads_started(work: Callable[[], object]) -> int:
    """Return the number of torch threads that `work` starts, measured in a new thread."""

    def count() -> int:
        before = set(TASKS.iterdir())
        work()
        known = {TASKS / str(thread.native_id) for thread in threading.enumerate()}
        return len(set(TASKS.iterdir()) - before - known)

    with ThreadPoolExecutor(1) as fresh:
        return fresh.submit(count).result()


@pytest.mark.skipif(not TASKS.is_dir(), reason="threads are listed there")
def test_preprocessing_starts_no_torch_threads() -> None:
    image, pixels, before = Image.new("RGB", (500, 300), "red"), drawn(1)[0], torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert threads_started(lambda: pixels.half()) == 3  # the measurement detects torch's threads
        assert threads_started(lambda: image_digest(preprocess(image, 224)[None])) == 0
    finally:
        torch.set_num_threads(before)
