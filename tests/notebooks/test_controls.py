"""Sliders redraw the picture, and its first state stays where no widgets are."""

import base64

import pytest
from exploration import controls
from exploration.balance_pictures import before_and_after, convergence
from exploration.fixed_point_pictures import circle
from exploration.landscape_pictures import two_parameters
from exploration.pictures import new_figure, png


def _bars(height, word):
    """Bars."""
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


def test_an_error_is_shown_and_the_picture_stays(arguments):
    def fails_at_seven(height, word):
        if height == 7:
            raise ValueError("no <bar> of 7")
        return _bars(height, word)

    whole = controls.explorer(fails_at_seven, **arguments)
    _, status, picture = whole.children
    arguments["height"].value = 7
    assert "ValueError: no &lt;bar&gt; of 7" in status.value
    assert picture.value == png(_bars(3, "yes"))
    arguments["height"].value = 8
    assert status.value == ""
    assert picture.value == png(_bars(8, "yes"))


def test_a_busy_picture_says_so(arguments):
    seen = []

    def draw(height, word):
        seen.append(whole.children[1].value if seen else "")
        return _bars(height, word)

    whole = controls.explorer(draw, **arguments)
    seen.append("")
    arguments["height"].value = 7
    assert "Drawing" in seen[-1]
    assert whole.children[1].value == ""


def test_a_player_moves_its_slider_and_the_picture(arguments):
    player = controls.Player("height", 3, 1, 9)
    slider, button = player.children
    whole = controls.explorer(_bars, height=player, word=arguments["word"])
    button.value = 5  # as the browser sets it while it plays
    assert slider.value == 5
    assert whole.children[-1].value == png(_bars(5, "yes"))
    slider.value = 2
    assert button.value == 2


def test_both_the_widget_and_its_picture_are_displayed(monkeypatch, capsys, arguments):
    shown = []
    monkeypatch.setattr(controls, "display", lambda data, raw: shown.append((data, raw)))
    monkeypatch.setattr(controls, "clear_output", lambda wait: shown.clear())
    controls.explore(_bars, **arguments)
    [(data, raw)] = shown
    assert raw
    assert "application/vnd.jupyter.widget-view+json" in data
    assert base64.b64decode(data["image/png"]) == png(_bars(3, "yes"))
    assert capsys.readouterr().out == "Compiling the programs of a picture: Bars.\n"


@pytest.mark.parametrize("draw", [before_and_after, convergence, circle, two_parameters])
def test_every_panel_is_labelled(draw):
    figure = draw()
    assert figure.dpi == 100
    for axes in figure.axes:
        colour_bar = axes.get_label() == "<colorbar>"
        assert axes.get_ylabel()
        assert colour_bar or (axes.get_xlabel() and axes.get_title(loc="left"))
