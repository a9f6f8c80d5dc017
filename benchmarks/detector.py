"""python benchmarks/detector.py: the same as ibnvision benchmark detector."""

import sys

from ibnvision.benchmark.detector import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
