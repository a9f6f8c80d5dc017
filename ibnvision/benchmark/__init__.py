"""Benchmarks: one file, one question. Each has `main(argv)`, run by `ibnvision benchmark NAME`."""
