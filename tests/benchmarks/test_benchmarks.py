"""The benchmarks run and print their rows; the tests do not check performance."""

import functools
import importlib
import io
import re
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import chat, kernels, startup
from benchmarks.kernels import table_source
from benchmarks.parts.http_client import completion, data_url, random_png
from benchmarks.parts.kernel_candidates import MatmulCase, candidate_configs
from benchmarks.startup import IMPORTS, LIMIT_S, ImportTimes, format_row, is_met
from model.command_line import SUCCESS, USAGE_ERROR, run_program
from model.images.preprocess import decode_base64
from tests.helpers.preloaded import run_preloaded
from tests.stress.attack import Measured, failed_checks
from tests.stress.attackers import costly_bodies
from visualglm.server import Settings

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: str) -> str:
    """Run a benchmark in this process, which has already imported torch; return its output."""
    output = io.StringIO()
    program = importlib.import_module(module)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings are not errors for users
        patch.setattr(sys, "argv", [module, *arguments])
        assert run_program(program.main) == SUCCESS
    return output.getvalue()


def run_alone(module: str, *arguments: str) -> str:
    """Run a benchmark in a subprocess; return its output."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells(output: str) -> list[list[str]]:
    """Return the table rows of an output, with headings."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line[:1] == "|"]


def test_startup_has_a_row_for_each_import(monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.cache  # the measurement reuses the warm-up's result
    def run_python(_: str, code: str, *arguments: str) -> str:
        return run_preloaded(f"import sys; sys.argv[1:] = {[*arguments]!r}\n{code}").stdout.strip().splitlines()[-1]

    monkeypatch.setattr(startup, "run_python", run_python)
    rows = cells(run("benchmarks.startup", "--repetitions", "1"))[2:]
    assert [row[1].strip("`") for row in rows] == list(IMPORTS)
    assert [len(row) for row in rows] == [6, 6, 6]
    assert rows[-1][-1] == "none"
    assert all(float(number) >= 0 for number in rows[-1][2:4])


def test_chat_has_a_row_for_each_way_and_the_same_tokens() -> None:
    output = run("benchmarks.chat", "--repetitions", "1", "--starts", "1", "--cases", "1", "--tokens", "4")
    assert "Greedy tokens of ours, SAT, SAT, scripted: equal, 4 tokens in 1 cases." in output
    rows = cells(output)
    assert [row[0] for row in rows if row[0].startswith(("start to", "first word"))] == [
        "start to prompt",
        "first word about an image, first question",
        "first word, second question",
    ]
    answers = [row for row in rows if row[0] == "56 + 4"]
    assert [row[1] for row in answers] == ["ours", "SAT", "SAT, scripted"]
    assert re.search(r"the faster SAT row of each case: [0-9.]+ to [0-9.]+; target at least 2", output)


def test_decode_compares_with_sat() -> None:
    chosen = ["ours/decode-49", "original/decode-49", "int8/decode-49"]
    few = ["--device", "cpu", "--tokens", "3", "--repetitions", "1"]
    rows = {row[0]: row[1:] for row in cells(run("benchmarks.decode", *few, "--only", *chosen))}
    assert all(float(rows[name][1]) > 0 for name in chosen)
    assert rows["decoding"][3] == "at least 3"


def test_cpu_matmul_measures_both_methods() -> None:
    rows = cells(run("benchmarks.cpu_matmul", "--rows", "1", "3", "--sets", "2", "--repetitions", "2"))[2:]
    assert [row[0] for row in rows] == ["1", "3"]
    assert all(float(number) > 0 for row in rows for number in row[1:])


@pytest.mark.slow
def test_every_row_of_decoding_is_measured() -> None:
    output = run_alone("benchmarks.decode", "--device", "cpu", "--tokens", "3", "--repetitions", "1")
    assert "failed" not in output
    assert {row[0].split("/")[0] for row in cells(output)} >= {"ours", "int8", "int4", "original", "hf", "plain"}


@pytest.mark.slow
def test_loading_is_measured_by_memory_beyond_the_model() -> None:
    # Every loader and format; of the two numbers of bits one each.
    names = ("sat", "hf", "load_hf", "int8", "hf-int4", "saved-int4", "saved-hf-int8")
    chosen = [f"{name}/*" for name in (*names, "quantize", "original")]
    rows = {row[0]: row[1:] for row in cells(run_alone("benchmarks.loading", "--device", "cpu", "--only", *chosen))}
    for name in names:
        assert float(rows[f"{name}/seconds"][1]) > 0
        assert rows[f"{name}/host"][2] == "at most 2"
        assert float(rows[f"{name}/host"][3]) > 1
    assert float(rows["original/host"][1]) > 0
    assert rows["original/host"][2] == ""
    assert float(rows["time, sat and original"][2]) > 0


@pytest.mark.slow
def test_serving_reports_latencies() -> None:
    few = ["--device", "cpu", "--tokens", "4", "--counts", "2", "--seconds", "0.5"]
    rows = {row[0]: row[1:] for row in cells(run_alone("benchmarks.serving", *few))}
    assert float(rows["ours/at-once-2"][1]) > 0
    assert "first token" in rows["ours/at-once-2"][4]
    assert float(rows["ours/stall"][1]) > 0
    assert float(rows["ours/arrivals"][1]) > 0


@pytest.mark.slow
def test_bulk_compares_the_program_with_chat_batch() -> None:
    few = ["--device", "cpu", "--images", "6", "--tokens", "3", "--max-batch", "2", "--repetitions", "1"]
    rows = {row[0]: row[1:] for row in cells(run_alone("benchmarks.bulk", *few))}
    assert rows["chat_batch"][2] == "1.00"
    assert float(rows["batch"][0]) > 0
    assert float(rows["batch"][2]) > 0


@pytest.mark.slow
def test_evaluation_answers_every_question() -> None:
    few = ["--device", "cpu", "--from_pretrained", "visualglm-tiny", "--count", "6", "--max-batch", "2"]
    rows = {row[0]: row[1:] for row in cells(run_alone("benchmarks.evaluation", *few))}
    assert float(rows["6"][0]) > 0


@pytest.mark.slow
def test_http_overhead_compares_with_the_engine() -> None:
    few = ["--device", "cpu", "--count", "2", "--tokens", "4", "--repetitions", "1"]
    rows = {row[0]: row[1:] for row in cells(run_alone("benchmarks.http_overhead", *few))}
    for name in ("streams", "streams-images", "whole", "whole-images"):
        assert float(rows[f"http/{name}"][1]) < 100
        assert re.search(r"\d+ tokens/s alone, \d+ over HTTP", rows[f"http/{name}"][4])
    assert "; 0 events per answer" in rows["http/whole"][4]


@pytest.mark.slow
def test_ray_serve_is_compared_with_the_plain_server() -> None:
    pytest.importorskip("ray")
    few = ["--device", "cpu", "--count", "2", "--tokens", "4", "--repetitions", "1"]
    rows = {row[0]: row[1:] for row in cells(run_alone("benchmarks.scale", *few))}
    for name in ("streams", "streams-images"):
        assert re.search(r"\d+ and \d+ tokens/s", rows[f"scale/{name}"][4])
    assert float(rows["scale/first"][1])


@pytest.mark.slow
def test_a_killed_replica_costs_its_streams_alone() -> None:
    pytest.importorskip("ray")
    few = ["--device", "cpu", "--count", "4", "--tokens", "512", "--only", "failures/complete", "failures/recovery"]
    rows = {row[0]: row[1:] for row in cells(run_alone("benchmarks.failures", *few))}
    assert float(rows["failures/complete"][1]) >= 2
    assert float(rows["failures/recovery"][1]) > 0


@pytest.mark.slow
def test_a_load_test_ends_with_a_verdict() -> None:
    few = ["--clients", "8", "--seconds", "6", "--warm_up", "2", "--every_s", "2", "--pause_s", "0.01"]
    output = run_alone("tests.stress.server_load", *few)
    assert re.search(r"Passed: .*'answered': [1-9]", output)
    assert "8 s: " in output


def test_a_random_png_is_a_valid_image() -> None:
    body = completion("a model", 3, 0, random_png(16, seed=1), stream=True)
    url = body["messages"][0]["content"][1]["image_url"]["url"]
    assert decode_base64(url).size == (16, 16)
    assert decode_base64(url).tobytes() != decode_base64(data_url(random_png(16, seed=2))).tobytes()


@pytest.mark.slow
def test_a_soak_ends_with_a_verdict() -> None:
    few = ["--minutes", "0.05", "--max_length", "256", "--rate", "10"]
    output = run_alone("tests.stress.soak", "--device", "cpu", *few)
    assert "Passed: {" in output
    assert "FAILED" not in output


def test_the_import_target_counts_time_and_packages() -> None:
    def results(seconds: float, **own: object) -> dict[str, ImportTimes]:
        return {IMPORTS[0]: ImportTimes([1.0]), IMPORTS[-1]: ImportTimes([1.0 + seconds], **own)}  # type: ignore[arg-type]

    assert is_met(results(LIMIT_S / 2))
    assert not is_met(results(LIMIT_S * 2))
    assert not is_met(results(LIMIT_S / 2, loaded=["transformers"]))
    assert not is_met(results(LIMIT_S / 2, error="No module named 'sat'"))


def test_an_import_that_fails_says_why() -> None:
    row = format_row("here", "import sat", ImportTimes([1.0], error="No module named 'triton'"), 1.0)
    assert "does not import: No module named 'triton'" in row


@pytest.mark.parametrize("arguments", [["--repetitions", "0"], ["--tokens", "1"]])
def test_invalid_numbers_are_rejected(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.chat", *arguments])
    with pytest.raises(SystemExit) as ended:
        chat.main()
    assert ended.value.code == USAGE_ERROR
    assert "should be at least" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "rows"), [("dense", 1), ("dense", 16), ("int8", 1), ("int8", 64), ("int4", 128)])
def test_the_table_of_configurations_round_trips(kind: str, rows: int) -> None:
    cases = [MatmulCase(kind, 12288, 4096, rows), MatmulCase(kind, 4096, 16384, rows)]
    best = {case: candidate_configs(case)[-1] for case in cases}
    written: dict[str, object] = {"__package__": "model.kernels"}
    exec(table_source(best), written)
    table = written["MATVEC_CONFIGS" if rows == 1 else "MATMUL_CONFIGS"]
    keys = {case: case[:3] if rows == 1 else case for case in best}
    assert {keys[case]: config for case, config in best.items()}.items() <= table.items()  # type: ignore[attr-defined]
    assert all(len(set(tried)) == len(tried) > 1 for tried in map(candidate_configs, cases))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_kernels_are_not_measured_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.kernels"])
    with pytest.raises(SystemExit, match="NVIDIA GPU"):
        kernels.main()


def test_each_limit_of_an_attack_is_checked() -> None:
    baseline = Measured(answers=[0.1] * 20, health=[0.01], memory=[100.0], statuses=[200])
    under_attack = Measured(answers=[0.25] * 20, health=[0.02], memory=[900.0], statuses=[200, 429, 503])
    report: dict[str, object] = {"statuses": {"400": 3}, "failures": []}
    assert failed_checks(baseline, under_attack, report, 1.0, False) == []
    for change in ({"answers": [0.4] * 20}, {"health": [0.5]}, {"memory": [1600.0]}, {"statuses": [500]}):
        assert len(failed_checks(baseline, replace(under_attack, **change), report, 1.0, False)) == 1
    assert len(failed_checks(baseline, under_attack, {**report, "failures": ["scans: 500"]}, 1.0, False)) == 1
    assert len(failed_checks(baseline, under_attack, report, 100.0, False)) == 1
    assert len(failed_checks(baseline, under_attack, report, 1.0, True)) == 1


def test_costly_bodies_are_within_the_servers_size() -> None:
    assert all(len(body) <= Settings().max_body for body in costly_bodies().values())
