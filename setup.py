"""Packaging: two packages, one command line entry point, everything heavy behind an extra."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# Where the sources can be read in public. While this is empty, the index page shows the README's links into the
# repository as plain words, since nothing would answer them.
REPOSITORY = ""

PLOTS = ["matplotlib>=3.8"]
BENCH = ["liger-kernel>=0.8", "pytest-benchmark>=5.0"]
DOCS = ["pdoc>=16"]
LM_EVAL = ["lm-eval>=0.4.13"]
PARETO = ["moocore>=0.3"]
PLAY = ["gradio>=6.31,<7", "httpx>=0.27", *PLOTS]
QUANTISED = ["bitsandbytes>=0.49"]
SERVING = ["vllm>=0.31,<0.33"]  # genarm/serving/versions.py says the same
RAY = ["ray[data]>=2.51"]
TRAIN = ["accelerate>=1.0", "datasets>=4.0", "pyarrow>=15.0", "trl>=1.16"]
CHECKS = [
    "mypy>=1.15",
    "pytest>=8.0",
    "pytest-cov>=6.0",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
    "scikit-learn>=1.4",
    "scipy>=1.11",
    "tensorboard>=2.15",
]


def index_page(readme: str, repository: str) -> str:
    """The README for a package index, where a link relative to the repository leads nowhere."""

    def link(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        if repository:
            return f"{picture}[{words}]({repository}/{'raw' if picture else 'blob'}/main/{target})"
        return "" if picture else words

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)", link, readme)


setup(
    name="genarm",
    version="0.1.0",
    description="Reward-guided decoding at the price of plain decoding: Triton kernels and a thin engine for GenARM",
    long_description=index_page((ROOT / "README.md").read_text(encoding="utf-8"), REPOSITORY),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=[
        "language models",
        "guided decoding",
        "controlled generation",
        "test-time alignment",
        "reward models",
        "multi-objective alignment",
        "LoRA",
        "Triton",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    project_urls={
        "Paper": "https://arxiv.org/abs/2410.08193",
        **({"Source": REPOSITORY, "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md"} if REPOSITORY else {}),
    },
    python_requires=">=3.11",
    # Naming the root makes `pip install -e .` write the path of this folder, which editors and type checkers follow.
    # Without it setuptools installs a finder that runs at import, and they see no package at all.
    package_dir={"": "."},
    packages=find_packages(include=["genarm", "genarm.*", "genarm_kernels", "genarm_kernels.*"]),
    package_data={
        "genarm": ["py.typed", "assets/*", "assets/**/*"],
        "genarm_kernels": ["py.typed", "native/*.c", "native/*.h"],
    },
    install_requires=[
        "jinja2>=3.1",
        "numpy>=1.26",
        "peft>=0.18",
        "rich>=13.8",
        "safetensors>=0.8",
        "torch>=2.11",
        "transformers>=5.14,<6",
        "triton>=3.6",
        "typer>=0.29",
    ],
    extras_require={
        "flash-attn": ["flash-attn>=2.7"],
        "train": TRAIN,
        "bench": BENCH,
        "docs": DOCS,
        "lm-eval": LM_EVAL,
        "pareto": PARETO,
        "play": PLAY,
        "plots": PLOTS,
        "quantized": QUANTISED,
        "serving": SERVING,
        "ray": [*SERVING, *RAY],
        "dev": [*CHECKS, *BENCH, *DOCS, *LM_EVAL, *PARETO, *PLOTS, *QUANTISED, *TRAIN],
    },
    entry_points={
        "console_scripts": ["genarm=genarm.cli.app:main"],
        "vllm.general_plugins": ["genarm=genarm.serving.vllm_plugin:register"],
    },
)
