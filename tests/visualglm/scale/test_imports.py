"""The single-process server needs no Ray."""

import pytest

from tests.helpers.preloaded import run_preloaded

LIGHT = ("server.program", "scale.program", "scale.replica", "scale.remote_model", "scale.cluster_config")


@pytest.mark.parametrize("module", LIGHT)
def test_without_replicas_ray_is_not_imported(module: str) -> None:
    code = f"import sys, visualglm.{module}; print([name for name in sys.modules if name.split('.')[0] == 'ray'])"
    done = run_preloaded(code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_missing_ray_is_named_with_its_extra() -> None:
    code = (
        "import sys, visualglm.scale.errors as errors; errors.find_spec = lambda name: None; "
        "from visualglm.server.program import main; sys.argv = ['serve', '--replicas', '2']; sys.exit(main())"
    )
    done = run_preloaded(code)
    assert done.returncode == 1
    assert "scale" in done.stderr
    assert "Traceback" not in done.stderr
