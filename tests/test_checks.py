"""What others hand over: right, or one line that says what to do. Nonsense is drawn at random."""

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cifar_utils import checks, evaluate, explain, train
from cifar_utils.data import CLASSES, Split
from cifar_utils.errors import CifarError
from cifar_utils.lr_range import lr_range_test
from cifar_utils.models import create_model
from cifar_utils.recipes import Recipe

RECIPE = Recipe("tiny", model="compact", epochs=1, batch_size=4)
IMAGES = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
LABELS = torch.arange(4)
WRONG_IMAGES = {
    "array": (IMAGES.numpy(), "from_numpy"),
    "list": ([1, 2], r"of type list.*torch.stack\(…\)"),
    "split": (Split(IMAGES, LABELS, CLASSES, LABELS), r"of type Split.*its \.images are one"),
    "floats": (IMAGES / 255, r"\(255 \* images\)\.round\(\)\.byte\(\)"),
    "nan": (IMAGES * torch.nan, "uint8"),
    "int64": (IMAGES.long(), "uint8"),
    "channels last": (IMAGES.permute(0, 2, 3, 1), r"permute\(0, 3, 1, 2\)"),
    "one image": (IMAGES[0], r"images\[None\]"),
    "grey": (IMAGES[:, :1], r"wanted \(N, 3, H, W\); expand\(-1, 3, -1, -1\)"),
    "no pixels": (IMAGES[..., :0], r"wanted \(N, 3, H, W\)"),
    "too small": (IMAGES[:, :, :8, :8], r"fails on an image of shape \(3, 8, 8\)"),
}
WRONG_LABELS = {
    "array": (LABELS.numpy(), r"torch.tensor\(…\)"),
    "list": ([0, 1, 2, 3], r"torch.tensor\(…\)"),
    "floats": (LABELS.float(), r"long\(\)"),
    "int32": (LABELS.int(), r"long\(\)"),
    "columns": (LABELS[:, None], r"flatten\(\)"),
    "one-hot": (nn.functional.one_hot(LABELS, 10), r"argmax\(1\)"),
    "too few": (LABELS[:3], "4 images and 3"),
    "negative": (LABELS - 1, "from -1 to 2, but the 10 classes count from 0 to 9"),
    "too high": (LABELS + 7, "from 7 to 10"),
}


def split(images=IMAGES, labels=LABELS, classes=CLASSES):
    return Split(images, labels, classes, torch.arange(4))


def fit(model, train_split, val=None):
    return train.fit(model, train_split, val, RECIPE, log=print, device="cpu", precision="fp32")


@pytest.mark.parametrize("name", WRONG_IMAGES)
def test_images_that_are_none_are_named_with_their_remedy(name, capsys):
    model, (images, remedy) = create_model("compact"), WRONG_IMAGES[name]
    for call in (
        lambda: evaluate.predict(model, images),
        lambda: explain.grad_cam(model, images, LABELS),
        lambda: fit(model, split(images)),
        lambda: fit(model, split(), split(images)),
        lambda: lr_range_test(model, split(images), RECIPE, device="cpu"),
    ):
        with pytest.raises(CifarError, match=remedy):
            call()
        if name == "too small":
            break
    assert capsys.readouterr().out == "", "nothing was trained"


@pytest.mark.parametrize("name", WRONG_LABELS)
def test_labels_that_do_not_fit_are_named_with_their_remedy(name):
    model, (labels, remedy) = create_model("compact"), WRONG_LABELS[name]
    logits = torch.zeros(4, 10)
    for call in (
        lambda: explain.grad_cam(model, IMAGES, labels),
        lambda: fit(model, split(labels=labels)),
        lambda: fit(model, split(), split(labels=labels)),
        lambda: evaluate.accuracy(logits, labels),
        lambda: evaluate.topk(logits, labels, k=3),
        lambda: evaluate.cross_entropy(logits, labels),
        lambda: evaluate.confusion_matrix(logits, labels),
        lambda: evaluate.per_class_accuracy(logits, labels),
        lambda: evaluate.metrics(logits, labels, CLASSES),
        lambda: evaluate.calibration(logits, labels),
        lambda: evaluate.fit_temperature(logits, labels),
        lambda: evaluate.most_confident_mistakes(logits, labels),
        lambda: evaluate.most_confident_hits(logits, labels),
    ):
        with pytest.raises(CifarError, match=remedy):
            call()


class Returns(nn.Module):
    """A network that returns what a function makes of its logits."""

    def __init__(self, change, classes=10):
        super().__init__()
        self.change, self.linear = change, nn.Linear(3, classes)

    def forward(self, images):
        return self.change(self.linear(images.mean((2, 3))))


WRONG_NETWORKS = {
    "function": (torch.relu, "give a torch.nn.Module"),
    "tuple": (Returns(lambda logits: (logits, logits)), "returns a tuple"),
    "classes": (Returns(lambda logits: logits.argmax(1)), r"wanted float logits"),
    "one sum": (Returns(lambda logits: logits.sum()), r"wanted float logits"),
    "maps": (Returns(lambda logits: logits[:, :, None]), r"wanted float logits"),
    "a batch in one row": (Returns(lambda logits: logits.reshape(1, -1)), "wanted float"),
    "a mean over the batch": (Returns(lambda logits: logits.mean(0, keepdim=True)), "wanted float"),
    "few classes": (Returns(lambda logits: logits, 3), "3 logits for 10 classes"),
    "bug": (Returns(lambda logits: logits @ logits), "the network fails .* RuntimeError: mat1"),
    "half": (create_model("compact").half(), "the network fails .* RuntimeError"),
    "frozen": (create_model("compact").requires_grad_(False), r"requires_grad_\(True\)"),
    "no weights": (nn.Sequential(nn.AdaptiveAvgPool2d((2, 5)), nn.Flatten(), nn.Linear(30, 10))
                   .requires_grad_(False), "no weights to train"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_NETWORKS)
def test_networks_that_do_not_classify_are_refused_before_training(name, capsys):
    model, message = WRONG_NETWORKS[name]
    with pytest.raises(CifarError, match=message):
        fit(model, split())
    if name not in ("few classes", "frozen", "no weights"):
        with pytest.raises(CifarError, match=message):
            evaluate.predict(model, IMAGES)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_a_network_of_another_precision_is_told_how_to_become_float32(kind):
    model = create_model("compact").to(kind)
    with pytest.raises(CifarError, match=r"; model\.float\(\) makes its weights float32$"):
        fit(model, split())
    with pytest.raises(CifarError, match=r"; model\.float\(\) makes its weights float32$"):
        evaluate.predict(model, IMAGES)
    assert evaluate.predict(model.float(), IMAGES).shape == (4, 10)


def test_a_recipes_name_is_not_a_recipe():
    with pytest.raises(CifarError, match=r"recipe: of type str; get_recipe\(NAME\)"):
        train.fit(create_model("compact"), split(), None, "compact")


def test_two_parts_of_different_data_sets_are_refused():
    with pytest.raises(CifarError, match="val has other classes"):
        fit(create_model("compact"), split(), split(classes=tuple("abcdefghij")))


def test_a_look_at_a_network_changes_nothing():
    model = create_model("resnet18", seed=0).train()
    model.features[0].eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    assert checks.check_network(model, IMAGES) == 10
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_that_keeps_its_maps_is_refused_or_explained():
    class Keeps(Returns):
        def forward(self, images):
            self.kept = super().forward(images)
            return self.kept

    model = Keeps(lambda logits: logits)
    model(torch.zeros(2, 3, 32, 32))
    with pytest.raises(CifarError, match="set that to None first"):
        checks.copied(model)
    model.kept = None
    checks.copied(model)


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 12), st.floats(), st.text(max_size=3),
    st.lists(st.integers(-3, 12), max_size=3), st.just(np.int64(2)), st.just(torch.tensor(1)),
)  # fmt: skip
SHAPES = st.lists(st.integers(0, 4), max_size=5).map(tuple)
TYPES = st.sampled_from([torch.uint8, torch.int64, torch.int32, torch.float32, torch.bool])
TENSORS = st.builds(lambda shape, kind: torch.ones(shape).to(kind), SHAPES, TYPES)
TINY = nn.Sequential(
    nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10)
).eval()


def refused_or(call, check):
    try:
        result = call()
    except CifarError as refused:
        assert str(refused).isprintable() and str(refused)
    else:
        check(result)


OPTIONS = st.sampled_from(["batch_size", "precision", "views", "share"])


@given(TENSORS | st.just(IMAGES), st.dictionaries(OPTIONS, ANYTHING, max_size=2))
@settings(max_examples=150, deadline=None)
def test_predict_takes_anything_or_refuses_it(images, options):
    refused_or(
        lambda: evaluate.predict(TINY, images, **options),
        lambda logits: torch.testing.assert_close(tuple(logits.shape), (len(images), 10)),
    )


@given(TENSORS | st.just(IMAGES), TENSORS | st.just(LABELS), st.dictionaries(
    st.sampled_from(["batch_size", "method", "stage", "layers", "smooth"]),
    ANYTHING | st.just(["0"]), max_size=2))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_grad_cam_takes_anything_or_refuses_it(images, targets, options):
    def check(heatmaps):
        assert heatmaps.shape == (len(images), *images.shape[2:])
        assert heatmaps.min() >= 0 and heatmaps.max() <= 1 if len(images) else True

    refused_or(
        lambda: explain.grad_cam(TINY, images, targets, **({"layers": ["0"]} | options)), check
    )


@given(TENSORS | st.just(IMAGES), TENSORS | st.just(LABELS), TENSORS | st.just(LABELS), ANYTHING)
@settings(max_examples=60, deadline=None)
def test_fit_takes_anything_or_refuses_it(images, labels, indices, val):
    given_split = Split(images, labels, CLASSES, indices)
    refused_or(
        lambda: train.fit(
            copy.deepcopy(TINY), given_split, val, RECIPE.changed(augmentation="none"),
            log=lambda run: None, device="cpu", precision="fp32",
        ),
        lambda history: history.is_finished or pytest.fail("not trained"),
    )  # fmt: skip


@given(TENSORS | st.just(torch.zeros(4, 10)), TENSORS | st.just(LABELS), ANYTHING)
@settings(max_examples=150, deadline=None)
def test_numbers_about_logits_take_anything_or_refuse_it(logits, labels, count):
    for function, options in (
        (evaluate.topk, {"k": count}),
        (evaluate.cross_entropy, {}),
        (evaluate.confusion_matrix, {}),
        (evaluate.calibration, {"bins": count}),
        (evaluate.fit_temperature, {}),
        (evaluate.most_confident_mistakes, {"count": count}),
    ):
        refused_or(lambda f=function, o=options: f(logits, labels, **o), lambda result: None)


def test_a_softmax_before_the_loss_is_told(random_split):
    split, plain = random_split(20), create_model("compact", seed=0)
    with pytest.warns(UserWarning, match="returns probabilities.*leave out its softmax"):
        checks.check_training(nn.Sequential(plain, nn.Softmax(1)), split, None)
    with warnings.catch_warnings(action="error"):
        checks.check_training(plain, split, None)
