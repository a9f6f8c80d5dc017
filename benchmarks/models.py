"""python benchmarks/models.py: the same as ibnvision benchmark models."""

import sys

from ibnvision.benchmark.models import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
