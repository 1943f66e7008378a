"""Text and the pieces that stand for it: what is written otherwise before encoding, and what ids say as they come."""

import codecs
import re
from collections.abc import Mapping

from sentencepiece import SentencePieceProcessor

NEWLINE, TAB = "<n>", "<|tab|>"
MAX_BLANKS = 80
UNKNOWN_TEXT = " ⁇ "  # what sentencepiece writes for <unk>
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


def mark_layout(text: str) -> str:
    """`text` with newlines, tabs and runs of 2 to 80 blanks written as the pieces which stand for them.

    A lone surrogate, which UTF-8 cannot hold, becomes "?".
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = text.replace("\n", NEWLINE).replace("\t", TAB)
    return re.sub(f" {{2,{MAX_BLANKS}}}", lambda run: f"<|blank_{len(run[0])}|>", text)


def layout_pieces() -> dict[str, str]:
    """The user-defined pieces and the layout that each stands for: `{"<n>": "\\n", ...}`."""
    blanks = {f"<|blank_{count}|>": " " * count for count in range(2, MAX_BLANKS + 1)}
    return {NEWLINE: "\n", TAB: "\t", **blanks}


class TextStream:
    """Turns one answer's ids into text as they come.

    The texts of all `push` calls and of the last `flush`, joined, are the text of all ids, before clean-up.
    A layout piece is known by its id: "<", "n" and ">" written one by one stay "<n>", which the original,
    replacing in the finished text, took for a newline.
    """

    def __init__(self, sp_model: SentencePieceProcessor, texts: Mapping[int, str], pad_token_id: int) -> None:
        """`texts`: those that differ from the piece. An id with neither is passed over, as a pad is."""
        self._sp_model = sp_model
        self._texts = {sp_model.unk_id(): UNKNOWN_TEXT, **texts}
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
