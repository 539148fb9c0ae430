"""Kernels in C, for a CPU that does not multiply bfloat16 itself: there torch is slow for more than one row."""
