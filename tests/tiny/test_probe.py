"""The probe measures how well hidden states separate the backgrounds."""

import torch

from model import SatChatModel
from model.engine.network import has_foreign_hooks
from tiny.fewshot import ANSWERS
from tiny.probe import between_class_variance, measure_points, nearest_mean_accuracy

CLASSES = torch.arange(len(ANSWERS)).repeat(20)


def test_the_probe_distinguishes_strong_from_weak_signals() -> None:
    torch.manual_seed(0)
    noise, centers = torch.randn(len(CLASSES), 30), 10 * torch.randn(len(ANSWERS), 30)
    clear, faint = centers[CLASSES] + noise, 0.01 * centers[CLASSES] + noise
    assert between_class_variance(clear, CLASSES) > 0.95
    assert nearest_mean_accuracy(clear, CLASSES) == 1
    assert between_class_variance(faint, CLASSES) < 0.1
    assert nearest_mean_accuracy(faint, CLASSES) < 0.3


def test_all_points_from_image_to_answer_are_measured(tiny_model: SatChatModel) -> None:
    points = dict(measure_points(tiny_model, torch.randn(2, 3, 224, 224)))
    length, width, layers = tiny_model.network.image_length, 256, len(tiny_model.network.transformer.layers)
    shapes = [(2, length * width), (2, width), *[(2, width)] * layers]
    assert [tuple(vectors.shape) for vectors in points.values()] == shapes
    assert not any(torch.equal(*vectors) for vectors in points.values())
    assert not has_foreign_hooks(tiny_model.network)
