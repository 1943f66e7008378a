"""Token ids in, token ids out: sampling, the KV cache, and the loop that writes an answer. Knows no text."""

from .config import CHAT, DEMO, HF_CHAT, GenerationConfig
from .engine import Step, generate

__all__ = ["CHAT", "DEMO", "HF_CHAT", "GenerationConfig", "Step", "generate"]
