"""python benchmarks/attention.py: the same as ibnvision benchmark attention."""

import sys

from ibnvision.benchmark.attention import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
