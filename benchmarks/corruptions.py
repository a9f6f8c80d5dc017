"""python benchmarks/corruptions.py: the same as ibnvision benchmark corruptions."""

import sys

from ibnvision.benchmark.corruptions import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
