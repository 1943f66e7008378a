"""The tokenizer of ChatGLM-6B and VisualGLM-6B: sentencepiece's `ice_text.model` as a transformers tokenizer.

Needs only transformers, sentencepiece and modules of this package, so that it can be exported with a model.
Token ids are those of the published tokenizer (https://huggingface.co/THUDM/visualglm-6b).
"""

import codecs
import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, models
from transformers import AddedToken, PreTrainedTokenizer
from transformers.utils import PaddingStrategy

from .configuration_chatglm import add_code

NEWLINE, TAB = "<n>", "<|tab|>"
MAX_SPACES = 80
UNKNOWN_TOKEN_TEXT = " ⁇ "  # what sentencepiece writes for <unk>
LONE_SURROGATES = dict.fromkeys(range(0xDC80, 0xDD00), "\ufffd")
CLEAN_UPS = (
    *((f" {mark}", mark) for mark in ".?!,"),
    (" ' ", "'"),
    *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)


def clean_up_spaces(text: str) -> str:
    """Remove spaces before English punctuation and contractions, as transformers 4.33 does by default."""
    for spaced, closed in CLEAN_UPS:
        text = text.replace(spaced, closed)
    return text


def encode_whitespace(text: str) -> str:
    """Replace newlines, tabs and runs of 2 to 80 spaces by the pieces that represent them.

    A lone surrogate, which UTF-8 cannot encode, becomes "?".
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = text.replace("\n", NEWLINE).replace("\t", TAB)
    return re.sub(f" {{2,{MAX_SPACES}}}", lambda run: f"<|blank_{len(run[0])}|>", text)


def whitespace_pieces() -> dict[str, str]:
    """Return the user-defined pieces and the whitespace that each represents: `{"<n>": "\\n", ...}`."""
    blanks = {f"<|blank_{count}|>": " " * count for count in range(2, MAX_SPACES + 1)}
    return {NEWLINE: "\n", TAB: "\t", **blanks}


class IncrementalDecoder:
    """Decodes the token ids of one answer to text, one id at a time.

    The concatenated texts of all `push` calls and of the final `flush` are the text of all ids, before clean-up.
    Whitespace pieces are recognized by id: the tokens "<", "n" and ">" decode to "<n>", which the original, replacing
    in the final text, turned into a newline.
    """

    def __init__(self, sp_model: SentencePieceProcessor, texts: Mapping[int, str], pad_token_id: int) -> None:
        """Start an answer.

        Args:
            sp_model: the vocabulary.
            texts: the text of each id that does not decode to its piece. An id without piece and text is skipped.
            pad_token_id: skipped as well.
        """
        self._sp_model = sp_model
        self._texts = {sp_model.unk_id(): UNKNOWN_TOKEN_TEXT, **texts}
        self._pad_token_id = pad_token_id
        # As in sentencepiece, each invalid byte becomes one U+FFFD: it is decoded to a surrogate, which is replaced.
        self._bytes = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._at_start = True

    def push(self, token_id: int) -> str:
        """Decode one more id; return the text it completes: "" for a control piece or an incomplete character."""
        token_id = int(token_id)  # a tensor element is no dictionary key
        if token_id == self._pad_token_id or not self._has_text(token_id):
            return ""
        if token_id not in self._texts and self._sp_model.is_byte(token_id):
            return self._decode_byte(token_id)
        pending = self.flush()
        text = self._piece_text(token_id, self._at_start)
        self._at_start = self._at_start and not text
        return pending + text

    def token_bytes(self, token_id: int) -> bytes:
        """Return the UTF-8 bytes that a token adds to a text that has begun; b"" for a control piece."""
        if token_id == self._pad_token_id or not self._has_text(token_id):
            return b""
        if token_id not in self._texts and self._sp_model.is_byte(token_id):
            return bytes([self._byte_value(token_id)])
        return self._piece_text(token_id, at_start=False).encode()

    def flush(self) -> str:
        """Return one U+FFFD for each byte of an incomplete character; more ids may follow."""
        return self._bytes.decode(b"", final=True).translate(LONE_SURROGATES)

    def _has_text(self, token_id: int) -> bool:
        return token_id in self._texts or 0 <= token_id < self._sp_model.get_piece_size()

    def _decode_byte(self, token_id: int) -> str:
        self._at_start = False
        return self._bytes.decode(bytes([self._byte_value(token_id)])).translate(LONE_SURROGATES)

    def _byte_value(self, token_id: int) -> int:
        return int(self._sp_model.id_to_piece(token_id)[3:5], base=16)  # "<0xE4>"

    def _piece_text(self, token_id: int, at_start: bool) -> str:
        if token_id in self._texts:
            return self._texts[token_id]
        if self._sp_model.is_control(token_id):
            return ""
        piece = self._sp_model.id_to_piece(token_id)
        if at_start:  # the space that encoding adds before the text
            piece = piece.removeprefix("▁")
        return piece.replace("▁", " ")


SPECIAL_TOKENS = {  # the strings that `encode` converts to control tokens
    "bos_token": "<sop>",
    "eos_token": "<eop>",
    "mask_token": "[MASK]",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}
TRANSFORMERS_SETTINGS = {**SPECIAL_TOKENS, "clean_up_tokenization_spaces": True}
OWN_SETTINGS = (
    "gmask_token",
    "end_token",
    "do_lower_case",
    "remove_space",
    "num_image_tokens",
    "english_forbidden_ids",
    "prompt_language",
)
PUBLISHED_PIECES = 130_344
# From "。" up to the special tokens: Chinese and other scripts, which the original's demos forbid in English answers.
PUBLISHED_ENGLISH_FORBIDDEN = ((63_823, 130_000),)


def load_sentencepiece(vocab_file: str | Path | None, required: Iterable[str]) -> SentencePieceProcessor:
    """Load the sentencepiece model in `vocab_file`.

    Raises:
        ValueError: the file is missing or unreadable, or lacks one of the pieces `required`.
    """
    if vocab_file is None or not Path(vocab_file).is_file():
        raise ValueError(f"No ice_text.model at {vocab_file}: put the checkpoint's file there, or name its directory.")
    try:
        processor = SentencePieceProcessor(model_file=str(vocab_file))
    except RuntimeError as error:
        message = f"{vocab_file} is not a sentencepiece model (perhaps a Git LFS pointer): download it again."
        raise ValueError(message) from error
    missing = [piece for piece in required if processor.id_to_piece(processor.piece_to_id(piece)) != piece]
    if missing:
        raise ValueError(
            f"{vocab_file} has no piece {missing[0]}: use the ice_text.model of ChatGLM-6B's 130344 pieces."
        )
    return processor


def make_special_token(token: str) -> AddedToken:
    """Return an AddedToken that `encode` matches in text together with surrounding whitespace, as in 4.33."""
    return AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=True)


PROMPT_END = "<|gmask|><sop>"  # the text of a rendered chat template that stands for the two control tokens
IMAGE_MARK = "<img></img>"  # its text for an image; the processor inserts the placeholders
# The prompt of model/prompt.py. `prompt_language` is "zh", "en" or "auto": the language of the latest question that has
# letters. Only the last answer is marked as generated: earlier ones are part of the prompt.
CHAT_TEMPLATE = r"""
{%- set ns = namespace(language=prompt_language | default("zh", true), system="", image=false, question=none) -%}
{%- macro text(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content if part.type == "text" -%}{{ ("" if loop.first else "\n") ~ part.text }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{%- if message.role in ("system", "developer") -%}
{%- set ns.system = ns.system ~ text(message.content) ~ "\n" -%}
{%- endif -%}
{%- if message.content is not string -%}
{%- for part in message.content if part.type in ("image", "image_url") -%}{%- set ns.image = true -%}{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- if ns.language == "auto" -%}
{%- for message in messages | reverse if message.role == "user" -%}
{%- set asked = (ns.system if loop.last else "") ~ text(message.content) -%}
{%- if ns.language == "auto" -%}
{%- for c in asked if c.isalpha() -%}{%- set ns.language = "en" -%}{%- endfor -%}
{%- for c in asked if "一" <= c <= "鿿" -%}{%- set ns.language = "zh" -%}{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- set ask, answer = ("Q:", "A:") if ns.language == "en" else ("问：", "答：") -%}
{{- "<img></img>" if ns.image else "" -}}
{%- for message in messages if message.role in ("user", "assistant") -%}
{%- if message.role == "user" -%}
{{- ask ~ (ns.system if loop.first else "") ~ text(message.content) ~ "\n" ~ answer -}}
{%- if loop.last and add_generation_prompt -%}{{- "<|gmask|><sop>" -}}{%- endif -%}
{%- elif loop.last -%}
{{- "<|gmask|><sop>" -}}{%- generation -%}{{- text(message.content) ~ "<eop>" -}}{%- endgeneration -%}
{%- else -%}
{{- text(message.content) ~ "\n" -}}
{%- endif -%}
{%- endfor -%}
""".strip()


def pad_left(encoded: MutableMapping[str, Any], missing: int, pad_token_id: int) -> None:
    """Pad each sequence of one example on the left by `missing` elements, in place; by none if it is negative."""
    fillers = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
    for name in fillers.keys() & encoded.keys():
        encoded[name] = [fillers[name]] * missing + encoded[name]
    if "position_ids" in encoded:
        encoded["position_ids"] = [[0] * missing + list(row) for row in encoded["position_ids"]]


class ChatGLMTokenizer(PreTrainedTokenizer):
    """Encodes and decodes text as the published tokenizer did with transformers 4.33.

    `encode` and `tokenizer(...)` are transformers' own: "<sop>", "<eop>", "[MASK]", "<pad>" and "<unk>" in the text
    become control tokens and lose surrounding whitespace ("[gMASK]" and "</s>" remain text), and `[gMASK] <sop>` is
    appended. Without padding they return only input_ids, with padding also attention_mask (0 on pads) and
    position_ids (two rows). Use `encode_text` for user input: it recognizes no control tokens.
    """

    vocab_files_names = {"vocab_file": "ice_text.model"}  # noqa: RUF012  as in transformers; checkpoint key
    model_input_names = ["input_ids", "attention_mask", "position_ids"]  # noqa: RUF012
    padding_side = "left"

    def __init__(
        self,
        vocab_file: str | Path | None = None,
        *,
        gmask_token: str = "[gMASK]",
        end_token: str = "</s>",
        do_lower_case: bool = False,
        remove_space: bool = False,
        num_image_tokens: int = 0,
        english_forbidden_ids: Sequence[Sequence[int]] | None = None,
        prompt_language: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Load `vocab_file`; all further arguments are entries of tokenizer_config.json.

        Args:
            vocab_file: path of ice_text.model.
            gmask_token: marks the position of the answer.
            end_token: ends a document; the model does not use it.
            do_lower_case: convert text to lower case before encoding.
            remove_space: strip the text and collapse each run of whitespace to one space before encoding.
            num_image_tokens: must be 0; the old vocabulary, which began with 20000 image tokens, is not supported.
            english_forbidden_ids: half-open ranges [start, stop) of ids that an English answer must not contain; None
                for the published range if the vocabulary is the published one, and for no range otherwise.
            prompt_language: language of the chat template, as in config.json; None for Chinese.
            kwargs: settings of transformers, such as bos_token.

        Raises:
            ValueError: an unusable vocabulary file or setting.
        """
        if num_image_tokens:
            raise ValueError(
                f"num_image_tokens is {num_image_tokens}, but the old vocabulary with image tokens is not "
                "supported: use the checkpoint's current files, in which it is 0."
            )
        kwargs = {**TRANSFORMERS_SETTINGS, "chat_template": CHAT_TEMPLATE, **kwargs}
        # transformers 5 collects all other *_token settings here, and would match these two in text as well.
        named = dict(kwargs.pop("model_specific_special_tokens", None) or {})
        self.gmask_token = str(named.pop("gmask_token", gmask_token))
        self.end_token = str(named.pop("end_token", end_token))
        self.do_lower_case, self.remove_space, self.num_image_tokens = do_lower_case, remove_space, 0
        # The vocabulary is loaded before super().__init__, which uses it.
        special = {name: str(kwargs[name]) for name in SPECIAL_TOKENS}
        pieces = [*special.values(), self.gmask_token, self.end_token, *whitespace_pieces()]
        self.sp_model = load_sentencepiece(vocab_file, pieces)
        self.english_forbidden_ids = self._forbidden_ranges(english_forbidden_ids)
        self.prompt_language = prompt_language
        self._added_tokens_decoder = {
            self.sp_model.piece_to_id(token): make_special_token(token) for token in special.values()
        }
        kwargs["added_tokens_decoder"] = self._only_added(kwargs.pop("added_tokens_decoder", {}))
        kwargs.update(special)
        super().__init__(**kwargs, **({"model_specific_special_tokens": named} if named else {}))
        self.init_kwargs.update({name: getattr(self, name) for name in OWN_SETTINGS})

    def encode_text(self, text: str) -> list[int]:
        """Encode plain text: nothing in it becomes a control token, and none is added.

        Whitespace pieces in the text ("<n>", "<|tab|>") do become newline and tab, as in the original.
        """
        ids: list[int] = self.sp_model.encode(self._prepare(text))
        return ids

    def decode_text(self, ids: Iterable[int]) -> str:
        """Decode ids as `decode` does; ids without a piece, pads and control tokens are skipped."""
        return self._decode(list(ids))

    def clean_up_spaces(self, text: str) -> str:
        """Remove spaces before punctuation and English contractions, as `decode` does."""
        return clean_up_spaces(text)

    def stream(self) -> IncrementalDecoder:
        """Return an incremental decoder for one answer; its text is not cleaned up."""
        layout = {self.sp_model.piece_to_id(piece): text for piece, text in whitespace_pieces().items()}
        added = {i: token.content for i, token in self._added_tokens_decoder.items() if i >= self.vocab_size}
        return IncrementalDecoder(self.sp_model, {**layout, **added}, self.pad_token_id)

    @cached_property
    def _tokenizer(self) -> Any:
        """A decoder of the library tokenizers, with which `transformers serve` streams answers."""
        stream, size = self.stream(), len(self)
        texts = [stream.token_bytes(token_id).decode(errors="replace") for token_id in range(size)]
        is_byte = [token_id < self.vocab_size and self.sp_model.is_byte(token_id) for token_id in range(size)]
        pieces = [self.convert_ids_to_tokens(i) if is_byte[i] or not texts[i] else texts[i] for i in range(size)]
        decoder = Tokenizer(models.Unigram([(piece, 0.0) for piece in pieces], 0, byte_fallback=True))
        decoder.add_special_tokens([pieces[i] for i in range(size) if not is_byte[i] and not texts[i]])
        decoder.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        return decoder

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Format messages without images as transformers does, in `prompt_language` unless that is given."""
        kwargs.setdefault("prompt_language", self.prompt_language)
        return super().apply_chat_template(conversation, *args, **kwargs)

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        """Split text into pieces and control tokens; the text "<|gmask|><sop>" of a chat template becomes both."""
        first, *others = text.split(PROMPT_END)
        tokens: list[str] = super().tokenize(first, **kwargs) if first or not others else []
        for part in others:
            tokens += [self.gmask_token, str(self.bos_token), *(super().tokenize(part, **kwargs) if part else [])]
        return tokens

    @property
    def gmask_token_id(self) -> int:
        """Id of [gMASK], which marks the position of the answer."""
        return int(self.sp_model.piece_to_id(self.gmask_token))

    @property
    def end_token_id(self) -> int:
        """Id of </s>, which ends a document."""
        return int(self.sp_model.piece_to_id(self.end_token))

    @property
    def vocab_size(self) -> int:
        """Number of pieces, excluding added tokens; the network's embedding may have more rows."""
        return int(self.sp_model.get_piece_size())

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every piece and of every added token."""
        pieces = self.sp_model.id_to_piece(list(range(self.vocab_size)))
        return {**{piece: i for i, piece in enumerate(pieces)}, **self._added_tokens_encoder}

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Decode tokens to text, without clean-up."""
        return self._decode(self.convert_tokens_to_ids(tokens), clean_up_tokenization_spaces=False)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save the tokenizer as transformers does, and export the code that loads it without this package.

        It may be saved before the model, after it, or alone.
        """
        names: tuple[str, ...] = super().save_pretrained(save_directory, *args, **kwargs)
        add_code(save_directory, "export_tokenizer")
        return names

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write ice_text.model, byte for byte as it was loaded; return its path."""
        name = self.vocab_files_names["vocab_file"]
        path = Path(save_directory) / (f"{filename_prefix}-{name}" if filename_prefix else name)
        path.write_bytes(self.sp_model.serialized_model_proto())
        return (str(path),)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return `a [gMASK] <sop>`, or with an answer `a [gMASK] <sop> b <eop>`, for ids a and b."""
        prompt = [*token_ids_0, self.gmask_token_id, self.bos_token_id]
        return prompt if token_ids_1 is None else [*prompt, *token_ids_1, self.eos_token_id]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """Return 1 for each token that `build_inputs_with_special_tokens` adds, 0 for all other tokens."""
        if already_has_special_tokens:
            special = {*self.all_special_ids, self.gmask_token_id}
            return [int(i in special) for i in token_ids_0]
        mask = [0] * len(token_ids_0) + [1, 1]
        return mask if token_ids_1 is None else [*mask, *[0] * len(token_ids_1), 1]

    def _prepare(self, text: str) -> str:
        if self.remove_space:
            text = " ".join(text.split())
        return encode_whitespace(text.lower() if self.do_lower_case else text)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        pieces: list[str] = self.sp_model.encode(self._prepare(text), out_type=str)
        return pieces

    def _convert_token_to_id(self, token: str) -> int:
        return int(self.sp_model.piece_to_id(token))

    def _convert_id_to_token(self, index: int) -> str:
        return str(self.sp_model.id_to_piece(index)) if 0 <= index < self.vocab_size else ""

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        hidden = set(self.all_special_ids) if skip_special_tokens else set()
        stream = self.stream()
        shown = [i for i in ([token_ids] if isinstance(token_ids, int) else token_ids) if i not in hidden]
        text = "".join(map(stream.push, shown)) + stream.flush()
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return clean_up_spaces(text) if clean_up_tokenization_spaces else text

    def _pad(
        self,
        encoded_inputs: MutableMapping[str, Any],
        max_length: int | None = None,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> MutableMapping[str, Any]:
        if (padding_side or self.padding_side) != "left":
            raise ValueError('A prompt must end with <sop>, so pad on the left (padding_side="left").')
        if padding_strategy == PaddingStrategy.DO_NOT_PAD:
            return encoded_inputs
        ids = encoded_inputs["input_ids"]
        length = len(ids) if padding_strategy == PaddingStrategy.LONGEST or max_length is None else max_length
        if pad_to_multiple_of:
            length = -(-length // pad_to_multiple_of) * pad_to_multiple_of
        if return_attention_mask is not False and "attention_mask" in self.model_input_names:
            encoded_inputs.setdefault("attention_mask", [1] * len(ids))
        if "position_ids" in self.model_input_names:
            encoded_inputs.setdefault("position_ids", self._position_rows(ids))
        pad_left(encoded_inputs, length - len(ids), self.pad_token_id)
        return encoded_inputs

    def _position_rows(self, ids: list[int]) -> list[list[int]]:
        """Return [2, len(ids)]: indices in the prompt, constant at the mask token's from <sop> on; answer positions."""
        length = len(ids)
        prefix = ids.index(self.bos_token_id) if self.bos_token_id in ids else length
        # As in the network, [gMASK] takes precedence.
        masks = [ids.index(mask) for mask in (self.gmask_token_id, self.mask_token_id) if mask in ids]
        answer = [masks[0]] * (length - prefix) if masks else list(range(prefix, length))
        return [[*range(prefix), *answer], [0] * prefix + list(range(1, length - prefix + 1))]

    def _forbidden_ranges(self, ranges: Sequence[Sequence[int]] | None) -> list[list[int]]:
        if ranges is None:
            ranges = PUBLISHED_ENGLISH_FORBIDDEN if self.vocab_size == PUBLISHED_PIECES else ()
        if not all(len(r) == 2 and 0 <= r[0] <= r[1] <= self.vocab_size for r in ranges):
            raise ValueError(
                f"english_forbidden_ids is {ranges}; it should be a list of [start, stop] within 0..{self.vocab_size}."
            )
        return [list(r) for r in ranges]

    def _only_added(self, tokens: Mapping[int, AddedToken]) -> dict[int, AddedToken]:
        """Return the tokens of a saved file that were added to the vocabulary.

        The file's entries for the tokenizer's own tokens depend on the transformers version, and are ignored.
        """
        own = {*self._added_tokens_decoder, self.gmask_token_id, self.end_token_id}
        return {i: token for i, token in tokens.items() if i not in own}
