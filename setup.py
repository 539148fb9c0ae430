"""Packaging: two packages, one command line entry point, everything heavy behind an extra."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

PLOTS = ["matplotlib>=3.8"]
BENCH = ["liger-kernel>=0.8", "pytest-benchmark>=5.0"]
TRAIN = ["accelerate>=1.0", "datasets>=4.0", "pyarrow>=15.0", "scikit-learn>=1.4", "trl>=1.16"]
CHECKS = [
    "mypy>=1.15",
    "pytest>=8.0",
    "pytest-cov>=6.0",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "scipy>=1.11",
]

setup(
    name="genarm",
    version="0.1.0",
    description="Reward-guided decoding at the price of plain decoding: Triton kernels and a thin engine for GenARM",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["genarm", "genarm.*", "genarm_kernels", "genarm_kernels.*"]),
    package_data={
        "genarm": ["py.typed", "assets/*", "assets/**/*"],
        "genarm_kernels": ["py.typed", "native/*.c", "native/*.h"],
    },
    install_requires=[
        "jinja2>=3.1",
        "numpy>=1.26",
        "peft>=0.18",
        "rich>=13",
        "safetensors>=0.4",
        "torch>=2.11",
        "transformers>=5.14,<6",
        "triton>=3.6",
        "typer>=0.15",
    ],
    extras_require={
        "flash-attn": ["flash-attn>=2.7"],
        "train": TRAIN,
        "serve": ["vllm>=0.12"],
        "bench": BENCH,
        "plots": PLOTS,
        "dev": [*CHECKS, *BENCH, *PLOTS, *TRAIN],
    },
    entry_points={"console_scripts": ["genarm=genarm.cli.app:main"]},
)
