"""python benchmarks/lambda_converter.py: the same as ibnvision benchmark lambda_converter."""

import sys

from ibnvision.benchmark.lambda_converter import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
