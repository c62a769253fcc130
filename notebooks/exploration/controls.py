"""Pictures to move: sliders and menus over a function that draws.

What a cell displays holds both the widget and the picture at its first settings. JupyterLab shows
the widget; a page that knows no widgets, such as a code-hosting site, shows the picture.
"""

import base64
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure

from exploration.pictures import png

_LAYOUT = ipywidgets.Layout(width="330px")
_TEXT = {"description_width": "120px"}


def integer(name: str, value: int, low: int, high: int, step: int = 1) -> ipywidgets.IntSlider:
    """A slider for whole numbers; the picture follows when it is let go."""
    return ipywidgets.IntSlider(
        value,
        low,
        high,
        step,
        description=name,
        continuous_update=False,
        layout=_LAYOUT,
        style=_TEXT,
    )


def number(
    name: str, value: float, low: float, high: float, step: float, digits: int = 2
) -> ipywidgets.FloatSlider:
    """A slider for numbers."""
    return ipywidgets.FloatSlider(
        value,
        min=low,
        max=high,
        step=step,
        description=name,
        readout_format=f".{digits}f",
        continuous_update=False,
        layout=_LAYOUT,
        style=_TEXT,
    )


def one_of(name: str, value: Any, values: Iterable[Any]) -> ipywidgets.SelectionSlider:
    """A slider over listed values."""
    return ipywidgets.SelectionSlider(
        options=[(f"{each:g}" if isinstance(each, float) else str(each), each) for each in values],
        value=value,
        description=name,
        continuous_update=False,
        layout=_LAYOUT,
        style=_TEXT,
    )


def choice(name: str, value: str, values: Iterable[str]) -> ipywidgets.Dropdown:
    """A menu."""
    return ipywidgets.Dropdown(
        options=list(values), value=value, description=name, layout=_LAYOUT, style=_TEXT
    )


def explorer(draw: Callable[..., Figure], **controls: ipywidgets.ValueWidget) -> ipywidgets.VBox:
    """What `draw` draws, below a control for each of its arguments."""

    def current() -> bytes:
        return png(draw(**{name: control.value for name, control in controls.items()}))

    picture = ipywidgets.Image(
        value=current(), format="png", layout=ipywidgets.Layout(width="840px", max_width="100%")
    )

    def redraw(_: object) -> None:
        picture.value = current()

    for control in controls.values():
        control.observe(redraw, names="value")
    rows = ipywidgets.Layout(flex_flow="row wrap")
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values()), layout=rows), picture])


def explore(draw: Callable[..., Figure], **controls: ipywidgets.ValueWidget) -> None:
    """Display an explorer, and its first picture for where there are no widgets."""
    whole = explorer(draw, **controls)
    picture = base64.b64encode(whole.children[-1].value).decode()
    # both kinds in one output: whoever displays it takes the first that it knows
    display(whole._repr_mimebundle_() | {"image/png": picture}, raw=True)
