"""python benchmarks/dehazing.py: the same as ibnvision benchmark dehazing."""

import sys

from ibnvision.benchmark.dehazing import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
