"""What a notebook shows: a live training, figures with alternative text, animations."""

import base64
import time
from collections import Counter
from html import escape
from pathlib import Path

from cifar_utils.course.quick import duration


class Watch:
    """A training to look at: curves, a table and the time left, each updated in its place.

    watch = Watch(); fit(..., log=watch, progress=watch.progress). One Watch serves any number of
    runs. What is left at the end is a plain picture and a plain table, without widgets. Used in
    notebooks 02 and 04.
    """

    def __init__(self):
        self.run = None

    def __call__(self, run):
        """What fit calls before the first epoch and after each."""
        from IPython.display import display

        self.history = run.history
        if run is not self.run:
            self.run = run
            self.began, self.first = time.perf_counter(), len(run.history.epochs)
            self.places = [display(_Text(""), display_id=True) for _ in range(3)]
        status, curves, table = self.places
        status.update(_Text(self._status(within=0.0)))
        curves.update(_curves(run.history))
        table.update(_Table(run.history))

    def progress(self, batches):
        """The batches, one by one; the line with the time left is renewed twice a second."""
        renewed = time.perf_counter()
        for number, batch in enumerate(batches):
            yield batch
            # A resumed run is first seen, and so first shown, at the end of an epoch: until then
            # this Watch knows no run, or an earlier one.
            runs = self.run and len(self.history.epochs) <= self.history.recipe.epochs
            if runs and time.perf_counter() - renewed > 0.5:
                renewed = time.perf_counter()
                self.places[0].update(_Text(self._status(within=(number + 1) / len(batches))))

    def _status(self, within):
        epochs, total = self.history.epochs, self.history.recipe.epochs
        elapsed = time.perf_counter() - self.began
        if len(epochs) > total:
            best = self.history.best
            last = epochs[-1]
            text = f"{self.history.title}: {total} epochs, {duration(elapsed)}"
            if best:
                text += f"; validation accuracy {last.val_accuracy:.2%} after the last"
                text += f", best {best.val_accuracy:.2%} after epoch {best.epoch}"
            return text
        text = f"{self.history.title}: epoch {len(epochs)} of {total}, {within:.0%}"
        done = len(epochs) - self.first + within
        if done > 0.02:
            text += f", {duration(elapsed / done * (total + 1 - self.first - done))} left"
        return text


class _Text:
    """A line for a notebook, as HTML and as plain text."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text

    def _repr_html_(self):
        return f"<p>{self.text}</p>"


class _Table:
    """The rows of a History."""

    HEADS = ("epoch", "lr", "train loss", "train acc", "val loss", "val acc", "seconds")

    def __init__(self, history):
        self.rows = history.epochs

    def __repr__(self):
        return "\n".join(map(str, self.rows))

    def _repr_html_(self):
        lines = ["".join(f"<th>{head}</th>" for head in self.HEADS)]
        for row in self.rows:
            val = ("–", "–")
            if row.val_loss is not None:
                val = f"{row.val_loss:.4f}", f"{row.val_accuracy:.2%}"
            cells = (row.epoch, f"{row.lr:.3g}", f"{row.train_loss:.4f}",
                     f"{row.train_accuracy:.2%}", *val, f"{row.seconds:.1f}")  # fmt: skip
            lines.append("".join(f"<td>{cell}</td>" for cell in cells))
        return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _curves(history):
    from matplotlib.figure import Figure

    from cifar_utils import plots

    figure = Figure(figsize=(10, 3), layout="constrained")  # not pyplot's: it would be shown twice
    for metric, ax in zip(("loss", "accuracy"), figure.subplots(1, 2), strict=True):
        plots.plot_history(history, metric=metric, ax=ax)
        ax.set(title=metric, ylabel=None)
        ax.set_xlim(0, history.recipe.epochs)
    return figure


def prepare_figures():
    """Give every figure of the notebook the course's style, and an alternative text made from the
    figure's own words."""
    try:
        from IPython import get_ipython

        png = get_ipython().display_formatter.formatters["image/png"]
    except (ImportError, AttributeError):
        return  # not in a notebook
    import matplotlib.pyplot as plt
    from IPython.core.pylabtools import print_figure
    from matplotlib.figure import Figure

    from cifar_utils.plots import STYLE

    plt.rcParams.update(STYLE)

    def draw(figure):
        data = print_figure(figure, "png", base64=True, dpi=90)
        return (data, {"alt": describe(figure)}) if data else None

    plt.switch_backend(plt.get_backend())  # registers a drawer of its own, which ours replaces
    png.for_type(Figure, draw)


def describe(figure, *, longest=400):
    """A figure in words: its title, and of each panel the title, the axes' names, the legend."""
    title = figure.get_suptitle()
    panels = []
    for ax in figure.axes:
        axes = f"{ax.get_ylabel()} against {ax.get_xlabel()}".strip()
        axes = axes if ax.get_xlabel() and ax.get_ylabel() else ax.get_xlabel() or ax.get_ylabel()
        legend = ax.get_legend()
        names = [text.get_text() for text in legend.get_texts()] if legend else []
        few = [text.get_text() for text in ax.texts] if len(ax.texts) < 10 else []
        words = [ax.get_title(), axes, ", ".join(names), ", ".join(few)]
        panels.append(": ".join(word.replace("\n", " ") for word in words if word.strip()))
    panels = [
        panel if count == 1 else f"{panel} × {count}"
        for panel, count in Counter(panel for panel in panels if panel).items()
    ]
    pictures = sum(bool(ax.images) for ax in figure.axes)
    kind = f"{pictures} pictures" if pictures > 1 else "a picture" if pictures else "a chart"
    text = "; ".join([title or kind, *panels])
    return text if len(text) <= longest else text[: longest - 1] + "…"


def show_gif(path, alt):
    """Show an animated picture file in the notebook, with its alternative text.

    As HTML: pages made of notebooks know no animated pictures among their outputs.
    """
    from IPython.display import HTML, display

    encoded = base64.b64encode(Path(path).read_bytes()).decode()
    display(HTML(f'<img src="data:image/gif;base64,{encoded}" alt="{escape(alt)}">'))
