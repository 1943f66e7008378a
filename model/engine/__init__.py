"""Token ids in, token ids out: sampling, the KV cache, and the loop that writes an answer. Knows no text."""

from .batch import Batch
from .config import CHAT, DEMO, HF_CHAT, GenerationConfig
from .generate import generate, generate_all
from .scheduler import Scheduler, scheduler_of
from .sequence import Request, Step, Steps

__all__ = [
    "CHAT",
    "DEMO",
    "HF_CHAT",
    "Batch",
    "GenerationConfig",
    "Request",
    "Scheduler",
    "Step",
    "Steps",
    "generate",
    "generate_all",
    "scheduler_of",
]
