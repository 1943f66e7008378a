"""The probe of a Ray cluster finds usable clusters and explains problems."""

import platform
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

from ray._private import services  # noqa: E402
from ray._raylet import AuthenticationTokenLoader  # noqa: E402

from tests.helpers.fake_ray_head import FakeHead, serving_head  # noqa: E402
from visualglm.scale import address as subject, errors  # noqa: E402
from visualglm.scale.address import complete_address, connect, find_cluster  # noqa: E402
from visualglm.scale.errors import ClusterError  # noqa: E402

SAME = {"ray_version": ray.__version__, "python_version": platform.python_version()}
NODE = b"\x01" * 28
TOKEN = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No address, token or authentication mode in the environment; this machine runs the node NODE."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    set_mode(monkeypatch, "disabled")
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setattr(services, "find_node_ids", lambda: {NODE.hex()})
    monkeypatch.setattr(services, "_find_address_from_flag", lambda flag: set())
    yield
    set_mode(monkeypatch, "disabled")
    monkeypatch.undo()
    AuthenticationTokenLoader.instance().reset_cache()


def set_mode(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    from ray._raylet import Config

    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def unused_address() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{held.getsockname()[1]}"


def test_addresses_get_the_port_of_their_form() -> None:
    assert complete_address("node1") == "node1:6379"
    assert complete_address("10.0.0.1:7000") == "10.0.0.1:7000"
    assert complete_address("ray://node1/") == "ray://node1:10001"
    assert complete_address("[::1]:7000") == "[::1]:7000"


@pytest.mark.parametrize("wrong", ["", "http://node1:8265", "node1:port", "node1:99999", "a b", "ray://"])
def test_other_forms_are_refused_with_the_known_ones(wrong: str) -> None:
    with pytest.raises(ClusterError, match="ray://HOST:PORT"):
        complete_address(wrong)


def test_a_cluster_with_the_same_versions_is_found() -> None:
    with serving_head(FakeHead(SAME, (NODE,))) as address:
        assert find_cluster(address) == address


def test_an_absent_head_is_named_with_the_command_that_starts_one() -> None:
    address = unused_address()
    with pytest.raises(ClusterError, match=f"{address}.*ray start --head"):
        connect(address)


def test_a_port_that_never_answers_is_an_absent_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "PROBE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match="No Ray head answers"):
            subject.check_cluster(address, 0.3)
        with pytest.raises(ClusterError, match="No Ray head answers"):
            subject.check_cluster(f"ray://{address}", 0.3)


def test_another_service_of_ray_is_not_a_head() -> None:
    with serving_head(FakeHead(SAME)) as address, pytest.raises(ClusterError, match="no Ray head"):
        find_cluster(f"ray://{address}")


@pytest.mark.parametrize("name, version", [("ray_version", "2.9.0"), ("python_version", "3.9.1")])
def test_another_version_of_ray_or_python_is_refused_with_both(name: str, version: str) -> None:
    with (
        serving_head(FakeHead(SAME | {name: version}, (NODE,))) as address,
        pytest.raises(ClusterError, match=version) as raised,
    ):
        find_cluster(address)
    assert SAME[name] in str(raised.value)


def test_a_machine_outside_the_cluster_is_told_how_to_join() -> None:
    with (
        serving_head(FakeHead(SAME, (b"\x02" * 28,))) as address,
        pytest.raises(ClusterError, match=f"ray start --address={address}"),
    ):
        find_cluster(address)


def test_a_missing_token_is_explained() -> None:
    with (
        serving_head(FakeHead(SAME, (NODE,), TOKEN)) as address,
        pytest.raises(ClusterError, match=r"none.*\.ray/auth_token"),
    ):
        find_cluster(address)


def test_a_wrong_token_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN[::-1])
    with (
        serving_head(FakeHead(SAME, (NODE,), TOKEN)) as address,
        pytest.raises(ClusterError, match=r"refuses.*\.ray/auth_token"),
    ):
        find_cluster(address)


def test_a_token_that_the_mode_turns_off_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    set_mode(monkeypatch, "disabled")
    with (
        serving_head(FakeHead(SAME, (NODE,), TOKEN)) as address,
        pytest.raises(ClusterError, match="RAY_AUTH_MODE=token"),
    ):
        find_cluster(address)


def test_the_mode_token_without_a_token_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    set_mode(monkeypatch, "token")
    with (
        serving_head(FakeHead(SAME, (NODE,))) as address,
        pytest.raises(ClusterError, match=r"no token.*\.ray/auth_token"),
    ):
        find_cluster(address)


def test_the_token_of_this_machine_is_used_without_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with serving_head(FakeHead(SAME, (NODE,), TOKEN)) as address:
        assert find_cluster(address) == address


def test_auto_without_a_cluster_says_how_to_start_one() -> None:
    with pytest.raises(ClusterError, match="ray start --head"):
        find_cluster("auto")


def test_auto_takes_the_address_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_head(FakeHead(SAME, (NODE,))) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert find_cluster("auto") == address


def write_address_file(folder: Path, address: str) -> Path:
    file = folder / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text(address, encoding="utf-8")
    return file


def test_auto_explains_the_address_that_a_killed_head_left(tmp_path: Path) -> None:
    stale = unused_address()
    file = write_address_file(tmp_path, stale)
    with pytest.raises(ClusterError, match=f"{stale}.*{file}"):
        find_cluster("auto")


def test_auto_passes_over_a_stale_address_to_a_running_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_address_file(tmp_path, unused_address())
    with serving_head(FakeHead(SAME, (NODE,))) as address:
        monkeypatch.setattr(services, "_find_address_from_flag", lambda flag: {address})
        assert find_cluster("auto") == address


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"pip install .*\[scale\]"):
        connect("auto")


def test_a_ray_of_its_own_that_starts_slowly_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def start(address: str, **_: object) -> None:
        calls.append((address,))
        if len(calls) == 1:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    connect("local")
    assert calls == [("local",)] * 2


def test_a_ray_that_cannot_be_started_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(address: str, **_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(ClusterError, match="timed out"):
        connect("local")
