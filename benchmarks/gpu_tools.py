"""Reads what compute-sanitizer, ncu and pytest write."""

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
SECONDS |= {"nsecond": 1e-9, "usecond": 1e-6, "msecond": 1e-3, "second": 1.0}
BYTES = {"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}
SCALES = {unit: scale for units in (SECONDS, BYTES) for unit, scale in units.items()}


def sanitizer(text: str) -> dict[str, Any]:
    """{errors, warnings, detail} of a compute-sanitizer log; errors is None without a summary.

    `detail` holds the first lines of the first finding. A summary alone proves nothing: it also
    ends the log of a process that died, so look at the status of what ran too.
    """
    found = re.findall(r"ERROR SUMMARY: (\d+) errors?", text)
    races = re.findall(
        r"RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?, (\d+) warnings?\)", text
    )
    errors = [int(n) for n in found] + [int(n) for n, _ in races]
    lines = [line.removeprefix("=========").strip() for line in text.splitlines()]
    told = [line for line in lines if line and not re.match(r"COMPUTE-SANITIZER|.*SUMMARY:", line)]
    return {
        "errors": sum(errors) if errors else None,
        "warnings": sum(int(n) for _, n in races),
        "detail": " | ".join(told[:4])[:500],
    }


def ncu(text: str) -> list[dict[str, Any]]:
    """One {kernel, grid, block, metric: value} a launch, of a raw CSV page; in s and bytes.

    A metric that ncu could not read is left out. [] where the text holds no table.
    """
    start = re.search(r'^"ID",', text, re.M)
    if not start:
        return []
    header, *rows = csv.reader(io.StringIO(text[start.start() :]))
    fixed = {"Kernel Name": "kernel", "Grid Size": "grid", "Block Size": "block"}
    first = header.index("CC") + 1  # the metrics follow the device's compute capability
    units, launches = [""] * len(header), []
    for row in rows:
        if len(row) != len(header):
            continue
        if not row[0]:
            units = row
            continue
        launch: dict[str, Any] = {name: row[header.index(key)] for key, name in fixed.items()}
        for name, unit, value in list(zip(header, units, row, strict=True))[first:]:
            try:
                launch[name] = float(value.replace(",", "")) * SCALES.get(unit, 1.0)
            except ValueError:  # n/a
                continue
        launches.append(launch)
    return launches


def refusal(text: str) -> str:
    """Why a tool did not work, in its own words: its error lines, else its last ones."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if re.search(r"==ERROR==|\berror\b|not supported", line, re.I)]
    return " | ".join((told or lines)[-3:])[:500]


def junit(text: str) -> tuple[dict[str, int], list[dict[str, str]]]:
    """Counts of pytest's outcomes, and the name and first words of every test that went wrong."""
    counts = {"passed": 0, "failed": 0, "errors": 0, "skipped": 0}
    wrong = []
    for case in ElementTree.fromstring(text).iter("testcase"):
        kinds = {child.tag: child for child in case}
        tag = next((t for t in ("failure", "error", "skipped") if t in kinds), None)
        counts[{"failure": "failed", "error": "errors", None: "passed"}.get(tag, "skipped")] += 1
        if tag in ("failure", "error"):
            name = f"{case.get('classname')}::{case.get('name')}"
            message = " ".join((kinds[tag].get("message") or "").split())
            wrong.append({"test": name, "message": message[:300]})
    return counts, wrong
