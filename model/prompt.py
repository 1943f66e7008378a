"""Build prompts from conversations, parse histories, and clean up generated answers.

    <img> + one placeholder per image embedding + </img>问：q\\n答：a\\n...问：question\\n答：[gMASK]<sop>

Placeholders are inserted as token ids. The image is never part of the text, so no user input can open a file, move the
image, end the prompt, or become a control token.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol

from .errors import PromptTooLongError, QuestionError, SettingError

IMAGE_OPEN, IMAGE_CLOSE = "<img>", "</img>"
# 1 / 8 of the length limit is reserved for the answer: longer prompts lose their oldest turns.
ANSWER_RESERVE_DIVISOR = 8
# Upper bound, in tokens, of the error when turns are tokenized separately: a prompt's first turn follows no newline.
BOUNDARY_TOKENS = 8
# To detect texts that are far too long, at most this many characters are tokenized per allowed token.
MAX_CHARACTERS_PER_TOKEN = 64


@dataclass(frozen=True)
class Language:
    """A language of the prompt.

    Attributes:
        code: "zh" or "en".
        ask, answer: the markers before a question and before an answer.
        describe: the first question of the demo programs.
    """

    code: str
    ask: str
    answer: str
    describe: str

    def forbidden_ids(self, tokenizer: "Tokenizer") -> tuple[tuple[int, int], ...]:
        """Return half-open ranges of token ids that must not be generated in this language."""
        if self is not ENGLISH:
            return ()
        return tuple((start, stop) for start, stop in tokenizer.english_forbidden_ids)


CHINESE = Language("zh", "问：", "答：", "描述这张图片。")
ENGLISH = Language("en", "Q:", "A:", "Describe the image.")
# Values of `prompt_language` in a model's configuration, and the argument `english` of `chat` that they stand for.
PROMPT_LANGUAGES: dict[str, bool | None] = {CHINESE.code: False, ENGLISH.code: True, "auto": None}
AS_CONFIGURED: Final = "as_configured"
English = bool | None | Literal["as_configured"]


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    Raises:
        QuestionError: one of them is not text.
    """

    question: str
    answer: str

    def __post_init__(self) -> None:
        require_text(self.question, "question")
        require_text(self.answer, "answer")


@dataclass
class Conversation:
    """An image and the turns about it so far.

    Attributes:
        image: an RGB PIL image, its pixels [1, 3, S, S], or None to chat without an image.
        turns: oldest first. The caller appends a turn when its answer is complete.
        language: the language of the prompt's markers.
    """

    image: Any = None
    turns: list[Turn] = field(default_factory=list)
    language: Language = CHINESE


@dataclass(frozen=True)
class Prompt:
    """An encoded prompt.

    Attributes:
        token_ids: with placeholders in the positions of the image embeddings.
        image_start: index of the first placeholder, None without an image.
        dropped_turns: number of oldest turns that did not fit.
    """

    token_ids: list[int]
    image_start: int | None
    dropped_turns: int = 0


class TextDecoder(Protocol):
    """Incremental decoder of the tokens of one answer."""

    def push(self, token_id: int) -> str:
        """Add a token; return the text that it completes, possibly ""."""
        ...

    def flush(self) -> str:
        """Return the remaining text after the last token."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes that a token adds to a text that has begun."""
        ...


class Tokenizer(Protocol):
    """The tokenizer interface that chatting and training need; ChatGLMTokenizer implements it."""

    @property
    def pad_token_id(self) -> int:
        """The placeholder token of an image embedding."""
        ...

    @property
    def eos_token_id(self) -> int:
        """The token that ends an answer."""
        ...

    @property
    def english_forbidden_ids(self) -> Sequence[Sequence[int]]:
        """Half-open ranges of token ids that an English answer must not contain."""
        ...

    def encode_text(self, text: str) -> list[int]:
        """Tokenize plain text; control tokens in it are ordinary text."""
        ...

    def build_inputs_with_special_tokens(self, token_ids_0: list[int]) -> list[int]:
        """Return the prompt's token ids followed by [gMASK] <sop>."""
        ...

    def decode_text(self, ids: Iterable[int]) -> str:
        """Decode token ids to text, without `clean_up_spaces`."""
        ...

    def stream(self) -> TextDecoder:
        """Create an incremental decoder for one answer."""
        ...

    def clean_up_spaces(self, text: str) -> str:
        """Remove spaces before punctuation and before English endings such as n't."""
        ...


def require_text(value: object, name: str) -> str:
    """Return `value` if it is a str; raise QuestionError otherwise, so that no "None" or "[...]" gets into a prompt."""
    if not isinstance(value, str):
        raise QuestionError(f"The {name} is of type {type(value).__name__}, not text. Give a str.")
    return value


def turn_text(turn: Turn, language: Language) -> str:
    """Format one turn for the prompt."""
    return f"{language.ask}{turn.question}\n{language.answer}{turn.answer}\n"


def build_prompt(turns: Sequence[Turn], question: str, language: Language) -> str:
    """Format the turns and the question as prompt text, without the image.

    Raises:
        QuestionError: the question is not text.
    """
    require_text(question, "question")
    return "".join(turn_text(turn, language) for turn in turns) + f"{language.ask}{question}\n{language.answer}"


def encode_turns(
    tokenizer: Tokenizer, turns: Sequence[Turn], question: str, language: Language, image_length: int | None
) -> Prompt:
    """Encode turns and question as a prompt, with `image_length` placeholders; None means no image."""
    text = build_prompt(turns, question, language)
    if image_length is None:
        return Prompt(tokenizer.build_inputs_with_special_tokens(tokenizer.encode_text(text)), None)
    image_open_ids = tokenizer.encode_text(IMAGE_OPEN)
    placeholders = [tokenizer.pad_token_id] * image_length
    ids = image_open_ids + placeholders + tokenizer.encode_text(IMAGE_CLOSE + text)
    return Prompt(tokenizer.build_inputs_with_special_tokens(ids), len(image_open_ids))


def encode_newest_turns(
    tokenizer: Tokenizer,
    turns: Sequence[Turn],
    question: str,
    language: Language,
    image_length: int | None,
    max_tokens: int,
) -> Prompt:
    """Encode as many of the newest turns as fit into `max_tokens` with the question, which is never truncated.

    The cost depends on `max_tokens` and on the question, not on the number or the length of the dropped turns.
    """
    without_turns = encode_turns(tokenizer, (), question, language, image_length)
    if not turns:
        return without_turns
    token_budget = max_tokens - len(without_turns.token_ids) + BOUNDARY_TOKENS
    for dropped in range(_first_turn_within_budget(tokenizer, turns, language, token_budget), len(turns)):
        prompt = encode_turns(tokenizer, turns[dropped:], question, language, image_length)
        if len(prompt.token_ids) <= max_tokens:
            return replace(prompt, dropped_turns=dropped)
    return replace(without_turns, dropped_turns=len(turns))


def _first_turn_within_budget(
    tokenizer: Tokenizer, turns: Sequence[Turn], language: Language, token_budget: int
) -> int:
    """Return the index of the oldest turn that, with all newer turns, fits into `token_budget` tokens."""
    # Token counts of turns can be added, because turns are separated by a newline, which is always a separate token.
    separator = len(tokenizer.encode_text("\n"))
    for index in range(len(turns) - 1, -1, -1):
        token_budget += separator - count_tokens(tokenizer, "\n" + turn_text(turns[index], language), token_budget)
        if token_budget < 0:
            return index + 1
    return 0


def count_tokens(tokenizer: Tokenizer, text: str, max_tokens: int) -> int:
    """Count the tokens of `text`.

    A text clearly longer than `max_tokens` is not tokenized completely: the result is the count of its beginning.
    """
    beginning = text[: max(max_tokens, 1) * MAX_CHARACTERS_PER_TOKEN]
    count = len(tokenizer.encode_text(beginning))
    if len(beginning) == len(text) or count > 2 * max_tokens:
        return count
    return len(tokenizer.encode_text(text))


def encode_prompt(
    tokenizer: Tokenizer,
    conversation: Conversation,
    question: str,
    *,
    image_length: int,
    max_length: int,
) -> Prompt:
    """Encode the conversation and `question` as a prompt, dropping the oldest turns of a prompt that is too long.

    A prompt may take 7/8 of `max_length`, so that 1/8 remains for the answer. The question is never truncated.

    Raises:
        PromptTooLongError: the question alone leaves no token for the answer.
        QuestionError: the question is not text.
    """
    require_text(question, "question")
    if len(question) > max_length * MAX_CHARACTERS_PER_TOKEN:
        count = count_tokens(tokenizer, question, max_length)
        if count > 2 * max_length:
            raise PromptTooLongError(count, max_length, at_least=True)
    length = None if conversation.image is None else image_length
    max_prompt_tokens = max_length - max_length // ANSWER_RESERVE_DIVISOR
    prompt = encode_newest_turns(
        tokenizer, conversation.turns, question, conversation.language, length, max_prompt_tokens
    )
    if len(prompt.token_ids) >= max_length:
        raise PromptTooLongError(len(prompt.token_ids), max_length)
    return prompt


def is_chinese(text: str) -> bool:  # public name
    """Return whether `text` contains a Chinese character."""
    return re.search("[\u4e00-\u9fff]", text) is not None


def question_language(question: str, default: Language, turns: Sequence[Turn] = ()) -> Language:
    """Detect the language of `question`.

    Args:
        question: the question.
        default: the result if neither the question nor an earlier one has letters ("3+4?", an emoji).
        turns: earlier turns; a question without letters has the language of the latest question with letters.
    """
    require_text(question, "question")
    for text in (question, *(turn.question for turn in reversed(turns))):
        if is_chinese(text):
            return CHINESE
        if any(map(str.isalpha, text)):
            return ENGLISH
    return default


def choose_language(english: English, configured: str | None, question: str, turns: Sequence[Turn]) -> Language:
    """Choose the language of a prompt from the argument `english` of `chat` and the model's configuration.

    Args:
        english: True or False for a fixed language; None for the language of the question; AS_CONFIGURED to use
            `configured`.
        configured: `prompt_language` of the model's configuration, one of PROMPT_LANGUAGES; None means Chinese, as in
            the original.
        question: the question.
        turns: earlier turns.

    Raises:
        SettingError: `english` or `configured` has another value.
    """
    if english == AS_CONFIGURED:
        if (configured or CHINESE.code) not in PROMPT_LANGUAGES:
            known = ", ".join(PROMPT_LANGUAGES)
            raise SettingError(f"prompt_language is {configured!r} in the model's configuration; it should be {known}.")
        english = PROMPT_LANGUAGES[configured or CHINESE.code]
    if english is None:
        return question_language(question, CHINESE, turns)
    if isinstance(english, str):
        raise SettingError(f"english is {english!r}; it should be True, False, or None to follow the question.")
    return ENGLISH if english else CHINESE


FULL_WIDTH = {",": "，", "!": "！", ":": "：", ";": "；", "?": "？"}
TRAINING_TIME = "[[训练时间]]"
TRAINING_YEAR = "2023年"
CJK = "[\u4e00-\u9fff]"


def clean_answer(text: str) -> str:
    """Clean up the model's raw answer for display, exactly as the original does.

    Strips surrounding whitespace, replaces a placeholder of the training data, and makes punctuation next to a Chinese
    character full-width.
    """
    return widen_punctuation(text.strip().replace(TRAINING_TIME, TRAINING_YEAR))


# One pass that starts at punctuation, for speed: streaming cleans the complete answer again after each token.
NARROW_PUNCTUATION = re.compile(rf"[{''.join(FULL_WIDTH)}](?:(?<={CJK}.)|(?={CJK}))")


def widen_punctuation(text: str) -> str:
    """Make , ! : ; ? full-width if a Chinese character precedes or follows."""
    return NARROW_PUNCTUATION.sub(lambda match: FULL_WIDTH[match[0]], text)


# Suffixes of a raw answer that later text may still change: whitespace (stripped at the end, or removed before
# punctuation), punctuation (its width depends on the next character), a beginning of the placeholder, and a beginning
# of an English ending that the tokenizer's clean-up joins to the preceding word.
PARTIAL_PLACEHOLDER = "|".join(re.escape(TRAINING_TIME[:length]) for length in range(len(TRAINING_TIME), 0, -1))
UNSTABLE_SUFFIX = re.compile(rf"(?:[\s,.!:;?']+| n'?| '[vr]|{PARTIAL_PLACEHOLDER})\Z")
MAX_UNSTABLE_LENGTH = 16


def stable_prefix_length(text: str) -> int:
    """Return the length of the prefix of a growing raw answer that later text cannot change."""
    end = len(text)
    while match := UNSTABLE_SUFFIX.search(text, max(0, end - MAX_UNSTABLE_LENGTH), end):
        end = match.start()
    return end


class StableTextStream:
    """Converts a raw answer that arrives in parts to clean text; emitted text never changes.

    Args:
        clean: maps the complete raw text to clean text; it must not change the prefix of `stable_prefix_length` when
            raw text is appended.
    """

    def __init__(self, clean: Callable[[str], str] = clean_answer) -> None:
        self.clean = clean
        self.raw = ""
        self.emitted = ""

    def push(self, raw: str) -> str:
        """Append raw text; return the clean text that has become stable."""
        self.raw += raw
        return self._emit(self.clean(self.raw[: stable_prefix_length(self.raw)]))

    def flush(self) -> str:
        """Return the remaining clean text of the complete answer."""
        return self._emit(self.clean(self.raw))

    def _emit(self, text: str) -> str:
        added = text[len(self.emitted) :]
        self.emitted = text
        return added


HISTORY_FORMATS = (
    "A history is a list of (question, answer) pairs, or of messages "
    '{"role": "user", "content": "..."} and {"role": "assistant", "content": "..."} in turn, oldest first; '
    "None or [] means no history."
)


def to_turns(history: Any) -> list[Turn]:
    """Convert a history to turns.

    Args:
        history: a list of (question, answer) pairs, of `Turn`s, or of messages {"role": ..., "content": ...} in which
            roles alternate between user and assistant; formats may be mixed. None for no history.

    Raises:
        QuestionError: it has another format, or a question or an answer is not text.
    """
    if history is None:
        return []
    if not is_list(history):
        raise QuestionError(f"The history is of type {type(history).__name__}. {HISTORY_FORMATS}")
    turns: list[Turn] = []
    question: str | None = None  # from a user message whose assistant message is still to come
    for number, item in enumerate(history):
        try:
            if question is not None:
                turns.append(Turn(question, parse_message(item, "assistant")))
                question = None
            elif isinstance(item, Mapping):
                question = parse_message(item, "user")
            else:
                turns.append(item if isinstance(item, Turn) else parse_pair(item))
        except QuestionError as error:
            raise QuestionError(f"history[{number}] cannot be used: {error} {HISTORY_FORMATS}") from None
    if question is not None:
        raise QuestionError("The history ends with a user's message without an answer. Pass it as the question.")
    return turns


def is_list(value: object) -> bool:
    """Return whether `value` is a sequence other than a string or bytes."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def parse_message(message: Any, role: str) -> str:
    """Return the content of a message, after checking that it has the given role."""
    if not isinstance(message, Mapping):
        raise QuestionError(f"A message of role {role!r} is expected here.")
    if message.get("role") != role:
        raise QuestionError(f"Its role is {str(message.get('role'))[:40]!r}; it should be {role!r}.")
    return require_text(message.get("content"), "content")


def parse_pair(pair: Any) -> Turn:
    """Convert a (question, answer) pair to a turn."""
    if not is_list(pair):
        raise QuestionError(f"It is of type {type(pair).__name__}.")
    if len(pair) != 2:
        raise QuestionError(f"It has {len(pair)} parts, not two.")
    return Turn(*pair)


def content_image(part: Mapping[str, Any]) -> Any:
    """Return the image of a content part, in any form; None if the part only marks its place."""
    keys = ("image", "url", "path", "base64", "image_url")
    source = next((part[key] for key in keys if part.get(key) is not None), None)
    return source.get("url") if isinstance(source, Mapping) else source


def read_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Turn], str, str | None, list[Any]]:
    """Convert messages whose contents may be lists of parts, as transformers has them.

    A system message is put before the first question. The parts of a content are texts, joined by line breaks, and
    images.

    Returns:
        the earlier turns, the last question, its answer or None, and the images; None for an image given elsewhere.

    Raises:
        QuestionError: the messages are no alternating questions and answers.
    """
    opening: list[tuple[Any, str]] = []
    dialog: list[tuple[Any, str]] = []
    images: list[Any] = []
    for message in messages:
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
        text = "\n".join(require_text(part.get("text"), "content") for part in parts if part.get("type") == "text")
        images += [content_image(part) for part in parts if part.get("type") in ("image", "image_url")]
        (opening if message.get("role") in ("system", "developer") else dialog).append((message.get("role"), text))
    roles = [role for role, _ in dialog]
    if not dialog or roles != (["user", "assistant"] * len(dialog))[: len(dialog)]:
        raise QuestionError(
            "The messages are not questions and answers in turn, from a question on. Give them in this order."
        )
    texts = [text for _, text in dialog]
    texts[0] = "\n".join([*(text for _, text in opening), texts[0]])
    answer = texts.pop() if len(texts) % 2 == 0 else None
    turns = [Turn(*pair) for pair in zip(texts[:-1:2], texts[1::2], strict=True)]
    if len(images) > 1:
        raise QuestionError(
            f"The messages contain {len(images)} images, and a conversation has one. Leave the others out."
        )
    return turns, texts[-1], answer, images
