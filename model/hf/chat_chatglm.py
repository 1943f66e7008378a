"""`chat` and `stream_chat` as the published model has them: a picture, a question, an answer."""

import json
import queue
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.utils import cached_file

from ..errors import GenerationError, PromptTooLongError, SettingError
from ..images.preprocess import load_image, preprocess
from ..prompt import (
    AS_CONFIGURED,
    Conversation,
    English,
    Prompt,
    StableTextStream,
    Tokenizer,
    Turn,
    choose_language,
    clean_answer,
    encode_prompt,
    encode_turns,
    to_turns,
)
from .generation_chatglm import PrefixGenerationMixin

History = list[tuple[str, str]]
AnyHistory = Sequence[Sequence[str] | Mapping[str, Any] | Turn] | None
# The published model's own settings. A directory's generation_config.json, and then the caller, win over them.
PRESET: dict[str, Any] = {
    "max_length": 1024,
    "min_length": 100,
    "do_sample": True,
    "top_p": 0.4,
    "top_k": 100,
    "temperature": 0.8,
    "repetition_penalty": 1.2,
}
# transformers refuses whole numbers here.
FLOAT_SETTINGS = ("top_p", "temperature", "repetition_penalty")
SAMPLING_ONLY = ("top_p", "top_k", "temperature")
SETTINGS_FILE = "generation_config.json"


class NaNGuard(LogitsProcessor):
    """Stops where scores are no numbers, before a token is drawn from nonsense."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if torch.isnan(scores).any():
            raise GenerationError(
                "The model's logits are not numbers (NaN). In float16 that is usually an overflow: "
                "try bfloat16 or float32, and check that the weights loaded are complete."
            )
        return scores


class StopOnEvent(StoppingCriteria):
    """Ends generation after the current token once `event` is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


class TokenQueue(BaseStreamer):
    """Hands the ids of one answer from the thread that generates them to the one that reads them."""

    def __init__(self) -> None:
        self.items: queue.Queue[torch.Tensor | BaseException | None] = queue.Queue()
        self.prompt_received = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_received:
            self.items.put(value)
        self.prompt_received = True

    def end(self) -> None:
        """The thread says itself when it ends, however it does."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        while (item := self.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


class ChatMixin(PrefixGenerationMixin):
    """What a model with `generate` needs to talk with a person."""

    device: Any
    name_or_path: str

    @property
    def image_length(self) -> int:  # public name
        """L, the number of embeddings of an image."""
        return int(self.config.image_length)

    @property
    def image_size(self) -> int:
        """S, the side of the square image in pixels."""
        return int(self.config.eva_config["image_size"][0])

    @property
    def max_sequence_length(self) -> int:
        """Context length, in tokens, that the model was trained with."""
        return int(self.config.max_sequence_length)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Return the image embeddings [B, L, D] of pixels [B, 3, S, S]."""
        embeddings: torch.Tensor = self.image_encoder(images)
        return embeddings

    def chat(
        self,
        tokenizer: Tokenizer,
        image_path: str | None,
        query: str,
        history: AnyHistory = None,
        max_length: int | None = None,
        min_length: int | None = None,
        do_sample: bool | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        temperature: float | None = None,
        repetition_penalty: float | None = None,
        logits_processor: LogitsProcessorList | None = None,
        english: English = AS_CONFIGURED,
        **kwargs: Any,
    ) -> tuple[str, History]:
        """Answer `query` about a picture.

        Args:
            tokenizer: a ChatGLMTokenizer.
            image_path: a path or an http(s) URL; None or "" for a talk without a picture.
            query: the question. Nothing in it is taken for a control token or a picture.
            history: earlier rounds as (question, answer), or as messages {"role": ..., "content": ...}; None for none.
            max_length, min_length: tokens of prompt and answer together, the picture's included.
            do_sample: False takes the most likely token, as does a temperature of 0.
            top_p, top_k, temperature, repetition_penalty, logits_processor, kwargs: as in `generate`. What is left
                out comes from the model's generation_config.json, else from the published model's settings.
            english: True to ask with "Q:" and "A:", False with the Chinese marks, None to follow the question. If not
                given, the configuration's `prompt_language` decides.

        Returns:
            The answer, and the history with this round.

        Raises:
            VisualGLMError: the picture, a setting, the question or the history cannot be used, or the model's numbers
                are not usable.
        """
        given = {key: value for key, value in locals().items() if key in PRESET}
        turns = to_turns(history)
        arguments = self._arguments(tokenizer, image_path, query, turns, {**given, **kwargs}, logits_processor, english)
        with torch.no_grad():
            ids = self.generate(**arguments)[0, arguments["input_ids"].shape[1] :]
        raw = tokenizer.clean_up_spaces(tokenizer.decode_text(ids.tolist()))
        return self._result(query, turns, clean_answer(raw))

    def stream_chat(
        self,
        tokenizer: Tokenizer,
        image_path: str | None,
        query: str,
        history: AnyHistory = None,
        max_length: int | None = None,
        min_length: int | None = None,
        do_sample: bool | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        temperature: float | None = None,
        repetition_penalty: float | None = None,
        logits_processor: LogitsProcessorList | None = None,
        english: English = AS_CONFIGURED,
        **kwargs: Any,
    ) -> Iterator[tuple[str, History]]:
        """Answer `query` as `chat` does, and yield the result as it grows; closing the iterator stops the model.

        Yields:
            The answer so far, of which no word is taken back, and the history with this round.
        """
        given = {key: value for key, value in locals().items() if key in PRESET}
        turns = to_turns(history)
        arguments = self._arguments(tokenizer, image_path, query, turns, {**given, **kwargs}, logits_processor, english)
        decoder = tokenizer.stream()
        answer = StableTextStream(lambda raw: clean_answer(tokenizer.clean_up_spaces(raw)))
        for ids in self.stream_generate(**arguments):
            if answer.push(decoder.push(int(ids[0, -1]))):
                yield self._result(query, turns, answer.emitted)
        before = answer.emitted
        answer.push(decoder.flush())
        answer.flush()
        if answer.emitted != before or not before:
            yield self._result(query, turns, answer.emitted)

    def stream_generate(self, input_ids: torch.Tensor, **kwargs: Any) -> Iterator[torch.Tensor]:
        """Continue one prompt [1, T] as `generate` does; yield the ids so far, [1, T + 1], [1, T + 2], ...

        Closing the iterator ends the work after the current token.
        """
        if kwargs.get("num_beams") not in (None, 1):
            raise SettingError("Beams are compared when all are complete, so they cannot be streamed: use chat.")
        tokens, stopped = TokenQueue(), threading.Event()
        criteria = StoppingCriteriaList([*(kwargs.pop("stopping_criteria", None) or ()), StopOnEvent(stopped)])

        def work() -> None:
            try:
                self.generate(input_ids=input_ids, streamer=tokens, stopping_criteria=criteria, **kwargs)
            except BaseException as error:  # it belongs to the reader, whatever it is
                tokens.items.put(error)
            tokens.items.put(None)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            for token in tokens:
                input_ids = torch.cat((input_ids, token.to(input_ids.device).reshape(1, 1)), dim=1)
                yield input_ids
        finally:
            stopped.set()
            thread.join()

    def build_inputs(
        self,
        tokenizer: Tokenizer,
        image_path: str | None,
        query: str,
        history: AnyHistory,
        max_length: int | None = None,
        english: English = AS_CONFIGURED,
    ) -> dict[str, Any]:
        """Return what `generate` reads for a question: input_ids [1, T], with a picture also its embeddings.

        The oldest turns are left out where they would leave no room for an answer. The arguments are those of `chat`.
        """
        turns = to_turns(history)
        language = choose_language(english, getattr(self.config, "prompt_language", None), query, turns)
        pixels = preprocess(load_image(image_path), self.image_size)[None] if image_path else None
        prompt = self.build_prompt(tokenizer, Conversation(pixels, turns, language), query, max_length)
        # Where weights wait on a disk, the device is no place; what calls them brings the ids along.
        device = "cpu" if self.device.type == "meta" else self.device
        inputs: dict[str, Any] = {"input_ids": torch.tensor([prompt.token_ids], device=device)}
        if pixels is not None:
            with torch.no_grad():
                inputs.update(image_embeds=self.encode_image(pixels), pre_image_length=prompt.image_start)
        return inputs

    def build_prompt(
        self, tokenizer: Tokenizer, conversation: Conversation, question: str, max_length: int | None
    ) -> Prompt:
        """Encode `question`, whatever its length: `generate` warns where no room is left."""
        length = self.image_length
        limit = self.max_sequence_length if max_length is None else min(max_length, self.max_sequence_length)
        try:
            prompt = encode_prompt(tokenizer, conversation, question, image_length=length, max_length=limit)
        except PromptTooLongError:
            shown = None if conversation.image is None else length
            return encode_turns(tokenizer, (), question, conversation.language, shown)
        if prompt.dropped_turns:
            warnings.warn(
                f"The conversation has grown past max_length={limit}: its oldest turns ({prompt.dropped_turns}) "
                "are no longer seen.",
                stacklevel=4,
            )
        return prompt

    def _arguments(
        self,
        tokenizer: Tokenizer,
        image_path: str | None,
        query: str,
        turns: Sequence[Turn],
        given: dict[str, Any],
        processors: LogitsProcessorList | None,
        english: English,
    ) -> dict[str, Any]:
        """Return the arguments of `generate` for one round."""
        settings = self.chat_settings(given, processors)
        inputs = self.build_inputs(tokenizer, image_path, query, turns, settings["max_length"], english)
        limit = settings["max_length"]
        if limit is None:
            limit = inputs["input_ids"].shape[1] + settings["max_new_tokens"]
        settings["min_length"] = min(settings["min_length"], limit)  # transformers warns of more
        return {**settings, **inputs}

    def chat_settings(self, given: dict[str, Any], processors: LogitsProcessorList | None = None) -> dict[str, Any]:
        """Return the arguments of `generate`, from what the caller gave and the defaults."""
        # transformers takes Python's own numbers alone, not numpy's or tensors.
        chosen = {
            key: value.item() if getattr(value, "ndim", None) == 0 else value
            for key, value in given.items()
            if value is not None
        }
        chosen.update({key: to_float(key, chosen[key]) for key in FLOAT_SETTINGS if key in chosen})
        settings = {**PRESET, **self._directory_settings(), **chosen}
        if settings["temperature"] == 0:
            settings["do_sample"] = False
        if not settings["do_sample"]:
            settings.update(dict.fromkeys(SAMPLING_ONLY))
        if settings.get("max_new_tokens") is not None:
            settings["max_length"] = None
        settings["logits_processor"] = LogitsProcessorList([*(processors or ()), NaNGuard()])
        return settings

    def _directory_settings(self) -> dict[str, Any]:
        """Return what the model's generation_config.json, or later the program, says of the preset's settings.

        The file is read as well, since transformers 4 forgets values that are its own defaults.
        """
        written = {**read_settings(self.name_or_path), **self.generation_config.to_diff_dict()}
        return {key: written[key] for key in (*PRESET, "max_new_tokens") if written.get(key) is not None}

    def _result(self, query: str, turns: Sequence[Turn], response: str) -> tuple[str, History]:
        return response, [*((turn.question, turn.answer) for turn in turns), (query, response)]


def to_float(name: str, value: Any) -> float:
    """Return a setting as a float.

    Raises:
        SettingError: it is no number.
    """
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{name} is {value!r}; it should be a number.") from error


def read_settings(name_or_path: str) -> dict[str, Any]:
    """Return the generation_config.json of a model's directory, or of the hub's cache; empty where there is none."""
    try:
        found = cached_file(name_or_path, SETTINGS_FILE, local_files_only=True) if name_or_path else None
    except OSError:
        return {}
    if not found:
        return {}
    try:
        return dict(json.loads(Path(found).read_text(encoding="utf-8")))
    except (RecursionError, TypeError, ValueError) as error:
        raise SettingError(f"{found} should hold a JSON object of settings. Get the file again.") from error
