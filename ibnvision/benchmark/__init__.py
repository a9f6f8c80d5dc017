"""Benchmarks: one file, one question. Each has `main(argv)`, run by `ibnvision benchmark NAME`."""

# the questions, whose records stand in NAME.jsonl, in a reader's order: what generalizes, then
# what it costs
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
# what other tools record beside these, for the table of targets
TOOLS = ("checks", "emulator")
