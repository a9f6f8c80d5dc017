"""`ibnvision train`: the run of a config."""

import argparse

from .arguments import data_option


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="a name of `ibnvision list configs`, or a TOML file")
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as lr=0.005 seed=1"
    )
    command.add_argument("--resume", action="store_true", help="go on from last.pt")
    command.add_argument("--overwrite", action="store_true", help="replace an existing run")
    data_option(command)


def run(options: argparse.Namespace) -> None:
    from ibnvision import config, engine

    overrides, flags = [], {"resume": options.resume, "overwrite": options.overwrite}
    for item in [*options.overrides, *(f"data.{pair}" for pair in options.data)]:
        key, _, value = item.partition("=")
        if key in flags:
            flags[key] = _boolean(key, value)
        else:
            overrides.append(item)
    engine.train(config.load(options.name, overrides), **flags)


def _boolean(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError(f"{key} must be true or false, got {value!r}")
    return value == "true"
