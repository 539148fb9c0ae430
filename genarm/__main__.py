"""`python -m genarm`, and `accelerate launch -m genarm`: the genarm command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
