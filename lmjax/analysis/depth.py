"""Depth in pictures: one colour a step, from the first to the last, with a bar that explains them."""

from typing import Any

from lmjax.errors import optional_import


class DepthColours:
    """The colours of the steps 1 to `count`: dark for early ones, bright for late ones (matplotlib's viridis).

    Raises:
        InputError: if matplotlib is not installed.
    """

    def __init__(self, count: int):
        colors = optional_import("matplotlib.colors", package="matplotlib", purpose="drawing")
        mappable = optional_import("matplotlib.cm", package="matplotlib", purpose="drawing").ScalarMappable
        viridis = optional_import("matplotlib", package="matplotlib", purpose="drawing").colormaps["viridis"]
        darker = colors.ListedColormap(viridis([0.9 * i / max(count - 1, 1) for i in range(count)]))  # no pale yellow
        edges = [n + 0.5 for n in range(count + 1)]
        self.count = count
        self._mappable = mappable(colors.BoundaryNorm(edges, count) if count > 1 else None, darker)

    def __call__(self, step: int) -> Any:
        """The colour of a step, from 1."""
        return self._mappable.to_rgba(step)

    def bar(self, figure: Any, axes: Any, label: str = "learned step") -> None:
        """Adds the bar beside axes."""
        every = max(1, -(-self.count // 8))
        ticks = list(range(1, self.count + 1, every))
        bar = figure.colorbar(self._mappable, ax=axes, label=label, ticks=ticks, aspect=30)
        bar.minorticks_off()
        bar.ax.tick_params(labelsize=8, length=0)
