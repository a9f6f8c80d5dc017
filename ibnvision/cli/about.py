"""`ibnvision list` and `info`: what there is by name, and what runs how."""

import argparse


def list_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("kind", nargs="?", choices=("configs", "domains", "models"))


def run_list(options: argparse.Namespace) -> None:
    from ibnvision import config, data, models

    rows: dict[str, list[str]] = {
        "configs": config.names(),
        "domains": [f"{name:27} {domain.summary}" for name, domain in data.DOMAINS.items()],
        "models": list(models.NAMES),
    }
    for kind in [options.kind] if options.kind else rows:
        print(f"{kind}:")
        for row in rows[kind]:
            print(f"  {row}")


def run_info(_: argparse.Namespace) -> None:
    import platform
    from importlib import metadata

    from ibnvision import __version__, ops

    print(f"ibnvision {__version__}, python {platform.python_version()}")
    for package in (
        "torchvision",
        "timm",
        "accelerate",
        "torchmetrics",
        "faster-coco-eval",
        "numpy",
    ):
        try:
            print(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"{package} not installed")
    print("\n".join(ops.info()))
