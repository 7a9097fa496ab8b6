"""Run as each of two processes in tests/test_distributed.py: an embedding of which one process may be killed."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from gramian.data import Cells, Table
from gramian.distributed import rank
from gramian.embedding import embed_shards
from gramian.errors import InputError
from gramian.model import Custom, Towers


def main(output, victim):
    def read(cell):
        if rank() == victim and cell > 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor([cell])

    torch.manual_seed(0)
    towers = Towers({"sensor": Custom(nn.Linear(1, 2), 2, read=read)})
    table = Table.from_columns({"sensor": Cells([float(i) for i in range(20)])})
    try:
        print(tuple(embed_shards(towers, table, output, shard_size=2, batch_size=1, progress=False)), flush=True)
    except InputError as error:
        print(error, flush=True)
        os._exit(2)
    os._exit(0)  # without taking the group's threads apart


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
