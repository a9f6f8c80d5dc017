"""python benchmarks/generalization.py: the same as ibnvision benchmark generalization."""

import sys

from ibnvision.benchmark.generalization import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
