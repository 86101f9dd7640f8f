"""Recipes: how each network is trained, as data.

A Recipe is a frozen row of plain values, so a command-line flag, a table cell and a field here are
the same thing. RECIPES lists the course's own recipes; under NAME-published, those of the five
systems that the course grew out of; and airbench94, on which the fast ones build. What a recipe has
reached is in the histories that ship with the package: `cifar recipes` prints it.
"""

from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

from cifar_utils.errors import CifarError, choose, did_you_mean, plain


def option(
    default: Any, help: str, *, within: str = "", only_with: tuple = (), flag: str = ""
) -> Any:
    """A field of Recipe: its default, and all else that is known about it.

    Args:
        help: the sentence that --help shows.
        within: the range of a number, as an interval: "[0, 1)" includes 0 and excludes 1.
        only_with: the field that this one needs in order to have any effect. Either its name alone,
            if every value but zero or none will do, or its name and the values that will do.
        flag: its flag on the command line, if that is not the field's own name.
    """
    known = {"help": help, "within": within, "only_with": only_with, "flag": flag}
    return field(default=default, metadata=known)


@dataclass(frozen=True)
class Recipe:
    """One way to train one network. Every time span is a fraction of the training, in [0, 1].

    NumPy's numbers are taken as Python's, and whole numbers as floats where a float is wanted.
    Raises CifarError for any other type and for a value outside its field's range.
    """

    # fmt: off
    name: str = option("custom", "what to call it")
    model: str = option("compact", "network to train; a wrong name lists all")
    epochs: int = option(30, "passes over the training images", within="[1, inf)")
    epochs_before: int = option(0, "of these, how many an earlier recipe trained; schedules begin "
                                "after them", within="[0, inf)")
    batch_size: int = option(128, "images per step", within="[1, inf)")
    optimizer: Literal["sgd", "adam", "adamw", "muon"] = option("sgd", "optimizer")
    lr: float = option(0.1, "highest learning rate", within="(0, inf)")
    bias_lr_factor: float = option(1.0, "factor on lr for biases and batch norm", within="(0, inf)")
    muon_lr: float = option(0.05, "highest learning rate of convolution kernels",
                            within="(0, inf)", only_with=("optimizer", ("muon",)))
    muon_steps: int = option(5, "Newton-Schulz iterations with which Muon orthogonalises",
                             within="[1, 6]", only_with=("optimizer", ("muon",)))
    renormalize: bool = option(False, "Muon keeps each kernel's norm, instead of weight decay",
                               only_with=("optimizer", ("muon",)))
    momentum: float = option(0.9, "momentum; Adam's first beta", within="[0, 1)")
    peak_momentum: float = option(0.0, "momentum where the rate is highest; 0: always the same",
                                  within="[0, 1)", only_with=("schedule", ("one-cycle",)))
    muon_momentum: float = option(0.0, "momentum of convolution kernels; 0: the same as momentum",
                                  within="[0, 1)", only_with=("optimizer", ("muon",)))
    beta2: float = option(0.999, "Adam's second beta",
                          within="[0, 1)", only_with=("optimizer", ("adam", "adamw")))
    nesterov: bool = option(True, "Nesterov momentum", only_with=("optimizer", ("sgd",)))
    weight_decay: float = option(5e-4, "how strongly weights are pulled towards zero",
                                 within="[0, inf)")
    decay_biases: bool = option(True, "weight decay on biases and batch norm too")
    schedule: Literal["constant", "linear", "cosine", "step", "one-cycle", "plateau"] = option(
        "one-cycle", "how the learning rate changes")
    per_epoch: bool = option(False, "the learning rate changes only between epochs",
                             only_with=("schedule", ("linear", "cosine", "step", "one-cycle")))
    peak: float = option(0.25, "fraction of the training at which the rate is highest",
                         within="[0, 1)", only_with=("schedule", ("one-cycle",)))
    start_factor: float = option(0.04, "first learning rate, as a fraction of the highest",
                                 within="[0, 1]", only_with=("schedule", ("one-cycle",)))
    end_factor: float = option(0.0, "last learning rate, as a fraction of the highest",
                               within="[0, 1]", only_with=("schedule", ("one-cycle",)))
    step_every: float = option(0.25, "fraction of the training between two steps",
                               within="(0, 1]", only_with=("schedule", ("step",)))
    step_factor: float = option(0.1, "factor on the learning rate at each step",
                                within="(0, 1]", only_with=("schedule", ("step", "plateau")))
    patience: int = option(5, "epochs without a lower validation loss after which the rate steps",
                           within="[0, inf)", only_with=("schedule", ("plateau",)))
    step_decay_factor: float = option(1.0, "factor on the weight decay at each step",
                                      within="[0, inf)", only_with=("schedule", ("step",)))
    label_smoothing: float = option(0.0, "share of each label that is spread over all classes",
                                    within="[0, 1)")
    clip_norm: float = option(0.0, "clip the gradient norm to at most this; 0: no limit",
                              within="[0, inf)")
    augmentation: str = option("crop-flip", "augmentation policy; a wrong name lists all")
    small_size: int = option(32, "side of the smaller images, in pixels",
                             within="[8, 32]", only_with=("small_until",))
    small_until: float = option(0.0, "fraction of the training on the smaller images",
                                within="[0, 1]")
    whitening: float = option(0.0, "whiten the first layer; its bias learns for this fraction",
                              within="[0, 1]")
    winograd: bool = option(False, "compute 3×3 convolutions by Winograd's algorithm (CPU)")
    initialization: Literal["default", "kaiming", "dirac"] = option("default", "first weights")
    start_from: str = option("", "trained weights to start from: a name, weights file or run",
                             flag="--from")
    dropout_factor: float = option(1.0, "factor on the network's own dropout rates",
                                   within="[0, 1]")
    teacher: str = option("", "trained network to learn from as well: a name, weights file or run")
    teacher_share: float = option(0.5, "share of the loss that comes from the teacher",
                                  within="[0, 1]", only_with=("teacher",))
    temperature: float = option(1.0, "divides the logits of network and teacher",
                                within="(0, inf)", only_with=("teacher",))
    views: Literal[1, 2, 6] = option(1, "views per image in the final test")
    seed: int = option(0, "seed of weights, order, augmentation and dropout",
                       within="[0, 4294967296)")
    # fmt: on

    def __post_init__(self) -> None:
        for known in fields(self):
            value = plain(getattr(self, known.name))
            if known.type is float and type(value) is int:
                value = _as_float(value)
            object.__setattr__(self, known.name, value)
            if type(value) is not kind_of(known):
                kind = kind_of(known).__name__
                raise CifarError(f"{known.name} is {value!r}; it must be of type {kind}")
            elif choices_of(known):
                choose(value, choices_of(known), known.name)
            if known.metadata["within"] and not _is_within(value, known.metadata["within"]):
                wanted = in_words(known.metadata["within"])
                wanted = "finite" if value == float("inf") else wanted
                raise CifarError(f"{known.name} is {value}; it must be {wanted}")
        if self.epochs <= self.epochs_before:
            raise CifarError(
                f"epochs is {self.epochs}; it must be above epochs_before, {self.epochs_before}"
            )
        if self.start_from and self.epochs_before:
            raise CifarError(
                "with epochs_before a run goes on from its own weights, not start_from"
            )

    def progress(self, epochs: float) -> float:
        """How much of the training is done after so many epochs, as a fraction."""
        return (epochs - self.epochs_before) / (self.epochs - self.epochs_before)

    def image_size(self, progress: float) -> int:
        """The side in pixels of the images that are trained on at `progress`, a fraction."""
        return self.small_size if progress < self.small_until else 32

    def changed(self, **changes: Any) -> Self:
        """The same recipe with some fields changed.

        Raises CifarError for a name that is not a field, for another value in a field that the
        changed recipe would never read, and for a value as Recipe does.
        """
        known = {field.name: field for field in fields(self)}
        for name in changes:
            if name not in known:
                near = did_you_mean(name, known) or ";"
                raise CifarError(f"a recipe has no field {name!r}{near} it has {', '.join(known)}")
        changed = replace(self, **changes)
        for name in changes:
            needed = known[name].metadata["only_with"]
            if needed and getattr(changed, name) != getattr(self, name):
                wanted = needed[1] if len(needed) > 1 else ()
                value = getattr(changed, needed[0])
                if not (value in wanted if wanted else value):
                    what = " ".join([needed[0], " or ".join(wanted)]).strip()
                    raise CifarError(f"{name} does nothing without {what}")
        return changed

    def as_dict(self) -> dict[str, Any]:
        """Plain values by field name, for JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The recipe that `as_dict` described, in files of older versions, too.

        Raises CifarError for a field that no version knows.
        """
        values = {_RENAMED.get(name, name): value for name, value in values.items()}
        for name, unused in _RETIRED.items():
            if values.pop(name, unused) != unused:
                raise CifarError(f"this recipe sets {name}, which this version no longer knows")
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                near = did_you_mean(str(name), known) or ";"
                raise CifarError(
                    f"unknown recipe field {name!r:.60}{near} a newer cifar_utils may know it"
                )
        return cls(**values)


_RENAMED = {"vector_rate": "bias_lr_factor", "decay_vectors": "decay_biases"}  # until 0.1
_RETIRED = {  # at these values, which are in older files, they did nothing
    "warmup": 0.0, "hardest_share": 0.0, "hardest_from": 0.4, "middle_size": 32,
    "middle_until": 0.0, "answers_epochs": 0, "ema": 0.0, "branches": False,
}  # fmt: skip


def check_recipe(recipe: Any) -> None:
    """Raise CifarError if it is not a Recipe."""
    if not isinstance(recipe, Recipe):
        kind = type(recipe).__name__
        raise CifarError(f"recipe: of type {kind}; get_recipe(NAME) makes a Recipe")


def kind_of(known: Field) -> type:
    """The type of a field's values: that of its choices, if it has any."""
    choices = choices_of(known)
    return type(choices[0]) if choices else known.type  # type: ignore[return-value]


def choices_of(known: Field) -> tuple:
    """The values that a field may have; () if it has a range or is free."""
    return get_args(known.type)


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:  # beyond 1.8e308; no field takes infinity
        return float("inf") if value > 0 else float("-inf")


def _is_within(value: Any, interval: str) -> bool:
    low, high = map(float, interval[1:-1].split(", "))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below


def in_words(interval: str) -> str:
    """An interval such as "[1, inf)" as words: "at least 1"."""
    low, high = interval[1:-1].split(", ")
    if high != "inf":
        return f"in {interval}"
    return f"at least {low}" if interval[0] == "[" else f"above {low}"


# The course's own.
_OWN = (
    Recipe("vgg", model="vgg", epochs=15, optimizer="muon", lr=0.05, muon_lr=0.02,
           weight_decay=0.01, decay_biases=False, label_smoothing=0.1, clip_norm=1.0,
           augmentation="crop-alternating", initialization="kaiming"),
    Recipe("conv5", model="conv5", epochs=60, optimizer="muon", lr=0.05, muon_lr=0.02,
           weight_decay=0.01, decay_biases=False, label_smoothing=0.1, clip_norm=1.0,
           augmentation="crop-alternating", initialization="kaiming", dropout_factor=0.3),
    Recipe("compact", model="compact", epochs=40, batch_size=256, optimizer="muon", lr=0.1,
           muon_lr=0.05, weight_decay=0.01, decay_biases=False, label_smoothing=0.1,
           augmentation="crop-alternating-cutout", dropout_factor=0.3),
    # The same network with a teacher beside the labels: that of the recipe "fast", trained without
    # the validation images, so that they still tell the truth about the student.
    Recipe("compact-distilled", model="compact", epochs=40, batch_size=256, optimizer="muon",
           lr=0.1, muon_lr=0.05, weight_decay=0.01, decay_biases=False, label_smoothing=0.1,
           augmentation="crop-alternating-cutout", winograd=True, dropout_factor=0.0,
           teacher="fast-val", teacher_share=0.9, temperature=2.0),
    Recipe("separable", model="separable", epochs=40, optimizer="muon", lr=0.1, muon_lr=0.05,
           weight_decay=0.01, decay_biases=False, augmentation="crop-alternating"),
    # With the same teacher; small images in the first half win back some of the time it takes.
    Recipe("separable-distilled", model="separable", epochs=40, optimizer="muon", lr=0.1,
           muon_lr=0.05, weight_decay=0.01, decay_biases=False, augmentation="crop-alternating",
           small_size=24, small_until=0.5, winograd=True, dropout_factor=0.0,
           teacher="fast-val", teacher_share=0.9, temperature=2.0),
    Recipe("resnet18", model="resnet18", epochs=23, batch_size=256, optimizer="muon", lr=0.1,
           muon_lr=0.05, weight_decay=0.01, decay_biases=False, label_smoothing=0.1,
           augmentation="crop-alternating-cutout", small_size=20, small_until=0.65,
           winograd=True, dropout_factor=0.0),
    # airbench94 below, with the figures of Hiverge's tuning of it (github.com/hiverge/cifar10-
    # speedrun) put into our terms in the same way, but in batches of 500 instead of 1,536 (lr in
    # proportion, because the mean loss has the same gradient in every batch, and muon_lr to its
    # root), on small images first and, on a CPU, with Winograd's convolutions. These two
    # buy the time of 11 epochs in place of 7.6. Theirs also has, among others, SiLU in place of
    # GELU, kernels that are renormalised more rarely, and more views for the least confident
    # quarter only (predict's `share`).
    Recipe("fast", model="fastnet", epochs=11, batch_size=500, optimizer="muon", lr=0.335,
           bias_lr_factor=85.6, muon_lr=0.117, renormalize=True, momentum=0.825,
           muon_momentum=0.655, weight_decay=0.0089, schedule="linear", label_smoothing=0.09,
           augmentation="translate-alternating-color", small_size=20, small_until=0.5,
           whitening=0.026, winograd=True, initialization="dirac", views=6),
    # The same on a network of half the width, except for its last group.
    Recipe("quick", model="fastnet-quick", epochs=11, batch_size=500, optimizer="muon", lr=0.335,
           bias_lr_factor=85.6, muon_lr=0.117, renormalize=True, momentum=0.825,
           muon_momentum=0.655, weight_decay=0.0089, schedule="linear", label_smoothing=0.09,
           augmentation="translate-alternating-color", small_size=20, small_until=0.5,
           whitening=0.026, winograd=True, initialization="dirac", views=6),
)  # fmt: skip

# As their authors' code has them. Fields that theirs lacks are at torch's defaults. One thing is
# ours in all: images are normalised with the true mean and standard deviation of the training
# images. The authors of vgg and compact took 0.5 for both.
_PUBLISHED = (
    Recipe("vgg-published", model="vgg", epochs=15, batch_size=8, lr=1e-3, nesterov=False,
           weight_decay=0.0, schedule="constant", augmentation="vgg-published"),
    # 300 epochs, then 100 at another rate and weight decay. They began those with a fresh Adam;
    # ours keeps its moments.
    Recipe("conv5-published", model="conv5", epochs=400, batch_size=64, optimizer="adam",
           lr=9.446932e-4, beta2=0.995, weight_decay=1.125745e-4, schedule="step", step_every=0.75,
           step_factor=2.357093 / 9.446932, step_decay_factor=2.125745 / 1.125745,
           augmentation="conv5-published"),
    Recipe("compact-published", model="compact", epochs=100, optimizer="adam", lr=1e-3,
           weight_decay=0.0, schedule="cosine", per_epoch=True, augmentation="compact-published"),
    Recipe("separable-published", model="separable", epochs=80, batch_size=256, lr=0.2,
           nesterov=False, weight_decay=0.0, schedule="step", step_every=5 / 80, step_factor=0.75,
           augmentation="separable-published"),
    # The highest rate is what their range test of learning rates suggested at commit 4a7ec68. At
    # 32eac68, with whose 93.11% we compare, it was 1.32e-2. The last rate is 1/100 of the first, as
    # torch's OneCycleLR has it, and the momentum goes down as the rate goes up.
    Recipe("resnet18-published", model="resnet18", epochs=25, batch_size=32, optimizer="adam",
           lr=1.59e-2, momentum=0.95, peak_momentum=0.85, weight_decay=0.0, schedule="one-cycle",
           peak=5 / 25, start_factor=1 / 100, end_factor=1 / 100**2,
           augmentation="resnet18-published"),
    # Keller Jordan's airbench94_muon.py (github.com/KellerJordan/cifar10-airbench, arXiv
    # 2404.00498). It adds up the loss of the 2,000 images of a batch, but we take the mean. So
    # its rates for head (0.67) and biases (0.053) count 2,000 times here. Its head divides logits
    # by 256 and has weights of size 1; ours divides by 9 and has torch's, of size 9/256: so the
    # head's rate also shrinks by (9/256)². The weight decay of 0.004 a step goes through momentum
    # there, which makes it 1 / (1 - 0.85) times as large; here it is lr · weight_decay.
    # Three things differ: it orthogonalises in bf16, we in fp32; it leaves out of each epoch what
    # does not fill a batch (none of 50,000 images), we take a short one; and of its six views the
    # two unshifted ones count as much as the four shifted ones, ours count alike.
    Recipe("airbench94", model="fastnet", epochs=8, batch_size=2000, optimizer="muon", lr=1.656,
           bias_lr_factor=64, muon_lr=0.24, muon_steps=3, renormalize=True, momentum=0.85,
           muon_momentum=0.6, weight_decay=0.0161, schedule="linear", label_smoothing=0.2,
           augmentation="translate-alternating", whitening=3 / 8, initialization="dirac", views=6),
)  # fmt: skip

_DEEPER = ("resnet34", "resnet50", "resnet101", "resnet152")

RECIPES = {recipe.name: recipe for recipe in _OWN}
RECIPES |= {name: RECIPES["resnet18"].changed(name=name, model=name) for name in _DEEPER}
RECIPES |= {recipe.name: recipe for recipe in _PUBLISHED}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises CifarError, with the valid names, for an unknown one."""
    choose(name, RECIPES, "recipe")
    return RECIPES[name]
