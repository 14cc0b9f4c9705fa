"""Computations that save time or memory, on plain tensors. They know no model, no method and no data."""

from tunesmith.kernels.nll import selected_nll

__all__ = ["selected_nll"]
