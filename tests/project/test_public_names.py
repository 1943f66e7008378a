"""Public names, keywords and flags stay as listed in tests/project/public_names.json; new ones may be added."""

import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from model import Conversation, GenerationConfig, VisualGLMError, load_sat
from tests.helpers.ports import free_port
from tests.helpers.preloaded import ForkedProgram
from tests.project import public_names
from tests.project.public_names import NotInstalledError, command_line, describe_entry_point, find_parser, import_former

LISTED: dict[str, Any] = public_names.read_list()
MOVED, GONE = LISTED["moved"], LISTED["gone"]
ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in (*public_names.PACKAGES, ".") for path in (ROOT / folder).glob("**/*" if folder != "." else "*")
]
START_S = 60
ORIGIN = "https://example.org"


def is_gone(name: str) -> bool:
    """Check whether a module, its package, or a name in a module (`a.b:name`) is listed as removed."""
    module, _, _ = name.partition(":")
    parts = module.split(".")
    return name in GONE or any(".".join(parts[: count + 1]) in GONE for count in range(len(parts)))


def test_removed_names_were_listed_and_have_a_reason() -> None:
    for name, reason in GONE.items():
        module, _, attribute = name.partition(":")
        known = [other for other in LISTED["modules"] if other == module or other.startswith(f"{module}.")]
        assert known, name
        assert not attribute or attribute in LISTED["modules"][module], name
        assert len(reason.split()) > 1, name


def test_modules_are_found_with_their_names() -> None:
    faults = []
    for path, names in LISTED["modules"].items():
        if is_gone(path):
            continue
        try:
            module = import_former(path, MOVED)
        except NotInstalledError:
            continue
        except ModuleNotFoundError as error:
            faults.append(f"{path}: {error}")
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of former names
            faults += [f"{path}:{name}" for name in names if not (is_gone(f"{path}:{name}") or hasattr(module, name))]
    assert not faults


@pytest.mark.parametrize("path", LISTED["documented"])
def test_documented_imports_work_as_they_are_documented(path: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = importlib.import_module(path)
        missing = [name for name in LISTED["documented"][path] if not hasattr(module, name)]
    assert not missing


def is_served_by(listed: list[str], current: list[str]) -> bool:
    """Check whether a function with signature `current` accepts all calls of signature `listed`."""
    takes_any = any(word.startswith("**") for word in current)
    before, now = (
        words[: next((i for i, word in enumerate(words) if word[0] == "*"), len(words))] for words in (listed, current)
    )
    in_order = len(now) >= len(before) and all(
        takes_any or old in (new, *new.split("/")) for old, new in zip(before, now, strict=False)
    )
    known = {*current, *(part for word in current for part in word.split("/"))}
    by_name = all(word in known or takes_any for word in listed[len(before) :] if not word.startswith("*"))
    stars = {word[: word.count("*")] for word in listed if word.strip("*") != word and word != "*"}
    return in_order and by_name and stars <= {word[: word.count("*")] for word in current}


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        (["a", "b", "*", "c"], True),
        (["a", "b", "d", "*", "e", "c"], True),
        (["a", "b", "c"], True),
        (["a", "other", "*", "c", "**old"], True),
        (["a", "new/b", "*", "other/c"], True),
        (["a", "other", "*", "c"], False),
        (["b", "a", "*", "c"], False),
        (["a", "b", "*"], False),
        (["a", "*", "b", "c"], False),
    ],
)
def test_signatures_are_compared_as_callers_see_them(current: list[str], expected: bool) -> None:
    assert is_served_by(["a", "b", "*", "c"], current) is expected


@pytest.mark.parametrize("entry_point", LISTED["signatures"])
def test_keywords_and_attributes_stay(entry_point: str) -> None:
    listed = LISTED["signatures"][entry_point]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of former names
        current = describe_entry_point(entry_point, MOVED, dict.fromkeys(name.split(".")[0] for name in listed))
        missing = [name for name, words in listed.items() if words is None and not has_attribute(entry_point, name)]
    changed = {
        name: (words, current.get(name))
        for name, words in listed.items()
        if words is not None and (current.get(name) is None or not is_served_by(words, current[name] or []))
    }
    assert (missing, changed) == ([], {})


def has_attribute(entry_point: str, name: str) -> bool:
    """Check whether a name, or an attribute of a class (`Class.name`), exists."""
    value: Any = import_former(entry_point, MOVED)
    for part in name.split("."):
        try:
            value = inspect.getattr_static(value, part) if inspect.isclass(value) else getattr(value, part)
        except AttributeError:
            return part in getattr(value, "__dataclass_fields__", ())
    return True


def test_the_keywords_of_batches_and_queues_are_taken() -> None:
    model = load_sat("visualglm-tiny", device="cpu", max_batch_size=2, max_queue_size=3)
    config = GenerationConfig(temperature=0, max_new_tokens=2)
    assert len(model.answer_batch([(Conversation(), "你好")] * 3, config, max_batch_size=1)) == 3
    assert list(model.stream_answer(Conversation(), "你好", config, min_interval_s=0.01))[-1].finish_reason == "length"


def test_their_former_keywords_are_taken_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="max_"):
        model = load_sat("visualglm-tiny", device="cpu", **{"rows": 2, "most_waiting": 3})
    assert (model.max_batch_size, model.max_queue_size) == (2, 3)
    config = GenerationConfig(temperature=0, max_new_tokens=2)
    with pytest.warns(DeprecationWarning, match="max_batch_size"):
        assert len(model.answer_batch([(Conversation(), "你好")] * 3, config, **{"rows": 1})) == 3
    with pytest.warns(DeprecationWarning, match="min_interval_s"):
        chunks = list(model.stream_answer(Conversation(), "你好", config, **{"pause_s": 0.01}))
    with pytest.warns(DeprecationWarning, match="usage"):
        assert chunks[0].so_far is chunks[0].usage


def plainly(flag: str) -> str:
    """Return a flag with underscores; programs accept both spellings."""
    return flag[:2] + flag[2:].replace("-", "_")


@pytest.mark.parametrize("program", LISTED["programs"])
def test_flags_stay(program: str) -> None:
    current = {plainly(flag): choices for flag, choices in public_names.describe_parser(find_parser(program)).items()}
    listed = {plainly(flag): choices for flag, choices in LISTED["programs"][program].items()}
    missing = [flag for flag in listed if flag not in current]
    refused = [flag for flag, choices in listed.items() if current.get(flag) and not {*choices} <= {*current[flag]}]
    assert (missing, refused) == ([], [])


def run(module: str, load: Callable[..., Any], *words: str) -> int:
    """Run a program on a model that `load` loads; return its exit code."""
    main = importlib.import_module(module).main
    with command_line(f"{module}.py", *words):
        try:
            return int(main(load=load))
        except SystemExit as end:
            return int(end.code or 0)


@pytest.mark.parametrize("module", ["cli_demo", "web_demo"])
def test_exit_codes_stay(module: str) -> None:
    codes = LISTED["exit_codes"]

    def fail(*_: Any, error: type[BaseException], **settings: Any) -> None:
        raise error("told to")

    words = ["--server_port", str(free_port())] if module == "web_demo" else []
    assert run(module, partial(fail, error=VisualGLMError), *words) == codes["error"]
    assert run(module, partial(fail, error=KeyboardInterrupt), *words) == codes["interrupted"]
    assert run(module, partial(fail, error=VisualGLMError), "--no-such-flag") == codes["wrong option"]
    assert run(module, partial(fail, error=VisualGLMError), "--help") == codes["done"]


@pytest.mark.parametrize(("name", "value"), [pair for pair in LISTED["server_variables"].items() if pair[1]])
def test_the_server_reads_its_variables(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert run("api", lambda *_, **__: pytest.fail("a wrong value was taken")) == LISTED["exit_codes"]["wrong option"]
    assert name in capfd.readouterr().err


def test_every_variable_of_the_server_has_its_flag() -> None:
    flags = {plainly(flag) for flag in public_names.describe_parser(find_parser("api.py"))}
    wanted = {f"--{name.removeprefix('VISUALGLM_').lower()}" for name in LISTED["server_variables"]}
    assert not wanted - flags


@pytest.mark.parametrize("name", LISTED["variables"])
def test_other_variables_are_still_read_somewhere(name: str) -> None:
    read = re.compile(rf"[\"'$\{{]{name}\b")
    files = (path for path in SOURCES if path.suffix in (".py", ".sh"))
    assert any(read.search(path.read_text(encoding="utf-8")) for path in files)


@contextmanager
def served(log: Path) -> Iterator[httpx.Client]:
    """Serve visualglm-tiny as configured by environment variables, logging to a file; stop it by Ctrl-C."""
    port = free_port()
    variables = {
        "VISUALGLM_HOST": "127.0.0.1",
        "VISUALGLM_PORT": str(port),
        "VISUALGLM_MODEL_NAME": "renamed",
        "VISUALGLM_API_KEY": "secret",
        "VISUALGLM_CORS_ORIGIN": ORIGIN,
        "VISUALGLM_LOG_TEXT": "yes",
        "VISUALGLM_MAX_QUEUE": "tcp://10.0.0.7:8080",
    }
    command = ["api.py", "--from_pretrained", "visualglm-tiny", "--device", "cpu"]
    with (
        log.open("wb") as written,
        ForkedProgram(
            command,
            cwd=ROOT,
            env={**os.environ, **variables},
            stderr=written,
            stdin=subprocess.DEVNULL,
        ) as program,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=START_S, trust_env=False) as client,
    ):
        try:
            end = time.monotonic() + START_S
            while not is_ready(client):
                assert program.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            client.headers["Authorization"] = "Bearer secret"
            yield client
            program.send_signal(signal.SIGINT)
            assert program.wait(START_S) == LISTED["exit_codes"]["server stopped"]
        finally:
            program.kill()


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_a_server_keeps_its_routes_metrics_and_log(tmp_path: Path) -> None:
    from tests.helpers.api_server import SCENE_BASE64, SCENE_URL, completion

    log = tmp_path / "log"
    with served(log) as client:
        (model,) = client.get("/v1/models", headers={"Origin": ORIGIN}).json()["data"]
        assert model["id"] == "renamed"
        assert client.get("/health", headers={"Origin": ORIGIN}).headers["Access-Control-Allow-Origin"] == ORIGIN
        document = client.get("/openapi.json").json()
        native = client.post("/", json={"text": "你好", "image": SCENE_BASE64, "history": [], "temperature": 0}).json()
        history = ["How many objects are there?", "There are three objects in the picture."] * 8
        asked = completion(*history, "你好", image=SCENE_URL, max_length=128, stream=True)
        asked["model"] = "renamed"
        assert client.post("/v1/chat/completions", json=asked).text.rstrip().endswith("[DONE]")
        assert client.post("/v1/chat/completions", json={**asked, "logit_bias": {"5": 9}}).status_code == 400
        metrics = client.get("/metrics").text
    check_routes(document, native)
    for name, labels in LISTED["metrics"].items():
        sample = re.search(rf"^{name}(?:\{{(.*?)\}})? ", metrics, re.MULTILINE)
        assert sample, name
        assert set(labels) <= set(re.findall(r"(\w+)=", sample[1] or "")), name
    check_log([json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")])


def check_routes(document: dict[str, Any], native: dict[str, Any]) -> None:
    """Check that the server's OpenAPI description has every route with its request fields."""
    for route, fields in LISTED["http"].items():
        method, path = route.split()
        described = document["paths"][path][method.lower()]
        if fields:
            schema = described["requestBody"]["content"]["application/json"]["schema"]
            properties = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
            assert not {*fields} - {*properties}, route
    assert native.keys() >= {*LISTED["native_answer"]}


def check_log(lines: list[dict[str, Any]]) -> None:
    """Check that each event has all its fields, in at least one line."""
    assert all({"time", "level", "event"} <= line.keys() for line in lines)
    for event, fields in LISTED["server_log"].items():
        found = {name for line in lines if line["event"] == event for name in line}
        assert found, event
        assert not {*fields} - found, event


def test_a_training_keeps_the_fields_of_its_log(tmp_path: Path) -> None:
    from finetune.finetune_visualglm import main

    rows = [{"prompt": "How are you?", "label": "Fine."}, {"prompt": "你好", "label": "好"}]
    data = tmp_path / "data.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    given = ("--from_pretrained", "visualglm-tiny", "--train-data", str(data), "--valid-data", str(data))
    steps = ("--train-iters", "1", "--log-interval", "1", "--num-workers", "0", "--device", "cpu")
    assert main([*given, *steps, "--use_lora", "--save", str(tmp_path), "--experiment-name", "run"]) == 0
    (log,) = tmp_path.glob("run-*/log.jsonl")
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert not {*LISTED["training_log"]} - {name for record in records for name in record}


def test_the_name_of_a_base_is_printed_for_scripts(capfd: pytest.CaptureFixture[str]) -> None:
    base: Any = import_former("finetune.base", MOVED)
    assert base.main(["--from-pretrained", "my-model", "--lr", "1"]) == 0
    assert capfd.readouterr().out == "my-model\n"


@pytest.mark.parametrize("script", ["finetune_visualglm.sh", "finetune_visualglm_qlora.sh"])
def test_the_scripts_of_fine_tuning_are_there(script: str) -> None:
    assert (ROOT / "finetune" / script).is_file()
    subprocess.run(["bash", "-n", str(ROOT / "finetune" / script)], check=True)


@pytest.mark.parametrize("target", ["chat", "web", "api", "test", "test-slow", "check"])
def test_make_has_its_targets(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
