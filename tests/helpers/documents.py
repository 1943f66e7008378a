"""Read the project's Markdown documents: their code blocks, links and commands."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
CODE_SPAN = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A fenced code block.

    Attributes:
        language: its info string.
        text: its lines.
        reason: why no test runs it, from a comment `<!-- not run: reason -->` before it; "" if a test does.
    """

    language: str
    text: str
    reason: str


def find_documents() -> list[str]:
    """List the paths of all documents."""
    folders = ("docs", "examples", "finetune", "tiny", "benchmarks", "tests")
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def find_translations() -> list[tuple[str, str]]:
    """List (English, Chinese) paths of documents that exist in both languages."""
    pairs = [(name, f"{name.removesuffix('.md')}_zh.md") for name in find_documents()]
    return [(english, chinese) for english, chinese in pairs if (ROOT / chinese).is_file()]


def read(name: str) -> str:
    """Return the text of a document."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str | None = None) -> list[Block]:
    """List a document's code blocks, those in `language` if given."""
    found = [Block(match["language"], match["text"], match["reason"] or "") for match in BLOCK.finditer(read(name))]
    return [block for block in found if language in (None, block.language)]


def prose(name: str) -> str:
    """Return a document without its code blocks."""
    return BLOCK.sub("", read(name))


def code_spans(name: str) -> list[str]:
    """List the code spans of a document's prose."""
    return CODE_SPAN.findall(prose(name))


def lines_of(block: Block) -> list[str]:
    """List the commands of a shell block, with continued lines joined."""
    return [line for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]


def commands(name: str) -> list[str]:
    """List the commands of a document: the lines of its shell blocks, and its code spans."""
    return [line for block in blocks(name, "sh") for line in lines_of(block)] + code_spans(name)
