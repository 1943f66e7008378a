"""Serve VisualGLM over HTTP, on the Hugging Face model.

python api_hf.py --from_pretrained visualglm-tiny
"""

import sys

from visualglm.cli import start

if __name__ == "__main__":
    sys.exit(start("serve", hf=True, description=__doc__))
