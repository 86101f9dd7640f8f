"""The folder that keeps a training, so that it can be resumed."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from cifar_utils.checkpoints import WeightsInfo, load_checkpoint, save_checkpoint, save_weights
from cifar_utils.data import Split
from cifar_utils.errors import CifarError
from cifar_utils.heatmaps import forget_heatmaps, has_heatmaps
from cifar_utils.history import History
from cifar_utils.recipes import Recipe
from cifar_utils.running import Run, follows
from cifar_utils.sources.files import expanded, remove_leftovers
from cifar_utils.speed.distributed import broadcast, rank


class RunFolder:
    """The folder of one run, for notebooks as for `cifar train`.

        with RunFolder("runs/compact") as folder:
            fit(model, cifar.train, cifar.val, recipe, log=folder.save, resume=folder.state(recipe))

    It holds history.json, weights.safetensors (last epoch), best.safetensors (best on validation)
    and checkpoint.pt, all written anew after each epoch, and cam/ with heatmaps, if any are kept.
    If you run the same lines again, training goes on where it stopped. If it has finished,
    `recipe = folder.continuing(recipe.changed(epochs=…))` trains it further. Inside `with` nobody
    else can train into the folder. With several processes, only the first touches it.

    The process may be killed at any moment. The checkpoint is written last, and while a new run has
    none, an empty file .begun says so, because nothing that lies there then is worth keeping.

    Args:
        resume: go on with the run that the folder holds, if any; by default unless it is replaced.
        overwrite: replace it. With neither, a folder that holds a run is refused.
    """

    def __init__(
        self, path: str | Path, *, resume: bool | None = None, overwrite: bool = False
    ) -> None:
        self.path = expanded(path)
        self.resume, self.overwrite = not overwrite if resume is None else resume, overwrite
        self.saved = False  # whether --resume could go on from here
        self._lock = FileLock(self.path / ".lock", thread_local=False)
        self._made: list[Path] = []  # the folders that were not there before, the innermost first
        self._kept: dict[str, Any] | None = None  # the checkpoint, once it was asked for
        self._asked = False

    def __enter__(self) -> Self:
        self._kept, self._asked, self.saved = None, False, False  # it may have been used before
        if rank() == 0:
            self._made = [place for place in (self.path, *self.path.parents) if not place.exists()]
            self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        if self._made and not self.saved:  # a run that was refused leaves nothing behind
            with suppress(OSError):  # Windows deletes no open file, but removes the lock itself
                (self.path / ".lock").unlink()
        self._lock.release()
        with suppress(OSError):  # one that is not empty stays
            for place in self._made:
                place.rmdir()

    def recipe(self) -> Recipe | None:
        """The recipe of the run that is to be resumed, or None if there is none."""
        state = self._checkpoint()
        return History.from_json(state["history"]).recipe if state else None

    def continuing(self, recipe: Recipe) -> Recipe:
        """The recipe, set to begin after the run in the folder, if that has finished fewer epochs.

        Its schedules then span the epochs that are left. A run that has been continued already is
        resumed under the same recipe.
        """
        state = self._checkpoint()
        if state is None:
            return recipe
        history = History.from_json(state["history"])
        kept = history.recipe
        more = history.is_finished and recipe.epochs > kept.epochs
        before = kept.epochs if more else kept.epochs_before
        if before >= recipe.epochs:
            return recipe
        if before and recipe.start_from not in (
            "",
            *(one.start_from for one in (kept, *history.earlier)),
        ):
            raise CifarError(
                f"the run in {self.path} goes on from its own weights; leave out --from"
            )
        first = "" if before else recipe.start_from  # it has started there already
        return recipe.changed(epochs_before=before, start_from=first)

    def state(self, recipe: Recipe) -> dict[str, Any] | None:
        """What `fit` takes as `resume`: the checkpoint, or None for a run that starts anew.

        A finished run can go on under another recipe: one whose epochs_before are its epochs.
        Raises CifarError if a run is there that is not to be resumed or replaced, if it was started
        by another recipe, and if it lacks its checkpoint or that is damaged.
        """
        state = self._checkpoint()
        history = History.from_json(state["history"]) if state else None
        if history and not follows(recipe, history):
            kept = history.recipe
            if history.is_finished:
                remedy = (
                    f"to train it further, ask for more epochs than its {kept.epochs} "
                    "(--epochs, folder.continuing)"
                )
            else:
                remedy = "for another, start anew (overwrite=True, --overwrite, or another folder)"
            for name, value in recipe.as_dict().items():
                if value != getattr(kept, name):
                    raise CifarError(
                        f"the run in {self.path} was started with {name} {getattr(kept, name)!r}, "
                        f"not {value!r}; resuming keeps its recipe; {remedy}"
                    )
        self.saved = bool(state)
        return state

    def check_data(self, train: Split, val: Split) -> None:
        """Raise CifarError, naming both, if the run was started on other data than these splits."""
        state = self._checkpoint()
        if state is None:
            return
        was = History.from_json(state["history"])
        if (was.source, was.train_images, was.val_images) != (train.source, len(train), len(val)):
            raise CifarError(
                f"the run was started on {was.source} with {was.train_images:,} training and "
                f"{was.val_images:,} validation images, not on {train.source} with "
                f"{len(train):,} and {len(val):,}; give the same images and the same split "
                "(--data, --source, --limit, --validation)"
            )

    def save(self, run: Run, *, recorder: Callable[[Run], object] | None = None) -> None:
        """Write all files of a run after an epoch; `recorder`, a CamRecorder, writes its own.

        The checkpoint comes last, because it marks the other files as complete. At epoch 0 the run
        that this one replaces goes.
        """
        row = run.history.epochs[-1]
        if row.epoch == 0:  # only now, once `fit` has accepted its arguments
            kept = self._kept if self._asked else self._read()
            if kept and not self.overwrite:
                raise CifarError(
                    f"{self.path} holds a run; pass resume=folder.state(recipe) to fit, or "
                    "overwrite=True to RunFolder"
                )
            self._take()
            self._make_room()
        if recorder:
            recorder(run)
        info = WeightsInfo(run.history.recipe, run.history.source, run.classes, row.epoch)
        save_weights(self.path / "weights.safetensors", run.model, info)
        if run.history.best is row:
            save_weights(self.path / "best.safetensors", run.model, info)
        run.history.save(self.path / "history.json")
        save_checkpoint(self.path / "checkpoint.pt", run.state())
        (self.path / ".begun").unlink(missing_ok=True)
        self.saved = True

    def _make_room(self) -> None:
        """Delete the run that is replaced. From the first line on, none is there."""
        begun, checkpoint = self.path / ".begun", self.path / "checkpoint.pt"
        if checkpoint.exists():  # one step: killed between two, the rest would be a foreign run
            checkpoint.replace(begun)
        begun.write_bytes(b"")
        for name in ("history.json", "weights.safetensors", "best.safetensors", "curves.png"):
            (self.path / name).unlink(missing_ok=True)
        forget_heatmaps(self.path / "cam")

    def _checkpoint(self) -> dict[str, Any] | None:
        if not self._asked:
            self._kept = broadcast(self._read() if rank() == 0 else None)
            self._asked = True
        return self._kept

    def _read(self) -> dict[str, Any] | None:
        checkpoint = self.path / "checkpoint.pt"
        names = ("weights.safetensors", "best.safetensors", "history.json")
        held = any((self.path / name).exists() for name in names)
        held = held or has_heatmaps(self.path / "cam")
        held = checkpoint.exists() or (held and not (self.path / ".begun").exists())
        if held and not self.resume and not self.overwrite:
            raise CifarError(
                f"{self.path} holds a run already; go on with it (resume=True, --resume), "
                "replace it (overwrite=True, --overwrite), or choose another folder"
            )
        if not self.resume:
            return None
        if checkpoint.exists():
            return load_checkpoint(checkpoint)
        if held and not self.overwrite:
            raise CifarError(
                f"{self.path} holds a run without checkpoint.pt, so it cannot be resumed; replace "
                "it (overwrite=True, --overwrite), or choose another folder"
            )
        return None

    def _take(self) -> None:
        """Hold the folder's lock from now on. Raises CifarError if another process holds it."""
        if self._lock.is_locked:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):  # a file, or a link to nothing
            raise CifarError(f"{self.path} is not a folder; choose another one") from None
        try:
            self._lock.acquire(timeout=0)
            for folder in (self.path, self.path / "cam"):
                remove_leftovers(folder, older_than=0)  # nobody else is writing here
        except Timeout:
            raise CifarError(
                f"another training is writing to {self.path} now (if not, delete "
                f"{self._lock.lock_file}); choose another folder"
            ) from None
        except (NotImplementedError, OSError):
            pass  # some network drives do not support locks
