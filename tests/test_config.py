import dataclasses

import pytest

from ibnvision import config
from ibnvision.config import Config


def test_every_installed_config_loads_under_its_name():
    tiny = {"seg_streets_tiny", "dehaze_streets_tiny"}
    assert {"streets_quick", "dehaze_its", *tiny} <= set(config.names())
    for name in config.names():
        assert config.load(name).name == name


def test_the_published_dehazing_setting():
    cfg = config.load("dehaze_its", ["loss_args.vgg=imagenet", "data.its=/x"])
    assert (cfg.optimizer, cfg.schedule, cfg.lr, cfg.lr_end) == ("adam", "cosine", 1e-4, 1e-6)
    assert (cfg.steps, cfg.batch_size, cfg.size) == (1_500_000, 16, (256, 256))
    assert (cfg.warmup, cfg.weight_decay, cfg.ema, cfg.precision) == (0, 0, 0, "fp32")
    assert cfg.loss_args == {"contrast": 0.1, "vgg": "imagenet"}
    assert cfg.test_domains == ("sots_indoor", "sots_outdoor")


@pytest.mark.parametrize(
    ("name", "batch", "images", "clusters"),
    [("gtav_r50_isw", 16, 12_388, 3), ("cityscapes_r50_isw", 8, 2_975, 2)],
)
def test_the_published_settings_of_robustnet(name, batch, images, clusters):
    cfg = config.load(f"seg_{name}")
    assert (cfg.optimizer, cfg.schedule, cfg.power, cfg.warmup) == ("sgd", "poly", 0.9, 0)
    assert (cfg.lr, cfg.momentum, cfg.nesterov, cfg.weight_decay) == (0.01, 0.9, False, 5e-4)
    assert (cfg.steps, cfg.batch_size, cfg.grad_accum, cfg.sync_norm) == (40_000, batch, 1, True)
    assert (cfg.size, cfg.scale, cfg.class_uniform) == ((768, 768), (0.5, 2.0), 0.5)
    assert (cfg.augment, cfg.protocol, cfg.ema) == ("photometric", "native", 0)
    isw = cfg.model_args["whitening"]
    steps = 6 * round(images / batch)  # its epochs 0 to 5 are without the loss
    assert (isw["begin"], isw["clusters"]) == (steps, clusters)
    assert 500 <= isw["collect"] * batch < 500 + 2 * batch
    plain = config.load(f"seg_{name.replace('isw', 'ibn')}")
    apart = {"name": plain.name, "model_args": plain.model_args}
    assert dataclasses.replace(cfg, **apart) == plain  # the rows of a table differ in norms alone


def test_overrides_reach_every_kind_of_value():
    cfg = config.load(
        "streets_quick",
        [
            "lr=1e-3",
            "steps=2_000",
            "compile=true",
            "name=123",
            "size=[72,96]",
            "test_domains=[streets_fog, streets_night]",
            "model_args.ibn=b",
            "model_args.channels=[16,32]",
            "loss_args.contrast=0.1",
            "data.camvid=/some/folder",
            "data.camvid_day=other",
            "threads=2",
        ],
    )
    assert (cfg.lr, cfg.steps, cfg.compile, cfg.name) == (1e-3, 2000, True, "123")
    assert cfg.size == (72, 96)
    assert cfg.test_domains == ("streets_fog", "streets_night")
    assert (cfg.model_args["ibn"], cfg.model_args["channels"]) == ("b", [16, 32])
    assert cfg.data == {"camvid": "/some/folder", "camvid_day": "other"}
    assert cfg.threads == 2
    assert cfg.loss_args == {"contrast": 0.1}


def test_dump_reads_back_equal(tmp_path):
    cfg = Config(
        name="a b",
        lr=1,
        data={"x": 'C:\\quo"te'},
        model_args={"ibn": "b", "deep": {"k": [1, 2.5, True]}, "x.y": []},
        test_domains=("streets_fog",),
    )
    path = tmp_path / "other.toml"
    path.write_text(config.dump(cfg))
    again = config.load(path)
    assert again == cfg
    assert type(again.lr) is float
    assert config.from_dict(config.to_dict(cfg)) == cfg


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().lr = 1.0


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("momentun=0.9", KeyError, "unknown config key 'momentun': did you mean 'momentum'"),
        ("optim.lr=1", KeyError, "unknown config key 'optim'"),
        ("lr.x=1", KeyError, "'lr.x' does not exist"),
        ("model_args.ibn.x=1", KeyError, "'ibn' holds 'b', not a table"),
        ("steps=1.5", TypeError, "steps must be an integer, got 1.5 of type float"),
        ("steps=true", TypeError, "steps must be an integer, got True of type bool"),
        ("lr=fast", TypeError, "lr must be a number, got 'fast'"),
        ("compile=1", TypeError, "compile must be true or false, got 1"),
        ("test_domains=streets_fog", TypeError, "test_domains must be a list"),
        ("test_domains=[1]", TypeError, r"test_domains\[0\] must be a string, got 1"),
        ("threads=1.5", TypeError, "threads must be an integer or a string"),
        ("threads=0", ValueError, 'threads must be at least 1, or "auto", got 0'),
        ("threads=many", ValueError, "threads must be at least 1"),
        ("lr=0", ValueError, "lr must be greater than 0, got 0.0"),
        ("lr=nan", ValueError, "lr must be greater than 0, got nan"),
        ("lr_end=0.1", ValueError, r"lr_end must be in \[0, lr=0.05\], got 0.1"),
        ("lr_end=-1", ValueError, "lr_end must be in .* got -1.0"),
        ("schedule=cos", ValueError, "schedule must be one of poly, cosine, constant, got 'cos'"),
        ("optimizer=adma", ValueError, "optimizer must be one of sgd, adam, adamw, got 'adma'"),
        ("loss_args=0.1", TypeError, "loss_args must be a table, got 0.1"),
        ("batch_size=0", ValueError, "batch_size must be at least 1, got 0"),
        ("ema=1", ValueError, r"ema must be in \[0, 1\), got 1.0"),
        ("size=[64]", ValueError, r"size must be empty or \[height, width\]"),
        ("std=[0,1,1]", ValueError, "std must be greater than 0"),
        ("mean=[0.5]", ValueError, "mean must be three numbers"),
        ("precision=half", ValueError, "precision must be one of fp32, bf16, fp16, got 'half'"),
        ("name=../x", ValueError, "name must be a plain folder name"),
        ("train_domains=[]", ValueError, "train_domains must be at least one domain"),
        ("lr", ValueError, "an override must read key=value, got 'lr'"),
    ],
)
def test_a_bad_override_names_its_key(override, error, message):
    with pytest.raises(error, match=message):
        config.load("seg_streets_tiny", ["model_args.ibn=b", override])


def test_a_bad_name_file_or_text_is_named(tmp_path):
    with pytest.raises(KeyError, match="did you mean 'streets_quick'"):
        config.load("street_quick")
    with pytest.raises(FileNotFoundError, match="no config file"):
        config.load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("lr = = 1")
    with pytest.raises(ValueError, match="broken.toml is not valid TOML"):
        config.load(broken)
    broken.write_text("leraning = 1")
    with pytest.raises(KeyError, match="unknown config key 'leraning'"):
        config.load(broken)
