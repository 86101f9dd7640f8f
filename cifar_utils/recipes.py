"""Recipes: how each network is trained, as data.

A Recipe is a frozen row of plain values, so a command-line flag, a table cell and a field here are
the same thing. RECIPES lists the course's own recipes; under NAME-published, those of the five
systems that the course grew out of; and airbench94, which the fast ones grew out of.
"""

from dataclasses import asdict, dataclass, field, fields, replace

from cifar_utils.errors import CifarError, choose

VIEWS = (1, 2, 6)  # of an image, that test-time augmentation can average over


def knob(default, help):
    """A field with a default and the sentence that --help shows for it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Recipe:
    """One way to train one network. Every time span is a fraction of the training, in [0, 1].

    Raises CifarError for a value of another type, or beyond what __post_init__ allows.
    """

    name: str = knob("custom", "what to call it")
    model: str = knob("compact", "network to train")
    epochs: int = knob(30, "passes over the training images")
    batch_size: int = knob(128, "images a step")
    optimizer: str = knob("sgd", "sgd, adam, adamw or muon")
    lr: float = knob(0.1, "highest learning rate")
    vector_rate: float = knob(1.0, "factor on lr for biases and batch norm")
    muon_lr: float = knob(0.05, "highest learning rate of convolution kernels under muon")
    muon_steps: int = knob(5, "steps of the Newton-Schulz iteration with which muon orthogonalises")
    renormalize: bool = knob(False, "muon keeps each kernel's norm, instead of weight decay")
    momentum: float = knob(0.9, "momentum; Adam's first beta")
    muon_momentum: float = knob(0.0, "momentum of convolution kernels under muon; 0 for the same")
    beta2: float = knob(0.999, "Adam's second beta")
    nesterov: bool = knob(True, "Nesterov momentum, for sgd")
    weight_decay: float = knob(5e-4, "pull of the weights towards zero")
    decay_vectors: bool = knob(True, "weight decay on biases and batch norm too")
    schedule: str = knob("one-cycle", "constant, linear, cosine, step or one-cycle")
    warmup: float = knob(0.0, "fraction with a rising rate, before the schedule")
    peak: float = knob(0.25, "one-cycle: fraction at which the rate is highest")
    step_every: float = knob(0.25, "step: fraction between two steps")
    step_factor: float = knob(0.1, "step: factor on the rate at each step")
    step_decay_factor: float = knob(1.0, "step: factor on the weight decay at each step")
    label_smoothing: float = knob(0.0, "share of each label that is spread over all classes")
    clip_norm: float = knob(0.0, "longest gradient, longer ones are shortened; 0 for no limit")
    augmentation: str = knob("crop-flip", "augmentation policy")
    small_size: int = knob(32, "side of the images in the first part of the training, in pixels")
    small_until: float = knob(0.0, "fraction of the training on images of small_size")
    whitening: float = knob(0.0, "whiten the first layer, train its bias for this fraction; 0: no")
    winograd: bool = knob(False, "train 3×3 convolutions by Winograd's algorithm, in fp32 on a CPU")
    initialization: str = knob("default", "default, kaiming or dirac")
    dropout_factor: float = knob(1.0, "on the network's own dropout rates")
    teacher: str = knob("", "trained network to learn from as well: a name, weights file or run")
    teacher_share: float = knob(0.5, "share of the loss that its answers have, beside the labels")
    temperature: float = knob(1.0, "divides the logits of both, so that small probabilities count")
    views: int = knob(1, "test-time augmentation of the final test: 1, 2 or 6 views an image")
    seed: int = knob(0, "seed of weights, order, augmentation and dropout")

    def __post_init__(self):
        for known in fields(self):
            value, kind = getattr(self, known.name), known.type
            if kind is float and type(value) is int:
                object.__setattr__(self, known.name, float(value))
            elif type(value) is not kind:
                raise CifarError(f"{known.name} is {value!r}; it must be of type {kind.__name__}")
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "lr": (0 < self.lr < float("inf"), "above 0"),
            "muon_lr": (0 < self.muon_lr < float("inf"), "above 0"),
            "vector_rate": (0 < self.vector_rate < float("inf"), "above 0"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "muon_steps": (1 <= self.muon_steps <= 6, "in [1, 6]"),
            "muon_momentum": (0 <= self.muon_momentum < 1, "in [0, 1)"),
            "beta2": (0 <= self.beta2 < 1, "in [0, 1)"),
            "weight_decay": (0 <= self.weight_decay < float("inf"), "0 or more"),
            "warmup": (0 <= self.warmup < 1, "in [0, 1)"),
            "peak": (0 <= self.peak < 1, "in [0, 1)"),
            "step_every": (0 < self.step_every <= 1, "in (0, 1]"),
            "step_factor": (0 < self.step_factor <= 1, "in (0, 1]"),
            "step_decay_factor": (0 <= self.step_decay_factor < float("inf"), "0 or more"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "dropout_factor": (0 <= self.dropout_factor <= 1, "in [0, 1]"),
            "clip_norm": (0 <= self.clip_norm < float("inf"), "0 or more"),
            "small_size": (8 <= self.small_size <= 32, "in [8, 32]"),
            "small_until": (0 <= self.small_until <= 1, "in [0, 1]"),
            "whitening": (0 <= self.whitening <= 1, "in [0, 1]"),
            "teacher_share": (0 <= self.teacher_share <= 1, "in [0, 1]"),
            "temperature": (0 < self.temperature < float("inf"), "above 0"),
            "views": (self.views in VIEWS, "1, 2 or 6"),
            "seed": (0 <= self.seed < 2**32, "in [0, 2**32)"),
        }
        for name, (holds, wanted) in rules.items():
            if not holds:
                raise CifarError(f"{name} is {getattr(self, name)}; it must be {wanted}")

    def changed(self, **changes):
        """The same recipe with some fields changed.

        Raises CifarError for a name that is no field, and for a value as Recipe does.
        """
        names = [known.name for known in fields(self)]
        for name in changes:
            if name not in names:
                raise CifarError(f"a recipe has no field {name!r}; it has {', '.join(names)}")
        return replace(self, **changes)

    def initial(self):
        """The fields that create_model takes: create_model(recipe.model, **recipe.initial())."""
        names = ("seed", "initialization", "dropout_factor")
        return {name: getattr(self, name) for name in names}

    def as_dict(self):
        """Plain values by field name, for JSON; Recipe(**…) is the way back."""
        return asdict(self)


# The course's own. Those without a figure have not been run to their end.
_OWN = (
    # 90.91%, one seed; 56 min on CPU, 2 threads, bf16
    Recipe("vgg", model="vgg", epochs=15, optimizer="muon", lr=0.05, muon_lr=0.02,
           weight_decay=0.01, decay_vectors=False, label_smoothing=0.1, clip_norm=1.0,
           augmentation="crop-alternating", initialization="kaiming"),
    # 91.94%, one seed; 48 min on CPU, 2 threads, bf16
    Recipe("conv5", model="conv5", epochs=60, optimizer="muon", lr=0.05, muon_lr=0.02,
           weight_decay=0.01, decay_vectors=False, label_smoothing=0.1, clip_norm=1.0,
           augmentation="crop-alternating", initialization="kaiming", dropout_factor=0.3),
    # 90.33 ± 0.20%, 3 seeds; 19 min on CPU, 2 threads, bf16
    Recipe("compact", model="compact", epochs=40, batch_size=256, optimizer="muon", lr=0.1,
           muon_lr=0.05, weight_decay=0.01, decay_vectors=False, label_smoothing=0.1,
           augmentation="crop-alternating-cutout", dropout_factor=0.3),
    # The same network with a teacher beside the labels: that of the recipe "fast", trained without
    # the validation images, so that they still tell the truth about the student.
    # 91.22%, one seed; 91 min on CPU, 2 threads, fp32
    Recipe("compact-distilled", model="compact", epochs=40, batch_size=256, optimizer="muon",
           lr=0.1, muon_lr=0.05, weight_decay=0.01, decay_vectors=False, label_smoothing=0.1,
           augmentation="crop-alternating-cutout", winograd=True, dropout_factor=0.0,
           teacher="fast-val", teacher_share=0.9, temperature=2.0),
    # 89.98%, one seed; 58 min on CPU, 2 threads, bf16
    Recipe("separable", model="separable", epochs=40, optimizer="muon", lr=0.1, muon_lr=0.05,
           weight_decay=0.01, decay_vectors=False, augmentation="crop-alternating"),
    # With the same teacher; small images in the first half win back some of the time it takes.
    # 90.72%, one seed; 122 min on CPU, 2 threads, fp32
    Recipe("separable-distilled", model="separable", epochs=40, optimizer="muon", lr=0.1,
           muon_lr=0.05, weight_decay=0.01, decay_vectors=False, augmentation="crop-alternating",
           small_size=24, small_until=0.5, winograd=True, dropout_factor=0.0,
           teacher="fast-val", teacher_share=0.9, temperature=2.0),
    # 94.43%, one seed; 129 min on CPU, 2 threads, fp32
    Recipe("resnet18", model="resnet18", epochs=23, batch_size=256, optimizer="muon", lr=0.1,
           muon_lr=0.05, weight_decay=0.01, decay_vectors=False, label_smoothing=0.1,
           augmentation="crop-alternating-cutout", small_size=20, small_until=0.65,
           winograd=True, dropout_factor=0.0),
    # airbench94 below, with the figures of Hiverge's tuning of it (github.com/hiverge/cifar10-
    # speedrun) put into our terms in the same way, but in batches of 500 instead of 1,536 (lr in
    # proportion, for the mean loss has the same gradient in every batch, and muon_lr to its root),
    # on small images first and, in fp32 on a CPU, with Winograd's convolutions: these two buy the
    # time of 11 epochs in place of 7.6. Theirs also has, among others, SiLU in place of GELU,
    # kernels that are renormalised more rarely, and more views for the least confident quarter only
    # (predict's `share`).
    # 93.32 ± 0.23% one view, 94.16 ± 0.11% six, 3 seeds; 13.0 min on Intel Xeon, 2 threads, fp32
    Recipe("fast", model="fastnet", epochs=11, batch_size=500, optimizer="muon", lr=0.335,
           vector_rate=85.6, muon_lr=0.117, renormalize=True, momentum=0.825, muon_momentum=0.655,
           weight_decay=0.0089, schedule="linear", label_smoothing=0.09,
           augmentation="translate-alternating-color", small_size=20, small_until=0.5,
           whitening=0.026, winograd=True, initialization="dirac", views=6),
    # The same on a network of half the width, but for its last group.
    # 91.56 ± 0.14% one view, 92.69 ± 0.01% six, 3 seeds; 10.6 min on AMD EPYC, 2 threads, fp32
    Recipe("quick", model="fastnet-quick", epochs=11, batch_size=500, optimizer="muon", lr=0.335,
           vector_rate=85.6, muon_lr=0.117, renormalize=True, momentum=0.825, muon_momentum=0.655,
           weight_decay=0.0089, schedule="linear", label_smoothing=0.09,
           augmentation="translate-alternating-color", small_size=20, small_until=0.5,
           whitening=0.026, winograd=True, initialization="dirac", views=6),
)  # fmt: skip

# As their authors' code has them. Fields that theirs lacks are at torch's defaults.
_PUBLISHED = (
    Recipe("vgg-published", model="vgg", epochs=15, batch_size=8, lr=1e-3, nesterov=False,
           weight_decay=0.0, schedule="constant", augmentation="vgg-published"),
    # 300 epochs at 9.4e-4 and 100 at 2.4e-4, where weight decay goes from 1.1e-4 to 2.1e-4.
    Recipe("conv5-published", model="conv5", epochs=400, batch_size=64, optimizer="adam", lr=9.4e-4,
           beta2=0.995, weight_decay=1.1e-4, schedule="step", step_every=0.75,
           step_factor=2.4 / 9.4, step_decay_factor=2.1 / 1.1, augmentation="conv5-torchvision"),
    Recipe("compact-published", model="compact", epochs=100, optimizer="adam", lr=1e-3,
           weight_decay=0.0, schedule="cosine", augmentation="compact-torchvision"),
    Recipe("separable-published", model="separable", epochs=80, batch_size=256, lr=0.2,
           nesterov=False, weight_decay=0.0, schedule="step", step_every=5 / 80, step_factor=0.75,
           augmentation="separable-published"),
    Recipe("resnet18-published", model="resnet18", epochs=25, batch_size=32, optimizer="adam",
           lr=1e-3, weight_decay=0.0, schedule="one-cycle", peak=5 / 25,
           augmentation="resnet18-published"),
    # Keller Jordan's airbench94_muon.py (github.com/KellerJordan/cifar10-airbench, arXiv
    # 2404.00498). It adds the loss up over the 2,000 images of a batch where we take the mean, so
    # its rates for head (0.67) and biases (0.053) count 2,000 times here. Its head divides logits
    # by 256 and has weights of size 1; ours divides by 9 and has torch's, of size 9/256: so the
    # head's rate also shrinks by (9/256)². The weight decay of 0.004 a step goes through momentum
    # there, which makes it 1 / (1 - 0.85) times as large; here it is lr · weight_decay.
    # Three things differ: it orthogonalises in bf16, we in fp32; it leaves out of each epoch what
    # does not fill a batch (none of 50,000 images), we take a short one; and of its six views the
    # two unshifted ones count as much as the four shifted ones, ours count alike.
    # 93.18 ± 0.12% one view, 94.00 ± 0.24% six, 5 seeds; 18.2 min on Intel Xeon, 2 threads, fp32
    Recipe("airbench94", model="fastnet", epochs=8, batch_size=2000, optimizer="muon", lr=1.656,
           vector_rate=64, muon_lr=0.24, muon_steps=3, renormalize=True, momentum=0.85,
           muon_momentum=0.6, weight_decay=0.0161, schedule="linear", label_smoothing=0.2,
           augmentation="translate-alternating", whitening=3 / 8, initialization="dirac", views=6),
)  # fmt: skip

_DEEPER = ("resnet34", "resnet50", "resnet101", "resnet152")

RECIPES = {recipe.name: recipe for recipe in _OWN}
RECIPES |= {name: RECIPES["resnet18"].changed(name=name, model=name) for name in _DEEPER}
RECIPES |= {recipe.name: recipe for recipe in _PUBLISHED}


def get_recipe(name):
    """The recipe of that name; CifarError with the valid names for an unknown one."""
    choose(name, RECIPES, "recipe")
    return RECIPES[name]
