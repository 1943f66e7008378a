"""A lazy stream of questions is answered as by separate calls, each question once."""

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import pytest
from PIL import Image

from model import ENGLISH, Conversation, GenerationConfig, ImageError, SatChatModel
from model.chat_model import CompleteAnswer
from model.images.embedding_cache import ImageEmbeddingCache

GREEDY = GenerationConfig(temperature=0, max_new_tokens=6)
QUESTIONS = ("What is this?", "How many objects are there?", "What color is it?")


def image(shade: int) -> Image.Image:
    return Image.new("RGB", (20, 20), (shade % 256, 10, 10))


def ask(shade: int, question: str = QUESTIONS[0]) -> tuple[Conversation, str]:
    return Conversation(image(shade), language=ENGLISH), question


def fresh(model: SatChatModel) -> SatChatModel:
    """A chat model with an empty image cache."""
    return SatChatModel(model.network, model.tokenizer)


def test_each_question_is_answered_once_as_alone(tiny_model: SatChatModel) -> None:
    asked = [ask(shade, question) for shade in (0, 120, 240) for question in QUESTIONS]
    results = list(tiny_model.answer_stream(iter(asked), GREEDY, 4))
    assert sorted(number for number, _ in results) == list(range(len(asked)))
    for number, answer in results:
        chunks = list(tiny_model.stream_answer(*asked[number], GREEDY))
        assert isinstance(answer, CompleteAnswer)
        assert chunks[-1].usage is not None
        assert answer.text == "".join(chunk.text for chunk in chunks)
        assert answer.finish_reason == chunks[-1].finish_reason
        assert answer.usage.answer_tokens == chunks[-1].usage.answer_tokens
        assert answer.usage.prompt_tokens == chunks[-1].usage.prompt_tokens


def test_an_endless_stream_is_read_lazily(tiny_model: SatChatModel) -> None:
    taken: list[int] = []

    def endless() -> Iterator[tuple[Conversation, str]]:
        for number in count():
            taken.append(number)
            yield ask(number)

    model = fresh(tiny_model)
    results = model.answer_stream(endless(), GREEDY, 2)
    assert len(list(islice(results, 5))) == 5
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= 5 + 2 + 3 * model.image_cache.preferred_batch_size


def test_errors_pass_through_with_their_numbers(tiny_model: SatChatModel) -> None:
    asked: list[Any] = [ask(1), ImageError("torn"), (Conversation(), "x " * 3000), ask(2)]
    results = dict(tiny_model.answer_stream(asked, GREEDY.replace(max_length=100), 2))
    assert str(results[1]) == "torn"
    assert "max_length" in str(results[2])
    assert all(isinstance(results[number], CompleteAnswer) for number in (0, 3))


def test_errors_are_reported_while_the_source_goes_on(tiny_model: SatChatModel) -> None:
    results = fresh(tiny_model).answer_stream((ImageError(f"{number}") for number in count()), GREEDY, 2)
    assert [number for number, _ in islice(results, 100)] == list(range(100))


def test_a_fault_of_the_source_is_raised(tiny_model: SatChatModel) -> None:
    def broken() -> Iterator[tuple[Conversation, str]]:
        yield ask(1)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="source broke"):
        list(tiny_model.answer_stream(broken(), GREEDY, 2))


def test_questions_about_one_image_share_its_embeddings(
    tiny_model: SatChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = ImageEmbeddingCache._encode_batch
    monkeypatch.setattr(
        ImageEmbeddingCache, "_encode_batch", lambda self, images: encoded.extend(images) or encode(self, images)
    )
    asked = [ask(shade, question) for shade in (3, 7) for question in QUESTIONS]
    assert len(list(fresh(tiny_model).answer_stream(asked, GREEDY, 2))) == 6
    assert len(encoded) == 2
