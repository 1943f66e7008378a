"""The archive of a small Ray: which parts of its wheel it keeps."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from benchmarks import strip_ray
from benchmarks.strip_ray import pack, parse_arguments, pinned_version
from model.errors import SettingError

KEPT = ("ray/__init__.py", "ray/serve/api.py", "ray/core/src/ray/raylet/raylet", "ray-2.60.0.dist-info/METADATA")
DROPPED = ("ray/jars/ray_dist.jar", "ray/rllib/__init__.py", "ray/dashboard/client/main.js", "ray/serve/llm/x.py")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "ray.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*KEPT, *DROPPED, "ray/data/__init__.py"):
            archive.writestr(name, name)
    return path


def names_in(archive: Path) -> set[str]:
    with tarfile.open(archive) as opened:
        return {member.name for member in opened if member.isfile()}


def test_unused_parts_are_left_out(wheel: Path, tmp_path: Path) -> None:
    archive = tmp_path / "ray.tar.xz"
    pack(parse_arguments([str(archive), "--wheel", str(wheel)]))
    assert names_in(archive) == {*KEPT, "ray/data/__init__.py"}
    with tarfile.open(archive) as opened:
        assert opened.getmember("ray/core/src/ray/raylet/raylet").mode & 0o111


def test_serve_only_leaves_out_ray_data(wheel: Path, tmp_path: Path) -> None:
    archive = tmp_path / "ray.tar.xz"
    pack(parse_arguments([str(archive), "--wheel", str(wheel), "--serve-only"]))
    assert names_in(archive) == {*KEPT}


def test_another_file_is_not_a_wheel(tmp_path: Path) -> None:
    (tmp_path / "no.whl").write_text("text")
    with pytest.raises(SettingError, match="no wheel"):
        pack(parse_arguments([str(tmp_path / "ray.tar.xz"), "--wheel", str(tmp_path / "no.whl")]))


def test_a_failed_download_asks_for_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strip_ray, "pinned_version", lambda: "0.0.0.dev0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SettingError, match="--wheel"):
        pack(parse_arguments([str(tmp_path / "ray.tar.xz")]))


def test_the_pinned_version_is_a_version() -> None:
    assert pinned_version().count(".") == 2
