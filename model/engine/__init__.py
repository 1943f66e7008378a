"""The inference engine, from token ids to token ids: sampling, KV cache, decoding, scheduling. It handles no text."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..aliases import find_renamed

if TYPE_CHECKING:
    from .batch import Batch
    from .config import CHAT, DEMO, HF_CHAT, GenerationConfig
    from .scheduler import Scheduler, generate, generate_all, get_scheduler
    from .sequence import Request, TokenOutput, TokenStream

# Imported at first access: the sampling parameters, which command lines need, import no torch.
MODULES = {
    "batch": "Batch",
    "config": "CHAT DEMO HF_CHAT GenerationConfig",
    "scheduler": "Scheduler generate generate_all get_scheduler",
    "sequence": "Request TokenOutput TokenStream",
}

__all__ = [
    "CHAT",
    "DEMO",
    "HF_CHAT",
    "Batch",
    "GenerationConfig",
    "Request",
    "Scheduler",
    "TokenOutput",
    "TokenStream",
    "generate",
    "generate_all",
    "get_scheduler",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public object on demand, also by its former name."""
        for module, names in MODULES.items():
            if name in names.split():
                value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
                return value
        return find_renamed(sys.modules[__name__], name, stacklevel=3)
