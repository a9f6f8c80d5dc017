"""python benchmarks/restoration.py: the same as ibnvision benchmark restoration."""

import sys

from ibnvision.benchmark.restoration import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
