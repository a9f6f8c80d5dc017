"""From the results of several domains to one number: the worst, the mean, the corruption mean.

`rows` are results as `engine.evaluate` returns them, domain -> key -> number; `key` is one whose
larger values are better. An undefined number (NaN) makes what is derived from it undefined.
"""

import math
from collections.abc import Mapping
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]


def worst_domain(rows: Rows, key: str) -> tuple[str, float]:
    """The domain of the lowest number and that number: the first of equals, and NaN before all.

    Raises: ValueError where there is no row.
    """
    values = _values(rows, key)
    undefined = [domain for domain, value in values.items() if math.isnan(value)]
    name = undefined[0] if undefined else min(values, key=values.__getitem__)
    return name, values[name]


def target_mean(rows: Rows, key: str) -> float:
    """The mean over the domains of `rows`, which are the targets alone, each counted once.

    Raises: ValueError where there is no row.
    """
    values = _values(rows, key)
    return math.fsum(values.values()) / len(values)


def mean_corruption(rows: Rows, key: str, *, clean: str) -> dict[str, float]:
    """`p`: the number of the domain `clean`; `mpc`: the mean of the others; `rpc_pct`: mpc of p.

    The others are one row per corruption and severity (15 x 5 in the paper), each counted once.
    p and mpc have the unit of `key`; rpc_pct is NaN where p is 0.

    Source: Michaelis et al., 2019, https://arxiv.org/abs/1907.07484.
    Raises: ValueError where `clean`, or any other row, is missing.
    """
    if clean not in rows:
        raise ValueError(f"clean must be one of the rows, {list(rows)}, got {clean!r}")
    p = float(rows[clean][key])
    mpc = target_mean({domain: row for domain, row in rows.items() if domain != clean}, key)
    return {"p": p, "mpc": mpc, "rpc_pct": 100 * mpc / p if p else math.nan}


def _values(rows: Rows, key: str) -> dict[str, float]:
    if not rows:
        raise ValueError(f"rows must hold at least one domain with {key}, got none")
    return {domain: float(row[key]) for domain, row in rows.items()}
