"""Step 5: parameters, halving, interrupt, early stopping, checkpoint epochs, prediction in parts, losses."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

import mlp
from benchmarks.reference import mlp_module
from mma4ctr.evaluation.metrics import auc
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.features.feature_matrix import FactorMatrix, RowGroup, load_matrix
from mma4ctr.model import trainer as training
from mma4ctr.model.inference import predict
from mma4ctr.model.mlp import Network, initial_weights, parameter_count
from mma4ctr.model.training_defaults import TrainSettings, automatic_batch_size
from mma4ctr.steps.training_run import FEW_POSITIVES
from mma4ctr.storage.artifacts import read_artifact
from tests.conftest import call

CPU = torch.device("cpu")


def train(matrix, settings, **options):
    return training.train(matrix, settings, auc, **options)


@pytest.mark.parametrize(("rows", "batch"), [(1, 8), (1000, 64), (1000, 1000), (4099, 48), (4096, 512)])
def test_every_row_is_in_one_batch(monkeypatch, rows, batch):
    for at_once in (rows, 256):  # as a whole, and in runs
        monkeypatch.setattr(training, "SHUFFLED_AT_ONCE", at_once)
        monkeypatch.setattr(training, "RUN", 16)
        drawn = [list(training.batches(rows, batch, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)]
        assert all(sorted(torch.cat(one).tolist()) == list(range(rows)) for one in drawn)
        sizes = [len(one) for one in drawn[0]]
        assert set(sizes[:-1]) <= {batch} and 0 < sizes[-1] <= batch
        assert torch.equal(torch.cat(drawn[0]), torch.cat(drawn[1]))
        assert rows < 2 or not torch.equal(torch.cat(drawn[0]), torch.cat(drawn[2]))


def test_a_batch_of_many_rows_has_rows_of_many_runs(monkeypatch):
    monkeypatch.setattr(training, "SHUFFLED_AT_ONCE", 1 << 12)
    monkeypatch.setattr(training, "RUN", 16)
    for one in list(training.batches(100_000, 256, torch.Generator().manual_seed(0)))[:-1]:
        assert len((one // 16).unique()) > 80


def small_matrix(rows=1200, seed=0, signal=2.0):
    """Return a matrix where the label depends on user and item together."""
    rng = np.random.default_rng(seed)
    users, items = rng.standard_normal((40, 6)), rng.standard_normal((50, 5))
    user, item = rng.integers(0, 40, rows), rng.integers(0, 50, rows)
    label = (signal * (users[user, 0] + items[item, 0]) + rng.logistic(size=rows) > 1).astype(np.uint8)
    cuts = (0, int(0.8 * rows), int(0.9 * rows), rows)

    def group(part):
        here = np.arange(cuts[part], cuts[part + 1])
        return RowGroup(here, *(torch.from_numpy(a[here]) for a in (user, item, label)))

    return FactorMatrix(
        user_part=torch.from_numpy(users.astype(np.float32)),
        item_part=torch.from_numpy(items.astype(np.float32)),
        train=group(0),
        valid=group(1),
        test=group(2),
        settings={},
        fingerprint="",
    )


SETTINGS = TrainSettings(epochs=6, batch_size=64, learning_rate=3e-3, halve_every=2, patience=0)


@pytest.mark.parametrize(("width", "parameters"), [(194, 29_225), (169, 26_025)])
def test_parameters_are_the_published_ones(width, parameters):
    assert parameter_count(width) == parameters
    assert sum(values.numel() for values in initial_weights(width, 0.5, 0).values()) == parameters


def test_the_network_is_the_published_one():
    features = torch.randn(50, 10)
    weights = initial_weights(10, 0.3, 0)
    outputs = features
    for name in ("body.0", "body.2", "body.4"):
        outputs = torch.tanh(functional.linear(outputs, weights[f"{name}.weight"], weights[f"{name}.bias"]))
    expected = functional.linear(outputs, weights["head.weight"], weights["head.bias"])
    assert [weights[f"{name}.weight"].shape[0] for name in ("body.0", "body.2", "body.4")] == [128, 32, 4]
    assert torch.allclose(Network(weights).forward(features), expected.T, atol=1e-6)


def test_learning_rate_halves():
    settings = replace(SETTINGS, learning_rate=1.0, halve_every=5)
    rates = [training.learning_rate_at(epoch, settings, 0) for epoch in range(11)]
    assert rates == [1] * 5 + [0.5] * 5 + [0.25]
    assert training.learning_rate_at(7, settings, 2) == 0.125
    assert training.learning_rate_at(100, replace(settings, halve_every=0), 0) == 1
    (outcome,) = train(small_matrix(), SETTINGS)
    assert [epoch.learning_rate for epoch in outcome.history] == [3e-3, 3e-3, 1.5e-3, 1.5e-3, 0.75e-3, 0.75e-3]


@pytest.mark.parametrize("weight_decay", [0.0, 20.0])
def test_an_epoch_with_weight_decay_equals_adamw_with_decay_of_the_first_layer(weight_decay):
    matrix, settings = small_matrix(), replace(SETTINGS, weight_decay=weight_decay, schedule="cosine")
    network = Network(initial_weights(matrix.in_features, 0.3, 0))
    model = mlp_module(network.state())
    first, *others = model.parameters()
    optimizer = torch.optim.AdamW(
        [{"params": [first], "weight_decay": weight_decay}, {"params": others}], weight_decay=0
    )
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003)
    rows, start = matrix.train, 0
    for batch in training.batches(len(rows), settings.batch_size, generator):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate_at(start / len(rows), settings, 0)
        optimizer.zero_grad()
        logits = model(rows.features(matrix, batch).clone())
        functional.binary_cross_entropy_with_logits(logits.flatten(), rows.label[batch].float()).backward()
        optimizer.step()
        start += len(batch)
    training.train_epoch(training.Learner(network, training.Adam(network.parameters)), matrix, settings, 0)
    trained = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    assert torch.allclose(network.parameters, trained, atol=2e-4)


def test_weight_decay_never_turns_the_sign_of_a_weight():
    matrix = small_matrix()
    network = Network(initial_weights(matrix.in_features, 0.3, 0))
    settings = replace(SETTINGS, weight_decay=1e6, learning_rate=1e-3, batch_size=len(matrix.train))
    training.train_epoch(training.Learner(network, training.Adam(network.parameters)), matrix, settings, 0)
    assert network.weights[0].abs().max() <= 1.001e-3  # what is left is the step of Adam


@pytest.mark.parametrize(
    ("rows", "size"), [(1000, 256), (128_000, 256), (320_000, 512), (600_000, 1024), (5_000_000, 8192), (10**9, 8192)]
)
def test_automatic_batch_size(rows, size):
    assert automatic_batch_size(rows) == size
    if 256 < size < 8192:
        assert rows // size >= 500 > rows // (2 * size)


def test_prediction_by_halves_equals_the_forward_pass():
    matrix = small_matrix()
    network = Network(initial_weights(matrix.in_features, 0.3, 0))
    model = mlp_module(network.state())
    logits, hidden = predict(network, matrix, matrix.test, with_hidden=True)
    features = matrix.test.features(matrix, slice(None))
    assert torch.allclose(logits, model(features), atol=1e-6)
    assert torch.allclose(hidden, model[:-2](features), atol=1e-6)
    few = RowGroup(*(getattr(matrix.test, name)[:3] for name in ("rows", "user_row", "item_row", "label")))
    assert torch.allclose(predict(network, matrix, few)[0], logits[:3], atol=1e-6)


def test_marks_equal_separate_runs_exactly():
    matrix = small_matrix()
    for patience in (0, 2):
        settings = replace(SETTINGS, patience=patience, epochs=9)
        together = train(matrix, settings, checkpoint_epochs=[2, 5, 9])
        for outcome, epochs in zip(together, (2, 5, 9), strict=True):
            (alone,) = train(matrix, replace(settings, epochs=epochs))
            assert outcome.settings == alone.settings
            assert outcome.history == alone.history and outcome.best_epoch == alone.best_epoch
            for name, values in alone.weights.items():
                assert torch.equal(outcome.weights[name], values)


def test_a_forced_collapse_is_interrupted_and_recovers():
    """At a learning rate of 1e38 the weights overflow; the training restarts with halved rates until it succeeds."""
    (outcome,) = train(small_matrix(), replace(SETTINGS, learning_rate=1e38, halve_every=0, max_interrupts=60))
    assert outcome.interrupts >= 3 and len(outcome.history) == 6 and outcome.weights
    assert all(epoch.valid_auc > 0.5 and np.isfinite(epoch.train_loss) for epoch in outcome.history)
    first = next(k for k in range(60) if outcome.history[0].learning_rate == 1e38 / 2**k)
    assert 1 <= first <= outcome.interrupts
    assert outcome.history[-1].learning_rate == 1e38 / 2**outcome.interrupts


def test_an_interrupt_goes_back_to_the_last_good_epoch(monkeypatch):
    matrix = small_matrix()
    real, calls = training.train_epoch, []

    def poisoned(learner, *rest):
        network, adam = learner.network, learner.adam
        calls.append(torch.cat([network.parameters, adam.mean, adam.square]))
        loss = real(learner, *rest)
        if len(calls) == 3:  # the third epoch destroys the weights and Adam's moments
            network.parameters.fill_(float("nan"))
            adam.mean.fill_(float("nan"))
            return float("nan")
        return loss

    monkeypatch.setattr(training, "train_epoch", poisoned)
    (outcome,) = train(matrix, replace(SETTINGS, halve_every=0))
    assert outcome.interrupts == 1 and len(outcome.history) == 6
    assert torch.equal(calls[2], calls[3]), "not the state after epoch 2"
    rates = [epoch.learning_rate for epoch in outcome.history]
    assert rates == [3e-3, 3e-3, *[1.5e-3] * 4]


def test_a_small_batch_takes_one_thread_whatever_torch_has(monkeypatch):
    real, taken = training.train_epoch, []

    def watched(*rest):
        taken.append(torch.get_num_threads())
        return real(*rest)

    monkeypatch.setattr(training, "train_epoch", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for size in (256, 2048, 8192):
            train(small_matrix(), replace(SETTINGS, epochs=1, batch_size=size))
    finally:
        torch.set_num_threads(before)
    assert taken == [1, 2, 4]


def test_hopeless_training_ends_with_a_message():
    matrix = small_matrix(signal=0.0)
    matrix.valid.label.copy_(1 - (torch.arange(len(matrix.valid)) % 2))
    (outcome,) = train(matrix, replace(SETTINGS, learning_rate=float("inf")))
    assert outcome.interrupts == 10 and not outcome.history and outcome.weights is None
    assert "10 interrupts" in outcome.ended


def test_without_interrupts_a_collapse_stays():
    (outcome,) = train(small_matrix(), replace(SETTINGS, learning_rate=float("inf"), max_interrupts=0))
    assert outcome.interrupts == 0 and len(outcome.history) == 6
    assert outcome.weights is None and outcome.best_epoch == 0 and outcome.ended == "no epoch had a finite loss"


def test_without_interrupts_the_last_weights_with_a_finite_loss_are_kept():
    """The rate is finite for two epochs of three steps, then not."""
    settings = replace(SETTINGS, max_interrupts=0, patience=0)
    before = training.learning_rate_at
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            training, "learning_rate_at", lambda progress, *rest: math.inf if progress >= 2 else before(progress, *rest)
        )
        (outcome,) = train(small_matrix(), settings)
    assert len(outcome.history) == 6 and outcome.best_epoch == 2
    assert all(torch.isfinite(values).all() for values in outcome.weights.values())


def test_early_stop_keeps_the_best_epoch():
    matrix = small_matrix(rows=400)
    (outcome,) = train(matrix, replace(SETTINGS, epochs=200, patience=3, learning_rate=0.02))
    aucs = [epoch.valid_auc for epoch in outcome.history]
    assert len(aucs) < 200
    assert outcome.best_epoch == 1 + int(np.argmax(aucs)) == len(aucs) - 3
    logits, _ = predict(Network(outcome.weights), matrix, matrix.valid)
    assert auc(matrix.valid.label.numpy(), logits.numpy()) == max(aucs)


def test_rare_positives_do_not_look_like_a_collapse():
    """The last bias starts at the log-odds of the share of positives."""
    assert initial_weights(5, 0.004, 0)["head.bias"].item() == pytest.approx(np.log(0.004 / 0.996), rel=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    matrix = small_matrix()
    runs = [train(matrix, replace(SETTINGS, epochs=1, seed=seed))[0].weights for seed in (4, 4, 5)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not torch.equal(runs[0]["head.weight"], runs[2]["head.weight"])


def test_a_run_writes_its_model_predictions_and_line(made):
    runs = [r for r in read_results(made.results) if r.seed == 0 and r.epochs == 4]
    results = {result.task: result for result in runs}
    assert set(results) == {"wechat_click", "tiktok_like", "tiktok_finish"}
    for task, result in results.items():
        assert result.model == "MMa4CTR" and result.variant == "vat_concat"
        assert result.parameters == {"wechat": 29_225, "tiktok": 26_025}[task.split("_")[0]]
        matrix = load_matrix(made, task, "vat_concat", CPU)
        folder = made.torch_model / task / result.run_id
        run = read_artifact(folder, "")
        logits, _ = predict(Network(load_file(folder / "model.safetensors")), matrix, matrix.test)
        assert run.array("predictions") == pytest.approx(torch.sigmoid(logits).numpy(), abs=1e-6)
        assert run.array("hidden").shape == (len(matrix.test), 4)
        assert (run.array("rows") == matrix.test.rows).all()
        assert result.auc == pytest.approx(auc(matrix.test.label.numpy(), run.array("predictions")))
        assert result.rows["test"] == len(matrix.test) and result.positives["test"] == int(matrix.test.label.sum())


def test_a_repeated_run_counts_once(made):
    options = ("--task", "wechat_click", "--epochs", 1, "--seed", 9, "--batch-size", 1024)
    lines = []
    for _ in range(2):
        assert call(mlp.main, "--paths", made.file, *options) == 0
        lines.append([result for result in read_results(made.results) if result.seed == 9])
    assert len(lines[0]) == len(lines[1]) == 1
    assert (lines[0][0].run_id, lines[0][0].auc) == (lines[1][0].run_id, lines[1][0].auc)


def test_wrong_options_are_refused(made, capsys):
    for options in (
        ("--epochs", 0),
        ("--learning-rate", "nan"),
        ("--weight-decay", -1),
        ("--batch-size", "big"),
        ("--device", "cuda:77"),
    ):
        assert call(mlp.main, "--paths", made.file, *options) == 2
    assert "cuda:77" in capsys.readouterr().err


def test_few_positives_give_a_warning_with_the_interval(made, capsys):
    """The tiny world has fewer than 100 likes in its test rows."""
    assert call(mlp.main, "--paths", made.file, "--task", "tiktok_like", "--epochs", 1, "--seed", 77) == 0
    result = read_results(made.results)[-1]
    assert result.seed == 77 and result.positives["test"] < FEW_POSITIVES
    low, high = result.auc_interval
    assert low < result.auc < high
    said = capsys.readouterr().err
    assert f"{result.positives['test']} positives in the test rows" in said and f"{low:.4f} to {high:.4f}" in said


def test_a_cosine_schedule_ends_at_zero():
    settings = replace(SETTINGS, schedule="cosine", epochs=4, halve_every=0)
    rates = [training.learning_rate_at(progress, settings, 1) for progress in (0, 1, 2, 3, 4)]
    assert rates == pytest.approx([1.5e-3 * share for share in (1, 0.8535534, 0.5, 0.1464466, 0)], rel=1e-6, abs=1e-12)


def test_each_checkpoint_of_a_cosine_schedule_is_a_training_of_its_own():
    matrix = small_matrix()
    settings = replace(SETTINGS, schedule="cosine", halve_every=0)
    together = train(matrix, settings, checkpoint_epochs=[5, 2])
    for outcome, epochs in zip(together, (2, 5), strict=True):
        (alone,) = train(matrix, replace(settings, epochs=epochs))
        assert outcome.settings == alone.settings and outcome.history == alone.history
        assert all(torch.equal(outcome.weights[name], values) for name, values in alone.weights.items())
    first = [outcome.history[1].learning_rate for outcome in together]
    assert first[0] < first[1], "the schedule does not depend on the number of epochs"


def test_a_validation_auc_of_zero_is_zero():
    """Without interrupts, an epoch that orders all rows wrongly stands as it is."""
    settings = replace(SETTINGS, epochs=1, max_interrupts=0)
    for found, expected in ((0.0, 0.0), (None, 0.5)):
        (outcome,) = training.train(small_matrix(), settings, lambda label, score, found=found: found)
        assert outcome.history[0].valid_auc == expected
