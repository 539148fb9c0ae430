"""Kernels in C for a CPU whose own instructions do not multiply bfloat16, where torch's products of few rows are slow."""
