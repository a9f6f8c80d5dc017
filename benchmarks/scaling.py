"""python benchmarks/scaling.py: the same as ibnvision benchmark scaling."""

import sys

from ibnvision.benchmark.scaling import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
