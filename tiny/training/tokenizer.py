"""Trains a small vocabulary with the layout of the published ice_text.model.

A sentencepiece model is a protocol buffer: a list of pieces, whose indices are their ids, and specifications. The
trainer puts the byte pieces first, the published file has them last. Only that list is rewritten, so the messages are
encoded here by hand (https://protobuf.dev/programming-guides/encoding/), without a dependency on protobuf.
"""

import io
import itertools
import re
import struct
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from model.hf.tokenization_chatglm import NEWLINE, ChatGLMTokenizer, encode_whitespace, whitespace_pieces
from visualglm.scenes.vocabulary import NAMES, NOUNS

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # sentencepiece_model.proto, SentencePiece.Type
CONTROL_PIECES = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
HEAD_PIECES = ("<unk>", "<s>", "</s>", "<pad>", NEWLINE)
CHINESE = re.compile("[\u3001-\u303f\u4e00-\u9fff]")  # Chinese punctuation and Chinese characters
LAYOUT = re.compile("|".join(map(re.escape, whitespace_pieces())))
LONGEST_PIECE, LONGEST_CHINESE = 16, 4  # maximum characters; Chinese words rarely have more than four
# Chinese has no spaces, so colors and nouns are split here: if 红色的球 were one piece, a held-out pair would be
# tokenized unlike all other pairs.
COLORS = "".join(name[0] for names in NAMES["colours"].values() for name in names["zh"])
SPLIT_OFF = re.compile("|".join((f"([{COLORS}]色?的?)", *(f"({noun.zh})" for noun in NOUNS.values()))))
PIECES_FIELD, TRAINER_FIELD = 1, 2  # field numbers of ModelProto
SEEDS_FIELD = 54  # TrainerSpec.seed_sentencepieces_file


class VocabularyEntry(NamedTuple):
    """One entry of the vocabulary: text, log-probability and type (`NORMAL`, `CONTROL`, ...)."""

    text: str
    score: float
    kind: int


class ProtobufField(NamedTuple):
    """A protobuf field: its number, all its bytes, and its payload."""

    number: int
    raw: bytes
    body: bytes


def train_tokenizer(texts: Iterable[str], out_dir: Path, vocab_size: int = 1500) -> None:
    """Write ice_text.model and tokenizer_config.json, for `ChatGLMTokenizer.from_pretrained(out_dir)`.

    Deterministic: the same texts give the same files.

    Args:
        texts: training texts, one example each.
        out_dir: output directory, created if missing.
        vocab_size: total number of pieces, 349 of them fixed (special, layout and byte pieces); fewer if the texts do
            not support that many. Every character of the texts gets a piece.

    Raises:
        RuntimeError: there are no texts, or vocab_size is too small for their characters.
    """
    trained = train_unigram([encode_whitespace(text) for text in texts], vocab_size)
    pieces = order_pieces(read_pieces(trained))
    out_dir.mkdir(parents=True, exist_ok=True)
    vocab_file = out_dir / "ice_text.model"
    vocab_file.write_bytes(replace_pieces(trained, pieces))
    ChatGLMTokenizer(vocab_file, english_forbidden_ids=chinese_ranges(pieces)).save_pretrained(out_dir)


def train_unigram(texts: list[str], vocab_size: int) -> bytes:
    """Train a sentencepiece model with all fixed pieces, in sentencepiece's order."""
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as directory:
        seeds_file = Path(directory) / "seeds.tsv"
        lines = [f"{piece}\t{count}\n" for piece, count in count_candidates(texts).items()]
        seeds_file.write_text("".join(lines), encoding="utf-8")
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            seed_sentencepieces_file=str(seeds_file),
            character_coverage=1.0,
            max_sentence_length=1 << 20,  # longer texts would be skipped silently
            normalization_rule_name="nmt_nfkc",
            split_digits=True,
            byte_fallback=True,
            pad_id=HEAD_PIECES.index("<pad>"),
            control_symbols=list(CONTROL_PIECES),
            user_defined_symbols=list(whitespace_pieces()),
            num_threads=1,  # floating-point sums of several threads depend on their order
            minloglevel=2,
        )
    return model.getvalue()


def count_candidates(texts: list[str]) -> dict[str, int]:
    """Return candidate pieces with their counts: parts of words that occur at least twice.

    Sentencepiece's own candidate search counts distinct words, so it never finds a word that is always written the same
    way: the few words of our scenes would yield hardly more than letters.
    """
    words = Counter(word for text in texts for word in split_words(text))
    candidates: Counter[str] = Counter()
    for word, count in words.items():
        for start, stop in itertools.combinations(range(len(word) + 1), 2):
            part = word[start:stop]
            if 1 < len(part) <= (LONGEST_CHINESE if CHINESE.search(part) else LONGEST_PIECE):
                candidates[part] += count
    return {part: count for part, count in candidates.items() if count > 1}


def split_words(text: str) -> list[str]:
    """Split a text with marked layout into words, each with the "▁" of its leading space; Chinese into phrases."""
    parts = LAYOUT.split(" " + unicodedata.normalize("NFKC", text))
    words = [word for part in parts for word in re.findall("▁?[^▁]+", part.replace(" ", "▁"))]
    return [part for word in words for part in SPLIT_OFF.split(word) if part]


def read_pieces(model: bytes) -> list[VocabularyEntry]:
    """Return the vocabulary of a sentencepiece model, in the order of ids."""
    processor = SentencePieceProcessor(model_proto=model)
    layout = whitespace_pieces()

    def kind(i: int) -> int:
        if processor.id_to_piece(i) in layout:
            return USER_DEFINED
        tests = {UNKNOWN: processor.is_unknown, CONTROL: processor.is_control, BYTE: processor.is_byte}
        return next((kind for kind, test in tests.items() if test(i)), NORMAL)

    return [VocabularyEntry(processor.id_to_piece(i), processor.get_score(i), kind(i)) for i in range(len(processor))]


def order_pieces(pieces: list[VocabularyEntry]) -> list[VocabularyEntry]:
    """Return `pieces` in the published order, with the Chinese ones last among the normal ones."""
    by_text = {piece.text: piece for piece in pieces}
    normal = [piece for piece in pieces if piece.kind == NORMAL]
    normal.sort(key=lambda piece: bool(CHINESE.search(piece.text)))  # keeps the order within both halves
    layout = [by_text[text] for text in whitespace_pieces() if text != NEWLINE]
    return [
        *(by_text[text] for text in HEAD_PIECES),
        *normal,
        *(by_text[text] for text in CONTROL_PIECES),
        *layout,
        *(piece for piece in pieces if piece.kind == BYTE),
    ]


def chinese_ranges(pieces: list[VocabularyEntry]) -> list[tuple[int, int]]:
    """Return the half-open id range of the Chinese pieces of an ordered vocabulary; [] if it has none."""
    ids = [i for i, piece in enumerate(pieces) if CHINESE.search(piece.text)]
    return [(ids[0], ids[-1] + 1)] if ids else []


def replace_pieces(model: bytes, pieces: list[VocabularyEntry]) -> bytes:
    """Return `model` with another list of pieces, and without the random path of the candidates file."""
    rest = {field.number: field for field in read_fields(model) if field.number != PIECES_FIELD}
    trainer = [field.raw for field in read_fields(rest.pop(TRAINER_FIELD).body) if field.number != SEEDS_FIELD]
    vocabulary = [encode_field(PIECES_FIELD, encode_piece(piece)) for piece in pieces]
    others = [field.raw for field in rest.values()]
    return b"".join([*vocabulary, encode_field(TRAINER_FIELD, b"".join(trainer)), *others])


def encode_piece(piece: VocabularyEntry) -> bytes:
    """Encode a SentencePiece message: text (field 1), score (field 2, float), type (field 3, integer)."""
    return (
        encode_field(1, piece.text.encode()) + b"\x15" + struct.pack("<f", piece.score) + b"\x18" + bytes([piece.kind])
    )


def encode_field(number: int, body: bytes) -> bytes:
    """Encode a protobuf field of bytes."""
    return encode_varint(number << 3 | 2) + encode_varint(len(body)) + body


def encode_varint(value: int) -> bytes:
    """Encode an integer in groups of seven bits, lowest first; the high bit marks continuation."""
    low = bytes([value & 127])
    return low if value < 128 else bytes([low[0] | 128]) + encode_varint(value >> 7)


def read_fields(message: bytes) -> Iterator[ProtobufField]:
    """Yield the fields of a protobuf message, in order."""
    offset = 0
    while offset < len(message):
        start = offset
        tag, offset = read_varint(message, offset)
        size = {1: 8, 5: 4}.get(tag & 7)  # fixed sizes
        if size is None:
            value, offset = read_varint(message, offset)
            size = value if tag & 7 == 2 else 0
        yield ProtobufField(tag >> 3, message[start : offset + size], message[offset : offset + size])
        offset += size


def read_varint(message: bytes, offset: int) -> tuple[int, int]:
    """Return the integer that starts at byte `offset`, and the offset after it."""
    value = shift = 0
    while message[offset] > 127:
        value |= (message[offset] & 127) << shift
        offset, shift = offset + 1, shift + 7
    return value | message[offset] << shift, offset + 1
