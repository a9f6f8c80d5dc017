import pytest

from ibnvision.benchmark import roofline

from .test_targets import SHARED, times

CEILINGS = [
    SHARED | {"run": "1", "metric": "ceiling", "backend": "copy", "value": 20.0},
    SHARED | {"run": "1", "metric": "ceiling", "backend": "matmul fp32", "value": 0.1},
]
WORK = {"bytes": 1e6, "flops": 5e5}


def run(**more):
    """Half an operation a byte, in 1 ms by the kernel and in 4 ms eager; a copy, a rival."""
    found = times("1", {"kernel": 1.0, "eager": 4.0}, **WORK, **more)
    found += times("1", {"copy": 0.5}, bytes=1e6, flops=0.0, **more)
    return CEILINGS + found + times("1", {"batch norm": 2.0}, **more)


def test_ceilings_are_those_of_the_run():
    assert roofline.ceilings_of(run()) == (20e9, {"fp32": pytest.approx(1e11)})
    assert roofline.ceilings_of(run()[2:]) == (0.0, {})


def test_place_is_work_per_byte_and_per_second():
    kernel, eager = roofline.counted(run())
    assert roofline.place(kernel) == pytest.approx((0.5, 5e8))
    assert roofline.place(eager) == pytest.approx((0.5, 1.25e8))


def test_marks_stand_under_the_roof_filled_for_the_kernel():
    ((name, figure),) = roofline.rooflines(run()).items()
    assert name == "nchw, fp32"
    (axes,) = figure.axes
    roof, *marks = [line for line in axes.lines if len(line.get_xdata())]
    left, edge, _ = roof.get_xdata()
    assert edge == pytest.approx(5.0)  # 100 GFLOP/s by 20 GB/s
    assert list(roof.get_ydata()) == pytest.approx([20 * left, 100.0, 100.0])
    spots = {line.get_marker(): (line.get_xdata()[0], line.get_ydata()[0]) for line in marks}
    assert spots == {"o": pytest.approx((0.5, 0.5)), "s": pytest.approx((0.5, 0.125))}
    filled = {line.get_marker(): line.get_markerfacecolor() != "none" for line in marks}
    assert filled == {"o": True, "s": False}
    low, high = axes.get_ylim()
    assert low < 0.125 and high > 100


def test_a_tensor_beyond_the_cache_has_a_large_mark():
    sizes = [
        max(line.get_markersize() for line in figure.axes[0].lines if line.get_marker() == "o")
        for cache in (1e3, 1e9)
        for figure in roofline.rooflines(run(cache_bytes=cache)).values()
    ]
    assert sizes[0] > sizes[1]


def test_nothing_is_drawn_of_a_run_without_ceilings():
    assert roofline.rooflines(run()[2:]) == {} and roofline.rates(run()[2:]) is None


def test_rates_of_training_steps():
    step = {"op": None, "model": "resnet50_ibn_a", "flops": 6e10}
    figure = roofline.rates(CEILINGS + times("1", {"kernel": 1000.0, "timm": 750.0}, **step))
    line, *marks = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert list(line.get_xdata()) == pytest.approx([100.0, 100.0])
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx([60.0, 80.0])
