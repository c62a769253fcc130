"""Pictures to move: sliders and menus over a function that draws.

What a cell displays holds both the widget and the picture at its first settings. JupyterLab shows
the widget; a page that knows no widgets, such as a code-hosting site, shows the picture.
"""

import base64
import html
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets
import traitlets
from IPython.display import clear_output, display
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


class Player(ipywidgets.HBox):
    """A slider for whole numbers with a button that moves it from one end to the other."""

    value = traitlets.Int()

    def __init__(self, name: str, value: int, low: int, high: int, milliseconds: int = 700):
        """The button waits `milliseconds` at each number."""
        slider = integer(name, value, low, high)
        button = ipywidgets.Play(value, min=low, max=high, interval=milliseconds, show_repeat=False)
        super().__init__([slider, button], value=value)
        traitlets.link((slider, "value"), (self, "value"))
        traitlets.link((button, "value"), (self, "value"))


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


def line(name: str, hint: str = "") -> ipywidgets.Text:
    """A line to write into; the picture follows when it is left."""
    return ipywidgets.Text(
        placeholder=hint, description=name, continuous_update=False, layout=_LAYOUT, style=_TEXT
    )


def lines(name: str, value: str) -> ipywidgets.Textarea:
    """Several lines to write or paste into."""
    return ipywidgets.Textarea(
        value,
        description=name,
        continuous_update=False,
        rows=5,
        layout=ipywidgets.Layout(width="660px", max_width="100%"),
        style=_TEXT,
    )


def upload(name: str, endings: str) -> ipywidgets.FileUpload:
    """A button that takes one file of the reader's, with one of the endings."""
    return ipywidgets.FileUpload(description=name, accept=endings, layout=_LAYOUT)


def explorer(draw: Callable[..., Figure], **controls: ipywidgets.DOMWidget) -> ipywidgets.VBox:
    """What `draw` draws, below a control for each of its arguments.

    A line above the picture says while another is drawn, or shows the error that `draw` raised; the
    picture before it then stays.
    """

    def current() -> bytes:
        return png(draw(**{name: control.value for name, control in controls.items()}))

    picture = ipywidgets.Image(
        value=current(), format="png", layout=ipywidgets.Layout(width="840px", max_width="100%")
    )
    status = ipywidgets.HTML(layout=ipywidgets.Layout(min_height="28px"))

    def redraw(_: object) -> None:
        status.value = "<i>Drawing. What is new, such as another shape, is compiled first.</i>"
        try:
            picture.value = current()
        except Exception as error:
            message = html.escape(f"{type(error).__name__}: {error}")
            status.value = f'<pre style="color: #b00020">{message}</pre>'
        else:
            status.value = ""

    for control in controls.values():
        control.observe(redraw, names="value")
    rows = ipywidgets.Layout(flex_flow="row wrap")
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values()), layout=rows), status, picture])


def explore(draw: Callable[..., Figure], **controls: ipywidgets.DOMWidget) -> None:
    """Display an explorer, and its first picture for where there are no widgets.

    Until it is there, a line says what is compiled.
    """
    function = getattr(draw, "func", draw)  # of functools.partial
    print("Compiling the programs of a picture:", (function.__doc__ or "").partition("\n")[0])
    whole = explorer(draw, **controls)
    picture = base64.b64encode(whole.children[-1].value).decode()
    clear_output(wait=True)
    # both kinds in one output: whoever displays it takes the first that it knows
    display(whole._repr_mimebundle_() | {"image/png": picture}, raw=True)
