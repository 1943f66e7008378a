"""Tests of the README's image: a scene next to the overlays of explained answers."""

import numpy as np
import pytest

from benchmarks.draw_explanation import GAP, QUESTIONS, SCENE, SIDE, draw_explanations
from model import SatChatModel
from model.images.preprocess import load_image


@pytest.mark.slow
def test_each_panel_is_darker_than_the_scene_and_has_a_caption(tiny_model: SatChatModel) -> None:
    pixels = np.asarray(draw_explanations(tiny_model, load_image(SCENE)), dtype=float)
    panels = [pixels[:, left : left + SIDE] for left in range(0, pixels.shape[1], SIDE + GAP)]
    assert len(panels) == 1 + len(QUESTIONS)
    scene, *explained = panels
    assert scene[SIDE:].min() == 255
    for panel in explained:
        assert panel[:SIDE].mean() < 0.7 * scene[:SIDE].mean()
        assert panel[SIDE:].min() < 128
