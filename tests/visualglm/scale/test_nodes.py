"""Requirements of bulk work on the nodes of a Ray cluster, and the messages about missing ones."""

from pathlib import Path

import pytest

from visualglm.scale import nodes
from visualglm.scale.errors import ClusterError
from visualglm.scale.nodes import Node, check_facts, choose_workers, count_slots, first_file, make_inspection
from visualglm.scale.version import code_digest

NODES = [Node("1", "10.0.0.1", {"CPU": 8.0}), Node("2", "10.0.0.2", {"CPU": 7.0, "GPU": 2.0})]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A cluster of NODES; "limit" is what its autoscaler may add up to."""
    state = {"limit": 0}
    monkeypatch.setattr(nodes, "list_nodes", lambda: NODES)
    monkeypatch.setattr(nodes, "find_limit", lambda cpus: state["limit"])
    return state


def test_a_worker_takes_a_gpu_or_cpus_of_one_node() -> None:
    assert count_slots(NODES, 0) == 2
    assert count_slots(NODES, 4) == 3


def test_all_gpus_are_used_from_the_start(cluster: dict[str, int]) -> None:
    assert choose_workers(None, 0) == (2, 2)
    assert choose_workers(1, 0) == (1, 1)


def test_an_autoscaler_can_add_workers(cluster: dict[str, int]) -> None:
    cluster["limit"] = 16
    assert choose_workers(None, 0) == (2, 16)
    assert choose_workers(8, 0) == (2, 8)


def test_too_few_gpus_are_told_with_their_number(cluster: dict[str, int]) -> None:
    with pytest.raises(ClusterError, match=r"2 GPUs.*--gpus 2"):
        choose_workers(8, 0)


def test_a_cluster_without_gpus_is_told_how_to_use_cpus(
    cluster: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "list_nodes", lambda: NODES[:1])
    with pytest.raises(ClusterError, match="--cpus-a-worker"):
        choose_workers(None, 0)
    with pytest.raises(ClusterError, match="9 CPUs"):
        choose_workers(None, 9)


def test_a_node_with_the_same_code_and_the_folder_is_accepted(tmp_path: Path) -> None:
    facts = make_inspection()(str(tmp_path))
    check_facts(facts, "10.0.0.1", code_digest(), str(tmp_path))


def test_a_node_without_the_folder_is_told_about_shared_folders_and_sending() -> None:
    facts = make_inspection()("/no/such/image.png")
    with pytest.raises(ClusterError, match=r"10\.0\.0\.1.*/no/such/image\.png.*--send-images"):
        check_facts(facts, "10.0.0.1", code_digest(), "/no/such/image.png")


def test_a_node_with_other_code_is_named_with_both_digests() -> None:
    with pytest.raises(ClusterError, match=rf"10\.0\.0\.1.*0123.*{code_digest()}"):
        check_facts({"digest": "0123", "sees": True}, "10.0.0.1", code_digest(), None)


def test_a_node_without_the_project_is_told_to_install_it() -> None:
    with pytest.raises(ClusterError, match=r"10\.0\.0\.1.*Install"):
        check_facts({"problem": "No module named 'visualglm'"}, "10.0.0.1", code_digest(), None)


def test_the_digest_depends_on_names_and_contents_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    seen = {code_digest(tmp_path)}
    for name, text in (("a.py", "x = 1"), ("b.py", "x = 1"), ("a.py", "x = 2")):
        (tmp_path / "model" / name).write_text(text)
        seen.add(code_digest(tmp_path))
    (tmp_path / "model" / "notes.txt").write_text("x")
    assert len(seen) == 4
    assert code_digest(tmp_path) in seen


def test_the_first_image_on_a_disk_is_the_sample(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.touch()
    assert first_file([None, "https://example.org/a.png", "data:" + "A" * 9000, b"\0", str(image)]) == str(image)
    assert first_file(["/no/such.png", None]) is None
