"""What a notebook shows: a training to watch, figures with alternative text, animations, folds."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_utils.course.quick import duration
from cifar_utils.errors import shown

if TYPE_CHECKING:  # the first cell may have to install what these modules need
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch.utils.data import DataLoader

    from cifar_utils.history import History
    from cifar_utils.running import Run


class Watch:
    """A training to look at: curves, a table and the time left, each updated in its place.

    watch = Watch(); fit(..., log=watch, progress=watch.progress). One Watch serves any number of
    runs. What stays at the end is a plain picture and a plain table, without widgets. Used in
    notebooks 02 and 05.
    """

    def __init__(self) -> None:
        self.run: Run | None = None

    def __call__(self, run: Run) -> None:
        """Show the run so far; `fit` calls this before the first epoch and after each."""
        from IPython.display import display

        self.history = run.history
        if run is not self.run:
            self.run = run
            self.began, self.first = time.perf_counter(), len(run.history.epochs)
            self.places = [display(_Text(""), display_id=True) for _ in range(3)]
        status, curves, table = self.places
        status.update(_Text(self._status(0.0)))
        curves.update(_curves(run.history))
        table.update(_Table(run.history))

    def progress(self, batches: DataLoader) -> Iterable[Any]:
        """The batches, one by one; renews the line twice a second with what is known by then."""
        self.renewed = time.perf_counter()
        return _Bar(batches, self._renew)

    def _renew(self, within: float, so_far: str) -> None:
        # `fit` shows a resumed run only at the end of its first epoch. Until then this Watch knows
        # no run, or one that has ended.
        runs = self.run is not None and not self._has_ended()
        if runs and time.perf_counter() - self.renewed > 0.5:
            self.renewed = time.perf_counter()
            self.places[0].update(_Text(self._status(within, so_far)))

    def _has_ended(self) -> bool:
        return self.history.is_finished

    def _status(self, within: float, so_far: str = "") -> str:
        """One line: how far the run is, and the time left.

        within: share of the epoch, 0 to 1. so_far: loss and accuracy in it, in words.
        """
        epochs, total = self.history.epochs, self.history.recipe.epochs
        elapsed = time.perf_counter() - self.began
        if self._has_ended():
            text = f"{self.history.title}: {total} epochs, {duration(elapsed)}"
            best = self.history.best
            if best:
                text += f"; validation accuracy {epochs[-1].val_accuracy:.2%} after the last"
                text += f", best {best.val_accuracy:.2%} after epoch {best.epoch}"
            return text
        text = f"{self.history.title}: epoch {len(epochs)} of {total}, {within:.0%}"
        text += f", {so_far}" if so_far else ""
        done = len(epochs) - self.first + within  # epochs since this Watch first saw the run
        if done > 0.02:
            text += f", {duration(elapsed / done * (total + 1 - self.first - done))} left"
        return text


class _Bar:
    """The batches of an epoch, as tqdm would wrap them; calls `renew` after each."""

    def __init__(self, batches: DataLoader, renew: Callable[[float, str], None]) -> None:
        self.batches, self.renew = batches, renew
        self.so_far = ""

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.batches):
            yield batch
            self.renew((number + 1) / len(self.batches), self.so_far)

    def set_postfix_str(self, text: str) -> None:
        """Called in training, with loss and accuracy so far."""
        self.so_far = text


class _Text:
    """A line for a notebook, as HTML and as plain text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.text)}</p>"


class _Table:
    """A row for each epoch of a History, as HTML and as plain text."""

    HEADS = ("epoch", "lr", "train loss", "train acc", "val loss", "val acc", "seconds")

    def __init__(self, history: History) -> None:
        self.rows = history.epochs

    def __repr__(self) -> str:
        return "\n".join(map(str, self.rows))

    def _repr_html_(self) -> str:
        lines = ["".join(f"<th>{head}</th>" for head in self.HEADS)]
        for row in self.rows:
            val = ("–", "–")
            if row.val_loss is not None:
                val = f"{row.val_loss:.4f}", f"{row.val_accuracy:.2%}"
            cells = (row.epoch, f"{row.lr:.3g}", f"{row.train_loss:.4f}",
                     f"{row.train_accuracy:.2%}", *val, f"{row.seconds:.1f}")  # fmt: skip
            lines.append("".join(f"<td>{cell}</td>" for cell in cells))
        return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _curves(history: History) -> Figure:
    """Loss and accuracy side by side, over an axis as long as the whole training."""
    from matplotlib.figure import Figure

    from cifar_utils import plots

    @plots.styled
    def draw() -> Figure:
        figure = Figure(figsize=(10, 3), layout="constrained")  # pyplot's would be shown twice
        metrics: tuple[plots.Metric, ...] = ("loss", "accuracy")
        for metric, ax in zip(metrics, figure.subplots(1, 2), strict=True):
            plots.plot_history(history, metric=metric, ax=ax)
            ax.set(title=metric, ylabel=None)
            ax.set_xlim(0, history.recipe.epochs)
        return figure

    return draw()


def prepare_figures() -> None:
    """Give all of the notebook's figures the course's style, and the words of `describe`.

    The style replaces the reader's own settings, so that all readers see the same. Does nothing
    outside a notebook.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is None:
        return
    import matplotlib.pyplot as plt
    from IPython.core.pylabtools import print_figure
    from matplotlib.figure import Figure

    from cifar_utils.plots import STYLE

    plt.style.use(["default", STYLE])

    def draw(figure: Figure) -> tuple[str, dict[str, str]] | None:
        data = print_figure(figure, "png", base64=True, dpi=90)
        return (data, {"alt": describe(figure)}) if data else None

    plt.switch_backend(plt.get_backend())  # this registers a renderer, which ours then replaces
    shell.display_formatter.formatters["image/png"].for_type(Figure, draw)


def describe(figure: Figure, *, longest: int = 400) -> str:
    """A figure in words, as its alternative text: at most `longest` characters.

    First comes the figure's title, or else its kind. Then come, for each panel, its title, the
    names of its axes, its legend and, if they are few, its texts.
    """
    title = figure.get_suptitle() or _kind(figure)
    counts = Counter(words for words in map(_panel_in_words, figure.axes) if words)
    panels = [words if count == 1 else f"{words} × {count}" for words, count in counts.items()]
    text = "; ".join([title, *panels])
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _kind(figure: Figure) -> str:
    pictures = sum(bool(ax.images) for ax in figure.axes)
    return f"{pictures} pictures" if pictures > 1 else "a picture" if pictures else "a chart"


def _panel_in_words(ax: Axes) -> str:
    across, up = ax.get_xlabel(), ax.get_ylabel()
    axes = f"{up} against {across}".strip() if across and up else across or up
    legend = ax.get_legend()
    names = [text.get_text() for text in legend.get_texts()] if legend else []
    texts = [text.get_text() for text in ax.texts] if len(ax.texts) < 10 else []
    words = [ax.get_title(), axes, ", ".join(names), ", ".join(texts)]
    return ": ".join(word.replace("\n", " ") for word in words if word.strip())


def show_gif(path: str | Path, alt: str) -> None:
    """Show an animated picture in the notebook, with its alternative text `alt`.

    It is shown as HTML, because pages made of notebooks keep no animated pictures among their
    outputs. Used in notebooks 04 and 08.
    """
    from IPython.display import HTML, display

    encoded = base64.b64encode(Path(path).read_bytes()).decode()
    display(HTML(f'<img src="data:image/gif;base64,{encoded}" alt="{escape(shown(alt))}">'))


class _Folded:
    """A text of many lines behind its title, which a reader may open."""

    def __init__(self, title: str, text: str) -> None:
        self.title, self.text = title, text

    def __repr__(self) -> str:
        return f"{self.title}\n{self.text}"

    def _repr_html_(self) -> str:
        inside = f"<summary>{escape(self.title)}</summary><pre>{escape(self.text)}</pre>"
        return f"<details>{inside}</details>"


def folded(title: str, text: str) -> None:
    """Show one line, `title`, that opens on a click; below it is `text`, such as a long table.

    Where nothing can be folded, both are shown as plain text. Used in notebook 04.
    """
    from IPython.display import display

    display(_Folded(title, text.strip("\n")))
