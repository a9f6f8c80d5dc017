"""The Lambda shape under any timm ViT, in place, and back: to_lambda, from_lambda.

Both return a Conversion: a table that can be undone. No parameter changes, moves or gets another
name; an attention only gets another class, and the patch embedding says the grid of each call.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from timm.layers import PatchDropout, PatchDropoutWithIndices
from timm.models.beit import Beit
from timm.models.deepseek_vit import DeepseekVitEncoder
from timm.models.eva import Eva
from timm.models.qwen3_vit import Qwen3VitEncoder
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ._conversion import Conversion
from ._lambda_form import LambdaForm, rescales
from .lambda_attention import FORMS, LambdaView, enter, leave, why_not

TRUNKS = (VisionTransformer, Eva, Beit, Qwen3VitEncoder, DeepseekVitEncoder)
_REASONS = {  # why classes that look like a ViT are none here
    "its tokens are padded sequences without one grid": "NaFlexVit",
    "its attention adds a matrix over all pairs of one grid": "VisionTransformerRelPos",
    "it has windows already, and positions that depend on them": "VisionTransformerSAM",
    "it has windows already, and its grid shrinks between stages": (
        "SwinTransformer SwinTransformerV2 SwinTransformerV2Cr Hiera HieraDet DaVit MaxxVit "
        "GlobalContextVit"
    ),
    "its attention takes a position for each token and a padding mask": (
        "Gemma4VitClassifier Gemma4VitEncoder"
    ),
    "its attention mixes heads or softmaxes": "Cait ConVit",
    "its attention is between channels": "Xcit",
    "it has two grids that exchange class tokens": "CrossVit",
    "its grid shrinks between stages": (
        "PoolingVisionTransformer MultiScaleVit Levit LevitDistilled Twins VOLO"
    ),
    "it attends within patches too": "TNT",
}
_NO_PREFIX = "no prefix: nothing is global, expect damage"


@dataclass(frozen=True)
class AttentionRow:
    """One changed attention; name is its place in the model."""

    HEAD: ClassVar[tuple[str, ...]] = ("name", "was", "is", "window", "prefix", "note")
    name: str
    was: str
    now: str
    window: tuple[int, int] | None
    prefix: int
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        window = "all" if self.window is None else f"{self.window[0]}x{self.window[1]}"
        return (self.name, self.was, self.now, window, str(self.prefix), self.note)


def to_lambda(
    model: nn.Module,
    window: int | Sequence[int] | None = None,
    layers: str | Sequence[int] = "all",
    *,
    dense_every: int | None = None,
    prefix: int | None = None,
    grid: Sequence[int] | None = None,
    **options: Any,
) -> Conversion:
    """Give the attentions of a timm ViT the Lambda shape, in place; parameters stay as they are.

    For VisionTransformer (ViT, DeiT, DINOv2, SigLIP, ...), Eva (EVA02, DINOv3, ...) and Beit of
    timm, and networks that hold one, such as a segmenter. Where the window covers the grid, the
    result equals the dense one. Image sizes vary by call as far as the model takes them: give
    `dynamic_img_size=True` to create_model. A BEiT without absolute positions takes any size as
    soon as all its layers are converted. torch.compile, export and jit.trace take the result,
    jit.script does not.

    Args:
        window: odd number of rows and columns that a patch sees, or one for both; None is the odd
            number nearest to the trained grid, of two the greater.
        layers: "all", or indices of the blocks to convert, negative ones from the end.
        dense_every: every so many blocks one stays dense, the last of each group, as detectors
            want it: 3 of 12 blocks leaves 2, 5, 8, 11.
        prefix: number of tokens in front of the patches; None is the model's num_prefix_tokens.
        grid: (H, W) in patches that the model was trained at; None is that of patch_embed, which
            is another one where create_model was given another img_size than the weights had.
        options: of LambdaForm: rope, prefix_rope, position, limit, prefix_logit_scale. Position
            "bias" adds a parameter `bias_table` to each attention, the others add none.

    Returns:
        The table of changes; its undo(), or from_lambda, puts everything back.

    Raises:
        ValueError: model cannot be served, with the class and the reason, or an argument is out
            of range. The model is then as it was.
        TypeError: model is no Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(isinstance(m, LambdaView) for m in model.modules()):
        raise ValueError("model must not be converted yet; call from_lambda first")
    plans = []
    for path, trunk in _trunks(model):
        form = _form_of(trunk, window, prefix, grid, options)
        chosen = _chosen(trunk, path, layers, dense_every)
        _check_trunk(trunk, form, chosen)
        plans.append((trunk, form, chosen))
    conversion = Conversion(model)
    for trunk, form, chosen in plans:
        resizes = _resizes(trunk, chosen)
        _swap(conversion, trunk.patch_embed, *_watching(trunk, form, resizes))
        for name, attention in chosen.items():
            was = type(attention).__name__
            _swap(conversion, attention, *_looking(attention, form))
            note = "" if form.prefix else _NO_PREFIX
            row = AttentionRow(name, was, type(attention).__name__, form.window, form.prefix, note)
            conversion.rows.append(row)
    return conversion


def from_lambda(model: nn.Module) -> Conversion:
    """Give every attention of model the class that timm made, in place, and remove the hooks.

    Works on copies and loaded pickles too. A `bias_table` that position "bias" added goes.

    Returns:
        The table of changes; its undo() puts the Lambda shape back.

    Raises:
        ValueError: model holds no LambdaAttention.
        TypeError: model is no Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    found: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, LambdaView)}
    if not found:
        raise ValueError(f"model must hold LambdaAttention; {type(model).__name__} has none")
    conversion = Conversion(model)
    watched: list[LambdaForm] = []
    for name, attention in found.items():
        form = attention.lambda_form
        if all(form is not other for other in watched):
            watched.append(form)
            for trunk in (m for m in model.modules() if isinstance(m, TRUNKS)):
                if form.watches(trunk):
                    do, back = _watching(trunk, form, form.resizes)
                    _swap(conversion, trunk.patch_embed, back, do)
        do, back = _looking(attention, form)
        was = type(attention).__name__
        _swap(conversion, attention, back, do)
        now = type(attention).__name__
        conversion.rows.append(AttentionRow(name, was, now, None, form.prefix))
    return conversion


def _swap(
    conversion: Conversion, module: nn.Module, do: Callable[[], None], back: Callable[[], None]
) -> None:
    """Change module where it stands."""
    do()
    conversion.swap(module, module, back)


def _watching(
    trunk: Any, form: LambdaForm, resizes: bool
) -> tuple[Callable[[], None], Callable[[], None]]:
    """To connect form to trunk's patch embedding, and to part them."""

    def do() -> None:
        form.watch(trunk)
        form.resizes = resizes
        if resizes:
            trunk.patch_embed.strict_img_size = False

    def back() -> None:
        if form.watches(trunk):
            form.unwatch()
            if resizes:
                trunk.patch_embed.strict_img_size = True

    return do, back


def _looking(attention: Any, form: LambdaForm) -> tuple[Callable[[], None], Callable[[], None]]:
    """To make attention look through form, and to make it look at all again."""
    table = getattr(attention, "bias_table", None)

    def do() -> None:
        enter(attention, form, table)

    def back() -> None:
        nonlocal table
        if vars(attention).get("lambda_form") is form:
            table = leave(attention)

    return do, back


def _trunks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, TRUNKS)]
    if not found:
        kind = type(model).__name__
        names = ", ".join(trunk.__name__ for trunk in TRUNKS)
        known = (reason for reason, classes in _REASONS.items() if kind in classes.split())
        reason = next(known, f"it holds none of timm's {names}")
        raise ValueError(f"model must be a plain ViT; {kind}: {reason}")
    yield from found


def _form_of(
    trunk: Any,
    window: int | Sequence[int] | None,
    prefix: int | None,
    grid: Sequence[int] | None,
    options: dict[str, Any],
) -> LambdaForm:
    grid = grid or trunk.patch_embed.grid_size
    if window is None:
        if grid is None:
            raise ValueError("window must be given where patch_embed has no grid_size")
        window = tuple(side // 2 * 2 + 1 for side in grid)
    return LambdaForm(
        window, trunk.num_prefix_tokens if prefix is None else prefix, grid, **options
    )


def _chosen(
    trunk: Any, path: str, layers: str | Sequence[int], dense_every: int | None
) -> dict[str, nn.Module]:
    """The attentions to convert, by their names in the model."""
    depth = len(trunk.blocks)
    if layers != "all" and (isinstance(layers, str) or dense_every is not None):
        raise ValueError(f"layers must be 'all' or indices without dense_every, got {layers!r}")
    wanted = range(depth) if isinstance(layers, str) else layers
    if any(not -depth <= i < depth for i in wanted):
        raise ValueError(f"layers must lie in [{-depth}, {depth - 1}], got {list(wanted)}")
    if dense_every is not None and dense_every < 2:
        raise ValueError(f"dense_every must be at least 2, got {dense_every}")
    numbers = sorted({i % depth for i in wanted if not dense_every or (i + 1) % dense_every})
    if not numbers:
        raise ValueError("layers must name at least one block")
    chosen: dict[str, nn.Module] = {}
    for i in numbers:
        inside = {
            name: m
            for name, m in trunk.blocks[i].named_modules(prefix=f"blocks.{i}")
            if type(m) in FORMS or "Attention" in type(m).__name__
        }
        if not inside:
            kind = type(trunk.blocks[i]).__name__
            raise ValueError(f"blocks must hold an attention; {kind} computes it inside")
        chosen |= {f"{path}.{name}" if path else name: m for name, m in inside.items()}
    return chosen


def _check_trunk(trunk: Any, form: LambdaForm, chosen: dict[str, nn.Module]) -> None:
    kind = type(trunk).__name__
    drop = getattr(trunk, "patch_drop", None)
    if isinstance(drop, PatchDropout | PatchDropoutWithIndices) and drop.prob > 0:
        raise ValueError(
            f"patch_drop_rate must be 0: it breaks the grid, got {drop.prob} in {kind}"
        )
    if not hasattr(trunk.patch_embed, "dynamic_feat_size"):
        raise ValueError(
            f"patch_embed must say its grid; {type(trunk.patch_embed).__name__} does not"
        )
    if getattr(trunk, "rel_pos_bias", None) is not None:
        raise ValueError(f"rel_pos_bias must be None: {kind} shares a matrix of all pairs")
    for name, attention in chosen.items():
        reason = why_not(attention, form)
        if reason:
            raise ValueError(f"{name} in {kind}: {reason}")
    rope = getattr(trunk, "rope", None)
    if form.rope == "native" and rescales(rope) and rope.aug_active:  # type: ignore[union-attr]
        raise ValueError(f"rope must be 'resample' where {kind} moves coordinates in training")


def _resizes(trunk: Any, chosen: dict[str, nn.Module]) -> bool:
    """Whether only the check of sizes in patch_embed keeps trunk from taking any."""
    return (
        isinstance(trunk, Beit)
        and trunk.pos_embed is None
        and len(chosen) == len(trunk.blocks)
        and trunk.patch_embed.strict_img_size
    )
