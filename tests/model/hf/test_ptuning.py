"""P-tuning on the Hugging Face side: prefixes that were trained on the SAT side give the same results."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoTokenizer

from finetune.forward import final_hidden_states
from finetune.merge import merge
from model import CHINESE, DEMO, Conversation, load_hf, load_sat
from model.checkpoint import open_checkpoint
from model.checkpoint.adapters import PREFIX_TABLE, to_prefix_table
from model.checkpoint.files import open_tensors, read_json
from model.engine.batch import make_decoder
from model.engine.decoder import EagerDecoder
from model.hf.configuration_chatglm import ChatGLMConfig
from model.hf.modeling_chatglm import ChatGLMForConditionalGenerationWithImage
from tests.helpers.finetuning import QUESTION, batch_of, data, loss_of, train  # noqa: F401


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A P-tuning run whose prefix differs much from its initialization. Do not change it."""
    flags = ["--use_ptuning", "--pre_seq_len", "5", "--lr", "0.3", "--train-iters", "3"]
    return train(data, tmp_path_factory.mktemp("runs"), *flags)


def test_both_sides_have_the_same_logits(run: Path, data: Path) -> None:  # noqa: F811
    ours, theirs = load_sat(run, device="cpu").network, load_hf(run, device="cpu").network
    plain = load_hf("visualglm-tiny", device="cpu").network
    batch = batch_of(data, ours)
    assert batch.pixels is not None
    image_inputs = {"pre_image_length": batch.image_starts[0], "images": batch.pixels[:1]}
    with torch.no_grad():
        expected = final_hidden_states(ours, batch, ours.encode_image(batch.pixels))[:1]
        length = len(batch.labels[0])
        own = ours.lm_head(expected)[0]
        found, before = (network(batch.input_ids[:1], **image_inputs).logits[0] for network in (theirs, plain))
    assert found.shape == own.shape == (length, ours.vocab_size)
    assert torch.allclose(found, own, atol=2e-2)
    assert not torch.allclose(found, before, atol=1)


def test_both_sides_give_the_same_answers(run: Path) -> None:
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "navy", "white")]
    asked = [(Conversation(image_inputs, language=CHINESE), QUESTION) for image_inputs in pictures]
    greedy = DEMO.replace(temperature=0.0, repetition_penalty=1.0, max_new_tokens=24)
    models = [load_sat(run, device="cpu"), load_hf(run, device="cpu")]
    ours, theirs = (model.answer_batch(asked, greedy) for model in models)
    assert ours == theirs
    assert isinstance(make_decoder(models[1].engine_network), EagerDecoder)
    assert ours != load_hf("visualglm-tiny", device="cpu").answer_batch(asked, greedy)


def test_a_cached_prefix_changes_no_logit_of_transformers(run: Path) -> None:
    network = load_hf(run, device="cpu").network
    config = network.config
    ids = torch.tensor([[100, 101, 102, config.gmask_token_id, config.bos_token_id, 103, 104]])
    with torch.no_grad():
        full = network(ids).logits[0, -2:]
        first = network(ids[:, :-2], use_cache=True)
        positions = [torch.tensor([[[3], [number]]]) for number in (2, 3)]
        later = []
        for number, place in enumerate(positions):
            given = {"past_key_values": first.past_key_values, "position_ids": place, "use_cache": True}
            later.append(network(ids[:, 5 + number : 6 + number], **given).logits[0])
    assert torch.allclose(torch.cat(later), full, atol=1e-3)


def test_it_is_saved_as_published_models_have_it(run: Path, tmp_path: Path) -> None:
    network = load_hf(run, device="cpu").network
    network.save_pretrained(tmp_path / "saved")
    stored = open_tensors(next((tmp_path / "saved").glob("*.safetensors")))
    assert stored[PREFIX_TABLE].shape == (5, network.config.num_layers * 2 * network.config.hidden_size)
    again = ChatGLMForConditionalGenerationWithImage.from_pretrained(tmp_path / "saved")
    assert again.config.pre_seq_len == 5
    for one, other in zip(again.transformer.prefix(), network.transformer.prefix(), strict=True):
        assert torch.equal(one, other)


def test_the_sat_side_reads_what_this_one_has_saved(run: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    saved = tmp_path / "saved"
    model = load_hf(run, device="cpu")
    model.tokenizer.save_pretrained(saved)
    model.network.save_pretrained(saved)
    assert loss_of(saved, data) == pytest.approx(loss_of(run, data), rel=1e-5)
    assert load_hf(saved, device="cpu").network.config.pre_seq_len == 5


def test_a_run_becomes_a_directory_that_needs_nothing_else(run: Path, data: Path, tmp_path: Path) -> None:  # noqa: F811
    merge(str(run), tmp_path / "hf", "hf")
    assert read_json(tmp_path / "hf" / "config.json")["pre_seq_len"] == 5
    assert loss_of(tmp_path / "hf", data) == pytest.approx(loss_of(run, data), rel=1e-5)
    model = AutoModel.from_pretrained(tmp_path / "hf", trust_remote_code=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    settings = {"do_sample": False, "repetition_penalty": 1.0, "min_length": 0, "max_new_tokens": 16}
    answer, _ = model.chat(tokenizer, "", "你好", **settings)
    greedy = DEMO.replace(temperature=0.0, repetition_penalty=1.0, max_new_tokens=16)
    assert [answer] == load_sat(run, device="cpu").answer_batch([(Conversation(), "你好")], greedy)


def test_the_table_holds_the_prefixes_of_all_layers(run: Path) -> None:
    checkpoint = open_checkpoint(run)
    stored, _ = to_prefix_table(checkpoint.stored_tensors, checkpoint.config)
    config = ChatGLMConfig(num_layers=4, num_attention_heads=8, hidden_size=256, pre_seq_len=5)
    table = stored[PREFIX_TABLE].view(5, config.num_layers, 2, 8, 32)
    for number in range(config.num_layers):
        expected = checkpoint.stored_tensors[f"mixins.ptuning.prefix.{number}"]  # [2, H, P, head_dim]
        assert torch.equal(table[:, number].permute(1, 2, 0, 3), expected)
    plain = open_checkpoint("visualglm-tiny")
    assert to_prefix_table(plain.stored_tensors, plain.config)[1] == plain.config


def test_a_prefix_made_by_a_network_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix_projection"):
        ChatGLMConfig(pre_seq_len=5, prefix_projection=True)
