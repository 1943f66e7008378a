"""Error messages in the interface's language: each message that a chat can show has a translation with its facts."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import CHINESE, ENGLISH, GenerationConfig, ImageError, SettingError, VisualGLMError, errors, resource_errors
from model.checkpoint import files
from model.checkpoint.resolve import resolve
from model.images import decode, url_fetch
from model.images.preprocess import load_image
from model.prompt import is_chinese
from visualglm.error_texts import describe_error, find_translation, read_translations, translate_message

ROOT = Path(__file__).parents[2]
# Modules whose errors a chat, a page or a terminal can show, and functions of theirs that only Python programs call.
MODULES = (
    *("errors", "resource_errors", "images.decode", "images.decode_process", "images.preprocess", "images.url_fetch"),
    *(
        "images.embedding_cache",
        "engine.config",
        "engine.batch",
        "engine.scheduler",
        "loading",
        "hf_loading",
        "placement",
    ),
    *("environment", "checkpoint.resolve", "checkpoint.peft_adapter", "prompt", "checkpoint.files"),
)
PYTHON_ONLY = {"choose_language", "to_turns", "parse_message", "parse_pair", "read_hf_config", "write_peft"}
# Functions that describe a reason, and what precedes the reason in the message.
REASONS = {"_describe_unknown": "⟨image⟩ ", "describe_damage": "⟨path⟩ ", "describe_archive": "⟨path⟩ "}
REASONS |= {"describe_truncation": "⟨path⟩ ", "_describe_error": "", "_describe_status": ""}
REASONS |= {"find_exceeded_limit": "", "_find_exceeded_jpeg_limit": "", "_find_exceeded_tiff_limit": ""}
RAISING = {*vars(errors), "fetch_error"}
NAMES = {"reason", "accepted", "advice"}  # of variables with a part of a message
COMPOSED = re.compile(r"(⟨[^⟩]*⟩[\s.:]*)+")  # of parts that are described elsewhere


class Templates(ast.NodeVisitor):
    """Collects the messages of a module, with ⟨source⟩ in place of each expression."""

    def __init__(self, constants: dict[str, object]) -> None:
        self.constants = constants
        self.function = ""
        self.found: list[str] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.function = self.function, node.name
        if node.name not in PYTHON_ONLY:
            self.generic_visit(node)
        self.function = outer

    def visit_Return(self, node: ast.Return) -> None:
        if self.function in REASONS and node.value is not None:
            for value in [node.value] if not isinstance(node.value, ast.IfExp) else [node.value.body]:
                self.add(value, REASONS[self.function])
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if ast.unparse(node.targets[0]) in NAMES and self.function not in PYTHON_ONLY:
            self.add(node.value, "")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        if name in RAISING and node.args:
            self.add(node.args[-1], "")
        if name == "super().__init__" and node.args:
            self.add(node.args[0], "")
        self.generic_visit(node)

    def add(self, node: ast.expr, before: str) -> None:
        text = self.read(node)
        if text is not None and not COMPOSED.fullmatch(before + text):
            self.found.append(before + text)

    def read(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return "".join(self.read_part(part) for part in node.values)
        return None

    def read_part(self, part: ast.expr) -> str:
        if isinstance(part, ast.Constant):
            return str(part.value)
        assert isinstance(part, ast.FormattedValue)
        if isinstance(part.value, ast.IfExp):  # an addition to the message
            return ""
        source = ast.unparse(part.value)
        constant = None if source.endswith("ADVICE") else self.constants.get(source)
        return constant if isinstance(constant, str) else f"⟨{re.sub(r'[^a-zA-Z0-9.]+', ' ', source)}⟩"


def collect(module: str) -> Iterator[str]:
    """Yield the messages that a module's errors can have, without the lines and reasons that others describe."""
    path = ROOT / "model" / f"{module.replace('.', '/')}.py"
    templates = Templates(vars(importlib.import_module(f"model.{module}")))
    templates.visit(ast.parse(path.read_text(encoding="utf-8")))
    yield from templates.found


FOUND = [(module, text) for module in MODULES for text in dict.fromkeys(collect(module))]


def test_the_messages_are_found() -> None:
    texts = [text for _, text in FOUND]
    assert len(texts) > 90
    assert any("many are waiting" in text or "questions are waiting" in text for text in texts)
    assert any("web page" in text for text in texts)


@pytest.mark.parametrize(("module", "text"), FOUND, ids=lambda value: value[:60])
def test_each_message_has_a_translation_with_all_its_facts(module: str, text: str) -> None:
    if not is_chinese(translate_message(text)):  # a part that only stands before an advice
        text = f"{text} ⟨advice⟩"
    translated = translate_message(text)
    assert is_chinese(translated)
    assert not re.search(r"[a-z]{3,} [a-z]{3,} [a-z]{3,}", re.sub("⟨[^⟩]*⟩|git lfs pull|`[^`]*`|--.*", "", translated))
    assert sorted(re.findall("⟨[^⟩]*⟩", translated)) == sorted(re.findall("⟨[^⟩]*⟩", text))


@pytest.mark.parametrize(
    "text",
    [
        *(resource_errors.OUT_OF_MEMORY, resource_errors.OUT_OF_FILES, resource_errors.OUT_OF_THREADS),
        *(url_fetch.DOWNLOAD_ADVICE, url_fetch._PROXY_ADVICE, decode._CONVERSION_ADVICE),
        f"{files.RETRY_ADVICE}.",
    ],
)
def test_shortages_and_advice_have_translations(text: str) -> None:
    assert is_chinese(translate_message(text))


def test_templates_have_the_same_fields_in_both_languages() -> None:
    for english, chinese in read_translations():
        assert sorted(english.groupindex) == sorted(re.findall(r"\{(\w+)\}", chinese))


@pytest.mark.parametrize(
    "changes",
    [{"top_p": 3}, {"top_k": -1}, {"seed": -1}, {"max_length": 0}, {"repetition_penalty": 0}, {"temperature": 101}],
)
def test_a_setting_out_of_range_says_the_range_in_chinese(changes: dict[str, float]) -> None:
    with pytest.raises(SettingError) as caught:
        GenerationConfig(**changes)  # type: ignore[arg-type]
    text = describe_error(caught.value, CHINESE)
    assert next(iter(changes)) in text
    assert "应为" in text
    assert not re.search("[a-z]+ [a-z]+", text)


def test_the_english_message_is_the_error_itself() -> None:
    assert describe_error(ImageError("The image is gone."), ENGLISH) == "The image is gone."


def test_a_message_without_translation_stays_english() -> None:
    assert describe_error(VisualGLMError("Something rare happened."), CHINESE) == "Something rare happened."
    assert find_translation("a" * 1_000_000) is None


def test_the_name_of_an_image_is_kept() -> None:
    with pytest.raises(ImageError) as caught:
        load_image("is a directory. or 3.png")
    assert "'is a directory. or 3.png'" in describe_error(caught.value, CHINESE)


def test_a_missing_model_is_explained_line_by_line() -> None:
    with pytest.raises(VisualGLMError) as caught:
        resolve("visualglm-tyny")
    assert "Did you mean visualglm-tiny?" in str(caught.value)
    lines = describe_error(caught.value, CHINESE).splitlines()
    assert "是不是 visualglm-tiny？" in lines
    assert sum(map(is_chinese, lines)) >= 5
