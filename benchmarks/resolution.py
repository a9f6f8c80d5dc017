"""python benchmarks/resolution.py: the same as ibnvision benchmark resolution."""

import sys

from ibnvision.benchmark.resolution import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
