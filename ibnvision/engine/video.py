"""Reads videos frame by frame, and writes them whole or not at all."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Clip(NamedTuple):
    """A video that is being read."""

    rate: float  # frames per second
    size: tuple[int, int]  # height and width in pixels
    frames: Iterator[Any]  # OpenCV's BGR, uint8 [H, W, 3]


@contextmanager
def read_video(path: Path) -> Iterator[Clip]:
    """The clip of a file, open for the length of the block; ValueError where it has no frame."""
    from ibnvision.data.opencv import cv2

    reader = cv2.VideoCapture(str(path))
    try:
        more, first = reader.read()
        if not more:
            raise ValueError(f"{path} cannot be read as a video")

        def frames() -> Iterator[Any]:
            frame: Any = first
            while frame is not None:
                yield frame
                frame = reader.read()[1]

        rate = reader.get(cv2.CAP_PROP_FPS) or 25.0
        yield Clip(rate, (first.shape[0], first.shape[1]), frames())
    finally:
        reader.release()


@contextmanager
def write_videos(
    targets: Sequence[Path], sizes: Sequence[tuple[int, int]], rate: float
) -> Iterator[list[Callable[[Any], None]]]:
    """A function for each MP4 target that adds a frame, BGR uint8 of its size (height, width).

    The files appear under their names when the block ends well; else nothing is left.

    Raises: OSError: a file cannot be opened.
    """
    from ibnvision.data.opencv import cv2

    partial = [path.with_name(f".{path.stem}.part.mp4") for path in targets]
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writers: list[Any] = []
    try:
        for path, (height, width) in zip(partial, sizes, strict=True):
            writers.append(cv2.VideoWriter(str(path), code, rate, (width, height)))
            if not writers[-1].isOpened():
                raise OSError(f"{path.parent} takes no MP4 video of {width}x{height}")
        yield [writer.write for writer in writers]
        for writer in writers:
            writer.release()
        for path, target in zip(partial, targets, strict=True):
            path.replace(target)
    finally:
        for writer in writers:
            writer.release()
        for path in partial:
            path.unlink(missing_ok=True)
