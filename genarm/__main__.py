"""`python -m genarm`, and `accelerate launch -m genarm`: the genarm command."""

import sys

from .cli.app import main

if __name__ == "__main__":
    sys.exit(main())
