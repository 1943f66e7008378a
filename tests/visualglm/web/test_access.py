"""Access to the page: host names, addresses, origins and failed logins."""

import pytest

from visualglm.local_address import is_loopback, is_own_host, listens_on_loopback
from visualglm.web.access import AccessPolicy
from visualglm.web.login import FREE_ATTEMPTS, MAX_ADDRESSES, MAX_WAIT_S, LoginAttempts


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "localhost"])
def test_all_loopback_addresses_are_local(host: str) -> None:
    assert listens_on_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "no such name.invalid", "x" * 300])
def test_other_addresses_are_not_local(host: str) -> None:
    assert not listens_on_loopback(host)


def test_a_mapped_address_is_local() -> None:
    assert is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("::ffff:192.0.2.1")


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost:7860", True),
        ("LOCALHOST.", True),
        ("a.localhost", True),
        ("127.0.0.1:7860", True),
        ("[::1]:7860", True),
        ("192.0.2.1", True),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:7860", False),
        ("", False),
    ],
)
def test_names_of_this_machine(host: str, own: bool) -> None:
    assert is_own_host(host) is own


def test_a_shared_page_is_known_by_its_public_name() -> None:
    host = "abc123.gradio.live"
    shared = AccessPolicy(own_host="127.0.0.1", names=["chat.example"], shared=True)
    assert shared.allows_host(host)
    assert shared.allows_origin({"origin": f"https://{host}", "host": host})
    assert not AccessPolicy(own_host="127.0.0.1").allows_host(host)


def test_the_origin_of_another_port_is_not_this_page() -> None:
    access = AccessPolicy(own_host="127.0.0.1", any_name=True)
    assert access.allows_origin({"origin": "http://127.0.0.1:7860", "host": "127.0.0.1:7860"})
    assert not access.allows_origin({"origin": "http://127.0.0.1:8888", "host": "127.0.0.1:7860"})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_wrong_passwords_make_the_wait_grow() -> None:
    attempts = LoginAttempts(clock := Clock())
    for _ in range(FREE_ATTEMPTS - 1):
        attempts.record_failure("192.0.2.1")
    assert attempts.seconds_to_wait("192.0.2.1") == 0
    waits = []
    for _ in range(20):
        attempts.record_failure("192.0.2.1")
        waits.append(attempts.seconds_to_wait("192.0.2.1"))
        clock.now += waits[-1]
        assert attempts.seconds_to_wait("192.0.2.1") == 0
    assert waits == sorted(waits)
    assert waits[0] > 0
    assert waits[-1] == MAX_WAIT_S
    assert attempts.seconds_to_wait("192.0.2.2") == 0
    attempts.reset("192.0.2.1")
    assert attempts.record_failure("192.0.2.1") == 1


def test_a_network_that_one_client_owns_is_one_address() -> None:
    attempts = LoginAttempts(Clock())
    counts = [attempts.record_failure(f"2001:db8::{number}") for number in range(FREE_ATTEMPTS)]
    assert counts[-1] == FREE_ATTEMPTS
    assert attempts.seconds_to_wait("2001:db8::ffff") > 0
    assert attempts.seconds_to_wait("2001:db8:0:1::1") == 0


def test_the_table_of_addresses_is_bounded() -> None:
    attempts = LoginAttempts(Clock())
    for number in range(MAX_ADDRESSES + 100):
        attempts.record_failure(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(attempts._failures) == MAX_ADDRESSES
