"""A batch of noise with random labels."""

import torch


def batch(count=64, height=3, width=5):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(count, 3, height, width, generator=generator)
    target = torch.randint(0, 3, (count, height, width), generator=generator)
    return {"image": image, "target": target, "domain": ["d"] * count}
