"""What do all recorded runs say?   ibnvision report

Rewrites the generated tables of benchmarks/README.md, the picture and report.html beside it from
benchmarks/results, and the page of the newest generalization run from its results.json.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import kept_pictures, merging, record, record_page, resolution_pictures
from .blocks import newest_runs, readme_tables
from .run_page import write_page


def rewrite(text: str, parts: Mapping[str, str]) -> str:
    """`text` with each part between its markers, <!-- generated: NAME --> and <!-- end: NAME -->.

    Raises: ValueError where a marker is missing.
    """
    for name, part in parts.items():
        start, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"the file must hold {start} and {end} once each")
        before, rest = text.split(start)
        after = rest.split(end)[1]
        text = f"{before}{start}\n{part}\n{end}{after}"
    return text


def _has_page(path: Path) -> bool:
    """Whether a results.json is of the generalization benchmark, the one with a page."""
    results = json.loads(path.read_text(encoding="utf-8"))
    return results["environment"].get("bench", "generalization") == "generalization"


def main(argv: Sequence[str]) -> int:
    """Rewrite what there is to rewrite; 0, or 1 where there is nothing."""
    parser = argparse.ArgumentParser(
        prog="ibnvision report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--results", default="benchmarks/results", help="folder of the JSON-lines files"
    )
    parser.add_argument("--readme", default="benchmarks/README.md")
    parser.add_argument(
        "--runs", default="runs", help="where the newest results.json is looked for"
    )
    parser.add_argument(
        "--merge",
        nargs="+",
        metavar="FILE",
        help="only print one table of the studies in these files of records, of one protocol",
    )
    args = parser.parse_args(argv)
    if args.merge:
        print(merging.merged(list(map(Path, args.merge))))
        return 0
    readme, folder, written = Path(args.readme), Path(args.results), []
    if readme.is_file() and folder.is_dir():
        records = record.read_folder(folder)
        parts = readme_tables(records)
        record.replace_file(readme, rewrite(readme.read_text(encoding="utf-8"), parts))
        written.append(f"tables      {readme}")
        for run in newest_runs(records, "resolution")[-1:]:
            written.append(f"picture     {resolution_pictures.write(run, readme.parent)}")
        page = record_page.write(records, readme.parent, kept_pictures.read(folder))
        written.append(f"page        {page}")
    pages = sorted(
        filter(_has_page, Path(args.runs).glob("*/results.json")),
        key=lambda path: path.stat().st_mtime,
    )
    if pages:
        written.append(f"report      {write_page(pages[-1].parent)}")
    if not written:
        print(
            f"nothing to report: neither {readme} with {folder} "
            f"nor a results.json below {args.runs}"
        )
        return 1
    print("\n".join(written))
    return 0
