"""Sizes of matrices that come again: on a CPU each new one costs memory that is never given back."""

from __future__ import annotations


def recurring_size(count: int) -> int:
    """The smallest of 16 sizes between two powers of two that is not below `count`: at most a sixteenth more.

    For products in bfloat16 oneDNN compiles code for the very sizes, and PyTorch keeps more beside it: together about
    0.4 MB for each product, of up to 1,024 of them, amid memory that the next pass would otherwise have used again.
    """
    step = 1 << max(0, count.bit_length() - 5)
    return -(-count // step) * step
