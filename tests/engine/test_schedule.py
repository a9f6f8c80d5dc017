"""Learning rates by step, and the order of the samples."""

import dataclasses

import pytest

from ibnvision import config, engine
from ibnvision.config import Config
from ibnvision.engine import sets


def test_learning_rate_rises_then_falls():
    cfg = Config(steps=100, warmup=10, lr=0.5)
    assert engine.learning_rate(cfg, 0) == pytest.approx(0.05)
    assert engine.learning_rate(cfg, 50) == pytest.approx(0.5 * 0.5**0.9)
    assert 0 < engine.learning_rate(cfg, 99) < 0.01
    assert engine.learning_rate(dataclasses.replace(cfg, schedule="constant"), 99) == 0.5


@pytest.mark.parametrize(
    ("step", "rate"),  # of the published training code, steps counted from 1
    [
        (1, 9.999999999989144e-05),
        (100_000, 9.891830623632339e-05),
        (375_000, 8.55017856687341e-05),
        (750_000, 5.05e-05),
        (1_125_000, 1.54982143312659e-05),
        (1_499_999, 1.0000000001085656e-06),
        (1_500_000, 1e-06),
    ],
)
def test_cosine_rates_of_dea_net(step, rate):
    cfg = config.load("dehaze_its")
    assert engine.learning_rate(cfg, step - 1) == pytest.approx(rate, rel=1e-12)


def test_cosine_rises_first_and_falls_to_its_end():
    cfg = Config(steps=100, warmup=10, lr=0.5, schedule="cosine", lr_end=0.1)
    assert engine.learning_rate(cfg, 0) == pytest.approx(0.05, rel=1e-2)
    assert engine.learning_rate(cfg, 49) == pytest.approx(0.3)
    assert engine.learning_rate(cfg, 99) == pytest.approx(0.1)


def test_sampler_covers_each_pass_once_and_starts_anywhere():
    batches = list(sets.StepSampler(10, 4, seed=3, start=0, stop=5))
    stream = [i for batch in batches for i in batch]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    assert list(sets.StepSampler(10, 4, seed=3, start=2, stop=5)) == batches[2:]
    assert list(sets.StepSampler(10, 4, seed=4, start=0, stop=5)) != batches
