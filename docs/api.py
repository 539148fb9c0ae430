"""The pages of the public interface, from its docstrings: `make docs`, or `python docs/api.py FOLDER`."""

import sys
import warnings
from pathlib import Path

import pdoc

import genarm

PAGES = ("genarm", "genarm.embedded", "genarm_kernels")


def write(folder: Path) -> None:
    """Write one page per public module, and an index, into ``folder``."""
    warnings.filterwarnings("error", module=r"pdoc\.")  # a name that does not resolve would be a blank on the page
    for name in genarm.__all__:  # imported on first use, and pdoc shows what is there
        getattr(genarm, name)
    pdoc.render.configure(docformat="google", footer_text=f"genarm {genarm.__version__}", search=True)
    pdoc.pdoc(*PAGES, output_directory=folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
