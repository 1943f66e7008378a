"""The files of examples/cluster fit the programs that read them, as far as one machine can tell."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.command_line import ArgumentParser
from visualglm.batch import program as batch_program
from visualglm.scale.cluster_config import ClusterSettings, read_cluster_file
from visualglm.server.program import main as serve_main

yaml = pytest.importorskip("yaml")
pytest.importorskip("ray")

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"
CLUSTER_FILES = ("on_premise.yaml", "aws.yaml")
SCRIPTS = sorted(FOLDER.glob("*.sbatch"))
SLURM_OPTIONS = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "output"}


def load(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def commands_in(text: str) -> list[list[str]]:
    """Return the words of each command of a script, or of the comments that show one."""
    joined = re.sub(r"\\\n", " ", text)
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def after(words: list[str], name: str) -> list[str]:
    """Return the words that follow a program's name; [] if it is not called."""
    found = [place for place, word in enumerate(words) if word.rpartition("/")[2] == name]
    return words[found[0] + 1 :] if found else []


def parse_ray(words: list[str]) -> None:
    """Parse a command of Ray with Ray's own parser, without running it."""
    from ray.scripts.scripts import cli

    name, arguments = words[0], words[1:]
    cli.commands[name].make_context(name, arguments)


def parse_batch(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["visualglm batch", *words])
    batch_program.parse_arguments()


@pytest.mark.parametrize("name", CLUSTER_FILES)
def test_cluster_files_fit_rays_schema(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load(name)
    if config["provider"]["type"] == "local":
        config = prepare_config(config)
    else:  # filling in the provider's defaults needs its library
        config |= {"cluster_synced_files": [], "file_mounts_sync_continuously": False}
    validate_config(config)


@pytest.mark.parametrize("name", CLUSTER_FILES)
def test_the_nodes_start_with_flags_of_ray_and_with_the_token(name: str) -> None:
    config = load(name)
    lines = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [after(shlex.split(line), "ray") for line in lines]
    assert [words[0] for words in starts] == ["stop", "start"] * 2
    for words in starts:
        parse_ray(words)
    assert all("RAY_AUTH_MODE=token" in line for line in lines if "ray start" in line)
    assert "~/.ray/auth_token" in config["file_mounts"]


@pytest.mark.parametrize("name", CLUSTER_FILES)
def test_nodes_install_files_that_the_checkout_has(name: str) -> None:
    root = FOLDER.parents[1]
    for line in load(name)["setup_commands"]:
        assert all((root / path).exists() for path in re.findall(r"~/visualglm/([\w./-]+)", line))
        for extra in re.findall(r"\[([\w,]+)\]", line):
            assert f"\n{extra} = [" in (root / "pyproject.toml").read_text(encoding="utf-8")


def test_the_server_accepts_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    words, values = read_cluster_file(FOLDER / "serve.yaml")
    assert ClusterSettings(**values).most_replicas == 8
    parse = ArgumentParser.parse_args
    parsed = []

    def parse_and_stop(self: ArgumentParser, *given: Any) -> None:
        parsed.append(parse(self, *given))
        raise InterruptedError

    monkeypatch.setattr(ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", ["visualglm serve", *words])
    with pytest.raises(InterruptedError):
        serve_main()
    assert parsed[0].from_pretrained == "visualglm-6b"


def test_the_containers_start_ray_with_known_flags_and_a_token() -> None:
    services = load("compose.yaml")["services"]
    for service in services.values():
        parse_ray(shlex.split(service["command"])[1:])
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
    assert services["worker"]["depends_on"].keys() <= services.keys()
    assert services["head"]["ports"] == ["127.0.0.1:8080:8080"]


def test_the_commands_of_the_comments_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    (command,) = re.findall(r'visualglm batch (.+? --question ".+?")', comment)
    parse_batch(shlex.split(command), monkeypatch)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_correct_for_the_shell(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(path)], check=True)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_use_known_options_of_slurm(path: Path) -> None:
    options = re.findall(r"^#SBATCH --([\w-]+)=\S+$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"nodes", "ntasks-per-node", "gpus-per-node"} <= set(options) <= SLURM_OPTIONS


def test_the_script_for_bulk_work_passes_known_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = commands_in((FOLDER / "batch.sbatch").read_text(encoding="utf-8"))
    (words,) = [words for words in commands if words[0] == "srun"]
    ray, program = " ".join(after(words, "ray")).split(" -- ")
    parse_ray([word.replace("$SLURM_JOB_NUM_NODES", "2") for word in ray.split()])
    parse_ray(["start", *[word for word in ray.split() if word.startswith("--include")]])
    assert program.split()[:2] == ["visualglm", "batch"]
    parse_batch(program.split()[2:], monkeypatch)


def test_the_script_for_training_passes_known_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.run import get_args_parser

    commands = commands_in((FOLDER / "train.sbatch").read_text(encoding="utf-8"))
    (words,) = [words for words in commands if words[0] == "srun"]
    parsed = get_args_parser().parse_args(after(words, "torchrun"))
    assert (FOLDER.parents[1] / parsed.training_script).exists()
    arguments = importlib.import_module("finetune.arguments")
    assert "$data" in str(arguments.make_parser().parse_args(parsed.training_script_args).train_data)
