"""python benchmarks/ops.py: the same as ibnvision benchmark ops."""

import sys

from ibnvision.benchmark.ops import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
