"""GPU kernels in Triton's language. These modules import triton: import them only where `dispatch.has_triton`.

Products with few rows of activations are bound by memory bandwidth: so each weight is read once, 16 bytes per thread,
and is dequantized in registers: `dense`, `int8` and `int4` multiply one row, `matmul` several. Every kernel takes
    x [B, I], the weight's tensors, bias [O] | None, residual [B, O] | None, out [B, O], alpha, OUTPUTS, ...
and stores act(x @ weight.T + bias) + alpha * residual. Sums are float32 and are rounded once.
"""
