"""The KL divergence loss of rehearsal examples: the teacher is the network with its adapter disabled."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune.batches import Batch, replace_images, select_examples
from finetune.forward import Adapter, AnswerLoss, answer_positions, final_hidden_states
from finetune.images import FileEmbeddingCache, augment_selected
from model import load_sat
from model.finetuned import FineTuneVisualGLMModel
from tests.finetune.test_forward import METHODS, ShiftingMixin, build, gradients, same
from tests.helpers.finetuning import batch_of, data, losses_of, train  # noqa: F401

IS_REHEARSAL = torch.tensor([False, True, True, False])


@pytest.fixture(scope="module", params=METHODS)
def network(request: pytest.FixtureRequest) -> FineTuneVisualGLMModel:
    """A network of each method, with random adapter weights. Do not change it."""
    return build(**METHODS[request.param])


@pytest.fixture(scope="module")
def base() -> Any:
    """The base model of these networks."""
    return load_sat("visualglm-tiny", device="cpu").network


@torch.no_grad()
def logits(network: Any, batch: Batch, pixels: torch.Tensor | None) -> torch.Tensor:
    """Return the logits [N, V] at the answer tokens of a batch."""
    images = None if pixels is None else network.encode_image(pixels)
    return network.lm_head(final_hidden_states(network, batch, images).flatten(0, 1)[answer_positions(batch.labels)])


def divergence(network: Any, base: Any, batch: Batch) -> float:
    """Return the KL divergence of all answers from a base model, computed in the simplest way."""
    ours, theirs = (logits(model, batch, batch.pixels).log_softmax(-1) for model in (network, base))
    return float((theirs.exp() * (theirs - ours)).sum())


def test_the_network_with_disabled_adapter_equals_the_base_model(
    network: FineTuneVisualGLMModel,
    base: Any,
    data: Path,  # noqa: F811
) -> None:
    batch = batch_of(data, network)
    with Adapter(network).disabled():
        bare = logits(network, batch, batch.pixels)
        assert not len(network.prefix)
    assert not torch.allclose(bare, logits(network, batch, batch.pixels), atol=1e-2)
    if not any("Nf4" in type(part).__name__ for part in network.modules()):  # its base weights are quantized
        assert torch.allclose(bare, logits(base, batch, batch.pixels), atol=1e-4)


@torch.no_grad()
def test_rehearsal_answers_have_a_weighted_kl_loss(network: FineTuneVisualGLMModel, data: Path) -> None:  # noqa: F811
    batch, module = batch_of(data, network), AnswerLoss(network)
    bare = copy.deepcopy(network)
    Adapter(bare)._set_enabled(False)
    far = divergence(network, bare, replace_images(select_examples(batch, [1, 2]), batch.pixels, [1, 2]))
    assert far > 1e-3
    assert module(batch, None, IS_REHEARSAL.float(), IS_REHEARSAL).item() == pytest.approx(far, rel=1e-2)
    learned = module(batch, None, (~IS_REHEARSAL).float()).item()
    weights = torch.tensor([1.0, 1e3, 1e3, 1.0])
    assert module(batch, None, weights, IS_REHEARSAL).item() == pytest.approx(learned + 1e3 * far, rel=1e-2)
    assert module(batch, None, None, IS_REHEARSAL | True).item() == pytest.approx(
        divergence(network, bare, batch), rel=1e-2
    )
    assert module(batch, None, None, IS_REHEARSAL & False).item() == pytest.approx(module(batch, None).item(), rel=1e-6)
    assert all(part.enabled for part in module.adapter.modules)


# Not P-tuning: a new prefix changes the logits.
@pytest.mark.parametrize("method", ["lora", "head", "qlora", "qlora-mlp"])
def test_an_untrained_adapter_has_no_kl_loss(method: str, data: Path) -> None:  # noqa: F811
    network = build(**METHODS[method])
    for name, weight in network.named_parameters():
        if "matrix_B" in name:
            nn.init.zeros_(weight)
    total = AnswerLoss(network)(batch_of(data, network), None, None, IS_REHEARSAL | True)
    assert abs(total.item()) < 1e-4
    found = gradients(network, total)
    assert found
    assert all(gradient.abs().max() < 1e-2 for gradient in found.values())


def test_checkpointing_changes_no_gradient(network: FineTuneVisualGLMModel, data: Path) -> None:  # noqa: F811
    batch = batch_of(data, network)
    kept = gradients(network, AnswerLoss(network)(batch, None, None, IS_REHEARSAL))
    assert same(
        gradients(network, AnswerLoss(network, checkpoint_activations=True)(batch, None, None, IS_REHEARSAL)), kept
    )


def test_the_kl_loss_never_waits_for_the_device(network: FineTuneVisualGLMModel, data: Path) -> None:  # noqa: F811
    """On the meta device, every operation that waits for the device raises an error."""
    on_meta = copy.deepcopy(network).to("meta")
    loss = AnswerLoss(on_meta)(batch_of(data, network), None, None, IS_REHEARSAL)
    loss.backward()
    assert all(weight.grad is not None for weight in on_meta.parameters() if weight.requires_grad)


def test_a_users_mixin_also_changes_the_teacher(data: Path) -> None:  # noqa: F811
    network = build(**METHODS["lora"])
    network.add_mixin("turned", ShiftingMixin())
    batch, module = batch_of(data, network), AnswerLoss(network)
    assert module(batch, None, None, IS_REHEARSAL | True).item() > 1e-3
    for name, weight in network.named_parameters():
        if "matrix_B" in name:
            nn.init.zeros_(weight)
    assert module(batch, None, None, IS_REHEARSAL | True).item() == pytest.approx(0, abs=1e-4)


def test_the_teacher_uses_cached_embeddings(data: Path) -> None:  # noqa: F811
    network = build(**METHODS["head"])
    batch, module, cache = batch_of(data, network), AnswerLoss(network), FileEmbeddingCache(network, 1e6)
    expected = module(batch, None, None, IS_REHEARSAL).item()
    assert not module.adapter.adapts_image_encoder
    for _ in range(2):
        assert module(batch, cache.embed(batch), None, IS_REHEARSAL).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("method", ["lora", "head"])
def test_the_teacher_gets_the_same_augmented_images(method: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    network = build(**METHODS[method])
    batch, module, seen = batch_of(data, network), AnswerLoss(network), list[torch.Tensor]()
    encode = network.encode_image
    monkeypatch.setattr(network, "encode_image", lambda pixels: seen.append(pixels) or encode(pixels))
    varied = augment_selected(batch, [True] * 4, 0.5, True)
    module(varied, None, None, IS_REHEARSAL)
    assert torch.equal(seen[0], varied.pixels)
    if module.adapter.adapts_image_encoder:  # the teacher encodes the same images, but only of the rehearsal examples
        assert torch.equal(seen[1], varied.pixels[[1, 2]])
    assert len(seen) == 1 + module.adapter.adapts_image_encoder


def test_all_weights_are_used_for_any_batch(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """With `use_all_weights` the calls of modules do not depend on the batch, as ZeRO 3 requires."""
    network = build(use_lora=True, lora_targets=["llm", "head", "vit"])
    batch = batch_of(data, network)
    alone = select_examples(batch, [3])
    alone.pixels, alone.image_paths, alone.decoded = None, [], []
    module, calls = AnswerLoss(network, use_all_weights=True), list[str]()
    for name, part in network.named_modules():
        part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    found = []
    for given in (
        (batch, IS_REHEARSAL),
        (batch, IS_REHEARSAL & False),
        (batch, IS_REHEARSAL | True),
        (alone, IS_REHEARSAL[:1]),
        (alone, IS_REHEARSAL[1:2]),
    ):
        module(given[0], None, None, given[1])
        found.append(calls.copy())
        calls.clear()
    assert all(other == found[0] for other in found[1:])
