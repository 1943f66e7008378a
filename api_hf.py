"""Serve VisualGLM over HTTP, with the Hugging Face implementation.

python api_hf.py --from_pretrained visualglm-tiny
"""

import sys

from visualglm.cli import start

if __name__ == "__main__":
    sys.exit(start("serve", hf=True, description=__doc__))
