"""Talk with VisualGLM about a picture, in the terminal, on the Hugging Face model.

python cli_demo_hf.py --from_pretrained visualglm-tiny --image examples/scene.png
"""

import sys

from cli_demo import main
from model import load_hf

if __name__ == "__main__":
    sys.exit(main(load=load_hf))
