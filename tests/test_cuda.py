"""What runs on the CPU runs on a GPU and gives the same; skipped where there is none."""

import pytest
import torch

from gramian.bundle import Bundle
from gramian.losses import LOSSES, Contrast, Gram, Pairwise
from gramian.scores import SCORES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture
def bundle(generator):
    columns = {name: torch.randn(40, 16, generator=generator) for name in ("text", "image", "audio")}
    return Bundle.from_dict(columns, present={"audio": torch.rand(40, generator=generator) < 0.6})


@pytest.mark.parametrize("name", SCORES)
def test_scores_agree_with_the_cpu(bundle, name):
    items = bundle.select("image", "audio")
    expected = SCORES[name](bundle.column("text"), items)
    found = SCORES[name](bundle.column("text").cuda(), items.to("cuda"))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", [*(kind() for kind in LOSSES.values()), Gram(score="cone", anchor="each"), Contrast("span")])
def test_losses_agree_with_the_cpu(bundle, loss):
    expected = loss.eval()(bundle).total.item()  # in training Symile draws
    assert loss.cuda()(bundle.to("cuda")).total.item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("score", ["volume", "span", "cosine"])
@pytest.mark.parametrize("options", [{}, {"block_size": 16}, {"backend": "triton"}], ids=["kept", "blocks", "triton"])
def test_gradients_agree_with_the_cpu(bundle, score, options):
    if "backend" in options:
        pytest.importorskip("triton")
    grads = []
    for device, chosen in (("cpu", {}), ("cuda", options)):
        vectors = bundle.vectors.detach().to(device).requires_grad_()
        moved = Bundle(vectors, bundle.present.to(device), bundle.modalities).select(
            *bundle.modalities[: 2 + (score != "cosine")]
        )
        loss = Contrast(score, anchor="text", label_smoothing=0.1, **chosen).to(device)
        grads.append(torch.autograd.grad(loss(moved).total, vectors)[0].cpu())
    tolerance = 2e-2 if "backend" in options else 1e-4  # bfloat16 has eight bits
    assert (grads[1] - grads[0]).norm() <= tolerance * grads[0].norm()


def test_training_and_evaluation_run():
    for name in ("accelerate", "datasets"):
        pytest.importorskip(name)
    from gramian.evaluation import evaluate
    from gramian.model import Aligner
    from gramian.training import Recipe, fit
    from synthetic import world

    table = world(missing=0.2)
    aligner = Aligner.for_table(table.part("train"), dim=8)
    history = fit(aligner, Pairwise(), table.part("train"), table.part("validation"), recipe=Recipe(epochs=4), progress=False)
    assert aligner.device.type == "cuda"
    assert history.best is not None
    assert evaluate(aligner.embed(table.part("test"))).n == 40
