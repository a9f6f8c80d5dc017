"""python benchmarks/segmentation.py: the same as ibnvision benchmark segmentation."""

import sys

from ibnvision.benchmark.segmentation import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
