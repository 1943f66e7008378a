"""Links, paths, identifiers and commands in the documents are valid."""

import importlib
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from model.command_line import ArgumentParser
from tests.helpers.documents import (
    CODE_SPAN,
    ROOT,
    Block,
    blocks,
    code_spans,
    commands,
    find_documents,
    find_translations,
    lines_of,
    prose,
    read,
)
from visualglm.cli import COMMANDS

DOCUMENTS = find_documents()
# Documents about earlier versions name what existed then.
HISTORIES = ("CHANGELOG.md", "tests/goldens/fixtures/README.md", "benchmarks/notes.md")
PRESENT = [name for name in DOCUMENTS if name not in HISTORIES and not name.startswith("tests/goldens")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FOLDERS = ("model", "visualglm", "finetune", "tiny", "benchmarks", "tests", "examples", "docs", ".ci", ".github")
OUR_PATH = re.compile(rf"(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*|[\w.-]+\.(?:py|md|txt|toml|sh|zip)")
IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\(\))?")
# Identifiers of other programs.
FOREIGN = frozenset(
    {"CUDA_VISIBLE_DEVICES", "NCCL_SOCKET_IFNAME", "RAY_USE_TLS", "packing", "padding_free", "assistant_only_loss"}
)
# Languages of blocks that are not commands or code.
SHOWN_ONLY = ("text", "mermaid", "bibtex")
# Blocks that test_readme.py runs or reads, besides Python, by the document's name in English.
TESTED = {
    ("docs/finetuning.md", "yaml"),  # by test_recipes.py
    ("docs/ecosystem.md", "json"),
    ("docs/http.md", "bash"),
    ("docs/http.md", "json"),
    ("docs/http.md", "js"),
    ("docs/terminal.md", "console"),
    ("docs/web.md", "json"),
    ("docs/finetuning.md", "json"),
}
SCRIPTS = {"cli_demo.py": "chat", "cli_demo_hf.py": "chat", "web_demo.py": "web", "web_demo_hf.py": "web"}
SCRIPTS |= {"api.py": "serve", "api_hf.py": "serve", "finetune/finetune_visualglm.py": "finetune"}
LAUNCHERS = ("torchrun", "deepspeed")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


def slug_of(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.replace("`", "")).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@cache
def anchors(name: str) -> frozenset[str]:
    """Return the anchors of a document."""
    found: Counter[str] = Counter()
    names = []
    for heading in HEADING.findall(prose(name)):
        slug = slug_of(heading)
        names.append(f"{slug}-{found[slug]}" if found[slug] else slug)
        found[slug] += 1
    return frozenset(names)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_headings(name: str) -> None:
    dead = []
    for link in LINK.findall(CODE_SPAN.sub("", prose(name))):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (ROOT / name).parent / path if path else ROOT / name
        heading = target.resolve().relative_to(ROOT).as_posix()
        if not target.exists() or (anchor and anchor not in anchors(heading)):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_document_names_a_registry_or_a_path_of_somebody_s_machine(name: str) -> None:
    assert not re.search(r"pypi\.org|pythonhosted|/(?:home|root|tmp|work|Users)/", read(name))


@pytest.mark.parametrize("name", PRESENT)
def test_paths_exist(name: str) -> None:
    named = [span for span in code_spans(name) if OUR_PATH.fullmatch(span) and "_x.py" not in span]
    named += re.findall(r"(?<![\w/])examples/[\w./-]+", "\n".join(commands(name)))
    figures = "\n".join(block.text for block in blocks(name, "mermaid"))
    named += re.findall(r"[A-Za-z_0-9/]+\.py|(?:model|visualglm|finetune)/\w+", figures)
    folders = ((ROOT / name).parent, ROOT, ROOT / "finetune", ROOT / "model")  # figures shorten paths
    missing = [path for path in named if not any((folder / path).exists() for folder in folders)]
    assert missing == []


@pytest.mark.parametrize("name", PRESENT)
def test_modules_that_python_is_told_to_run_exist(name: str) -> None:
    modules = set(re.findall(r"python3? -m (\w+(?:\.\w+)*)", read(name), re.ASCII))
    ours = [module for module in modules if module.split(".")[0] in FOLDERS]
    paths = [ROOT / module.replace(".", "/") for module in ours]
    assert [path for path in paths if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists())] == []


@cache
def code_words() -> frozenset[str]:
    """Return all words of the code, of its data and of its scripts, without the lists of former names."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    former = ("model/former_names.toml", "tests/project/public_names.json", "tests/goldens/")
    files = [path for path in files if not path.relative_to(ROOT).as_posix().startswith(former)]
    kinds = (".py", ".sh", ".json", ".toml", ".txt", ".yml", ".yaml", "")
    texts = [
        path.read_text(encoding="utf-8", errors="replace") for path in files if path.suffix in kinds and path.is_file()
    ]
    return frozenset(word for text in texts for word in re.findall(r"\w+", text))


@pytest.mark.parametrize("name", PRESENT)
def test_identifiers_occur_in_the_code(name: str) -> None:
    spans = [span for span in code_spans(name) if IDENTIFIER.fullmatch(span)]
    unknown = [span for span in spans if not set(re.findall(r"\w+", span)) <= code_words() | FOREIGN]
    assert unknown == []


@pytest.mark.parametrize("name", PRESENT)
def test_dotted_names_can_be_imported(name: str) -> None:
    spans = [span.removesuffix("()") for span in code_spans(name)]
    dotted = [span for span in spans if re.fullmatch(r"(?:model|finetune|visualglm|tiny)(?:\.[A-Za-z_]\w*)+", span)]
    variables = (
        "model.half",
        "model.bfloat16",
        "model.transformer",
        "model.config",
        "model.graph_cache",
        "model.safetensors",
    )
    for span in dotted:
        if not span.startswith(variables):
            assert find_object(span) is not None, span


def find_object(name: str) -> Any:
    """Import the module or its attribute called `name`; None if there is none."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            value = getattr(value, part, None)
        return value
    return None


class ParsedError(Exception):
    """The arguments were parsed; raised in place of running the program."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every program end as soon as its parser has accepted the arguments."""
    parse = ArgumentParser.parse_args

    def parse_and_stop(self: ArgumentParser, *given: Any) -> None:
        parse(self, *given)
        raise ParsedError

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_and_stop)


def module_of(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the module whose `main` a command runs, and its arguments; None for commands of other kinds."""
    while words and ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    if words[:3] == ["python", "-m", "visualglm"]:
        words = words[2:]
    if words[:1] == ["visualglm"] and words[1:2] != ["--help"]:
        return COMMANDS[words[1]].module, words[2:]
    if words[:2] in (["bash", "finetune/finetune_visualglm.sh"], ["bash", "finetune/finetune_visualglm_qlora.sh"]):
        return "finetune.finetune_visualglm", [*words[2:], "--train-data", "dataset.json"]
    script = next((word for word in words if word in SCRIPTS), None)
    if script is not None and words[0] in ("python", *LAUNCHERS):
        module = COMMANDS[SCRIPTS[script]].module.replace("finetune.__main__", "finetune.finetune_visualglm")
        return module, words[words.index(script) + 1 :]
    if words[:2] == ["python", "-m"] and words[2].split(".")[0] in FOLDERS:
        module = words[2].replace("finetune.data", "finetune.check")
        return module, words[3:]
    return None


def is_checked(line: str) -> bool:
    """Whether a command is checked by a test: by the program's parser, or as a target of make or a file of tests."""
    words = shlex.split(line, comments=True)
    if module_of(words) is not None:
        return True
    return words[:1] == ["make"] or words[:3] == ["python", "-m", "pytest"]


def commands_of(name: str) -> list[str]:
    """List a document's commands that are checked, in blocks and in code spans."""
    lines = [line for block in blocks(name, "sh") for line in lines_of(block)]
    starts = ("python ", "bash finetune", "visualglm ", "make ", "torchrun ")
    spans = [span for span in code_spans(name) if span.startswith(starts) and "..." not in span]
    lines += [span for span in spans if " --" in span or span.startswith("make ")]
    lines += [line[4:] for line in re.findall(r"^ {4}(?:[A-Z_]+=\S+ )*python -m .+$", prose(name), re.MULTILINE)]
    return [line for line in lines if is_checked(line)]


@pytest.mark.parametrize("name", PRESENT)
def test_programs_accept_the_arguments_of_the_documents(
    name: str, parse_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for line in commands_of(name):
        found = module_of(shlex.split(line, comments=True))
        if found is None or "--help" in found[1]:
            continue
        module, arguments = found
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        program = importlib.import_module(module)
        if not takes_arguments(module):
            assert not arguments, line
            continue
        with pytest.raises(ParsedError):
            program.main()


def takes_arguments(module: str) -> bool:
    """Whether a program has a command line; some benchmarks measure one thing only."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    return "ArgumentParser" in path.read_text(encoding="utf-8") or module.startswith(("finetune", "visualglm"))


@pytest.mark.parametrize("name", PRESENT)
def test_make_targets_and_test_files_exist(name: str) -> None:
    targets = re.findall(r"^([a-z][\w-]*):", read("Makefile"), re.MULTILINE)
    for line in commands_of(name):
        words = shlex.split(line.replace("make -C visualglm ", "make "), comments=True)
        if words[0] == "make":
            called = [word for word in words[1:] if re.fullmatch(r"[a-z][\w-]*", word)]
            assert called, line
            assert set(called) <= set(targets), line
        elif words[:3] == ["python", "-m", "pytest"]:
            assert all((ROOT / word).exists() for word in words if word.startswith("tests/")), line


def untested(name: str) -> Iterator[Block]:
    """Yield the blocks of a document that no test runs or parses."""
    english = name.replace("_zh.md", ".md")
    for block in blocks(name):
        if block.language in (*SHOWN_ONLY, "python") or (english, block.language) in TESTED:
            continue
        if block.language == "sh" and all(map(is_checked, lines_of(block))):
            continue
        yield block


@pytest.mark.parametrize("name", PRESENT)
def test_each_block_is_tested_or_says_why_it_is_not(name: str) -> None:
    assert [block.text for block in untested(name) if not block.reason] == []


@pytest.mark.parametrize("name", PRESENT)
def test_only_untested_blocks_say_that_they_are_not_run(name: str) -> None:
    marked = [block for block in blocks(name) if block.reason]
    open_blocks = list(untested(name))
    assert [block.text for block in marked if block not in open_blocks and block.language != "python"] == []


@pytest.mark.parametrize("name", ["docs/troubleshooting.md", "docs/troubleshooting_zh.md"])
def test_the_messages_are_the_program_s(name: str) -> None:
    sections = prose(name).split("\n## ")[1:-1]  # the last one lists errors of the published code
    rows = [row for section in sections for row in re.findall(r"^\| .+$", section, re.MULTILINE)]
    quoted = [span for row in rows for span in CODE_SPAN.findall(row.split(" | ")[0])]
    assert quoted
    messages = list(find_messages())
    patterns = {span: re.compile(".{0,80}?".join(map(re.escape, span.split("..."))), re.DOTALL) for span in quoted}
    assert [span for span, pattern in patterns.items() if not any(map(pattern.search, messages))] == []


def find_messages() -> Iterator[str]:
    """Yield the texts in the code, with a character in place of each value that is filled in."""
    import ast

    for folder in ("model", "visualglm", "finetune"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                    yield "".join(map(str, parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
    yield read("Makefile")


def test_every_page_of_the_documentation_is_in_its_index() -> None:
    pages = {Path(name).name for name in DOCUMENTS if name.startswith("docs/") and not name.endswith("_zh.md")}
    assert pages - {"README.md"} <= set(LINK.findall(prose("docs/README.md")))


def test_every_page_of_the_documentation_is_translated() -> None:
    pages = {name for name in DOCUMENTS if name.startswith(("docs/", "examples/")) and not name.endswith("_zh.md")}
    assert {english for english, _ in find_translations()} == {"README.md", *pages}


def test_chinese_texts_address_the_reader_in_one_form() -> None:
    suffixes = (".py", ".js", ".json", ".html", ".toml")
    texts = [path for path in (ROOT / "visualglm").rglob("*") if path.suffix in suffixes]
    texts += [ROOT / name for name in DOCUMENTS if name.endswith("_zh.md")]
    assert [path.name for path in texts if "您" in path.read_text(encoding="utf-8")] == []


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) <= 200


def test_tracked_documents_are_all_checked() -> None:
    listing = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    assert set(listing.stdout.split()) <= {*DOCUMENTS} | {
        name for name in listing.stdout.split() if name.startswith(".github/")
    }


def test_the_workflow_runs_what_every_change_has_to_pass() -> None:
    assert re.search(r"^ +- run: \.ci/run$", read(".github/workflows/test.yml"), re.MULTILINE)


def test_bug_reports_ask_for_what_is_needed() -> None:
    form = read(".github/ISSUE_TEMPLATE/bug_report.yml")
    assert {"command", "log", "checkpoint", "versions"} <= set(re.findall(r"^ +id: (\w+)$", form, re.MULTILINE))
