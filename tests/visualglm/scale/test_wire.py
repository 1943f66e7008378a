"""Questions, chunks and errors as bytes."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from model import (
    CHINESE,
    DEMO,
    ENGLISH,
    BusyError,
    Conversation,
    Explanation,
    ImageError,
    PromptTooLongError,
    ScoredToken,
    StreamChunk,
    Turn,
    Usage,
)
from model.errors import GenerationError, VisualGLMError
from visualglm.scale.wire import (
    pack_answer,
    pack_chunks,
    pack_error,
    pack_explanation,
    pack_question,
    unpack_answer,
    unpack_chunks,
    unpack_explanation,
    unpack_question,
)


@pytest.mark.parametrize("language", [CHINESE, ENGLISH])
def test_a_question_arrives_as_it_was_sent(language: object) -> None:
    image = Image.effect_noise((8, 8), 60).convert("RGB")
    sent = Conversation(image, [], language)
    config = DEMO.replace(seed=3, max_new_tokens=7)
    conversation, question, received, interval = unpack_question(pack_question(sent, "什么？", config, 0.02))
    assert (question, received, interval) == ("什么？", config, 0.02)
    assert conversation.language is language
    assert conversation.image.tobytes() == image.tobytes()


def test_an_answer_to_explain_arrives_as_it_was_sent() -> None:
    image = Image.effect_noise((8, 8), 60).convert("RGB")
    sent = Conversation(image, [Turn("什么？", "A star.")], CHINESE)
    conversation, *texts = unpack_answer(pack_answer(sent, "why?", "The star is red."))
    assert texts == ["why?", "The star is red."]
    assert (conversation.turns, conversation.language) == (sent.turns, CHINESE)
    assert conversation.image.tobytes() == image.tobytes()


def test_an_explanation_arrives_as_it_was_sent() -> None:
    image = Image.new("RGB", (4, 4))
    maps = np.random.default_rng(0).random((2, 3, 3), np.float32)
    tokens = (ScoredToken(7, b"a", -0.5), ScoredToken(9, b"\xe5", -1.5))
    sent = Explanation("a?", tokens, maps[0], maps, maps[:, 0, 0], image)
    received = unpack_explanation(pack_explanation(sent), "a?", image)
    assert received is not None
    assert (received.answer, received.tokens, received.image) == ("a?", tokens, image)
    for name in ("map", "token_maps", "token_reliance"):
        np.testing.assert_array_equal(getattr(received, name), getattr(sent, name))
    assert unpack_explanation(pack_explanation(None), "", image) is None
    with pytest.raises(BusyError, match="full"):
        unpack_explanation(pack_error(BusyError("full")), "", image)


def test_pixels_arrive_unchanged() -> None:
    pixels = torch.rand(1, 3, 4, 4)
    conversation, *_ = unpack_question(pack_question(Conversation(pixels), "?", DEMO, 0.0))
    assert torch.equal(conversation.image, pixels)


def test_chunks_stay_separate() -> None:
    likely = (ScoredToken(7, b"a", -0.5), ScoredToken(9, b"\xe5", -1.5))
    tokens = (ScoredToken(9, b"\xe5", -1.5, likely), ScoredToken(2, b"b", -0.1))
    chunks = [StreamChunk("a", None, Usage(1, 2, 0, 0.5, 0.6), logprobs=tokens), StreamChunk("b", "stop")]
    assert unpack_chunks(pack_chunks(chunks)) == chunks


@pytest.mark.parametrize(
    "error", [BusyError("full"), ImageError("bad"), PromptTooLongError(9, 8), GenerationError("x")]
)
def test_an_error_keeps_its_type_message_and_attributes(error: VisualGLMError) -> None:
    with pytest.raises(type(error)) as caught:
        unpack_chunks(pack_error(error))
    assert type(caught.value) is type(error)
    assert (str(caught.value), vars(caught.value)) == (str(error), vars(error))


def test_an_unknown_subclass_of_an_error_becomes_its_base() -> None:
    class NewError(ImageError):
        pass

    with pytest.raises(ImageError, match="odd"):
        unpack_chunks(pack_error(NewError("odd")))


def test_bytes_hold_plain_values_only() -> None:
    assert type(pickle.loads(pack_chunks([StreamChunk("a")]))[0]) is tuple
