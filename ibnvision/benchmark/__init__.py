"""Benchmarks: one file, one question. Each has `main(argv)`, run by `ibnvision benchmark NAME`."""

# the questions, whose records stand in NAME.jsonl; other tools keep their own lines beside these;
# in a reader's order: what generalizes, then what it costs
BENCHES = (
    "generalization",
    "detection",
    "dehazing",
    "resolution",
    "all_tasks",
    "severity",
    "ops",
    "models",
    "segmentation",
    "detector",
    "restoration",
    "attention",
    "scaling",
    "corruptions",
    "lambda_converter",
)
