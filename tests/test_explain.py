from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from strange_networks import ZOO
from torch import nn

from cifar_utils import explain
from cifar_utils.data import normalize
from cifar_utils.errors import CifarError
from cifar_utils.models import ConvNet, create_model


def to_unit(heatmaps):
    """Each map stretched to [0, 1], as pytorch-grad-cam does."""
    heatmaps = heatmaps - heatmaps.amin((1, 2), keepdim=True)
    return heatmaps / (heatmaps.amax((1, 2), keepdim=True) + 1e-7)


@pytest.fixture
def pool_and_linear():
    """Maps, global average, one linear layer: a network that has a CAM (arXiv 1512.04150).

    Its maps are as large as the image, so that nothing is resized.
    """
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 6, 3, padding=1))
    return ConvNet(features, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)))


def test_grad_cam_equals_cam_for_a_pool_and_linear_head(pool_and_linear, random_split):
    split = random_split(8)
    with torch.no_grad():
        maps = pool_and_linear.features(normalize(split.images))  # (N, 6, 32, 32)
        weights = pool_and_linear.classifier[2].weight[split.labels]  # (N, 6)
        cam = torch.einsum("nc,nchw->nhw", weights, maps)
    wanted = to_unit(cam.clamp(min=0))
    got = explain.grad_cam(pool_and_linear, split.images, split.labels, stage=-1)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


# What each method multiplies the maps by before it adds them up, after its paper.
WEIGHTS = {
    "gradcam": lambda gradients: gradients.mean((2, 3), keepdim=True),
    "hirescam": lambda gradients: gradients,
    "layercam": lambda gradients: gradients.clamp(min=0),
}


def by_hand(model, split, stage, method="gradcam"):
    """Grad-CAM (arXiv 1610.02391), or a relative, after its paper; stretched and then enlarged."""
    stages = list(model.eval().features)
    maps = normalize(split.images)
    for layer in stages[: stage + 1]:
        maps = layer(maps)
    maps.retain_grad()
    rest = maps
    for layer in stages[stage + 1 :]:
        rest = layer(rest)
    model.classifier(rest)[range(len(split)), split.labels].sum().backward()
    weights = WEIGHTS[method](maps.grad)
    small = to_unit((weights * maps).sum(1).clamp(min=0).detach())
    return F.interpolate(small[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]


@pytest.mark.parametrize("name", ["conv5", "compact", "separable"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_library_equals_grad_cam_by_hand(name, stage, random_split):
    model, split = create_model(name, seed=0), random_split(6)
    got = explain.grad_cam(model, split.images, split.labels, stage=stage)
    torch.testing.assert_close(got, to_unit(by_hand(model, split, stage)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["hirescam", "layercam"])
@pytest.mark.parametrize(("name", "stage"), [("conv5", 0), ("compact", 2)])
def test_relatives_of_grad_cam_equal_their_formulas(method, name, stage, random_split):
    model, split = create_model(name, seed=0), random_split(6)
    got = explain.grad_cam(model, split.images, split.labels, stage=stage, method=method)
    wanted = to_unit(by_hand(model, split, stage, method))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


def test_maps_of_several_stages_are_averaged(random_split):
    model, split = create_model("conv5", seed=0), random_split(4)
    wanted = to_unit((by_hand(model, split, 0) + by_hand(model, split, 2)) / 2)
    for stages in ([0, 2], (-1, 0)):
        got = explain.grad_cam(model, split.images, split.labels, stage=stages)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", explain.METHODS)
def test_every_method_gives_maps_in_range_and_leaves_the_model_alone(method, random_split, capsys):
    model, split = create_model("compact", seed=0).train(), random_split(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.features[0][0][0].weight.grad = torch.ones(32, 3, 3, 3)
    model.classifier[1].weight.requires_grad_(False)
    heatmaps = explain.grad_cam(model, split.images, split.labels, method=method)
    assert capsys.readouterr() == ("", ""), "no progress bars"
    assert heatmaps.shape == (2, 32, 32) and heatmaps.dtype == torch.float32
    assert heatmaps.min() >= 0 and heatmaps.max() <= 1 and not heatmaps.isnan().any()
    assert model.training and not model.classifier[1].weight.requires_grad
    assert torch.equal(model.features[0][0][0].weight.grad, torch.ones(32, 3, 3, 3))
    assert model.features[1][0][0].weight.grad is None
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_batches_and_no_grad_change_nothing(random_split):
    model, split = create_model("compact", seed=0), random_split(7)
    whole = explain.grad_cam(model, split.images, split.labels)
    with torch.no_grad():
        parts = explain.grad_cam(model, split.images, split.labels, batch_size=3)
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-3)
    assert explain.grad_cam(model, split.images[:0], split.labels[:0]).shape == (0, 32, 32)


def test_the_target_class_matters(random_split):
    model, split = create_model("conv5", seed=0), random_split(4)
    one, other = (explain.grad_cam(model, split.images, split.labels + k, stage=0) for k in (0, 1))
    assert (one - other).abs().mean() > 0.01


def test_ablation_shows_what_speaks_for_a_class_whatever_the_sign_of_its_logit(random_split):
    """Against channels that are taken out one by one: how far does the logit fall?"""
    model, split = create_model("compact", seed=0).eval(), random_split(3)
    with torch.no_grad():
        maps = model.features[:3](normalize(split.images))  # those that the usual stage gives
        rest = torch.nn.Sequential(*model.features[3:], model.classifier)
        logits = rest(maps)
        for targets in (logits.argmin(1), logits.argmax(1)):
            wanted = torch.zeros(3, 4, 4)
            for place, target in enumerate(targets):
                channels = maps.shape[1]
                less = maps[place].repeat(channels, 1, 1, 1)
                less[range(channels), range(channels)] = 0  # each copy lacks another channel
                falls = logits[place, target] - rest(less)[:, target]
                wanted[place] = torch.einsum("c,chw->hw", falls, maps[place])
            found = explain.grad_cam(model, split.images, targets, method="ablationcam")
            for heat, one in zip(found, wanted.clamp(min=0), strict=True):
                resized = torch.from_numpy(cv2.resize(one.numpy(), (32, 32)))
                resized = (resized - resized.min()) / (resized.max() - resized.min() + 1e-7)
                torch.testing.assert_close(heat, resized, atol=0.02, rtol=0)
    assert (logits.amin(1) < 0).all() and (logits.amax(1) > 0).any()


def test_eigencam_heats_the_end_of_the_main_direction_that_reaches_further(
    pool_and_linear, random_split, monkeypatch
):
    """Principal components by eigendecomposition; and the same whichever sign the library draws."""
    split = random_split(3)
    maps = pool_and_linear.features(normalize(split.images))
    (gradients,) = torch.autograd.grad(
        pool_and_linear.classifier(maps)[range(3), split.labels].sum(), maps
    )
    decompose = np.linalg.svd

    def svd(*arguments, sign, **options):
        left, sizes, right = decompose(*arguments, **options)
        return left, sizes, sign * right

    for method, values in (("eigencam", maps), ("eigengradcam", gradients * maps)):
        points = values.detach().double().flatten(2)  # (N, channels, places)
        points = points - points.mean(2, keepdim=True)
        direction = torch.linalg.eigh(points @ points.mT).eigenvectors[..., -1]
        heat = torch.einsum("nc,ncp->np", direction, points).view(3, 32, 32)
        other = (heat.amax((1, 2)) < -heat.amin((1, 2))).view(3, 1, 1)
        wanted = to_unit(torch.where(other, -heat, heat).clamp(min=0)).float()
        for sign in (1, -1):
            monkeypatch.setattr(np.linalg, "svd", partial(svd, sign=sign))
            got = explain.grad_cam(
                pool_and_linear, split.images, split.labels, stage=-1, method=method
            )
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-3)


def test_smooth_maps_are_the_mean_of_six_views_stretched_anew(random_split):
    model, split = create_model("compact", seed=0), random_split(4)
    views = []
    for mirrored in (False, True):
        for contrast in (0.9, 1.0, 1.1):
            inputs = normalize(split.images) * contrast
            inputs = inputs.flip(3) if mirrored else inputs
            cam = GradCAM(model=model, target_layers=[model.features[2]])
            heat = torch.from_numpy(cam(inputs, [ClassifierOutputTarget(n) for n in split.labels]))
            views.append(heat.flip(2) if mirrored else heat)
    mean = torch.stack(views).mean(0)
    assert mean.amax((1, 2)).min() < 0.95, "the views differ"
    smooth = explain.grad_cam(model, split.images, split.labels, smooth=True)
    torch.testing.assert_close(smooth, to_unit(mean), rtol=0, atol=1e-4)


def test_the_usual_stage_is_the_deepest_with_a_map_of_4_by_4(random_split):
    model, split = create_model("compact", seed=0), random_split(2)
    usual = explain.grad_cam(model, split.images, split.labels)
    assert torch.equal(usual, explain.grad_cam(model, split.images, split.labels, stage=2))
    assert not torch.equal(usual, explain.grad_cam(model, split.images, split.labels, stage=3))


def test_figures_name_methods_as_their_papers_do():
    names = [explain.method_title(name) for name in ("gradcam", "gradcam++", "hirescam")]
    assert names == ["Grad-CAM", "Grad-CAM++", "HiResCAM"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("compact", [[2], [1], [0], [1, 2]]), ("resnet18", [[4], [3], [2], [3, 4]])],
)
def test_stages_with_small_maps_do_not_count(name, wanted):
    model = create_model(name)
    assert [explain.chosen_stages(model, choice) for choice in explain.STAGES] == wanted


def test_each_image_needs_its_target(random_split):
    model, split = create_model("compact", seed=0), random_split(4)
    for targets in (split.labels[:3], torch.cat([split.labels, split.labels])):
        with pytest.raises(ValueError, match=r"4 images and [38] targets"):
            explain.grad_cam(model, split.images, targets)


def test_a_choice_of_stages_that_a_network_lacks_is_refused():
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    network = ConvNet(features, nn.Sequential(nn.Flatten(), nn.Linear(4, 10)))
    for choice in ("deepest", "two deepest"):
        assert explain.chosen_stages(network, choice) == [0]
    with pytest.raises(ValueError, match="no second deepest stage with maps of at least 4×4"):
        explain.chosen_stages(network, "second deepest")


def test_unknown_names_list_the_valid_ones(random_split):
    model, split = create_model("compact"), random_split(1)
    with pytest.raises(ValueError, match="choose one of gradcam, gradcam"):
        explain.grad_cam(model, split.images, split.labels, method="lime")
    with pytest.raises(ValueError, match="choose one of deepest, second deepest"):
        explain.grad_cam(model, split.images, split.labels, stage="last")
    with pytest.raises(ValueError, match="no stage 4; this network has stages 0 to 3"):
        explain.grad_cam(model, split.images, split.labels, stage=4)


class Block(nn.Module):
    """Two convolutions and a shortcut, which ends as it begins: with an activation, in its way."""

    def __init__(self, way, inputs, outputs):
        super().__init__()
        self.way, self.relu = way, nn.ReLU(inplace=way == "modules")
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, maps):
        if self.way == "functions":
            maps = F.relu_(maps.sub_(0.05))  # alters the maps of the stage before
            out = torch.relu_(self.first(maps))
            out = self.second(out)
            out += self.shortcut(maps)
            return out.mul_(1.5)
        maps = self.relu(maps - 0.05)
        return (self.second(self.relu(self.first(maps))) + self.shortcut(maps)) * 1.5


def residual(way, after=nn.Identity):
    torch.manual_seed(0)
    stages = [nn.Sequential(Block(way, *sizes), after()) for sizes in ((3, 6), (6, 6), (6, 8))]
    stages.insert(1, nn.MaxPool2d(2))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return ConvNet(nn.Sequential(*stages), head)


@pytest.mark.parametrize("after", [nn.Identity, nn.Dropout])  # both return what they are given
@pytest.mark.parametrize("stage", [0, [1, 2]])
@pytest.mark.parametrize("method", explain.METHODS)
def test_layers_and_functions_in_place_change_no_map(method, stage, after, random_split):
    split = random_split(2)
    plain, modules, functions = (
        explain.grad_cam(residual(way, after), split.images, split.labels, stage=stage,
                         method=method)
        for way in ("plain", "modules", "functions")
    )  # fmt: skip
    assert plain.amax() > 0.9
    assert torch.equal(modules, plain) and torch.equal(functions, plain)


class Rectified(nn.Module):
    """A shortcut that the activation in place has changed, as in networks before activation."""

    def __init__(self, inplace):
        super().__init__()
        torch.manual_seed(0)
        self.inplace, self.relu = inplace, nn.ReLU(inplace=inplace)
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 10)

    def forward(self, images):
        maps = self.first(images)
        out = self.relu(maps)
        maps = maps if self.inplace else out  # the same numbers
        return self.head((self.second(out) + maps).relu().mean((2, 3)))


@pytest.mark.parametrize("layer", ["first", "second"])
def test_the_copy_computes_what_the_network_does_even_where_that_rests_on_changes_in_place(
    layer, random_split
):
    split = random_split(3)
    maps = [
        explain.grad_cam(Rectified(way), split.images, split.labels, layers=[layer])
        for way in (False, True)
    ]
    torch.testing.assert_close(*maps)


class Unstaged(nn.Module):
    """No features: layers have names of their own."""

    def __init__(self):
        super().__init__()
        self.pool, self.conv, self.tail = nn.AvgPool2d(2), nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.head = nn.Linear(6, 10)

    def forward(self, images):
        maps = self.tail(F.relu(self.conv(self.pool(images))))
        return self.head(maps.mean((2, 3)))


def test_layers_of_any_network_can_be_given(random_split):
    torch.manual_seed(0)
    network, split = Unstaged(), random_split(3)
    staged = ConvNet(
        nn.Sequential(network.pool, network.conv, nn.Sequential(nn.ReLU(), network.tail)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.head),
    )
    for layers, stage in (
        ([network.conv], 1), (["tail", network.conv], [1, 2]), (network.pool, 0), ("tail", -1),
    ):  # fmt: skip
        got = explain.grad_cam(network, split.images, split.labels, layers=layers)
        wanted = explain.grad_cam(staged, split.images, split.labels, stage=stage)
        torch.testing.assert_close(got, wanted)
    with pytest.raises(CifarError, match=r"no nn.Sequential called features.*layers="):
        explain.grad_cam(network, split.images, split.labels)
    for layers, message in (
        (["body"], "no layer called 'body'"), ([nn.ReLU()], "no such layer"), ([], "is empty"),
        ([network.head], r"Linear returns \(2, 10\), not maps"), (5, "layers is 5"),
    ):  # fmt: skip
        with pytest.raises(CifarError, match=message):
            explain.grad_cam(network, split.images, split.labels, layers=layers)


def test_a_layer_has_to_run_once(random_split):
    split, network = random_split(2), ZOO["shared"]()
    with pytest.raises(CifarError, match="Conv2d runs 3 times"):
        explain.grad_cam(network, split.images, split.labels, layers=["layers.again"])
    network.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(CifarError, match="Conv2d runs 0 times"):
        explain.grad_cam(network, split.images, split.labels, layers=[network.spare])


@pytest.mark.parametrize("target", [-1, 10, 99])
def test_a_target_is_one_of_the_classes(target, random_split):
    split = random_split(2)
    with pytest.raises(CifarError, match="the 10 classes count from 0 to 9"):
        targets = torch.tensor([3, target])
        explain.grad_cam(create_model("compact"), split.images, targets)


def test_wrapped_and_half_precision_networks_give_the_maps_of_the_plain_one(random_split):
    model, split = create_model("compact", seed=0), random_split(2)
    wanted = explain.grad_cam(model, split.images, split.labels)
    wrapped = nn.DataParallel(torch.compile(model, backend="eager"))
    assert torch.equal(explain.grad_cam(wrapped, split.images, split.labels), wanted)
    for layer in (model.features[2], "features.2", "module._orig_mod.features.2"):
        maps = explain.grad_cam(wrapped, split.images, split.labels, layers=layer)
        assert torch.equal(maps, wanted)
    low = explain.grad_cam(create_model("compact", seed=0).half(), split.images, split.labels)
    torch.testing.assert_close(low, wanted, atol=0.05, rtol=0)


def test_a_diverged_network_has_no_maps(random_split):
    model, split = create_model("compact", seed=0), random_split(2)
    model.features[0][0][0].weight.data.fill_(torch.nan)
    with pytest.raises(CifarError, match="diverged"):
        explain.grad_cam(model, split.images, split.labels)


@pytest.fixture
def kept(tmp_path):
    """Random heatmaps (3, 2, 32, 32) in a recorder's folder; the file of epoch 1 was lost."""
    heatmaps = np.random.default_rng(0).random((3, 2, 32, 32), dtype=np.float32)
    for epoch, maps in zip((0, 2, 3), heatmaps, strict=True):
        np.savez(tmp_path / f"heatmaps-{epoch:03}.npz", heatmaps=maps, indices=np.arange(2))
    return torch.from_numpy(heatmaps)


@pytest.mark.parametrize(("last", "known"), [(9, 3), (2, 2), (1, 1)])
def test_heatmaps_are_read_in_order_up_to_the_last_epoch_wanted(tmp_path, kept, last, known):
    epochs, heatmaps, indices = explain.read_heatmaps(tmp_path, last)
    assert epochs == [0, 2, 3][:known]
    assert torch.equal(heatmaps, kept[:known]) and indices.tolist() == [0, 1]


def save(path, **changes):
    whole = {"heatmaps": np.zeros((2, 32, 32), np.float32), "indices": np.arange(2)}
    np.savez(path, **(whole | changes))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"heatmaps": np.full((2, 32, 32), 1.5, np.float32)}, r"are not in \[0, 1\]; train with"),
        ({"heatmaps": np.full((2, 32, 32), np.nan, np.float32)}, r"are not in \[0, 1\]"),
        ({"heatmaps": np.zeros((2, 8, 8), np.float32)}, "does not hold heatmaps of 32 by 32"),
        ({"heatmaps": np.zeros((3, 32, 32), np.float32)}, "one per image; train with --cam again"),
        ({"heatmaps": np.zeros((2, 32, 32), np.complex64)}, "does not hold heatmaps"),
        ({"heatmaps": np.array(["x"])}, "does not hold heatmaps"),
        ({"indices": np.arange(2.0)}, "does not hold heatmaps"),
        ({"indices": np.arange(1, 3)}, "its images are not those of epoch 0; train with --cam"),
        ({"heatmaps": np.array([None])}, "it is damaged, or not a file of heatmaps; train with"),
        ({"digest": np.array("0" * 32)}, "it has changed since it was written"),
        ({"mood": np.zeros(1)}, "does not hold heatmaps"),
    ],
)
def test_heatmaps_of_the_wrong_form_are_refused_by_name(tmp_path, change, complaint):
    save(tmp_path / "heatmaps-000.npz")
    save(tmp_path / "heatmaps-001.npz")
    assert explain.read_heatmaps(tmp_path, 1)[0] == [0, 1]
    save(tmp_path / "heatmaps-001.npz", **change)
    with pytest.raises(CifarError, match=rf"heatmaps-001\.npz: .*{complaint}"):
        explain.read_heatmaps(tmp_path, 1)


def test_each_image_has_a_gif_of_its_own_maps_over_the_epochs_that_there_are(
    tmp_path, kept, random_split
):
    split = random_split(5)[[4, 3]]
    paths = explain.CamRecorder(tmp_path, split).save_gifs(2)
    assert [path.name for path in paths] == ["cam-0-deer.gif", "cam-1-cat.gif"]
    for place, path in enumerate(paths):
        wanted = tmp_path / "wanted.gif"
        name = split.names[place]
        explain.save_cam_gif(wanted, split.images[place], kept[:2, place], name=name, epochs=[0, 2])
        assert path.read_bytes() == wanted.read_bytes()


def test_a_run_goes_on_only_with_the_same_images_and_options(tmp_path, random_split):
    split, run = random_split(5), SimpleNamespace(model=create_model("compact", seed=0))
    run.history = SimpleNamespace(epochs=[SimpleNamespace(epoch=1)])
    options = {"method": "hirescam", "stage": [1, 2]}
    explain.CamRecorder(tmp_path, split, **options).check()  # nothing is there yet
    explain.CamRecorder(tmp_path, split, **options)(run)
    explain.CamRecorder(tmp_path, split, **options).check()
    for other in (
        explain.CamRecorder(tmp_path, split[[1, 0, 2, 3, 4]], **options),
        explain.CamRecorder(tmp_path, split, method="hirescam", stage=[2]),
        explain.CamRecorder(tmp_path, split),
    ):
        with pytest.raises(CifarError, match="of other images, or by another method"):
            other.check()
