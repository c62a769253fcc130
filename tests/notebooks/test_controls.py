"""Sliders redraw the picture, and its first state stays where no widgets are."""

import base64

import pytest
from exploration import controls
from exploration.balance_pictures import before_and_after, convergence
from exploration.fixed_point_pictures import circle
from exploration.landscape_pictures import two_parameters
from exploration.pictures import new_figure, png


def _bars(height, word):
    figure, [axes] = new_figure(1, 1)
    axes.bar([word], [height])
    return figure


@pytest.fixture
def arguments():
    return {
        "height": controls.integer("height", 3, 1, 9),
        "word": controls.choice("word", "yes", ("yes", "no")),
    }


def test_a_moved_slider_redraws(arguments):
    whole = controls.explorer(_bars, **arguments)
    picture = whole.children[-1]
    assert picture.value == png(_bars(3, "yes"))
    arguments["height"].value = 7
    assert picture.value == png(_bars(7, "yes"))
    arguments["word"].value = "no"
    assert picture.value == png(_bars(7, "no"))


def test_both_the_widget_and_its_picture_are_displayed(monkeypatch, arguments):
    shown = []
    monkeypatch.setattr(controls, "display", lambda data, raw: shown.append((data, raw)))
    controls.explore(_bars, **arguments)
    [(data, raw)] = shown
    assert raw
    assert "application/vnd.jupyter.widget-view+json" in data
    assert base64.b64decode(data["image/png"]) == png(_bars(3, "yes"))


@pytest.mark.parametrize("draw", [before_and_after, convergence, circle, two_parameters])
def test_every_panel_is_labelled(draw):
    figure = draw()
    assert figure.dpi == 100
    for axes in figure.axes:
        colour_bar = axes.get_label() == "<colorbar>"
        assert axes.get_ylabel()
        assert colour_bar or (axes.get_xlabel() and axes.get_title(loc="left"))
