"""Chat with VisualGLM about images in the terminal.

python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png
python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png --query 图片里有什么？
"""

import sys
from typing import Any

from visualglm.cli import start


def main(load: Any = None) -> int:
    """Run the program with the model that `load` loads, by default `load_sat`; return the exit code."""
    return start("chat", load=load, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
