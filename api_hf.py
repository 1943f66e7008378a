"""Serve VisualGLM over HTTP, on the Hugging Face model.

python api_hf.py --from_pretrained visualglm-tiny
"""

from api import main
from model import load_hf

if __name__ == "__main__":
    main(load=load_hf)
