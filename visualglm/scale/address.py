"""Connect to a Ray cluster, or say within five seconds why that is impossible.

Forms of an address: `auto` (RAY_ADDRESS, else the cluster of this machine), `local` (a Ray of its own for this program,
on this machine), `HOST:PORT` (a cluster of which this machine is a node), and `ray://HOST:PORT` (a cluster of which
it is not).
"""

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from visualglm.cli import ROOT

from .errors import ClusterError, require_ray
from .ray_environment import prepare_local_ray

AUTO, LOCAL, CLIENT_SCHEME = "auto", "local", "ray://"
LOG_LEVEL = "WARNING"
START_ATTEMPTS = 3  # the processes of Ray have 15 s to start, which is short while other programs use all cores
HEAD_PORT, CLIENT_PORT = 6379, 10001
PROBE_S = 4.0  # seconds until a head counts as absent; below 5 with the rest of the probe
ADDRESS_VARIABLE = "RAY_ADDRESS"
FORMS = "Give auto, local, HOST:PORT (6379 by default), or ray://HOST:PORT (10001 by default)."


class Candidate(NamedTuple):
    """An address that `auto` may stand for.

    Attributes:
        address: "HOST:PORT" or "ray://HOST:PORT".
        source: where it was found, for messages.
    """

    address: str
    source: str


def connect(address: str, **settings: Any) -> None:
    """Connect this process to the Ray cluster at `address`, as `ray.init` does, after a probe.

    Args:
        settings: of `ray.init`.

    Raises:
        ClusterError: Ray is not installed, no head answers, it refuses the token, it has another version of Ray or
            Python, this machine is no node of the cluster, or Ray cannot be started. The message says what to do.
    """
    require_ray()
    if address == LOCAL:
        if "ray" not in sys.modules:
            prepare_local_ray()
        start_ray(**({"job_config": make_job()} | settings))
        return
    found = find_cluster(address)
    import ray

    if not found.startswith(CLIENT_SCHEME):
        settings = {"job_config": make_job()} | settings
    try:
        ray.init(address=found, **({"logging_level": LOG_LEVEL} | settings))
    except (ConnectionError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "twice" in str(error):
            raise  # a bug of the caller
        raise ClusterError(f"The Ray cluster at {found} answers, but Ray could not connect: {error}") from error


def start_ray(**settings: Any) -> None:
    """Start a Ray of its own for this program; a start that takes too long is tried again.

    Args:
        settings: of `ray.init`.

    Raises:
        ClusterError: Ray cannot be started.
    """
    import ray

    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(LOCAL, **({"include_dashboard": False, "logging_level": LOG_LEVEL} | settings))
            return
        except Exception as error:  # Ray's own exception of a slow start has no type of its own
            if "twice" in str(error):
                raise  # a bug of the caller
            ray.shutdown()
            if attempt + 1 == START_ATTEMPTS:
                raise ClusterError(f"Ray cannot be started on this machine: {error}") from error


def make_job() -> Any:
    """Return a `ray.job_config.JobConfig` whose workers import the project from this checkout, if it is one."""
    from ray.job_config import JobConfig

    job = JobConfig()
    if (ROOT / "pyproject.toml").exists():
        job._py_driver_sys_path.append(str(ROOT))
    return job


def find_cluster(address: str) -> str:
    """Return the address of a running cluster that this process can use: "HOST:PORT" or "ray://HOST:PORT".

    Raises:
        ClusterError: no head answers, or the cluster cannot be used from here.
    """
    require_ray()
    if address != AUTO:
        return check_cluster(complete_address(address))
    candidates = find_candidates()
    if not candidates:
        raise ClusterError(
            "No Ray cluster runs on this machine. Start one (ray start --head), join one "
            f"(ray start --address=HOST:{HEAD_PORT}), or give its address."
        )
    errors = []
    for candidate in candidates:
        try:
            return check_cluster(complete_address(candidate.address), PROBE_S / len(candidates))
        except ClusterError as error:
            errors.append(f"{error} (The address is from {candidate.source}.)")
    raise ClusterError(errors[0])


def find_candidates() -> list[Candidate]:
    """Return the addresses that `auto` may stand for: RAY_ADDRESS alone, or the clusters that left a trace here.

    Ray writes the address of the last cluster into a file, and a killed head leaves it behind. The heads of the nodes
    that run on this machine follow.
    """
    from ray._common.utils import get_ray_address_file
    from ray._private import services

    variable = os.environ.get(ADDRESS_VARIABLE, "")
    if variable and variable != AUTO:
        return [Candidate(variable, ADDRESS_VARIABLE)]
    file = Path(get_ray_address_file(None))
    written = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    services.find_gcs_addresses.cache_clear()
    running = sorted(set(services.find_gcs_addresses()) - {written})
    traces = [Candidate(written, f"{file}, which a killed head leaves behind")] if written else []
    return traces + [Candidate(address, "a Ray process of this machine") for address in running]


def complete_address(address: str) -> str:
    """Return `address` with a port, and check its form.

    Raises:
        ClusterError: the form is unknown.
    """
    scheme = CLIENT_SCHEME if address.startswith(CLIENT_SCHEME) else ""
    place = address.removeprefix(scheme).rstrip("/")
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::(\d{1,5}))?", place)
    if found is None:
        raise ClusterError(f"{address!a} is no address of a Ray cluster. {FORMS}")
    port = int(found[2]) if found[2] else (CLIENT_PORT if scheme else HEAD_PORT)
    if not 0 < port < 1 << 16:
        raise ClusterError(f"{address!a} has no valid port. {FORMS}")
    return f"{scheme}{found[1]}:{port}"


def check_cluster(address: str, timeout: float = PROBE_S) -> str:
    """Probe the cluster at `address` ("HOST:PORT" or "ray://HOST:PORT"), and return the address.

    Args:
        timeout: seconds to wait for an answer.

    Raises:
        ClusterError: no head answers, or the cluster cannot be used from here.
    """
    from . import probe

    if address.startswith(CLIENT_SCHEME):
        probe.probe_client_server(address.removeprefix(CLIENT_SCHEME), timeout)
        return address
    head = probe.probe_head(address, timeout)
    check_versions(head.ray_version, head.python_version, address)
    check_membership(head.node_ids, address)
    return address


def check_versions(ray_version: str, python_version: str, address: str) -> None:
    """Check that the cluster has the Ray and Python of this process, as Ray itself requires; "" is unknown.

    Raises:
        ClusterError: it has others.
    """
    import ray

    parts = 2 if os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") == "minor" else 3
    theirs, ours = (version.split(".")[:parts] for version in (python_version, platform.python_version()))
    if ray_version not in ("", ray.__version__) or (python_version and theirs != ours):
        raise ClusterError(
            f"The Ray cluster at {address} has Ray {ray_version} and Python {python_version}; this process has Ray "
            f"{ray.__version__} and Python {platform.python_version()}. Install the same versions on all machines."
        )


def check_membership(node_ids: frozenset[str], address: str) -> None:
    """Check that this machine is a node of the cluster, as Ray requires of programs that connect to its head.

    Args:
        node_ids: hexadecimal ids of the cluster's nodes.

    Raises:
        ClusterError: it is none.
    """
    from ray._private import services

    if not node_ids & set(services.find_node_ids()):
        host = address.rpartition(":")[0]
        raise ClusterError(
            f"This machine is no node of the Ray cluster at {address}. Let it join (ray start --address={address}), "
            f"run the command on a node, or connect from outside with {CLIENT_SCHEME}{host}:{CLIENT_PORT}"
        )
