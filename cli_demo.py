"""Talk with VisualGLM about a picture, in the terminal.

python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png
python cli_demo.py --from_pretrained visualglm-tiny --image examples/scene.png --query 图片里有什么？
"""

import sys
from functools import partial

from visualglm.cli import start

main = partial(start, "chat", description=__doc__)

if __name__ == "__main__":
    sys.exit(main())
