"""Linear layers and layer norm for few rows of activations, attention and sampling, with Triton kernels on a GPU.

    linear.multiply_dense, multiply_int8, multiply_int4     x [B, I] -> act(x @ weight.T + bias) + alpha * residual
    norm.layer_norm                                         x [B, D] -> [B, D]

A kernel reads each weight once and dequantizes it in registers: for one row without, for more rows with tensor cores.
Beyond MAX_ROWS rows the arithmetic takes longer than reading the weight, and torch multiplies; a low-bit weight is
dequantized by a kernel first. Without Triton, or if a gradient is needed, torch computes everything. Torch rounds after
each operation, the kernels only once at the end.
"""
