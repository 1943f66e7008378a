"""The two row orders of the language model's query-key-value tensors.

interleaved: [q k v] of head 0, [q k v] of head 1, ...   Hugging Face files, and SAT files before SAT 0.4.1
split:       q of all heads, k of all heads, v of all     SAT files since SAT 0.4.1
"""

import torch


def split_qkv(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Turn interleaved rows [heads * 3 * head_dim, ...] into split rows of the same shape."""
    rows = tensor.view(heads, 3, -1, *tensor.shape[1:])
    return rows.transpose(0, 1).reshape(tensor.shape)


def interleave_qkv(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Turn split rows [3 * heads * head_dim, ...] into interleaved rows of the same shape."""
    rows = tensor.view(3, heads, -1, *tensor.shape[1:])
    return rows.transpose(0, 1).reshape(tensor.shape)
