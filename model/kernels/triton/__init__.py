"""What runs on the GPU, in Triton's language. It imports triton, so import it only once that is known to be there.

A few rows of activations are multiplied in the time that the weights take to arrive from memory, so a weight is read
once, 16 bytes a thread, and becomes floating point in registers. Every function that a program starts with takes
    x [B, I], the parts of the weight, bias [O] | None, residual [B, O] | None, out [B, O], alpha, O, ...
and stores act(x @ weight.T + bias) + alpha * residual, with sums in float32 that are rounded once.
"""
