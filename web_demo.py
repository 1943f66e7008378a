"""Chat with VisualGLM about images on a web page.

python web_demo.py --from_pretrained visualglm-tiny
python web_demo.py --server_name 0.0.0.0 --server_port 8080 --auth me:secret
"""

import sys
from typing import Any

from visualglm.cli import start


def main(load: Any = None, port: int = 7860) -> int:
    """Run the program with the model that `load` loads, by default `load_sat`; return the exit code."""
    return start("web", load=load, port=port, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
