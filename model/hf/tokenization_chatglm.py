"""The tokenizer of ChatGLM-6B and VisualGLM-6B: sentencepiece's `ice_text.model` as a transformers tokenizer.

Needs transformers, sentencepiece and modules of this package, so that it can be copied into an exported model.
Token ids are those of the published tokenizer (https://huggingface.co/THUDM/visualglm-6b).
"""

import codecs
import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
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
    """`text` without the blanks before English marks and contractions: the default of transformers 4.33."""
    for spaced, closed in CLEAN_UPS:
        text = text.replace(spaced, closed)
    return text


def encode_whitespace(text: str) -> str:
    """`text` with newlines, tabs and runs of 2 to 80 blanks written as the pieces which stand for them.

    A lone surrogate, which UTF-8 cannot hold, becomes "?".
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = text.replace("\n", NEWLINE).replace("\t", TAB)
    return re.sub(f" {{2,{MAX_SPACES}}}", lambda run: f"<|blank_{len(run[0])}|>", text)


def whitespace_pieces() -> dict[str, str]:
    """The user-defined pieces and the layout that each stands for: `{"<n>": "\\n", ...}`."""
    blanks = {f"<|blank_{count}|>": " " * count for count in range(2, MAX_SPACES + 1)}
    return {NEWLINE: "\n", TAB: "\t", **blanks}


class IncrementalDecoder:
    """Turns one answer's ids into text as they come.

    The texts of all `push` calls and of the last `flush`, joined, are the text of all ids, before clean-up.
    A layout piece is known by its id: "<", "n" and ">" written one by one stay "<n>", which the original,
    replacing in the finished text, took for a newline.
    """

    def __init__(self, sp_model: SentencePieceProcessor, texts: Mapping[int, str], pad_token_id: int) -> None:
        """`texts`: those that differ from the piece. An id with neither is passed over, as a pad is."""
        self._sp_model = sp_model
        self._texts = {sp_model.unk_id(): UNKNOWN_TOKEN_TEXT, **texts}
        self._pad_token_id = pad_token_id
        # An invalid byte becomes one surrogate, hence one U+FFFD: sentencepiece does not merge them.
        self._bytes = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._at_start = True

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes: "" for a control piece, and while a character lacks bytes."""
        token_id = int(token_id)  # a tensor's number is found in no dictionary
        if token_id == self._pad_token_id or not self._has_text(token_id):
            return ""
        if token_id not in self._texts and self._sp_model.is_byte(token_id):
            return self._decode_byte(token_id)
        held = self.flush()
        text = self._piece_text(token_id)
        self._at_start = self._at_start and not text
        return held + text

    def flush(self) -> str:
        """The bytes still held back, one U+FFFD for each; the stream may go on afterwards."""
        return self._bytes.decode(b"", final=True).translate(LONE_SURROGATES)

    def _has_text(self, token_id: int) -> bool:
        return token_id in self._texts or 0 <= token_id < self._sp_model.get_piece_size()

    def _decode_byte(self, token_id: int) -> str:
        self._at_start = False
        value = int(self._sp_model.id_to_piece(token_id)[3:5], base=16)  # "<0xE4>"
        return self._bytes.decode(bytes([value])).translate(LONE_SURROGATES)

    def _piece_text(self, token_id: int) -> str:
        if token_id in self._texts:
            return self._texts[token_id]
        if self._sp_model.is_control(token_id):
            return ""
        piece = self._sp_model.id_to_piece(token_id)
        if self._at_start:  # the blank that encoding put before the text
            piece = piece.removeprefix("▁")
        return piece.replace("▁", " ")


SPECIAL_TOKENS = {  # the strings that `encode` takes for control tokens
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
)
PUBLISHED_PIECES = 130_344
# From "。" up to the special tokens: Chinese and other scripts. The original's demos forbid it in English.
PUBLISHED_ENGLISH_FORBIDDEN = ((63_823, 130_000),)


def load_sentencepiece(vocab_file: str | Path | None, required: Iterable[str]) -> SentencePieceProcessor:
    """The sentencepiece model in `vocab_file`; ValueError if it is absent, unreadable or lacks a piece."""
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
    """A special string that `encode` cuts out of text, white space around it included, as in 4.33."""
    return AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=True)


def pad_left(encoded: MutableMapping[str, Any], missing: int, pad_token_id: int) -> None:
    """Puts `missing` fillers before each sequence of one example, in place; none if it is negative."""
    fillers = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
    for name in fillers.keys() & encoded.keys():
        encoded[name] = [fillers[name]] * missing + encoded[name]
    if "position_ids" in encoded:
        encoded["position_ids"] = [[0] * missing + list(row) for row in encoded["position_ids"]]


class ChatGLMTokenizer(PreTrainedTokenizer):
    """Text to ids and back, as the published tokenizer did under transformers 4.33.

    `encode` and `tokenizer(...)` are transformers' own: "<sop>", "<eop>", "[MASK]", "<pad>" and "<unk>" in
    the text become control tokens and lose the white space around them ("[gMASK]" and "</s>" stay words), and
    `[gMASK] <sop>` is appended. Without padding they return input_ids only, with it also attention_mask
    (0 on pads) and position_ids (two rows). For what a person typed use `encode_text`, which parses nothing.
    """

    vocab_files_names = {"vocab_file": "ice_text.model"}  # noqa: RUF012  transformers wants it so; checkpoint key
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
        **kwargs: Any,
    ) -> None:
        """Reads `vocab_file`; everything else is what tokenizer_config.json may hold.

        Args:
            vocab_file: path of ice_text.model.
            gmask_token: stands where the answer will be.
            end_token: ends a document; the model makes no use of it.
            do_lower_case: lower the text before encoding.
            remove_space: strip the text and make each run of white space one blank before encoding.
            num_image_tokens: 0; the old vocabulary, which began with 20000 image tokens, is not supported.
            english_forbidden_ids: half-open ranges [start, stop) of the ids that an English answer must not
                contain; None means the published range for the published vocabulary, and none for any other.
            kwargs: settings of transformers, such as bos_token.

        Raises:
            ValueError: a vocabulary file or a setting that cannot be used.
        """
        if num_image_tokens:
            raise ValueError(
                f"num_image_tokens is {num_image_tokens}, but the old vocabulary with image tokens is not "
                "supported: take the checkpoint's current files, where it is 0."
            )
        kwargs = {**TRANSFORMERS_SETTINGS, **kwargs}
        # transformers 5 collects every other *_token here and would look for these two in text as well.
        named = dict(kwargs.pop("model_specific_special_tokens", None) or {})
        self.gmask_token = str(named.pop("gmask_token", gmask_token))
        self.end_token = str(named.pop("end_token", end_token))
        self.do_lower_case, self.remove_space, self.num_image_tokens = do_lower_case, remove_space, 0
        # The vocabulary comes before super().__init__, which asks for it.
        special = {name: str(kwargs[name]) for name in SPECIAL_TOKENS}
        pieces = [*special.values(), self.gmask_token, self.end_token, *whitespace_pieces()]
        self.sp_model = load_sentencepiece(vocab_file, pieces)
        self.english_forbidden_ids = self._forbidden_ranges(english_forbidden_ids)
        self._added_tokens_decoder = {
            self.sp_model.piece_to_id(token): make_special_token(token) for token in special.values()
        }
        kwargs["added_tokens_decoder"] = self._only_added(kwargs.pop("added_tokens_decoder", {}))
        kwargs.update(special)
        super().__init__(**kwargs, **({"model_specific_special_tokens": named} if named else {}))
        self.init_kwargs.update({name: getattr(self, name) for name in OWN_SETTINGS})

    def encode_text(self, text: str) -> list[int]:
        """Ids of plain text: nothing in it becomes a control token, and none is added.

        Layout pieces written out ("<n>", "<|tab|>") do become newline and tab, as in the original.
        """
        ids: list[int] = self.sp_model.encode(self._prepare(text))
        return ids

    def decode_text(self, ids: Iterable[int]) -> str:
        """Text of `ids`, as `decode` gives it; ids without a piece, pads and control tokens give nothing."""
        return self._decode(list(ids))

    def clean_up_spaces(self, text: str) -> str:
        """Join punctuation and English endings to the word before them, as `decode` does."""
        return clean_up_spaces(text)

    def stream(self) -> IncrementalDecoder:
        """A decoder for one answer that comes id by id; its text is not cleaned up."""
        layout = {self.sp_model.piece_to_id(piece): text for piece, text in whitespace_pieces().items()}
        added = {i: token.content for i, token in self._added_tokens_decoder.items() if i >= self.vocab_size}
        return IncrementalDecoder(self.sp_model, {**layout, **added}, self.pad_token_id)

    @property
    def gmask_token_id(self) -> int:
        """Id of [gMASK], which stands where the answer will be."""
        return int(self.sp_model.piece_to_id(self.gmask_token))

    @property
    def end_token_id(self) -> int:
        """Id of </s>, which ends a document."""
        return int(self.sp_model.piece_to_id(self.end_token))

    @property
    def vocab_size(self) -> int:
        """Number of pieces, without tokens added later; the network's embedding may have more rows."""
        return int(self.sp_model.get_piece_size())

    def get_vocab(self) -> dict[str, int]:
        """Every piece, and every token added later, with its id."""
        pieces = self.sp_model.id_to_piece(list(range(self.vocab_size)))
        return {**{piece: i for i, piece in enumerate(pieces)}, **self._added_tokens_encoder}

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Text of `tokens`, without clean-up."""
        return self._decode(self.convert_tokens_to_ids(tokens), clean_up_tokenization_spaces=False)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Write the tokenizer as transformers does, and the code that loads the directory without this package.

        It may be saved before the model or after it, or alone.
        """
        names: tuple[str, ...] = super().save_pretrained(save_directory, *args, **kwargs)
        add_code(save_directory, "export_tokenizer")
        return names

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Writes ice_text.model, byte for byte as it was read; returns its path."""
        name = self.vocab_files_names["vocab_file"]
        path = Path(save_directory) / (f"{filename_prefix}-{name}" if filename_prefix else name)
        path.write_bytes(self.sp_model.serialized_model_proto())
        return (str(path),)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`a [gMASK] <sop>`, or with an answer `a [gMASK] <sop> b <eop>`."""
        prompt = [*token_ids_0, self.gmask_token_id, self.bos_token_id]
        return prompt if token_ids_1 is None else [*prompt, *token_ids_1, self.eos_token_id]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each token that `build_inputs_with_special_tokens` adds, 0 for the others."""
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
            raise ValueError(
                'This model reads its prompt up to <sop> at the end: pad on the left (padding_side="left").'
            )
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
        """[2, len(ids)]: places in the prompt, from <sop> on always the mask's; places in the answer."""
        length = len(ids)
        prefix = ids.index(self.bos_token_id) if self.bos_token_id in ids else length
        # The network looks for [gMASK] first.
        masks = [ids.index(mask) for mask in (self.gmask_token_id, self.mask_token_id) if mask in ids]
        places = [masks[0]] * (length - prefix) if masks else list(range(prefix, length))
        return [[*range(prefix), *places], [0] * prefix + list(range(1, length - prefix + 1))]

    def _forbidden_ranges(self, ranges: Sequence[Sequence[int]] | None) -> list[list[int]]:
        if ranges is None:
            ranges = PUBLISHED_ENGLISH_FORBIDDEN if self.vocab_size == PUBLISHED_PIECES else ()
        if not all(len(r) == 2 and 0 <= r[0] <= r[1] <= self.vocab_size for r in ranges):
            raise ValueError(
                f"english_forbidden_ids is {ranges}, but has to be a list of [start, stop] within 0..{self.vocab_size}."
            )
        return [list(r) for r in ranges]

    def _only_added(self, tokens: Mapping[int, AddedToken]) -> dict[int, AddedToken]:
        """Those of a saved file that were added to the vocabulary.

        What such files say of our own depends on the class and the transformers that wrote them.
        """
        own = {*self._added_tokens_decoder, self.gmask_token_id, self.end_token_id}
        return {i: token for i, token in tokens.items() if i not in own}
