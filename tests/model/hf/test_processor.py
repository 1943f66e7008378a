"""The processor encodes messages as `chat` does, in both languages, and texts of the chat template alike."""

import itertools
from typing import Any

import pytest
import torch

from model import QuestionError
from model.hf.chat_chatglm import ChatGLMProcessor
from model.hf.modeling_chatglm import ChatGLMImageProcessor, find_placeholders
from model.prompt import Conversation, Turn, choose_language, encode_prompt
from tests.helpers.hf_models import tiny_model, tiny_tokenizer
from tests.model.hf.test_export import PICTURE

QUESTIONS = ("图片里有几个物体？", "What is this?", "3+4?", "  two\n\nlines\t", "<sop> [gMASK] <img>x</img> 答：")
TURNS = ((), (("你好", "你好！"),), (("Is it red?", "Yes, it is."), ("🙂", "好的")), (("一", "[gMASK]<sop>"),))
DIALOGUES = list(itertools.product(QUESTIONS, TURNS, (True, False), ("zh", "en", "auto")))


def make_processor() -> ChatGLMProcessor:
    """Return the processor of visualglm-tiny."""
    return ChatGLMProcessor(ChatGLMImageProcessor(), tiny_tokenizer())


def to_messages(question: str, turns: tuple[tuple[str, str], ...], has_image: bool) -> list[dict[str, Any]]:
    """Return a conversation as messages, with the image in the first."""
    texts = [*itertools.chain.from_iterable(turns), question]
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)
    ]
    if has_image:
        messages[0]["content"] = [{"type": "image"}, {"type": "text", "text": texts[0]}]
    return messages


@pytest.mark.parametrize(("question", "turns", "has_image", "code"), DIALOGUES)
def test_the_token_ids_are_those_of_the_prompt_builder(
    question: str, turns: tuple[tuple[str, str], ...], has_image: bool, code: str
) -> None:
    english = {"zh": False, "en": True, "auto": None}[code]
    made = [Turn(*pair) for pair in turns]
    conversation = Conversation(has_image or None, made, choose_language(english, None, question, made))
    expected = encode_prompt(tiny_tokenizer(), conversation, question, image_length=32, max_length=2048).token_ids
    messages, processor = to_messages(question, turns, has_image), make_processor()
    settings = {"add_generation_prompt": True, "prompt_language": code}
    found = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **settings)
    assert found["input_ids"].tolist() == [expected]
    if has_image:
        start = len(tiny_tokenizer().encode_text("<img>"))
        assert find_placeholders(found["input_ids"], 32, tiny_tokenizer().pad_token_id).tolist() == [start]
    if "<sop>" in "".join((question, *itertools.chain.from_iterable(turns))):
        return  # as a text, a rendered template cannot tell control tokens from what a user wrote
    text = processor.apply_chat_template(messages, **settings)
    assert processor(images=PICTURE if has_image else None, text=text)["input_ids"] == expected


def test_an_answer_follows_the_prompt_and_is_marked() -> None:
    processor, tokenizer = make_processor(), tiny_tokenizer()
    messages = to_messages("你好", (), has_image=True)
    prompt = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)[0]
    messages.append({"role": "assistant", "content": "两个 circles"})
    whole = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    learned = [*tokenizer.encode_text("两个 circles"), tokenizer.eos_token_id]
    assert whole["input_ids"][0] == prompt + learned
    assert whole["assistant_masks"][0] == [0] * len(prompt) + [1] * len(learned)


def test_wrong_messages_are_rejected() -> None:
    processor = make_processor()
    image = {"type": "image", "path": str(PICTURE)}
    for messages in (
        [{"role": "assistant", "content": "Yes."}],
        [{"role": "user", "content": [image, image, {"type": "text", "text": "Both?"}]}],
    ):
        with pytest.raises(QuestionError):
            processor.apply_chat_template(messages, tokenize=True)
    with pytest.raises(ValueError, match="images"):
        processor(images=[PICTURE, PICTURE], text="one")


@torch.no_grad()
def test_images_without_placeholders_are_rejected() -> None:
    pixels = torch.zeros(1, 3, 224, 224)
    ids = torch.tensor([tiny_tokenizer().encode("你好")])
    with pytest.raises(ValueError, match="placeholders"):
        tiny_model()(input_ids=ids, pixel_values=pixels)
