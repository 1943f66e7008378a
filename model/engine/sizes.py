"""The sizes that work is padded to, so that a few CUDA graphs serve all."""

# Rows that are computed together.
COUNTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
# Room for tokens grows in these steps, so that it seldom has to; 57 MB each at full size.
ROOM_STEP = 128
# A graph of a step serves rows up to the next multiple of these tokens.
REACH_STEP = 256
# Prompts of up to so many tokens, padded and all together, are read as one: more would be no faster, and the CPU starts
# the kernels of longer ones in less time than a GPU takes for them.
MOST_TOGETHER = 512
# Contexts are padded to these lengths, with whose <sop> they fill whole tiles of the products.
LENGTHS = (63, 127, 255, MOST_TOGETHER - 1)
PROMPTS = (1, 2, 4, 8)


def padded(number: int, sizes: tuple[int, ...]) -> int:
    """Return the next of `sizes`, or `number` beyond the last."""
    return next((size for size in sizes if size >= number), number)


def round_up(number: int, step: int) -> int:
    """Return the next multiple of `step`."""
    return -(-number // step) * step


def fits_together(lengths: list[int]) -> bool:
    """Whether prompts with contexts of these lengths are to be read as one."""
    size = padded(len(lengths), PROMPTS) * (padded(max(lengths), LENGTHS) + 1)
    return len(lengths) <= PROMPTS[-1] and size <= MOST_TOGETHER
