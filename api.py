"""Serve VisualGLM over HTTP: the original's POST / on port 8080, and chat completions under /v1.

python api.py --from_pretrained visualglm-tiny
python api.py --host 0.0.0.0 --api-key "$KEY" --max-batch 32
"""

import sys
from typing import Any

from visualglm.cli import start


def main(load: Any = None) -> int:
    """Run the server with the model that `load` loads, by default `load_sat`; return the exit code."""
    return start("serve", load=load, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
