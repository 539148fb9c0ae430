"""A backend of Triton's by the name of cpu, whose kernels Triton's interpreter runs (TRITON_INTERPRET=1).

vLLM's build for CPUs runs its model runner v2 with the triton that has such a backend (triton-cpu), which package
indexes do not have. What is in the folder above is found where it is on the PYTHONPATH, in every process of an engine.
"""
