"""Embed a table of media on the workers of a Ray cluster; without an address, on a local one of two workers.

python examples/ray/run.py --data clips.parquet --model runs/media/aligner --output runs/vectors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ray
from ray.data import ActorPoolStrategy

from gramian.integrations.ray import Embed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a parquet file or folder, with one column per modality")
    parser.add_argument("--model", required=True, help="a saved Aligner that every worker can reach: a folder or a hub id")
    parser.add_argument(
        "--output", required=True, type=Path, help="folder of parquet files: id, one vector per modality, unreadable"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--address", help="of a running cluster; a local one by default")
    options = parser.parse_args()

    if options.address:
        ray.init(address=options.address)
    else:
        ray.init(num_cpus=options.workers + 1, include_dashboard=False)  # one to read and write
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    rows = ray.data.read_parquet(options.data)
    stage = rows.map_batches(
        Embed,
        fn_constructor_kwargs={"model": options.model, "keep": ["id"]},
        compute=ActorPoolStrategy(size=options.workers),
        batch_size=options.batch_size,
        batch_format="pyarrow",
    )
    stage.write_parquet(str(options.output))
    ray.shutdown()


if __name__ == "__main__":
    main()
