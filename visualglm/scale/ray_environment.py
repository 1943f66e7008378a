"""Variables that Ray reads when it is imported; importing this module does not import Ray."""

import os
import sys

# The last one makes a local Ray use only the loopback address; its name stems from the systems where that is usual.
LOCAL_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_agent_register_timeout_ms": "120000",  # Ray's processes start slowly while other programs use all cores
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


def prepare_local_ray() -> None:
    """Set the variables of a local Ray, before Ray is imported; variables that the user has set stay."""
    if "ray" in sys.modules:
        raise RuntimeError("Ray has already been imported and would ignore the variables.")
    for name, value in LOCAL_VARIABLES.items():
        os.environ.setdefault(name, value)
