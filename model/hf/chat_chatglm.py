"""From a conversation to the model's inputs: `chat` and `stream_chat` with the published signatures; the processor."""

import json
import queue
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from transformers import (
    BatchFeature,
    LogitsProcessor,
    LogitsProcessorList,
    ProcessorMixin,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import cached_file

from ..errors import GenerationError, ImageError, PromptTooLongError, SettingError
from ..explanation import MOST_LIKELY, Explanation, explain_inputs
from ..images.preprocess import load_image, preprocess
from ..prompt import (
    AS_CONFIGURED,
    IMAGE_CLOSE,
    IMAGE_OPEN,
    PROMPT_LANGUAGES,
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
    read_messages,
    to_turns,
)
from .configuration_chatglm import add_code, assign_images, flat_options, pad_rows
from .generation_chatglm import PrefixGenerationMixin
from .tokenization_chatglm import CHAT_TEMPLATE, IMAGE_MARK

History = list[tuple[str, str]]
AnyHistory = Sequence[Sequence[str] | Mapping[str, Any] | Turn] | None
# The published model's defaults. A directory's generation_config.json overrides them, and the caller overrides both.
PRESET: dict[str, Any] = {
    "max_length": 1024,
    "min_length": 100,
    "do_sample": True,
    "top_p": 0.4,
    "top_k": 100,
    "temperature": 0.8,
    "repetition_penalty": 1.2,
}
# transformers rejects integers for these.
FLOAT_SETTINGS = ("top_p", "temperature", "repetition_penalty")
SAMPLING_ONLY = ("top_p", "top_k", "temperature")
SETTINGS_FILE = "generation_config.json"


class NaNGuard(LogitsProcessor):
    """Raises GenerationError if a logit is NaN, before a token is sampled."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if torch.isnan(scores).any():
            raise GenerationError(
                "The model's logits are not numbers (NaN). In float16 this is usually an overflow: "
                "try bfloat16 or float32, and check that the loaded weights are complete."
            )
        return scores


class StopOnEvent(StoppingCriteria):
    """Stops generation after the current token once `event` is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


class TokenQueue(BaseStreamer):
    """Passes the token ids of one answer from the generating thread to the reading thread."""

    def __init__(self) -> None:
        self.items: queue.Queue[torch.Tensor | BaseException | None] = queue.Queue()
        self.prompt_received = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_received:
            self.items.put(value)
        self.prompt_received = True

    def end(self) -> None:
        """Do nothing: the generating thread puts the end marker, also after an error."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        while (item := self.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


class ChatMixin(PrefixGenerationMixin):
    """Adds `chat` and `stream_chat` to a model with `generate`."""

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
        """Answer `query` about an image.

        Args:
            tokenizer: a ChatGLMTokenizer.
            image_path: a path or an http(s) URL; None or "" for a conversation without an image.
            query: the question. It is encoded as plain text, without control tokens or images.
            history: earlier turns as (question, answer), or as messages {"role": ..., "content": ...}; None for none.
            max_length, min_length: limits of prompt and answer together, in tokens, including those of the image.
            do_sample: False selects the most likely token (greedy decoding), as does a temperature of 0.
            top_p, top_k, temperature, repetition_penalty, logits_processor, kwargs: as in `generate`. Missing values
                are taken from the model's generation_config.json, then from the published model's defaults.
            english: True to prompt with "Q:" and "A:", False for the Chinese prefixes, None to follow the question. If
                not given, the configuration's `prompt_language` decides.

        Returns:
            The answer, and the history including this turn.

        Raises:
            VisualGLMError: the image, a setting, the question or the history is invalid, or the model's logits are NaN.
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
        """Answer `query` as `chat` does, and yield partial results; closing the iterator stops generation.

        Yields:
            The answer so far, whose text is never revised, and the history including this turn.
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

    def explain(
        self,
        tokenizer: Tokenizer,
        image_path: str | None,
        query: str,
        history: AnyHistory = None,
        english: English = AS_CONFIGURED,
        answer: str | None = None,
    ) -> Explanation:
        """Show which part of an image the answer to `query` relies on; `answer` replaces the most likely one."""
        if not image_path:
            raise ImageError("There is no image. Give the image whose parts explain the answer.")
        if answer is None:
            answer, _ = self.chat(tokenizer, image_path, query, history, english=english, **MOST_LIKELY)
        inputs, image = self.build_inputs(tokenizer, image_path, query, history, None, english), load_image(image_path)
        return explain_inputs(self, tokenizer, inputs, image, preprocess(image, self.image_size)[None], answer)

    def stream_generate(self, input_ids: torch.Tensor, **kwargs: Any) -> Iterator[torch.Tensor]:
        """Continue one prompt [1, T] as `generate` does; yield the ids so far, [1, T + 1], [1, T + 2], ...

        Closing the iterator stops generation after the current token.

        Raises:
            SettingError: beam search is requested, which cannot be streamed.
        """
        if kwargs.get("num_beams") not in (None, 1):
            raise SettingError("Beams are compared only when all are complete, so they cannot be streamed: use chat.")
        tokens, stopped = TokenQueue(), threading.Event()
        criteria = StoppingCriteriaList([*(kwargs.pop("stopping_criteria", None) or ()), StopOnEvent(stopped)])

        def work() -> None:
            try:
                self.generate(input_ids=input_ids, streamer=tokens, stopping_criteria=criteria, **kwargs)
            except BaseException as error:  # raised again in the reading thread
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
        """Return the inputs of `generate` for a question: input_ids [1, T], and the embeddings of an image.

        The oldest turns are dropped if they would leave no tokens for an answer. The arguments are those of `chat`.
        """
        turns = to_turns(history)
        language = choose_language(english, getattr(self.config, "prompt_language", None), query, turns)
        pixels = preprocess(load_image(image_path), self.image_size)[None] if image_path else None
        prompt = self.build_prompt(tokenizer, Conversation(pixels, turns, language), query, max_length)
        # Weights offloaded to disk report the meta device; their hooks move the ids to the device that computes.
        device = "cpu" if self.device.type == "meta" else self.device
        inputs: dict[str, Any] = {"input_ids": torch.tensor([prompt.token_ids], device=device)}
        if pixels is not None:
            with torch.no_grad():
                inputs.update(image_embeds=self.encode_image(pixels), pre_image_length=prompt.image_start)
        return inputs

    def build_prompt(
        self, tokenizer: Tokenizer, conversation: Conversation, question: str, max_length: int | None
    ) -> Prompt:
        """Encode `question` even if it exceeds the limit: `generate` then warns that one token is left."""
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
                "are no longer part of the prompt.",
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
        """Return the arguments of `generate` for one turn."""
        settings = self.chat_settings(given, processors)
        inputs = self.build_inputs(tokenizer, image_path, query, turns, settings["max_length"], english)
        limit = settings["max_length"]
        if limit is None:
            limit = inputs["input_ids"].shape[1] + settings["max_new_tokens"]
        settings["min_length"] = min(settings["min_length"], limit)  # transformers warns about a larger one
        return {**settings, **inputs}

    def chat_settings(self, given: dict[str, Any], processors: LogitsProcessorList | None = None) -> dict[str, Any]:
        """Return the arguments of `generate` from the caller's values and the defaults."""
        # transformers accepts Python numbers only, no numpy scalars or tensors.
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
        """Return the settings in generation_config.json, or in `generation_config` if the program changed it.

        The file is read as well, because transformers 4 drops values that equal its own defaults.
        """
        written = {**read_settings(self.name_or_path), **self.generation_config.to_diff_dict()}
        return {key: written[key] for key in (*PRESET, "max_new_tokens") if written.get(key) is not None}

    def _result(self, query: str, turns: Sequence[Turn], response: str) -> tuple[str, History]:
        return response, [*((turn.question, turn.answer) for turn in turns), (query, response)]


def to_float(name: str, value: Any) -> float:
    """Convert a setting to float.

    Raises:
        SettingError: the value is not a number.
    """
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{name} is {value!r}; it should be a number.") from error


def read_settings(name_or_path: str) -> dict[str, Any]:
    """Read generation_config.json from a model's directory or the hub cache; return {} if there is none.

    Raises:
        SettingError: the file does not contain a JSON object.
    """
    try:
        found = cached_file(name_or_path, SETTINGS_FILE, local_files_only=True) if name_or_path else None
    except OSError:
        return {}
    if not found:
        return {}
    try:
        return dict(json.loads(Path(found).read_text(encoding="utf-8")))
    except (RecursionError, TypeError, ValueError) as error:
        raise SettingError(f"{found} should contain a JSON object of settings. Download the file again.") from error


class ChatGLMProcessor(ProcessorMixin):  # public name
    """Image processor and tokenizer in one: messages or texts with images to the inputs of `generate` and `forward`."""

    attributes = ["image_processor", "tokenizer"]  # noqa: RUF012  for transformers 4
    if transformers.__version__.startswith("4."):
        image_processor_class, tokenizer_class = "AutoImageProcessor", "AutoTokenizer"
    image_token = IMAGE_MARK
    model_input_names = ["input_ids", "attention_mask", "pixel_values"]  # noqa: RUF012

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        """Combine both; `num_image_tokens` is the number of placeholders of an image."""
        self.num_image_tokens = int(kwargs.pop("num_image_tokens", 32))
        super().__init__(image_processor, tokenizer, chat_template=kwargs.get("chat_template") or CHAT_TEMPLATE)

    @property
    def image_token_id(self) -> int:
        """Id of an image placeholder."""
        return int(self.tokenizer.pad_token_id)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Encode texts, such as rendered chat templates.

        Args:
            images: an image; a list of one for each text, or for each text with "<img></img>"; or a list of lists.
            text: a text or a list of texts. "<img></img>" marks that it has an image, which precedes the text.
            kwargs: `padding`, `padding_side`, `truncation`, `max_length`, `pad_to_multiple_of`, `return_tensors`.
                Unless `add_special_tokens` is False, a text without <sop> gets [gMASK] <sop> at its end.

        Raises:
            QuestionError: images and texts do not match.
        """
        options = flat_options(kwargs)
        texts = list(text) if isinstance(text, list | tuple) else [IMAGE_MARK if text is None else text]
        owned = assign_images(images, texts, IMAGE_MARK)
        rows = [self._encode_text(one, bool(found), options) for one, found in zip(texts, owned, strict=True)]
        return self._collate(rows, owned, options, is_single=not isinstance(text, list | tuple))

    def _encode_text(self, text: str, has_image: bool, options: Mapping[str, Any]) -> list[int]:
        opening: list[int] = []
        if has_image:
            opening = [*self.tokenizer.encode_text(IMAGE_OPEN), *[self.image_token_id] * self.num_image_tokens]
            text = IMAGE_CLOSE + text.replace(IMAGE_MARK, "", 1)
        ids = [*opening, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]
        if options.get("add_special_tokens", True) and self.tokenizer.bos_token_id not in ids:
            ids = self.tokenizer.build_inputs_with_special_tokens(ids)
        return list(ids)

    def apply_chat_template(self, conversation: Any, chat_template: Any = None, **kwargs: Any) -> Any:
        """Format messages as text; with `tokenize`, encode them with the token ids of `chat`.

        Other arguments are those of transformers, and `prompt_language`: "zh", "en" or "auto"; by default, the
        tokenizer's. Texts of the messages are encoded as plain text: control tokens in them have no effect.

        Raises:
            QuestionError: the messages are no alternating questions and answers, or contain several images.
        """
        kwargs["prompt_language"] = kwargs.get("prompt_language") or self.tokenizer.prompt_language
        if not kwargs.get("tokenize") or (chat_template or self.chat_template) != CHAT_TEMPLATE:
            return super().apply_chat_template(conversation, chat_template=chat_template, **kwargs)
        is_single, options = isinstance(conversation[0], Mapping), flat_options(kwargs)
        encoded = [self._encode_messages(one, options) for one in ([conversation] if is_single else conversation)]
        rows, images, masks = ([*column] for column in zip(*encoded, strict=True))
        extra = {"assistant_masks": masks} if options.get("return_assistant_tokens_mask") else {}
        is_flat = is_single and transformers.__version__.startswith("4.") and options.get("return_tensors") is None
        batch = self._collate(rows, images, options, is_flat, extra)
        return batch if options.get("return_dict") else batch["input_ids"]

    def _encode_messages(self, messages: Any, options: Mapping[str, Any]) -> tuple[list[int], list[Any], list[int]]:
        """Return the token ids of messages, their images, and 1 for each token of a final answer."""
        turns, question, answer, images = read_messages(messages)
        english = PROMPT_LANGUAGES.get(options["prompt_language"] or "zh", False)
        language = choose_language(english, None, question, turns)
        ids = encode_turns(
            self.tokenizer, turns, question, language, self.num_image_tokens if images else None
        ).token_ids
        learned = [] if answer is None else self.tokenizer.encode_text(answer)
        if answer is None and not options.get("add_generation_prompt"):
            ids = ids[:-2]  # without [gMASK] <sop>
        elif answer is not None and not options.get("continue_final_message"):
            learned = [*learned, self.tokenizer.eos_token_id]
        return ids + learned, [image for image in images if image is not None], [0] * len(ids) + [1] * len(learned)

    def _collate(
        self,
        rows: list[list[int]],
        images: list[Any],
        options: Mapping[str, Any],
        is_single: bool,
        extra: Mapping[str, list[list[int]]] = MappingProxyType({}),
    ) -> BatchFeature:
        """Return rows of token ids, padded if the options say so, with the pixels of all images."""
        columns = {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows], **extra}
        fillers = {"input_ids": self.image_token_id}
        side = self.tokenizer.padding_side
        padded: dict[str, Any] = {
            name: pad_rows(column, fillers.get(name, 0), side, options) for name, column in columns.items()
        }
        kind = options.get("return_tensors")
        if is_single and kind in (None, "auto"):
            padded = {name: column[0] for name, column in padded.items()}
        batch = BatchFeature(padded, tensor_type=None if kind == "auto" else kind)
        if flat := [image for one in images for image in one]:
            batch["pixel_values"] = self.image_processor(flat, return_tensors="pt")["pixel_values"]
        return batch

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save the processor as transformers does, and export the code that loads it without this package."""
        names = super().save_pretrained(save_directory, *args, **kwargs)
        add_code(save_directory, "export_processor")
        return names
