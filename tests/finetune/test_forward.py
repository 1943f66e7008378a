"""The training loss equals SAT's, with each method and each way to compute it."""

import copy
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sat.model.base_model import BaseMixin, non_conflict
from torch import nn

import finetune.data
from finetune import loss as head
from finetune.data import Batch, collate
from finetune.forward import AnswerLoss, additive_mask, sat_logits
from finetune.images import FileEmbeddingCache
from model.finetuned import FineTuneVisualGLMModel
from tests.helpers.finetuning import batch_of, data, dataset_of, losses_of, train  # noqa: F401


def build(**settings: Any) -> FineTuneVisualGLMModel:
    """Return visualglm-tiny with an adapter that has random weights."""
    args = Namespace(device="cpu", **settings)
    with torch.random.fork_rng(devices=[]):  # LoRA is initialized randomly; the result must not depend on other tests
        torch.manual_seed(0)
        network, _ = FineTuneVisualGLMModel.from_pretrained("visualglm-tiny", args)
    network.disable_untrainable_params()
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


METHODS: dict[str, dict[str, Any]] = {
    "lora": {"use_lora": True, "lora_targets": ["llm", "mlp", "qformer", "vit"], "layer_range": [0, 2]},
    "head": {"use_lora": True, "lora_targets": ["llm", "head"]},
    "qlora": {"use_qlora": True, "round_embeddings": True},
    "qlora-mlp": {"use_qlora": True, "lora_targets": ["mlp"]},
    "ptuning": {"use_ptuning": True, "pre_seq_len": 5},
}


@pytest.fixture(scope="module", params=METHODS)
def network(request: pytest.FixtureRequest) -> FineTuneVisualGLMModel:
    """A network of each method. Do not change it."""
    return build(**METHODS[request.param])


def loss_by_sat(network: FineTuneVisualGLMModel, batch: Batch) -> torch.Tensor:
    """Return the summed loss of the logits of SAT's forward pass, without chunks."""
    logits = sat_logits(network, batch, AnswerLoss(network).encode_images(batch))
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum")


def gradients(network: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients of a loss by name, and reset the network's gradients."""
    loss.backward()
    found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    network.zero_grad(set_to_none=True)
    return found


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Return whether gradients are equal up to rounding."""
    return ours.keys() == theirs.keys() and all(
        torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-3) for name in ours
    )


def test_the_loss_equals_that_of_sats_forward_pass(network: FineTuneVisualGLMModel, data: Path) -> None:  # noqa: F811
    batch, module = batch_of(data, network), AnswerLoss(network)
    ours, theirs = module(batch, None), loss_by_sat(network, batch)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert same(gradients(network, ours), gradients(network, theirs))


def test_checkpointing_changes_no_gradient(network: FineTuneVisualGLMModel, data: Path) -> None:  # noqa: F811
    batch = batch_of(data, network)
    kept = gradients(network, AnswerLoss(network)(batch, None))
    assert kept
    assert same(gradients(network, AnswerLoss(network, checkpoint_activations=True)(batch, None)), kept)


def test_the_chunk_size_of_logits_changes_no_gradient(
    network: FineTuneVisualGLMModel,
    data: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = batch_of(data, network)
    expected_loss = AnswerLoss(network)(batch, None)
    expected = gradients(network, expected_loss)
    monkeypatch.setattr(head, "LOGITS_CHUNK", 5)
    chunked = AnswerLoss(network)(batch, None)
    assert chunked.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    assert same(gradients(network, chunked), expected)


def test_cached_embeddings_change_no_loss(data: Path) -> None:  # noqa: F811
    network = build(**METHODS["ptuning"])
    batch, module = batch_of(data, network), AnswerLoss(network)
    enough, little = FileEmbeddingCache(network, 1e6), FileEmbeddingCache(network, 40_000)
    expected = module(batch, None).item()
    for cache in (enough, little, enough, little):
        assert module(batch, cache.embed(batch)).item() == pytest.approx(expected, rel=1e-6)
    assert (len(enough.embeddings), len(little.embeddings)) == (3, 1)
    batch.pixels = None
    assert module(batch, enough.embed(batch)).item() == pytest.approx(expected, rel=1e-6)


class ShiftingMixin(BaseMixin):
    """A user's mixin that changes every layer."""

    @non_conflict
    def layer_forward(self, hidden_states: torch.Tensor, mask: Any, *args: Any, old_impl: Any, **kw: Any) -> Any:
        return old_impl(hidden_states.roll(1, dims=-1), mask, *args, **kw)


def test_a_mixin_that_changes_the_layers_changes_the_loss(data: Path) -> None:  # noqa: F811
    network = build(**METHODS["lora"])
    batch, module = batch_of(data, network), AnswerLoss(network)
    before = module(batch, None).item()
    network.add_mixin("turned", ShiftingMixin())
    assert module(batch, None).item() == pytest.approx(loss_by_sat(network, batch).item())
    assert module(batch, None).item() != pytest.approx(before, rel=1e-2)


def test_a_batch_without_images(data: Path) -> None:  # noqa: F811
    network = build(**METHODS["lora"])
    batch = batch_of(data, network)
    batch.pixels, batch.image_paths = None, []
    batch.image_indices, batch.image_starts = [-1] * len(batch.rows), [-1] * len(batch.rows)
    plain, complete = AnswerLoss(network), AnswerLoss(network, use_all_weights=True)
    assert FileEmbeddingCache(network, 0).embed(batch) is None
    assert torch.equal(plain(batch, None), complete(batch, None))
    assert plain(batch, None).item() == pytest.approx(loss_by_sat(network, batch).item(), rel=1e-5)


@pytest.mark.parametrize("flags", [{}, {"checkpoint_activations": True}])
def test_a_step_never_waits_for_the_device(
    network: FineTuneVisualGLMModel,
    flags: dict[str, bool],
    data: Path,  # noqa: F811
) -> None:
    """On the meta device, every operation that waits for the device raises an error."""
    batch, on_meta = batch_of(data, network), copy.deepcopy(network).to("meta")
    trained = [weight for weight in on_meta.parameters() if weight.requires_grad]
    loss = AnswerLoss(on_meta, **flags)(batch, None)
    assert loss.is_meta
    loss.backward()
    assert all(weight.grad is not None and weight.grad.is_meta for weight in trained)


def test_an_additive_mask_equals_the_bool_mask() -> None:
    mask = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)) > 0.4
    mask |= torch.eye(5, dtype=torch.bool)
    q = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(1))
    attend = torch.nn.functional.scaled_dot_product_attention
    assert torch.equal(attend(q, q, q, attn_mask=mask), attend(q, q, q, attn_mask=additive_mask(mask, q.dtype)))
    assert additive_mask(mask, q.dtype).stride(-2) % 8 == 0


def test_a_cached_image_is_not_decoded_again(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[Path] = []
    load = finetune.data.load_pixels
    monkeypatch.setattr(finetune.data, "load_pixels", lambda path, size: decoded.append(path) or load(path, size))
    flags = ["--use_lora", "--train-iters", "6", "--batch-size", "3"]
    run = train(data, tmp_path / "few", *flags)
    assert len(decoded) < 8
    assert {path.name for path in decoded} == {"0.png", "1.png", "2.png"}
    decoded.clear()
    again = train(data, tmp_path / "again", *flags, "--cache-images", "0")
    assert len(decoded) > 8
    assert losses_of(run) == pytest.approx(losses_of(again), rel=1e-5)


def test_embeddings_are_matched_if_some_images_are_not_decoded(data: Path) -> None:  # noqa: F811
    network = build(**METHODS["ptuning"])
    dataset = dataset_of(data, network)
    cache, module = FileEmbeddingCache(network, 1e6), AnswerLoss(network)
    cache.embed(collate([dataset[0]]))
    dataset.is_cached[0] = True
    batch = collate([dataset[index] for index in range(len(dataset))])
    assert batch.decoded == [1, 2]
    expected = module(batch_of(data, network), None).item()
    assert module(batch, cache.embed(batch)).item() == pytest.approx(expected, rel=1e-6)


class SavedTensors:
    """Records the sizes of the tensors that autograd saves, without weights; `pack` is its saved-tensor hook."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
        self.sizes: dict[int, int] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.sizes[storage.data_ptr()] = storage.nbytes()
        return tensor


def test_activations_of_a_four_bit_mlp_are_not_saved(data: Path) -> None:  # noqa: F811
    kept = {}
    for method in ("use_lora", "use_qlora"):
        network = build(**{method: True})
        saved = SavedTensors(network)
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            loss = AnswerLoss(network)(batch_of(data, network), None)
        kept[method] = sum(saved.sizes.values())
        assert gradients(network, loss)
    inside = network.transformer.layers[0].mlp.dense_h_to_4h.shape[0]
    spared = batch_of(data, network).input_ids.numel() * inside * len(network.transformer.layers) * 4  # float32
    assert kept["use_lora"] - kept["use_qlora"] == pytest.approx(spared, rel=0.1)


def test_forward_hooks_of_layers_are_called(data: Path) -> None:  # noqa: F811
    network = build(**METHODS["lora"])
    batch, module, seen = batch_of(data, network), AnswerLoss(network), []
    expected = module(batch, None)
    layer = network.transformer.layers[0]
    watched = [layer.attention.query_key_value, layer.attention.dense.original, layer.mlp.dense_h_to_4h]
    watched += [network.transformer.layers[1].attention.dense, network.transformer.layers[2].post_attention_layernorm]
    for layer in watched:
        layer.register_forward_hook(lambda layer, *_: seen.append(layer))
    assert module(batch, None).item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(seen) == set(watched)
