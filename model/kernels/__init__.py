"""Products of a few rows of activations with a weight, and layer norm: on a GPU by kernels of our own.

    dense.multiply, int8.multiply, int4.multiply     x [B, I], a weight -> act(x @ weight.T + bias) + alpha * residual
    norm.layer_norm                                  x [B, D] -> [B, D]

With up to MOST_ROWS rows the time is that of reading the weight, and the kernels in `device` read it once. With more,
without triton, or where a gradient is wanted, torch does the same: it rounds after each operation, they at the end.
"""
