"""The error of clusters, and how to install what this package needs."""

from importlib.util import find_spec

from model.errors import VisualGLMError
from visualglm.cli import install_command

EXTRA = "scale"
NEEDED_MODULES = ("ray", "grpc")


class ClusterError(VisualGLMError):
    """The Ray cluster cannot be reached, or does not meet a requirement of the program."""


def require_ray() -> None:
    """Check that Ray is installed.

    Raises:
        ClusterError: it is not; the message says how to install it.
    """
    absent = [name for name in NEEDED_MODULES if find_spec(name) is None]
    if absent:
        command = install_command(EXTRA)
        raise ClusterError(f"{', '.join(absent)} cannot be imported. To install the missing packages: {command}")
