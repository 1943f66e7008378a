"""Chat with VisualGLM about images in the terminal, with the Hugging Face implementation.

python cli_demo_hf.py --from_pretrained visualglm-tiny --image examples/scene.png
"""

import sys

from visualglm.cli import start

if __name__ == "__main__":
    sys.exit(start("chat", hf=True, description=__doc__))
