"""A small world to train in: three modalities of one latent, each seen through its own random map, some cells missing."""

import torch

from gramian.data import Table


def world(items: int = 160, *, missing: float = 0.0, seed: int = 0, latent: int = 6, noise: float = 0.1) -> Table:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(items, latent, generator=generator)
    widths = {"text": 12, "image": 16, "audio": 10}
    columns = {
        name: z @ torch.randn(latent, width, generator=generator) + noise * torch.randn(items, width, generator=generator)
        for name, width in widths.items()
    }
    present = {name: torch.rand(items, generator=generator) >= missing for name in widths}
    present["text"] |= ~(present["image"] | present["audio"])
    split = ["train", "train", "validation", "test"] * (items // 4) + ["train"] * (items % 4)
    return Table.from_columns(columns, present=present, ids=[f"item-{i}" for i in range(items)], split=split)
