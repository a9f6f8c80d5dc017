"""Vision transformers of linear cost: a class token and four registers are global, patches local.

A patch sees the prefix and a window as large as the trained grid, at any image size: no offset and
no number of neighbours that training has not seen. Built on timm's VisionTransformer with its
parameter names; with position="absolute" also with exactly its state.

Source: Han et al., NAACL 2024, https://arxiv.org/abs/2308.16137 (the shape, for text); Darcet et
al., ICLR 2024, https://arxiv.org/abs/2309.16588 (registers). The grid form is ours.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn as timm_filter
from torch import Tensor, nn

from ibnvision.layers import to_lambda

POSITIONS = ("absolute", "alibi", "bias", "rope")


class LambdaVisionTransformer(VisionTransformer):
    """timm's VisionTransformer, its attentions Lambda-shaped, for images of any size by call.

    Args:
        *args, **kwargs: as in timm's VisionTransformer; img_size is that of the training.
        window: odd number of rows and columns that a patch sees, or one for both; None is the odd
            number nearest to the grid of img_size, 15 at 224 pixels.
        position: "bias", a learned table of the window's offsets in every block (the prefix has no
            position); "alibi", a fixed penalty of the distance; "rope", rotary positions; or
            "absolute", timm's learned embedding, resampled for other sizes.
        limit: greatest distance of "alibi".
        layers, dense_every: which blocks are Lambda-shaped, as in to_lambda. The others attend
            densely and know positions only where these are absolute.
        rope, prefix_rope, prefix_logit_scale: as in LambdaForm.

    Raises:
        ValueError: one of these out of range.
    """

    def __init__(
        self,
        *args: Any,
        window: int | Sequence[int] | None = None,
        position: str = "bias",
        limit: float | None = None,
        layers: str | Sequence[int] = "all",
        dense_every: int | None = None,
        rope: str = "native",
        prefix_rope: str = "same",
        prefix_logit_scale: bool = False,
        **kwargs: Any,
    ) -> None:
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {POSITIONS}, got {position!r}")
        absolute = position == "absolute"
        own = {"pos_embed": "learn" if absolute else "none", "dynamic_img_size": True}
        super().__init__(*args, **{**own, **kwargs})
        to_lambda(
            self,
            window,
            layers,
            dense_every=dense_every,
            position=None if absolute else position,
            limit=limit,
            rope=rope,
            prefix_rope=prefix_rope,
            prefix_logit_scale=prefix_logit_scale,
        )

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are positions or tokens."""
        tables = {name for name, _ in self.named_parameters() if name.endswith("bias_table")}
        return super().no_weight_decay() | tables


def checkpoint_filter_fn(
    state_dict: dict[str, Tensor], model: LambdaVisionTransformer
) -> dict[str, Tensor]:
    """timm's filter: resampled patch and position embeddings; bias tables that are missing stay."""
    state = timm_filter(state_dict, model)
    own = model.state_dict()
    return state | {k: v for k, v in own.items() if k.endswith("bias_table") and k not in state}


def _cfg() -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "paper_ids": "arXiv:2308.16137",
    }


_SIZES = {  # width, depth, heads
    "vit_small_lambda_patch16": (384, 12, 6),
    "vit_base_lambda_patch16": (768, 12, 12),
    "vit_large_lambda_patch16": (1024, 24, 16),
}
default_cfgs = generate_default_cfgs({f"{name}.untrained": _cfg() for name in _SIZES})


def _create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    width, depth, heads = _SIZES[name]
    shape = {"patch_size": 16, "embed_dim": width, "depth": depth, "num_heads": heads}
    prefix = {"class_token": True, "reg_tokens": 4, "no_embed_class": True}
    return build_model_with_cfg(
        LambdaVisionTransformer,
        name,
        pretrained,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        pretrained_filter_fn=checkpoint_filter_fn,
        **{**shape, **prefix, **kwargs},
    )


@register_model
def vit_small_lambda_patch16(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT-S/16 with four registers and Lambda-shaped attention."""
    return _create("vit_small_lambda_patch16", pretrained, kwargs)


@register_model
def vit_base_lambda_patch16(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT-B/16 with four registers and Lambda-shaped attention."""
    return _create("vit_base_lambda_patch16", pretrained, kwargs)


@register_model
def vit_large_lambda_patch16(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT-L/16 with four registers and Lambda-shaped attention."""
    return _create("vit_large_lambda_patch16", pretrained, kwargs)
