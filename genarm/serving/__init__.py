"""Guided decoding inside vLLM: its scheduler, caches, parallelism and servers, and our combination of models."""
