"""Talk with VisualGLM about a picture, on a web page.

python web_demo.py --from_pretrained visualglm-tiny
python web_demo.py --server_name 0.0.0.0 --server_port 8080 --auth me:secret
"""

import sys
from functools import partial

from visualglm.cli import start

main = partial(start, "web", description=__doc__)

if __name__ == "__main__":
    sys.exit(main())
