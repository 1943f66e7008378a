"""YAML files of settings are read as plain values, and wrong keys are named with the nearest one."""

from pathlib import Path

import pytest

from model import SettingError
from model.settings_file import check_keys, read_yaml, write_yaml

SETTINGS = {"name": "红色", "rate": 1e-5, "count": 3, "flag": False, "none": None, "list": ["a", "b"], "empty": []}


def test_written_settings_are_read_again_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(write_yaml(SETTINGS), encoding="utf-8")
    assert read_yaml(path) == SETTINGS
    assert list(read_yaml(path)) == list(SETTINGS)
    assert "红色" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"a: [", b"a: \xff", b"!!python/name:os.system", b"[" * 5000])
def test_what_is_not_yaml_is_one_line_with_the_name_of_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=r"settings\.yaml") as raised:
        read_yaml(path)
    assert "\n" not in str(raised.value)


def test_the_nearest_key_is_suggested() -> None:
    check_keys({"batch_size": 1, "lr": 2}, ["batch-size", "lr"], "the file")
    with pytest.raises(SettingError, match=r"'batchsize' is not a key of the file.*'batch-size'"):
        check_keys({"batchsize": 1}, ["batch-size", "lr"], "the file")
    with pytest.raises(SettingError, match="batch-size, lr"):
        check_keys({"xyz": 1}, ["batch-size", "lr"], "the file")
