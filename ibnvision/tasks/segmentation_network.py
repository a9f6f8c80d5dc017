"""A segmenter behind the normalization of its input, with the loss on its whitened maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ibnvision.data.photometric import STRONG, photometric
from ibnvision.methods.whitening import InstanceWhitening


class Normalized(nn.Module):
    """A network behind the normalization of its input, so that a checkpoint knows it.

    Args:
        network: images [N, 3, H, W] to logits, or in training to a dict (models.Segmenter).
        mean, std: per RGB channel, of images in [0, 1].
        whitening: takes the "whiten" maps of that dict; its loss stands there as "whitening".
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        whitening: InstanceWhitening | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.whitening = whitening
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """images: [N, 3, H, W] in [0, 1]; what the network gives, see above."""
        out = self.network((images - self.mean) / self.std)
        if self.whitening is not None and self.training:
            maps = out.pop("whiten")
            copies = self._copies(images) if self.whitening.wants_pairs else None
            out["whitening"] = self.whitening(maps, copies)
        return out

    @torch.no_grad()
    def _copies(self, images: Tensor) -> list[Tensor]:
        """The whitened maps of a strong photometric copy, which moves no batch statistics."""
        seed = int(torch.randint(2**62, ()))  # of the global generator, which checkpoints hold
        copy = photometric(images, torch.Generator().manual_seed(seed), **STRONG)
        self.network.eval()
        try:
            return self.network.standardized_maps((copy - self.mean) / self.std)  # type: ignore[operator]
        finally:
            self.network.train()
