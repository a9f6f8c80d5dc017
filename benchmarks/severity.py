"""python benchmarks/severity.py: the same as ibnvision benchmark severity."""

import sys

from ibnvision.benchmark.severity import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
