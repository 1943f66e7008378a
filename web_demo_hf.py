"""Chat with VisualGLM about images on a web page at port 8080, with the Hugging Face implementation.

python web_demo_hf.py --from_pretrained visualglm-tiny
"""

import sys

from visualglm.cli import start

if __name__ == "__main__":
    sys.exit(start("web", hf=True, port=8080, description=__doc__))
