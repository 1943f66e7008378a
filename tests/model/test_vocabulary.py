"""The tokenizer of a model is found in every supported directory."""

from pathlib import Path

import pytest

from model import TokenizerError, load_tokenizer
from tests.helpers.checkpoints import TINY

pytestmark = pytest.mark.usefixtures("offline")


def test_the_tokenizer_is_found_in_the_directory_its_parent_and_sat_home(tmp_path: Path) -> None:
    vocabulary = (TINY / "ice_text.model").read_bytes()
    run = tmp_path / "model" / "run"
    run.mkdir(parents=True)
    for place, name in ((run, run), (run.parent, run), (tmp_path / "home" / "visualglm-6b", "visualglm-6b")):
        place.mkdir(parents=True, exist_ok=True)
        (place / "ice_text.model").write_bytes(vocabulary)
        assert load_tokenizer(name).bos_token_id == load_tokenizer("visualglm-tiny").bos_token_id
        (place / "ice_text.model").unlink()


def test_the_error_for_a_missing_tokenizer_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"hf download THUDM/chatglm-6b ice_text\.model"):
        load_tokenizer(tmp_path)


def test_a_broken_tokenizer_is_explained(tmp_path: Path) -> None:
    (tmp_path / "ice_text.model").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_a_fine_tune_without_a_tokenizer_takes_the_published_models(tmp_path: Path) -> None:
    run = tmp_path / "elsewhere" / "run" / "300"
    run.mkdir(parents=True)
    place = tmp_path / "home" / "visualglm-6b"
    place.mkdir(parents=True)
    (place / "ice_text.model").write_bytes((TINY / "ice_text.model").read_bytes())
    assert load_tokenizer(run).bos_token_id == load_tokenizer("visualglm-tiny").bos_token_id
