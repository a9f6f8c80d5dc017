"""python benchmarks/all_tasks.py: ibnvision benchmark generalization --task all."""

import sys

from ibnvision.benchmark.all_tasks import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
