"""Talk with VisualGLM about a picture, on a web page at port 8080, on the Hugging Face model.

python web_demo_hf.py --from_pretrained visualglm-tiny
"""

import sys

from model import load_hf
from web_demo import main

if __name__ == "__main__":
    sys.exit(main(load=load_hf, port=8080))
