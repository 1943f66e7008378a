"""Build the prompt of a conversation, read histories, and clean the answers that the model writes.

    <img> + a placeholder for each of the picture's vectors + </img>问：q\\n答：a\\n...问：question\\n答：[gMASK]<sop>

The placeholders are put in as ids. The picture is never part of the text, so nothing that a person types can open
a file, move the picture, end the prompt, or become a control token.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol

from .errors import PromptTooLongError, QuestionError, SettingError

IMAGE_OPEN, IMAGE_CLOSE = "<img>", "</img>"
# Part of the length limit kept free for the answer before old turns are dropped.
ANSWER_RESERVE_DIVISOR = 8
# Most tokens by which turns within a prompt differ from the same turns counted alone: the first one follows no newline.
BOUNDARY_TOKENS = 8
# Characters of a text that are encoded for each token allowed, to see that it is far too long.
MAX_CHARACTERS_PER_TOKEN = 64


@dataclass(frozen=True)
class Language:
    """A language of the prompt.

    Attributes:
        code: "zh" or "en".
        ask, answer: the marks before a question and before an answer.
        describe: the question that a demonstration asks first.
    """

    code: str
    ask: str
    answer: str
    describe: str

    def forbidden_ids(self, tokenizer: "Tokenizer") -> tuple[tuple[int, int], ...]:
        """Return the half-open ranges of token ids that an answer in this language must not contain."""
        if self is not ENGLISH:
            return ()
        return tuple((start, stop) for start, stop in tokenizer.english_forbidden_ids)


CHINESE = Language("zh", "问：", "答：", "描述这张图片。")
ENGLISH = Language("en", "Q:", "A:", "Describe the image.")
# What `prompt_language` of a model's configuration may say, as the argument `english` of `chat`.
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
    """What a dialogue is about and what was said so far.

    Attributes:
        image: an RGB picture, its pixels [1, 3, S, S], or None to talk without a picture.
        turns: oldest first. The caller appends a turn when its answer is complete.
    """

    image: Any = None
    turns: list[Turn] = field(default_factory=list)
    language: Language = CHINESE


@dataclass(frozen=True)
class Prompt:
    """What the model reads.

    Attributes:
        token_ids: with placeholders where the picture's vectors go.
        image_start: index of the first placeholder, None without a picture.
        dropped_turns: how many of the oldest turns did not fit.
    """

    token_ids: list[int]
    image_start: int | None
    dropped_turns: int = 0


class TextDecoder(Protocol):
    """Turns the tokens of one answer into text as they come."""

    def push(self, token_id: int) -> str:
        """Return the text that a token completes."""
        ...

    def flush(self) -> str:
        """Return what is left after the last token."""
        ...


class Tokenizer(Protocol):
    """What chatting and training need of a tokenizer; ChatGLMTokenizer has it."""

    @property
    def pad_token_id(self) -> int:
        """The token that stands for each of the picture's vectors."""
        ...

    @property
    def eos_token_id(self) -> int:
        """The token that ends an answer."""
        ...

    @property
    def english_forbidden_ids(self) -> Sequence[Sequence[int]]:
        """Half-open ranges of the tokens that an English answer must not contain."""
        ...

    def encode_text(self, text: str) -> list[int]:
        """Return the tokens of plain text, without control tokens."""
        ...

    def build_inputs_with_special_tokens(self, token_ids_0: list[int]) -> list[int]:
        """Return a prompt's tokens with [gMASK] <sop> after them."""
        ...

    def decode_text(self, ids: Iterable[int]) -> str:
        """Return the text of tokens, before `clean_up_spaces`."""
        ...

    def stream(self) -> TextDecoder:
        """Return what decodes an answer that comes token by token."""
        ...

    def clean_up_spaces(self, text: str) -> str:
        """Join punctuation and English endings to the word before them."""
        ...


def require_text(value: object, name: str) -> str:
    """Return `value` if it is a str; raise QuestionError otherwise, so that no "None" or "[...]" gets into a prompt."""
    if not isinstance(value, str):
        raise QuestionError(f"The {name} is of type {type(value).__name__}, not text. Give a str.")
    return value


def turn_text(turn: Turn, language: Language) -> str:
    """Return the text of one turn within a prompt."""
    return f"{language.ask}{turn.question}\n{language.answer}{turn.answer}\n"


def build_prompt(turns: Sequence[Turn], question: str, language: Language) -> str:
    """Return the text of a dialogue that waits for the answer to `question`, without the picture.

    Raises:
        QuestionError: the question is not text.
    """
    require_text(question, "question")
    return "".join(turn_text(turn, language) for turn in turns) + f"{language.ask}{question}\n{language.answer}"


def encode_turns(
    tokenizer: Tokenizer, turns: Sequence[Turn], question: str, language: Language, image_length: int | None
) -> Prompt:
    """Encode a dialogue, with a picture of `image_length` vectors unless that is None."""
    text = build_prompt(turns, question, language)
    if image_length is None:
        return Prompt(tokenizer.build_inputs_with_special_tokens(tokenizer.encode_text(text)), None)
    opening = tokenizer.encode_text(IMAGE_OPEN)
    placeholders = [tokenizer.pad_token_id] * image_length
    ids = opening + placeholders + tokenizer.encode_text(IMAGE_CLOSE + text)
    return Prompt(tokenizer.build_inputs_with_special_tokens(ids), len(opening))


def encode_newest_turns(
    tokenizer: Tokenizer,
    turns: Sequence[Turn],
    question: str,
    language: Language,
    image_length: int | None,
    max_tokens: int,
) -> Prompt:
    """Encode a dialogue without the oldest turns that do not fit into `max_tokens`; the question is never cut.

    The cost depends on `max_tokens` and on the question, not on the number or the length of the dropped turns.
    """
    alone = encode_turns(tokenizer, (), question, language, image_length)
    if not turns:
        return alone
    token_budget = max_tokens - len(alone.token_ids) + BOUNDARY_TOKENS
    for dropped in range(_first_turn_within_budget(tokenizer, turns, language, token_budget), len(turns)):
        prompt = encode_turns(tokenizer, turns[dropped:], question, language, image_length)
        if len(prompt.token_ids) <= max_tokens:
            return replace(prompt, dropped_turns=dropped)
    return replace(alone, dropped_turns=len(turns))


def _first_turn_within_budget(
    tokenizer: Tokenizer, turns: Sequence[Turn], language: Language, token_budget: int
) -> int:
    """Return the index of the first turn of those that take `token_budget` tokens together, counted newest first."""
    # The turns of a prompt are separated by a newline, which is a token of its own: counts can be added.
    separator = len(tokenizer.encode_text("\n"))
    for index in range(len(turns) - 1, -1, -1):
        token_budget += separator - count_tokens(tokenizer, "\n" + turn_text(turns[index], language), token_budget)
        if token_budget < 0:
            return index + 1
    return 0


def count_tokens(tokenizer: Tokenizer, text: str, max_tokens: int) -> int:
    """Count the tokens of `text`.

    A text of clearly more than `max_tokens` is not read to its end: the count is that of its beginning.
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
    """Encode `question` after the conversation's turns, dropping the oldest that leave too little room.

    A prompt that takes more than all but an eighth of `max_length` loses its oldest turns, so that an answer
    has room; the question itself is never cut.

    Raises:
        PromptTooLongError: the question alone leaves no room for a single token.
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
    """Whether `text` has a Chinese character."""
    return re.search("[\u4e00-\u9fff]", text) is not None


def question_language(question: str, default: Language, turns: Sequence[Turn] = ()) -> Language:
    """Return the language to ask `question` in: its own.

    Args:
        question: what is asked.
        default: for a question without letters ("3+4?", an emoji) after no question with letters.
        turns: what was said before; a question without letters keeps the language of the latest one with letters.
    """
    require_text(question, "question")
    for text in (question, *(turn.question for turn in reversed(turns))):
        if is_chinese(text):
            return CHINESE
        if any(map(str.isalpha, text)):
            return ENGLISH
    return default


def choose_language(english: English, configured: str | None, question: str, turns: Sequence[Turn]) -> Language:
    """Return the language of a prompt, as the caller of `chat` wants it.

    Args:
        english: True or False for one language; None to follow the question; AS_CONFIGURED for what `configured` says.
        configured: `prompt_language` of the model's configuration, one of PROMPT_LANGUAGES; None for the original's
            Chinese.
        question: what is asked.
        turns: what was said before.

    Raises:
        SettingError: `english` or `configured` is something else.
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
    """Return the model's raw answer as a person should read it, exactly as the original does.

    Surrounding space goes, a placeholder of the training data is filled in, and punctuation next to a Chinese
    character becomes full-width.
    """
    return widen_punctuation(text.strip().replace(TRAINING_TIME, TRAINING_YEAR))


# One pass, which begins at the punctuation: it reads the whole answer again for each of its tokens.
NARROW_PUNCTUATION = re.compile(rf"[{''.join(FULL_WIDTH)}](?:(?<={CJK}.)|(?={CJK}))")


def widen_punctuation(text: str) -> str:
    """Make , ! : ; ? full-width where a Chinese character stands on either side."""
    return NARROW_PUNCTUATION.sub(lambda match: FULL_WIDTH[match[0]], text)


# Ends of a raw answer that later words may still change: space (stripped at the end, or swallowed before
# punctuation), punctuation (its width depends on what follows), the start of the placeholder, and the start of
# an English ending that the tokenizer's clean-up joins to the word before it.
PARTIAL_PLACEHOLDER = "|".join(re.escape(TRAINING_TIME[:length]) for length in range(len(TRAINING_TIME), 0, -1))
UNSTABLE_SUFFIX = re.compile(rf"(?:[\s,.!:;?']+| n'?| '[vr]|{PARTIAL_PLACEHOLDER})\Z")
MAX_UNSTABLE_LENGTH = 16


def stable_prefix_length(text: str) -> int:
    """Return how much of a growing raw answer no later words can change any more."""
    end = len(text)
    while match := UNSTABLE_SUFFIX.search(text, max(0, end - MAX_UNSTABLE_LENGTH), end):
        end = match.start()
    return end


class StableTextStream:
    """Turns raw pieces of an answer into clean text that, once shown, never changes.

    Args:
        clean: whole raw text -> clean text; `stable_prefix_length` must know what it may still change.
    """

    def __init__(self, clean: Callable[[str], str] = clean_answer) -> None:
        self.clean = clean
        self.raw = ""
        self.emitted = ""

    def push(self, raw: str) -> str:
        """Take the next raw piece; return the clean text that can be shown now."""
        self.raw += raw
        return self._show(self.clean(self.raw[: stable_prefix_length(self.raw)]))

    def flush(self) -> str:
        """Return what is left when the answer is complete."""
        return self._show(self.clean(self.raw))

    def _show(self, text: str) -> str:
        added = text[len(self.emitted) :]
        self.emitted = text
        return added


HISTORY_FORMATS = (
    "A history is a list of (question, answer) pairs, or of messages "
    '{"role": "user", "content": "..."} and {"role": "assistant", "content": "..."} in turn, oldest first; '
    "None or [] stands for no history."
)


def to_turns(history: Any) -> list[Turn]:
    """Convert a history to turns.

    Args:
        history: a list of (question, answer) pairs, of `Turn`s, or of messages {"role": ..., "content": ...} in which
            an assistant's follows each user's; the forms may be mixed. None for no history.

    Raises:
        QuestionError: it has another form, or something in it is not text.
    """
    if history is None:
        return []
    if not is_list(history):
        raise QuestionError(f"The history is of type {type(history).__name__}. {HISTORY_FORMATS}")
    turns: list[Turn] = []
    question: str | None = None  # of a user's message, until the assistant's comes
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
    """Whether `value` is a sequence, but not of characters or bytes."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def parse_message(message: Any, role: str) -> str:
    """Return the content of a message, which should be of `role`."""
    if not isinstance(message, Mapping):
        raise QuestionError(f"A message of role {role!r} should stand here.")
    if message.get("role") != role:
        raise QuestionError(f"Its role is {str(message.get('role'))[:40]!r}; it should be {role!r}.")
    return require_text(message.get("content"), "content")


def parse_pair(pair: Any) -> Turn:
    """Return the turn of a (question, answer) pair."""
    if not is_list(pair):
        raise QuestionError(f"It is of type {type(pair).__name__}.")
    if len(pair) != 2:
        raise QuestionError(f"It has {len(pair)} parts, not two.")
    return Turn(*pair)
