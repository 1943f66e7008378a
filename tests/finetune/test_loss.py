"""KL divergence and its gradient equal the results of torch, for any chunk size."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finetune import loss as divergence
from finetune.loss import sum_kl_divergence
from model import load_sat
from model.sat.lora import LoraLinear

COUNT = 11


def frozen_head() -> nn.Module:
    """Return a frozen head."""
    head = load_sat("visualglm-tiny", device="cpu").network.lm_head
    return head.requires_grad_(False)


def adapted_head() -> nn.Module:
    """Return the frozen head with LoRA that has random weights."""
    head = LoraLinear(frozen_head(), partitions=1, rank=2)
    nn.init.normal_(head.matrix_B[0], std=0.1)
    return head


def trained_head() -> nn.Module:
    """Return a trainable head."""
    return frozen_head().requires_grad_(True)


HEADS = {"frozen": frozen_head, "adapted": adapted_head, "trained": trained_head}


@pytest.fixture(params=HEADS.values(), ids=HEADS)
def head(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    make: Callable[[], nn.Module] = request.param
    return make()


def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return random hidden states, hidden states of the teacher, and loss weights."""
    torch.manual_seed(1)
    size = load_sat("visualglm-tiny", device="cpu").network.lm_head.weight.shape[1]
    return torch.randn(COUNT, size, requires_grad=True), torch.randn(COUNT, size), torch.rand(COUNT)


def torchs(head: nn.Module, states: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum computed by torch from the logits of all tokens at once."""
    base = getattr(head, "original", head)(teacher).detach().log_softmax(-1)
    each = F.kl_div(head(states).log_softmax(-1), base, reduction="none", log_target=True)
    return (each.sum(1) * weights).sum()


@pytest.mark.parametrize("rows", [4, 11, 100])
def test_divergence_and_gradient_equal_those_of_torch(
    head: nn.Module, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "KL_CHUNK", rows)
    states, teacher, weights = draw()
    wanted = [states, *(weight for weight in head.parameters() if weight.requires_grad)]
    expected = torchs(head, states, teacher, weights)
    ours = sum_kl_divergence(head, states, teacher, weights)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    with torch.no_grad():
        assert sum_kl_divergence(head, states, teacher, weights).item() == pytest.approx(expected.item(), rel=1e-5)
    pairs = zip(torch.autograd.grad(3 * ours, wanted), torch.autograd.grad(3 * expected, wanted), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in pairs)


def test_equal_states_have_no_divergence() -> None:
    head = frozen_head()
    states, _, weights = draw()
    total = sum_kl_divergence(head, states, states.detach().clone(), weights)
    assert total.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.autograd.grad(total, states)[0].abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_losses_are_summed_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head = frozen_head().to(dtype)
    states, teacher, weights = draw()
    given = states.detach().to(dtype).requires_grad_()
    total = sum_kl_divergence(head, given, teacher.to(dtype), weights)
    expected = torchs(head.float(), given.float(), teacher.to(dtype).float(), weights)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected.item(), rel=0.02)
    assert torch.autograd.grad(total, given)[0].dtype == dtype


def test_no_tokens_have_a_loss_of_zero(head: nn.Module) -> None:
    states, teacher, weights = (tensor[:0] for tensor in draw())
    total = sum_kl_divergence(head, states, teacher, weights)
    assert total.item() == 0
    total.backward()
