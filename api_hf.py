"""Serve VisualGLM over HTTP, on the Hugging Face model.

python api_hf.py --from_pretrained visualglm-tiny
"""

import sys
from functools import partial

from visualglm.cli import start

main = partial(start, "serve", hf=True, description=__doc__)

if __name__ == "__main__":
    sys.exit(main())
