"""Talk with VisualGLM about a picture, in the terminal, on the Hugging Face model.

python cli_demo_hf.py --from_pretrained visualglm-tiny --image examples/scene.png
"""

import sys
from functools import partial

from visualglm.cli import start

main = partial(start, "chat", hf=True, description=__doc__)

if __name__ == "__main__":
    sys.exit(main())
