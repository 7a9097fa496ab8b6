"""Fused Triton kernels for the all-pairs step on CUDA: `programs` are the kernels, `forms` says which forms they serve."""
