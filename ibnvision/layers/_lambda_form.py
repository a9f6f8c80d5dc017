"""What the Lambda-shaped attentions of a model share: their window, and the grid of the call."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import RotaryEmbeddingCat, RotaryEmbeddingDinoV3
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

ROPES = ("native", "resample")
PREFIX_ROPES = ("same", "resample", "none")
POSITIONS = (None, "bias", "alibi", "rope")
TEMPERATURE = 100.0  # of position "rope", as of the axial form of https://arxiv.org/abs/2403.13298


class LambdaForm:
    """How attention modules look: prefix, window and positions, and the grid of the current call.

    An attention sees tokens, not the grid. `watch` lets a patch embedding say it at every call, so
    that each image may have its own size; without it the grid is the trained one.

    Args:
        window: odd number of rows and columns that a patch sees, or one number for both.
        prefix: number of global tokens in front of the patches.
        grid: (H, W) that the model was trained at, in patches; None where nothing depends on it.
        rope: spacing of rotary positions at other sizes: "native" is that of the trained grid,
            "resample" timm's, which squeezes them into the trained range where a model says so.
        prefix_rope: how a patch's query is turned towards the keys of the prefix, which are not
            turned themselves: "same" as towards patches, so that results equal timm's;
            "resample", within the trained range; "none".
        position: what to add to a model's own positions: "bias", a learned table of the window's
            offsets for each module; "alibi", -slope * min(Euclidean distance, limit), slopes of
            2 ** -(8 i / heads) for head i from 1 on; "rope", rotary positions for timm's Attention.
        limit: greatest distance of "alibi". Rotary distances end at the window by themselves.
        prefix_logit_scale: scale the logits of prefix queries, which see all N tokens, by
            log(N) / log(N at the trained grid), against a softmax that flattens.

    Raises:
        ValueError: a value out of range, or options that do not go together.
    """

    def __init__(
        self,
        window: int | Sequence[int],
        prefix: int,
        grid: Sequence[int] | None = None,
        *,
        rope: str = "native",
        prefix_rope: str = "same",
        position: str | None = None,
        limit: float | None = None,
        prefix_logit_scale: bool = False,
    ) -> None:
        sides = (window, window) if isinstance(window, int) else tuple(window)
        if len(sides) != 2 or any(w < 1 or w % 2 == 0 for w in sides):
            raise ValueError(f"window must be odd and at least 1, got {window}")
        if prefix < 0:
            raise ValueError(f"prefix must be at least 0, got {prefix}")
        if grid is not None and (len(grid) != 2 or min(grid) < 1):
            raise ValueError(f"grid must be (H, W), each at least 1, got {tuple(grid)}")
        for name, value, known in (
            ("rope", rope, ROPES),
            ("prefix_rope", prefix_rope, PREFIX_ROPES),
            ("position", position, POSITIONS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        if limit is not None and (position != "alibi" or limit < 0):
            raise ValueError(
                f"limit must be at least 0 and come with position='alibi', got {limit} with "
                f"{position!r}; rotary distances end at the window"
            )
        if prefix_logit_scale and grid is None:
            raise ValueError("prefix_logit_scale must come with the grid of the training")
        self.window, self.prefix = sides, prefix
        self.rope, self.prefix_rope = rope, prefix_rope
        self.position, self.limit = position, limit
        self.prefix_logit_scale = prefix_logit_scale
        self.trained = None if grid is None else (int(grid[0]), int(grid[1]))
        self.grid: Any = self.trained  # (H, W) of the current call
        self.trunk: Any = None  # the network that is watched
        self.resizes = False  # whether patch_embed was made to take any size
        self._hook: RemovableHandle | None = None
        self._embedding: tuple[Any, Tensor] | None = None
        self._again: dict[int, Any] = {}  # patches: grid that a backward may compute again
        self._done: set[int] = set()  # of these, what a backward has reached
        self._unclear: set[int] = set()

    def watch(self, trunk: Any) -> None:
        """Take the grid of every call from the patch embedding of trunk, a ViT of timm."""
        self.trunk = trunk
        self._hook = trunk.patch_embed.register_forward_pre_hook(self.see)

    def watches(self, trunk: Any) -> bool:
        return self._hook is not None and self.trunk is trunk

    def unwatch(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = self.trunk = None

    def see(self, patch_embed: Any, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook of a patch embedding that is called with images [N, C, H, W]."""
        size = args[0].shape[-2:]
        if torch.jit.is_tracing():  # there sizes are tensors, which lists of numbers may not hold
            size = torch.Size(int(s) for s in size)
        self.grid = grid = patch_embed.dynamic_feat_size(size)
        recomputes = self.trunk.grad_checkpointing and torch.is_grad_enabled()
        if torch.compiler.is_compiling() or not recomputes:
            return
        patches = grid[0] * grid[1]
        if self._again.get(patches, grid) != grid and patches not in self._done:
            self._unclear.add(patches)
        self._again[patches] = grid
        self._done.discard(patches)

    def grid_of(self, tokens: int) -> Any:
        """(H, W) of the call that `tokens` belong to.

        Raises:
            ValueError: no grid is known.
            RuntimeError: activation checkpointing computes a call again, and calls of two grids
                with this number of patches came before it.
        """
        if self.grid is None:
            raise ValueError("grid must be given to LambdaForm where it watches no patch_embed")
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:
            return self.grid
        patches = tokens - self.prefix  # within a backward: a checkpoint is computed again
        if patches in self._unclear:
            self._unclear.discard(patches)
            self._again.pop(patches, None)
            raise RuntimeError(
                f"two grids of {patches} patches came before one backward with checkpointing; call "
                "backward after each, or switch checkpointing off"
            )
        self._done.add(patches)
        return self._again.get(patches, self.grid)

    def embedding(self, given: Tensor, grid: Any) -> Tensor:
        """The rotary embedding of `grid` at the trained spacing; `given` is timm's, [..., 2 * D].

        Equal to timm's where the grid is the trained one or timm keeps the spacing itself.
        """
        rope = getattr(self.trunk, "rope", None)
        known = self.trained is None or grid == self.trained
        if self.rope == "resample" or known or not rescales(rope):
            return given
        compiling = torch.compiler.is_compiling()
        key = (grid, given.device, given.dtype)
        if self._embedding is not None and not compiling and self._embedding[0] == key:
            return self._embedding[1]
        with torch.inference_mode(False), torch.no_grad():
            embedding = native_embedding(rope, grid, self.trained or grid).to(given)
        if not compiling:
            self._embedding = (key, embedding)
        return embedding

    def own_embedding(self, like: Tensor, grid: Any, spacing: str) -> Tensor:
        """[H * W, 2 * D] of position "rope" for like, [..., D]: sines, then cosines, interleaved.

        Coordinates count patches from the middle; with spacing "resample" the trained ones.
        """
        size = like.shape[-1]
        step = (1.0, 1.0)
        if spacing == "resample" and self.trained is not None:
            step = (self.trained[0] / grid[0], self.trained[1] / grid[1])
        exponents = torch.arange(size // 4, device=like.device, dtype=torch.float32) / (size // 4)
        axes = [
            (torch.arange(s, device=like.device, dtype=torch.float32) - (s - 1) / 2) * d
            for s, d in zip(grid, step, strict=True)
        ]
        return rotary(axes, TEMPERATURE**-exponents, half=False)

    def slopes(self, heads: int, device: torch.device) -> Tensor | None:
        """[heads] of position "alibi", else None."""
        if self.position != "alibi":
            return None
        head = torch.arange(1, heads + 1, device=device, dtype=torch.float32)
        return torch.exp2(-8.0 * head / heads)

    def prefix_factor(self, tokens: int) -> float:
        """What the logits of prefix queries are multiplied by."""
        if not self.prefix_logit_scale or self.trained is None:
            return 1.0
        return math.log(tokens) / math.log(self.prefix + self.trained[0] * self.trained[1])


def rescales(rope: nn.Module | None) -> bool:
    """Whether timm's rotary embedding changes the spacing of patches with the grid.

    Raises:
        ValueError: an embedding whose spacing is not known here.
    """
    if isinstance(rope, RotaryEmbeddingDinoV3):
        return True
    if isinstance(rope, RotaryEmbeddingCat):
        if rope.grid_type != "index":
            raise ValueError(f"rope must be 'resample' for coordinates {rope.grid_type!r}")
        return rope.ref_feat_shape is not None
    return False  # mixed and mrope count patches


def native_embedding(rope: Any, grid: Sequence[int], trained: Sequence[int]) -> Tensor:
    """timm's rotary embedding [H * W, 2 * D] of `grid`, neighbours as far apart as in `trained`."""
    centred = hasattr(rope, "periods")  # DINOv3's
    device = (rope.periods if centred else rope.bands).device
    index = [torch.arange(s, device=device, dtype=torch.float32) for s in grid]
    if centred:
        joint = {"min": min(trained), "max": max(trained)}.get(rope.normalize_coords)
        sides = trained if joint is None else (joint, joint)
        axes = [  # the middles of the two grids coincide
            2 * (i + 0.5 + rope.grid_offset - (s - n) / 2) / side - 1
            for i, s, n, side in zip(index, grid, trained, sides, strict=True)
        ]
        bands = 2 * math.pi / rope.periods
    else:
        ratios = [r / s for r, s in zip(rope.ref_feat_shape, trained, strict=True)]
        axes = [(i + rope.grid_offset) * r for i, r in zip(index, ratios, strict=True)]
        bands = rope.bands
    return rotary(axes, bands, rope.rotate_half, rope.grid_indexing == "xy")


def rotary(axes: Sequence[Tensor], bands: Tensor, half: bool, swap: bool = False) -> Tensor:
    """[H * W, 2 * D], sines then cosines, from the coordinates of rows and columns.

    bands: [D / 4] angles by unit, for either axis; half: timm's `rotate_half` layout; swap: the
    columns' angles come first.
    """
    coords = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)  # [H * W, 2]
    if swap:
        coords = coords.flip(-1)
    angles = (coords[:, :, None] * bands).flatten(1)
    angles = torch.cat([angles, angles], -1) if half else angles.repeat_interleave(2, -1)
    return torch.cat([angles.sin(), angles.cos()], -1)
