"""Starting a kernel while the one before it ends: programmatic dependent launch, which GPUs have from Hopper on.

A program that starts so may read constants at once: weights, scales and biases, which no kernel of a step writes. What
other kernels write it reads, and what they read or write it overwrites, only after `wait_for_inputs`. Every program
of such a kernel waits, whether it has work or not, and by that the order holds also among kernels further apart.
https://docs.nvidia.com/cuda/cuda-c-programming-guide/#programmatic-dependent-launch-and-synchronization
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def wait_for_inputs(EARLY: tl.constexpr):
    """Let the next kernel start as this one has, then wait until all the kernels before have written everything."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
