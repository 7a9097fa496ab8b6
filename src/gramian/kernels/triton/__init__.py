"""Fused kernels for a GPU, reached by `backend="triton"` alone: `programs` imports Triton, `forms` does not."""

MOST_BASES = 4
"""Vectors of an item that the kernels take."""
