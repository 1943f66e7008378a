"""Names that command lines need before torch is imported: models and dtypes."""

from pathlib import Path

EMBEDDED = Path(__file__).parent / "pretrained"  # the directories of the models in this repository
DEFAULT_MODEL = "visualglm-6b"
HUB_IDS = {DEFAULT_MODEL: "THUDM/visualglm-6b"}
DTYPE_NAMES = ("float32", "bfloat16", "float16")


def embedded_names() -> list[str]:
    """List the names of the models in this repository."""
    return sorted(path.name for path in EMBEDDED.iterdir() if path.is_dir())
