"""LoRA adapts exactly the layers that its targets select; a target without a match is an error."""

from argparse import Namespace
from typing import Any

import pytest

from finetune.finetune_visualglm import main
from model import FineTuneVisualGLMModel, SettingError, VisualGLMModel, load_sat
from model.sat.lora import TARGETS, LoraLinear, LoraMixin, select_layers

LAYERS = range(4)  # of the language model in visualglm-tiny
IMAGE = "mixins.eva.model"
ATTENTION = [f"transformer.layers.{n}.attention.{name}" for n in LAYERS for name in ("query_key_value", "dense")]
MLP = [f"transformer.layers.{n}.mlp.{name}" for n in LAYERS for name in ("dense_h_to_4h", "dense_4h_to_h")]


@pytest.fixture(scope="module")
def network() -> VisualGLMModel:
    """visualglm-tiny. Do not change it."""
    return load_sat("visualglm-tiny", device="cpu").network


def select(network: Any, *targets: str, layer_range: Any = LAYERS) -> list[str]:
    """Return the names of the layers that `targets` select."""
    return select_layers(network, targets, layer_range)


def test_the_aliases_are_the_parts_that_old_runs_adapt(network: VisualGLMModel) -> None:
    image: Any = network.get_mixin("eva").model
    assert len(network.transformer.layers) == len(LAYERS)
    assert select(network, "llm") == ATTENTION
    assert select(network, "mlp") == MLP
    assert select(network, "head") == ["mixins.chatglm-final.lm_head"]
    vit = range(len(image.vit.transformer.layers))
    assert select(network, "vit") == [
        f"{IMAGE}.vit.transformer.layers.{n}.attention.{name}" for n in vit for name in ("query_key_value", "dense")
    ]
    crossing = [n for n, layer in enumerate(image.qformer.transformer.layers) if hasattr(layer, "cross_attention")]
    assert crossing
    start = f"{IMAGE}.qformer.transformer.layers"
    expected = {
        *(f"{start}.{n}.attention.{end}" for n in range(len(image.qformer.transformer.layers)) for end in ("dense",)),
        *(f"{start}.{n}.attention.query_key_value" for n in range(len(image.qformer.transformer.layers))),
        *(f"{start}.{n}.cross_attention.{end}" for n in crossing for end in ("query", "key_value", "dense")),
    }
    assert set(select(network, "qformer")) == expected


def test_patterns_select_as_those_of_peft(network: VisualGLMModel) -> None:
    everywhere = select(network, "query_key_value")
    assert {name.rpartition(".")[2] for name in everywhere} == {"query_key_value"}
    assert any(".vit." in name for name in everywhere)
    assert any(".qformer." in name for name in everywhere)
    assert select(network, "mlp.dense_4h_to_h", r"transformer\.layers\.[01]\.attention\.dense")[-2:] == [
        "transformer.layers.0.attention.dense",
        "transformer.layers.1.attention.dense",
    ]
    # The image encoder has a layer with the same suffix.
    assert select(network, ATTENTION[0]) == [ATTENTION[0]]
    assert select(network, "llm", "transformer.*query_key_value", layer_range=[-1]) == ATTENTION[-2:]
    assert len(set(everywhere)) == len(select(network, "query_key_value", "query_key_value"))


@pytest.mark.parametrize("target", ["q_former", "", "LLM", "(", "transformer.layers.0", "word_embeddings", "ense"])
def test_a_target_that_selects_nothing_is_an_error(target: str, network: VisualGLMModel) -> None:
    with pytest.raises(SettingError, match="LoRA target"):
        select(network, "llm", target)


@pytest.mark.parametrize(("targets", "layers"), [(["llm"], [4]), (["llm"], [-5]), (["llm", "mlp"], []), ([], [0])])
def test_layers_that_are_not_there_are_an_error(targets: list[str], layers: list[int], network: VisualGLMModel) -> None:
    with pytest.raises(SettingError, match="layer_range"):
        select(network, *targets, layer_range=layers)


def test_a_mixin_that_would_adapt_nothing_is_refused() -> None:
    model, args = VisualGLMModel.from_pretrained("visualglm-tiny", Namespace(device="cpu"))
    with pytest.raises(SettingError, match="q_former"):
        model.add_mixin("lora", LoraMixin(args.num_layers, 4, targets=("q_former",)), reinit=True)
    model.add_mixin("other", LoraMixin(args.num_layers, 4, targets="cross_attention.query"), reinit=True)
    adapted = [name for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    assert adapted
    assert all(name.endswith("cross_attention.query") for name in adapted)


def test_training_names_a_wrong_target(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "How are you?", "label": "Fine."}\n')
    flags = ["--use_lora", "--lora_targets", "llm", "q_former", "--train-data", str(data), "--save", str(tmp_path)]
    assert main(["--from_pretrained", "visualglm-tiny", "--device", "cpu", "--train-iters", "1", *flags]) == 2
    message = capsys.readouterr().err
    assert "q_former" in message
    assert all(alias in message for alias in TARGETS)


def test_arguments_take_patterns() -> None:
    args = FineTuneVisualGLMModel.get_args(lora_targets=["cross_attention.query"])
    assert args.lora_targets == ["cross_attention.query"]
