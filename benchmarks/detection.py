"""python benchmarks/detection.py: the same as ibnvision benchmark detection."""

import sys

from ibnvision.benchmark.detection import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
