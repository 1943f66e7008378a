"""Transformers' `generate`, both networks' chats and the server give the same greedy tokens for the same dialogues."""

import base64
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from model import SatChatModel
from model.engine.config import HF_CHAT
from model.hf.chat_chatglm import ChatGLMProcessor
from model.hf.modeling_chatglm import ChatGLMImageProcessor
from model.prompt import CHINESE, Conversation, Turn, clean_answer, question_language
from tests.helpers.api_server import completion
from tests.helpers.hf_models import load_tiny, tiny_tokenizer
from visualglm.scenes import draw_scene

DIALOGUES = int(os.environ.get("PARITY_DIALOGUES", "24"))
MAX_TOKENS = 48
GREEDY = {"do_sample": False, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class Dialogue:
    """An image or none, earlier turns, and a question."""

    image: Image.Image | None
    turns: list[Turn]
    question: str

    def texts(self) -> list[str]:
        """Return questions and answers in turn."""
        return [*(text for turn in self.turns for text in (turn.question, turn.answer)), self.question]


def make_dialogues(count: int) -> Iterator[Dialogue]:
    """Yield dialogues about drawn scenes, in both languages, with up to three earlier turns; some without an image."""
    for seed in range(count):
        scene = draw_scene(20_000 + seed)
        languages = [("zh", "en")[(seed + index * (seed % 3 == 0)) % 2] for index in range(len(scene.questions))]
        pairs = [(one.question[code], one.answer[code]) for one, code in zip(scene.questions, languages, strict=True)]
        asked = seed % 4
        image = None if seed % 10 == 9 else scene.image
        yield Dialogue(image, [Turn(*pair) for pair in pairs[:asked]], pairs[asked][0])


def data_url(image: Image.Image) -> str:
    """Return an image as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def generate_with_processor(
    network: Any, processor: ChatGLMProcessor, dialogue: Dialogue
) -> tuple[list[int], list[int]]:
    """Return the token ids of prompt and answer by the processor and `generate`."""
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(dialogue.texts())
    ]
    if dialogue.image is not None:
        parts = [{"type": "image", "image": dialogue.image}, {"type": "text", "text": messages[0]["content"]}]
        messages[0]["content"] = parts
    inputs = processor.apply_chat_template(
        messages,
        prompt_language="auto",
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    settings = {**GREEDY, "max_new_tokens": MAX_TOKENS, "max_length": None}
    ids = network.generate(**inputs, **settings)[0].tolist()
    length = inputs["input_ids"].shape[1]
    answer = ids[length:]
    return ids[:length], answer[:-1] if answer[-1] == tiny_tokenizer().eos_token_id else answer


def generate_with_engine(model: SatChatModel, dialogue: Dialogue) -> tuple[list[int], list[int]]:
    """Return the token ids of prompt and answer by the engine and the SAT network."""
    language = question_language(dialogue.question, CHINESE, dialogue.turns)
    conversation = Conversation(dialogue.image, dialogue.turns, language)
    config = HF_CHAT.replace(temperature=0, repetition_penalty=1.0, min_length=0, max_new_tokens=MAX_TOKENS)
    prompt, request = model.make_request(conversation, dialogue.question, config)
    outputs = list(model.scheduler.submit(request))
    return list(prompt.token_ids), [one.token_id for one in outputs if one.token_id is not None]


def ask_server(client: httpx.Client, dialogue: Dialogue) -> str:
    """Return the answer of the HTTP server."""
    image = None if dialogue.image is None else data_url(dialogue.image)
    body = completion(*dialogue.texts(), image=image, max_tokens=MAX_TOKENS, repetition_penalty=1)
    answer: str = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    return answer


@pytest.mark.slow
@torch.no_grad()
def test_every_way_to_ask_gives_the_same_tokens(
    tiny_model: SatChatModel, tiny_server: httpx.Client, tmp_path: Path
) -> None:
    network, tokenizer, path = load_tiny(), tiny_tokenizer(), tmp_path / "image.png"
    processor = ChatGLMProcessor(ChatGLMImageProcessor(), tokenizer)
    for dialogue in make_dialogues(DIALOGUES):
        prompt, ids = generate_with_processor(network, processor, dialogue)
        assert (prompt, ids) == generate_with_engine(tiny_model, dialogue), dialogue
        text = clean_answer(tokenizer.clean_up_spaces(tokenizer.decode_text(ids)))
        if dialogue.image is not None:
            dialogue.image.save(path)
        settings = {"min_length": 0, "max_new_tokens": MAX_TOKENS, "english": None, **GREEDY}
        history = [(turn.question, turn.answer) for turn in dialogue.turns]
        image = None if dialogue.image is None else str(path)
        assert network.chat(tokenizer, image, dialogue.question, history, **settings)[0] == text, dialogue
        assert ask_server(tiny_server, dialogue) == text, dialogue
