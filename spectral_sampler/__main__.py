"""``python -m spectral_sampler`` is the command ``spectral-sampler``."""

import sys

from spectral_sampler.cli import main

if __name__ == "__main__":
    sys.exit(main())
