"""Talk with VisualGLM about a picture, on a web page at port 8080, on the Hugging Face model.

python web_demo_hf.py --from_pretrained visualglm-tiny
"""

import sys

from visualglm.cli import start

if __name__ == "__main__":
    sys.exit(start("web", hf=True, port=8080, description=__doc__))
