"""The file of a cluster: keys, values, and the limits of several HTTP applications."""

from pathlib import Path

import pytest

from model import SettingError
from visualglm.scale.cluster_config import ClusterSettings, read_cluster_file
from visualglm.server.program import parse_arguments
from visualglm.server.settings import Settings

CLUSTER = """
model:
  from_pretrained: visualglm-6b
  quant: 4
  english: true
server:
  host: 0.0.0.0
  port: 8000
  api-key: [one, two]
  allow-image-urls: false
replicas: 2
min-replicas: 1
max_replicas: 8
gpus: 1
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_gives_flags_and_replicas(tmp_path: Path) -> None:
    words, values = read_cluster_file(write(tmp_path, CLUSTER))
    assert "--api-key=one" in words
    assert "--allow-image-urls" not in words
    settings = ClusterSettings(**values)
    assert (settings.replicas, settings.min_replicas, settings.most_replicas, settings.gpus) == (2, 1, 8, 1)


def test_flags_of_the_command_line_override_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["serve", "--ray", "auto", "--config", str(write(tmp_path, CLUSTER)), "--port", "9000"]
    monkeypatch.setattr("sys.argv", words)
    options, settings = parse_arguments()
    assert (settings.port, settings.host, settings.api_keys) == (9000, "0.0.0.0", ("one", "two"))
    assert (options.quant, options.language.code, options.from_pretrained) == (4, "en", "visualglm-6b")
    assert options.cluster_values["replicas"] == 2


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("replica: 2", "replica"),
        ("model: {quantize: 4}", "quantize"),
        ("server: {max-bach: 4}", "max-bach"),
        ("server: [1]", "server"),
        ("- 1", "keys"),
        ("server: {port: {a: 1}}", "port"),
        ("a: b: c", "YAML"),
    ],
)
def test_unknown_keys_are_named(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(SettingError, match=word):
        read_cluster_file(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="absent"):
        read_cluster_file(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 0},
        {"replicas": 1.5},
        {"replicas": True},
        {"gpus": -1},
        {"gpus": "one"},
        {"min_replicas": 1},
        {"min_replicas": 3, "max_replicas": 2},
        {"min_replicas": 0, "max_replicas": 2},
        {"update_percentage": 0},
    ],
)
def test_impossible_values_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=next(iter(values)).replace("_", "-")):
        ClusterSettings(**values)  # type: ignore[arg-type]


def test_http_applications_share_the_limits() -> None:
    cluster = ClusterSettings(replicas=4, http_replicas=2)
    each = cluster.settings_of_each(Settings(max_batch=16, max_queue=64, max_per_key=9))
    assert (each.max_batch, each.max_queue, each.max_per_key) == (32, 32, 5)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--config", "x.yaml"], "--ray"),
        (["--ray", "auto", "--config", "x.yaml", "--replicas", "2"], "--replicas"),
        (["--replicas", "0"], "--replicas"),
        (["--replicas", "many"], "--replicas"),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    words: list[str], word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["serve", *words])
    with pytest.raises(SystemExit):
        parse_arguments()
    assert word in capsys.readouterr().err
