"""Linear layers and layer norm for few rows of activations, with Triton kernels on a GPU.

    linear.multiply_dense, multiply_int8, multiply_int4     x [B, I] -> act(x @ weight.T + bias) + alpha * residual
    norm.layer_norm                                         x [B, D] -> [B, D]

For up to MAX_ROWS rows, the time is bound by reading the weight, which the kernels in `triton` read once. For more
rows, without Triton, or if a gradient is needed, torch computes the same. Torch rounds after each operation, the
kernels only once at the end.
"""
