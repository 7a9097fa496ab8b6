"""How fast a released checkpoint of full size loads, and how much memory it takes.

    python benchmarks/released.py FOLDER --vocabulary vocab.txt

Writes a file of 1,288 tensors in the released format, 5.6 GB of random numbers, unless the folder holds it; loads it in a fresh
process; then, with --save, writes the Aligner as safetensors and reads that. Prints seconds and the peak of resident memory.
Needs twice the size on the disk while it writes. Result: benchmarks/results/released.csv.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import torch

from gramian.files import write_text

RESULTS = Path(__file__).parent / "results" / "released.csv"
KEYS = Path(__file__).parent.parent / "tests" / "released" / "keys.json"
DEPTHS = {"vision_encoder.visual.blocks.": 40, "audio_encoder.encoder.layers.": 12}
DEPTHS |= {"vision_encoder.text.transformer.resblocks.": 12, "multimodal_encoder.bert.encoder.layer.": 12}


def shapes() -> dict[str, list[int]]:
    """Name → shape of every tensor of a release, from those of its first layers."""
    full: dict[str, list[int]] = {}
    for name, shape in json.loads(KEYS.read_text()).items():
        prefix = next((prefix for prefix in DEPTHS if name.startswith(prefix)), None)
        layers = [None] if prefix is None else range(DEPTHS[prefix])
        for layer in layers:
            full[name if layer is None else re.sub(r"(?<=\.)\d+(?=\.)", str(layer), name, count=1)] = shape
    return full


def write(path: Path) -> None:
    block = torch.randn(2**20) * 0.02
    names = shapes()
    scratch = path.with_suffix(".scratch")
    numbers = torch.from_file(str(scratch), shared=True, size=sum(max(1, math.prod(s)) for s in names.values()))
    for start in range(0, len(numbers), len(block)):
        numbers[start : start + len(block)] = block[: len(numbers) - start]
    state, start = {}, 0
    for name, shape in names.items():
        count = max(1, math.prod(shape))
        state[name] = numbers[start : start + count].view(shape).clone() if count < 2**16 else _own(scratch, start, shape)
        start += count
    state["multimodal_encoder.bert.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save(state, path)
    scratch.unlink()


def _own(scratch: Path, start: int, shape: list[int]) -> torch.Tensor:
    """A tensor with a storage of its own, mapped from the file."""
    import numpy as np

    return torch.from_numpy(np.memmap(scratch, np.float32, "r+", 4 * start, tuple(shape)))


MEASURE = """
import json, sys, time
import transformers  # what any program that uses it has loaded
from transformers import Blip2VisionModel, BertModel, BertTokenizer
from gramian import Aligner, load_released
def peak():  # of this program alone; getrusage counts what the one before it held
    return round(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 2**20, 2)
before = peak()
start = time.perf_counter()
kind, path, vocabulary = sys.argv[1:]
if kind == "file":
    released = load_released(path, vocabulary=vocabulary)
    aligner, report = released.aligner, released.report
    counts = [len(getattr(report, name)) for name in ("used", "ignored", "missing", "unexpected")]
else:
    aligner, counts = Aligner.from_pretrained(path), []
seconds = time.perf_counter() - start
print(json.dumps([kind, round(seconds, 2), before, peak(), sum(p.numel() for p in aligner.parameters()), counts]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocabulary", required=True, help="vocab.txt of bert-base-uncased")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "model_step_0.pt"
    if not path.exists():
        write(path)
    print(path.stat().st_size / 1e9, "GB,", len(shapes()), "keys; seconds, GB before, GB at most, parameters, keys")
    runs = [("file", path)] * 3
    if options.save:
        from gramian import load_released

        load_released(path, vocabulary=options.vocabulary).aligner.save_pretrained(options.folder / "aligner")
        runs += [("folder", options.folder / "aligner")] * 3
    lines = ["source,seconds,gigabytes_before,gigabytes_peak,parameters,torch,transformers"]
    for kind, source in runs:
        command = [sys.executable, "-c", MEASURE, kind, str(source), options.vocabulary]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        print(printed.strip())
        *figures, _ = json.loads(printed)
        versions = torch.__version__, importlib.metadata.version("transformers")
        lines.append(",".join(map(str, (*figures, *versions))))
    write_text(RESULTS, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
