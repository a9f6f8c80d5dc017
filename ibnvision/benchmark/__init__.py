"""Benchmarks: one file, one question. Each has `main(argv)`, run by `ibnvision benchmark NAME`."""

# the questions, whose records stand in NAME.jsonl; other tools keep their own lines beside these
BENCHES = (
    "attention",
    "corruptions",
    "dehazing",
    "detection",
    "detector",
    "generalization",
    "lambda_converter",
    "models",
    "ops",
    "resolution",
    "restoration",
    "segmentation",
)
