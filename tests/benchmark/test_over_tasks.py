from ibnvision.benchmark import over_tasks, record, resolution_scores, scores

ROLES = {"streets_day": "source", "streets_fog": "target", "streets_night": "target"}
PLAIN = {0: (50.0, 20.0, 10.0), 1: (52.0, 22.0, 12.0), 2: (54.0, 24.0, 17.0)}
COMMON = {"bench": "generalization", "protocol": "0123456789abcdefff", "backbone": "resnet18"}


def study(rows):
    """Records of a segmentation study: row -> seed -> mIoU at home, in fog, at night."""
    runs = {
        name: {seed: dict(zip(ROLES, values, strict=True)) for seed, values in by_seed.items()}
        for name, by_seed in rows.items()
    }
    return [
        COMMON
        | {"metric": "miou", "model": name, "column": column}
        | {"role": ROLES.get(column, "derived"), "value": cell["mean"], **cell}
        for name, cells in scores.summarize(runs, ROLES).items()
        for column, cell in cells.items()
    ]


def moved(by):
    return {seed: (v[0], v[1] + by + 0.1 * seed, v[2] + by) for seed, v in PLAIN.items()}


def line(text, name):
    found = next(row for row in text.splitlines() if row.startswith(f"| {name} "))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_line_holds_home_targets_worst_mean_gap_and_costs():
    run = study({"BN": PLAIN, "IBN-b": moved(20)})
    run += [
        COMMON | {"metric": "ECE", "model": "BN", "column": "source", "value": 3.21},
        COMMON | {"metric": "ECE", "model": "BN", "column": "target mean", "value": 20.5},
        COMMON | {"metric": "ECE", "model": "BN", "column": "streets_fog", "value": 99.0},
        COMMON | {"metric": "live memory", "model": "BN", "value": 1.25, "batch": 1},
    ]
    for backend, batch, value in (("kernel", 1, 80.0), ("kernel", 16, 90), ("fallback", 1, 70)):
        head = {"metric": "inference images/s", "model": "BN", "backend": backend}
        run.append(COMMON | head | {"batch": batch, "value": value})
    mean = next(r for r in run if r["column"] == "target mean")
    mean |= {"image_low": 14.0, "image_high": 21.0}
    text = over_tasks.of_runs({"generalization": [run]})
    low, high = mean["low"], mean["high"]
    assert line(text, "BN") == [
        *("BN", "52.0", "fog 22.0 · night 13.0", "13.0"),
        f"17.5 ({low:.1f} to {high:.1f}) (14.0 to 21.0)",
        *("34.5", "3.2 / 20.5", "80.0", "1.2"),
    ]
    assert line(text, "IBN-b")[-3:] == ["-", "-", "-"]
    assert "**Segmentation, resnet18, mIoU in %**" in text
    assert "3 seeds, protocol 0123456789abcdef." in text


def test_what_is_shown_is_paired_by_seed_and_what_is_not_is_said():
    rows = {"BN": PLAIN, "up": moved(20), "down": moved(-5)}
    rows["same"] = {0: (1, 25.0, 10.0), 1: (1, 17.0, 12.0), 2: (1, 24.0, 17.5)}
    text = over_tasks.of_runs({"generalization": [study(rows)]})
    assert "Shown to be above BN on the target mean: up (+20.1 (+19.9 to +20.2), p = " in text
    assert "Shown to be below BN there: down (-" in text
    assert "holds 0, of BN against: same (" in text


def test_two_seeds_are_not_for_conclusions():
    rows = {"BN": {s: PLAIN[s] for s in (0, 1)}, "up": {s: moved(20)[s] for s in (0, 1)}}
    text = over_tasks.of_runs({"generalization": [study(rows)]})
    assert "2 seeds, so no intervals, and not for conclusions" in text and "Shown" not in text


def test_rows_that_did_not_converge_are_named_and_compared_with_nothing():
    run = study({"lost": moved(-9), "BN": PLAIN, "up": moved(20)})
    run = [r | {"not_converged": "9 on the source"} if r["model"] == "lost" else r for r in run]
    text = over_tasks.of_runs({"generalization": [run]})
    assert "Not converged, so nothing is said about: lost (9 on the source)." in text
    assert "above BN on the target mean: up" in text and "lost (+" not in text


def test_scales_are_the_targets_of_the_resolution_study():
    head = {"bench": "resolution", "metric": "miou", "model": "dense", "probe": "scene"}
    run: list[record.Record] = [
        head
        | resolution_scores.place(scale)
        | {"scale": scale, "value": at, "n": 2, "values": {"0": at - 1, "1": at + 1}}
        for scale, at in ((1, 61.0), (2, 51.0), (3, 31.0))
    ]
    over = head | {"metric": "miou over sizes", "role": "derived", "n": 2}
    larger = (("target mean", 41.0, 39.0, 43.0), ("worst target", 31.0, 29.0, 34.0))
    for column, value, low, high in (*larger, ("gap", 20.0, 18.0, 22.0)):
        ends = {"image_low": low, "image_high": high, "values": {"0": value, "1": value}}
        run.append(over | {"column": column, "value": value} | ends)
    errors = [("scene", "source", 3.0), ("scene", "target mean", 9.0), ("sheet", "source", 7.0)]
    for probe, column, value in errors:
        run.append(over | {"metric": "ECE", "probe": probe, "column": column, "value": value})
    run.append(head | {"metric": "latency", "scale": 1, "value": 5.0})
    run.append(head | {"metric": "latency", "scale": 3, "value": 500.0})
    cells = line(over_tasks.of_runs({"resolution": [run]}), "dense")
    assert cells[1:4] == ["61.0", "2x 51.0 · 3x 31.0", "31.0"] and cells[5] == "20.0"
    assert cells[4] == "41.0 (39.0 to 43.0)" and cells[6] == "3.0 / 9.0" and cells[7] == "200.0"


def test_nothing_recorded_is_no_table():
    assert over_tasks.of_runs({}) == ""
