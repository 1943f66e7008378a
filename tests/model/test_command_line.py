"""Every program accepts options with hyphens and with underscores."""

import argparse
import ast
import sys
from pathlib import Path

import pytest

from finetune import check, compare, methods as base
from finetune.arguments import parse_arguments
from model.checkpoint import convert
from model.command_line import ArgumentParser
from tests.helpers.cli_program import run_here
from visualglm.server import program as server
from visualglm.terminal import program as terminal
from visualglm.web import program as web

ROOT = Path(__file__).parents[2]
# Started by other programs with one-word options; they must not import `model` before they know its location.
WITHOUT_MODEL = {"benchmarks/parts/loading_process.py", "benchmarks/parts/plain_transformers.py"}


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser()
    parser.add_argument("--server_name")
    parser.add_argument("--max-batch-size", type=int)
    parser.add_argument("--log_text-file", "-l")
    parser.add_argument("words", nargs="*")
    return parser


@pytest.mark.parametrize(
    "arguments",
    [
        ["--server_name", "a", "--max-batch-size", "3", "--log_text-file", "f"],
        ["--server-name", "a", "--max_batch_size", "3", "--log-text_file", "f"],
        ["--server-name=a", "--max_batch-size=3", "--log_text_file=f"],
        ["--server-n", "a", "--max_b", "3", "--log-t=f"],
    ],
)
def test_both_spellings_mean_the_same(parser: ArgumentParser, arguments: list[str]) -> None:
    assert vars(parser.parse_args(arguments)) == {
        "server_name": "a",
        "max_batch_size": 3,
        "log_text_file": "f",
        "words": [],
    }


@pytest.mark.parametrize(
    ("arguments", "name", "words"),
    [
        (["--server-name=--max_batch_size=3"], "--max_batch_size=3", []),
        (["--server-name", "a-b_c"], "a-b_c", []),
        (["--server-name", "--max_batch_size what is it?"], "--max_batch_size what is it?", []),
        (["--server_name", "a", "--", "--server-name", "--max_batch_size"], "a", ["--server-name", "--max_batch_size"]),
    ],
)
def test_values_are_unchanged(parser: ArgumentParser, arguments: list[str], name: str, words: list[str]) -> None:
    options = parser.parse_args(arguments)
    assert (options.server_name, options.words, options.max_batch_size) == (name, words, None)


def test_unknown_arguments_are_returned_unchanged(parser: ArgumentParser) -> None:
    options, unknown = parser.parse_known_args(["--no_such-flag", "--server-name", "a", "--server-namesake=b_c"])
    assert (options.server_name, unknown) == ("a", ["--no_such-flag", "--server-namesake=b_c"])


@pytest.mark.parametrize(
    ("unknown", "suggested"),
    [
        (["--sever-name", "a"], "--server_name"),
        (["--max_batch_sise=3"], "--max-batch-size"),
        (["--sever_name", "a", "--max-batch-siez", "3"], "--server_name and --max-batch-size"),
        (["--unlike"], None),
        (["-x"], None),
    ],
)
def test_an_unknown_option_is_named_with_the_one_that_is_spelled_like_it(
    parser: ArgumentParser, unknown: list[str], suggested: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["word", *unknown])
    error = capsys.readouterr().err.splitlines()[-1]
    assert unknown[0] in error
    assert error.endswith(f"Did you mean {suggested}?") if suggested else "?" not in error


def test_a_hidden_option_is_not_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument("--former-name", help=argparse.SUPPRESS)
    with pytest.raises(SystemExit):
        parser.parse_args(["--former-nam3", "a"])
    assert "?" not in capsys.readouterr().err


def test_an_abbreviation_of_two_names_of_one_option_is_accepted() -> None:
    parser = ArgumentParser()
    parser.add_argument("--cache-images", "--cache-pictures", type=int)
    assert parser.parse_args(["--cache", "2"]).cache_images == 2


@pytest.mark.parametrize("abbreviation", ["--max-", "--max_"])
def test_an_ambiguous_abbreviation_is_rejected(abbreviation: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument("--max_length")
    parser.add_argument("--max-batch")
    with pytest.raises(SystemExit):
        parser.parse_args([abbreviation, "3"])
    assert "ambiguous" in capsys.readouterr().err


def test_help_shows_only_the_documented_spelling(parser: ArgumentParser) -> None:
    shown = parser.format_help()
    assert "--server_name" in shown and "--max-batch-size" in shown
    assert "--server-name" not in shown and "--max_batch_size" not in shown


def test_every_program_has_this_parser() -> None:
    made: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("tests/", ".")) or name in {*WITHOUT_MODEL, "model/command_line.py"}:
            continue
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        functions = [ast.unparse(call.func) for call in calls if ast.unparse(call.func).endswith("ArgumentParser")]
        if functions:
            made[name] = functions
    assert len(made) >= 25
    assert {function for functions in made.values() for function in functions} == {"ArgumentParser"}


def test_programs_accept_both_spellings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def started(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["program", *arguments])

    started("--from-pretrained", "a", "--prompt-zh=b_c", "--top-k", "3", "--quant-vision")
    options, config = terminal.parse_arguments()
    assert (options.from_pretrained, options.prompt_zh, config.top_k, options.quant_vision) == ("a", "b_c", 3, True)
    for host, port in (("--server-name", "--server-port"), ("--host", "--port")):  # or those of the HTTP server
        started(host, "::1", f"{port}=81", "--max-length", "77")
        options, config = web.parse_arguments(80)
        assert (options.server_name, options.server_port, config.max_length) == ("::1", 81, 77)
    started("--from-pretrained", "a", "--max_batch", "3", "--api_key=k_e-y", "--model_name", "m_n")
    _, settings = server.parse_arguments()
    assert (settings.max_batch, settings.api_keys, settings.model_name) == (3, ("k_e-y",), "m_n")
    assert parse_arguments(["--train_data", "a_b", "--use-lora"]).train_data == [Path("a_b")]
    assert compare.parse_arguments(["a", "b", "--data", "c", "--on_bad_row", "skip"])["on_bad_row"] == "skip"
    assert check.parse_arguments(["check", "f", "--from-pretrained", "a", "--max_length", "9"])["max_length"] == 9
    given = ["a", "b", "--to", "sat", "--merge_lora", "--model_parallel_size", "2"]
    assert convert.parse_arguments(given)["merge_lora"]
    assert base.main(["--from-pretrained", "named", "--other_flag"]) == 0
    assert capsys.readouterr().out == "named\n"


@pytest.mark.parametrize("module", ["tiny.evaluate", "benchmarks.decode"])
def test_modules_that_are_run_accept_both_spellings(module: str) -> None:
    done = run_here(["-m", module, "--from-pretrained"])  # value missing
    assert done.returncode == 2
    assert "--from_pretrained: expected one argument" in done.stderr
