"""Serve VisualGLM over HTTP, on the Hugging Face model.

python api_hf.py --from_pretrained visualglm-tiny
"""

import sys

from api import main
from model import load_hf

if __name__ == "__main__":
    sys.exit(main(load=load_hf))
