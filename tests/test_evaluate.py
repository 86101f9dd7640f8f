import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, recall_score, top_k_accuracy_score

from cifar_utils import evaluate
from cifar_utils.data import CLASSES, normalize
from cifar_utils.errors import CifarError
from cifar_utils.models import create_model


@pytest.fixture(scope="module")
def guesses():
    """Logits with some sense in them, and labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (500,), generator=generator)
    logits = torch.randn(500, 10, generator=generator) + 1.5 * F.one_hot(labels, 10)
    return logits, labels


@pytest.mark.parametrize("k", [1, 3, 5])
def test_topk_equals_scikit_learns(guesses, k):
    logits, labels = guesses
    assert evaluate.topk(logits, labels, k=k) == top_k_accuracy_score(labels, logits, k=k)


def test_loss_equals_scikit_learns(guesses):
    logits, labels = guesses
    wanted = log_loss(labels, logits.double().softmax(1))
    assert evaluate.cross_entropy(logits, labels) == pytest.approx(wanted, rel=1e-5)


def test_per_class_accuracy_is_recall(guesses):
    logits, labels = guesses
    wanted = recall_score(labels, logits.argmax(1), average=None)
    assert evaluate.per_class_accuracy(logits, labels).tolist() == pytest.approx(wanted.tolist())


def test_confusion_matrix_counts_rows_by_true_class(guesses):
    logits, labels = guesses
    wanted = np.zeros((10, 10), dtype=int)
    for label, prediction in zip(labels, logits.argmax(1), strict=True):
        wanted[label, prediction] += 1
    matrix = evaluate.confusion_matrix(logits, labels)
    assert np.array_equal(matrix, wanted)
    assert matrix.trace() / matrix.sum() == evaluate.accuracy(logits, labels)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_of_a_diverged_network_have_no_accuracy(guesses, bad):
    logits, labels = guesses
    logits = logits.clone()
    logits[3] = bad  # argmax would call it class 0
    for number in (
        evaluate.accuracy,
        evaluate.per_class_accuracy,
        evaluate.confusion_matrix,
        lambda *both: evaluate.topk(*both, k=3),
        lambda *both: evaluate.metrics(*both, CLASSES),
    ):
        with pytest.raises(CifarError, match="not all are numbers; has the network's training"):
            number(logits, labels)


def test_a_diverged_network_has_neither_loss_nor_accuracy(random_split):
    model = create_model("compact", seed=0)
    torch.nn.init.constant_(list(model.parameters())[-1], torch.nan)
    assert all(map(math.isnan, evaluate.evaluate(model, random_split(8))))


def test_metrics_want_a_name_per_logit(guesses):
    with pytest.raises(CifarError, match="there are 10 logits per image and 3 classes"):
        evaluate.metrics(*guesses, CLASSES[:3])


def test_metrics_hold_them_all_and_no_nan(guesses):
    logits, labels = guesses
    kept = labels != 3
    figures = evaluate.metrics(logits[kept], labels[kept], CLASSES)
    assert set(figures) == {"top1", "top3", "top5", "loss", "n", "per_class"}
    assert figures["n"] == int(kept.sum()) and figures["per_class"]["cat"] is None
    assert figures["top1"] <= figures["top3"] <= figures["top5"] <= 1
    with pytest.raises(ValueError, match="no test images"):
        evaluate.metrics(logits[:0], labels[:0], CLASSES)


@given(st.integers(0, 2**31), st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_most_confident_equals_an_independent_sort(seed, count):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(40, 10, generator=generator)
    labels = torch.randint(0, 10, (40,), generator=generator)
    rows = []
    for index in range(40):
        weights = np.exp(logits[index].double().numpy())
        confidences = weights / weights.sum()
        rows.append((-confidences.max(), index, int(confidences.argmax())))
    for find, right in ((evaluate.most_confident_mistakes, False),
                        (evaluate.most_confident_hits, True)):  # fmt: skip
        wanted = sorted(row for row in rows if (row[2] == labels[row[1]]) == right)[:count]
        got = find(logits, labels, count=count)
        assert got.indices.tolist() == [index for _, index, _ in wanted]
        assert got.predictions.tolist() == [prediction for *_, prediction in wanted]
        assert got.labels.tolist() == labels[got.indices].tolist()
        assert got.confidences.tolist() == pytest.approx([-value for value, *_ in wanted])
        assert got[1:].predictions.tolist() == [prediction for *_, prediction in wanted[1:]]


def test_calibration_equals_a_loop(guesses):
    logits, labels = guesses
    error, confidences, accuracies, counts = evaluate.calibration(logits, labels, bins=8)
    chances = logits.double().softmax(1).numpy()
    wanted = 0.0
    for place in range(8):
        inside = [i for i in range(500) if min(int(chances[i].max() * 8), 7) == place]
        assert counts[place] == len(inside)
        if inside:
            confidence = np.mean([chances[i].max() for i in inside])
            share = np.mean([chances[i].argmax() == labels[i] for i in inside])
            assert (confidences[place], accuracies[place]) == pytest.approx((confidence, share))
            wanted += len(inside) / 500 * abs(confidence - share)
    assert error == pytest.approx(wanted)


@pytest.mark.parametrize("true_temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(true_temperature):
    """Labels drawn from softmax(z), logits z · T: dividing by T makes them honest again."""
    generator = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    found = evaluate.fit_temperature(honest * true_temperature, labels)
    assert found == pytest.approx(true_temperature, rel=0.03)


def test_the_temperature_has_the_lowest_loss_of_a_dense_grid(guesses):
    logits, labels = guesses
    grid = np.geomspace(0.05, 20, 2000)
    losses = [F.cross_entropy(logits.double() / t, labels).item() for t in grid]
    assert evaluate.fit_temperature(logits, labels) == pytest.approx(
        grid[np.argmin(losses)], rel=4e-3
    )


def test_most_confused_are_the_largest_cells_beside_the_diagonal():
    matrix = [[50, 3, 0], [9, 40, 3], [0, 1, 60]]
    assert evaluate.most_confused(matrix, "abc") == [
        ("b", "a", 9), ("a", "b", 3), ("b", "c", 3), ("c", "b", 1)
    ]  # fmt: skip
    assert evaluate.most_confused(matrix, "abc", count=1) == [("b", "a", 9)]
    assert evaluate.most_confused([[5, 0], [0, 5]], "ab") == []


def test_predict_is_a_plain_forward_pass_in_any_batch_size(random_split):
    model = create_model("compact", seed=0).train()
    images = random_split(25).images
    statistics = model.features[0][0][1].running_mean.clone()
    logits = [evaluate.predict(model, images, batch_size=size) for size in (25, 7, 1)]
    assert model.training, "the mode is put back"
    assert torch.equal(model.features[0][0][1].running_mean, statistics)
    with torch.no_grad():
        wanted = model.eval()(normalize(images))
    for got in logits:
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert not evaluate.predict(model, images).requires_grad and not model.training


def test_predict_puts_every_layers_mode_back_even_when_stopped(random_split):
    model, images = create_model("compact", seed=0).train(), random_split(3).images
    model.features[0][0][1].eval()  # as who freezes a batch norm does
    modes = [layer.training for layer in model.modules()]
    evaluate.predict(model, images)
    assert [layer.training for layer in model.modules()] == modes

    def stop(*_):
        raise KeyboardInterrupt

    model.features[1].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate.predict(model, images)
    assert [layer.training for layer in model.modules()] == modes


def test_predict_on_no_images(random_split):
    assert len(evaluate.predict(create_model("compact"), random_split(0).images)) == 0


def test_views_average_the_logits_of_shifted_and_mirrored_images(random_split):
    model = create_model("compact", seed=0).eval()
    images = random_split(6).images
    reflected = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    plain = [images, torch.from_numpy(reflected[:, :, 2:, 2:].copy()),
             torch.from_numpy(reflected[:, :, :-2, :-2].copy())]  # fmt: skip
    with torch.no_grad():
        sides = [model(normalize(view)) for seen in plain for view in (seen, seen.flip(3))]
    two = evaluate.predict(model, images, views=2)
    six = evaluate.predict(model, images, views=6)
    torch.testing.assert_close(two, (sides[0] + sides[1]) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(six, sum(sides) / 6, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="choose one of 1, 2, 6"):
        evaluate.predict(model, images, views=3)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_share_of_the_images_gets_more_views_the_least_confident_first(random_split, share):
    model = create_model("compact", seed=0).eval()
    images = random_split(12).images
    plain, six = (evaluate.predict(model, images, views=views) for views in (1, 6))
    confidences = [max(row) for row in plain.softmax(1).tolist()]
    got = evaluate.predict(model, images, views=6, share=share, batch_size=5)
    for place, row in enumerate(got):
        rank = sum(other < confidences[place] for other in confidences)
        wanted = six if rank < share * 12 else plain
        torch.testing.assert_close(row, wanted[place], rtol=1e-4, atol=1e-5)
    assert len(evaluate.predict(model, images[:0], views=6, share=share)) == 0
    with pytest.raises(ValueError, match=r"share is 1.5; it must be in \[0, 1\]"):
        evaluate.predict(model, images, views=6, share=1.5)


def test_no_images_have_no_mean():
    for mean in (evaluate.cross_entropy, evaluate.accuracy):
        with pytest.raises(CifarError, match="no images to evaluate on"):
            mean(torch.zeros(0, 10), torch.zeros(0, dtype=torch.int64))


@pytest.mark.slow  # it imports torch anew, because training would keep memory, too
@pytest.mark.skipif(sys.platform != "linux", reason="only glibc returns memory to the system")
def test_predict_keeps_the_memory_that_its_next_batch_needs():
    """Fresh pages cost an interruption each: 8,000 for every layer with 64 maps of 128 images."""
    code = """
import resource, torch
from cifar_utils.evaluate import predict
from cifar_utils.models import create_model
model, images = create_model("compact", seed=0), torch.zeros(256, 3, 32, 32, dtype=torch.uint8)
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    predict(model, images, batch_size=128)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert int(faults.split()[-1]) < 2000
