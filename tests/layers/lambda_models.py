"""Small ViTs of every kind that to_lambda serves, with parameters that make differences visible."""

import timm
import torch
from torch import Tensor, nn

# name: (patch, arguments); dynamic sizes where the model has the choice
MODELS = {
    "vit_small_patch16_224": (16, {"dynamic_img_size": True}),
    "deit3_small_patch16_224": (16, {"dynamic_img_size": True}),
    "eva02_tiny_patch14_224": (14, {"dynamic_img_size": True}),
    "vit_small_patch14_reg4_dinov2": (14, {"dynamic_img_size": True}),
    "vit_small_patch16_dinov3": (16, {}),
    "beit_base_patch16_224": (16, {}),
    "vit_small_patch16_rope_mixed_224": (16, {"dynamic_img_size": True}),
    "vit_base_patch16_siglip_224": (16, {"dynamic_img_size": True}),
}
GRID = (4, 6)  # trained
WHOLE = (7, 11)  # the window that covers it


def build(name: str, depth: int = 2, **kwargs) -> nn.Module:
    """In eval mode, LayerScale and biases of order 1: at its start LayerScale hides all of it."""
    torch.manual_seed(0)
    patch, options = MODELS[name]
    size = (GRID[0] * patch, GRID[1] * patch)
    narrow = {"embed_dim": 96, "num_heads": 3}
    arguments = {"depth": depth, "img_size": size, "num_classes": 5} | narrow | options | kwargs
    model = timm.create_model(name, **arguments).eval()
    for key, parameter in model.named_parameters():
        if "gamma" in key:
            nn.init.ones_(parameter)
        elif "relative_position" in key or key.endswith("bias"):
            nn.init.normal_(parameter, std=0.5)
        elif "attn" in key and key.endswith("weight") and parameter.dim() == 2:
            nn.init.normal_(parameter, std=2 * parameter.shape[1] ** -0.5)  # peaked softmax
    return model


def images(name: str, grid: tuple[int, int] = GRID, count: int = 2) -> Tensor:
    patch = MODELS[name][0]
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, grid[0] * patch, grid[1] * patch, generator=generator)
