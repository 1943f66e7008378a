"""The commands of the terminal chat, with a scripted model."""

import json
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from model import CHINESE, DEMO, ENGLISH, Language, PromptTooLongError, Turn
from tests.helpers.cli_program import SCENE
from tests.helpers.scripted_chat import ScriptedModel, done, scripted_reader
from visualglm.terminal.chat import TerminalChat


def talk(
    model: ScriptedModel, *lines: str | type[BaseException], image: str | None = "", language: Language = ENGLISH
) -> TerminalChat:
    """Run an interactive chat, by default without an image; return it when it has ended."""
    terminal = TerminalChat(model, DEMO, language, "Describe it.", scripted_reader(*lines), is_interactive=True)
    terminal.run(image)
    return terminal


def questions(model: ScriptedModel) -> list[str]:
    return [question for _, question in model.inputs]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = talk(ScriptedModel(), "/help")
    output = capsys.readouterr().out
    for name in ("/help", "/image", "/new", "/retry", "/undo", "/set", "/show", "/save", "/load", "/quit"):
        assert name in terminal.texts.commands
        assert name in output


@pytest.mark.parametrize(("typed", "meant"), [("/hlep", "/help"), ("/imgae x.png", "/image"), ("/SAV", "/save")])
def test_an_unknown_command_suggests_a_similar_one(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = ScriptedModel()
    talk(model, typed)
    assert f"Did you mean {meant}?" in capsys.readouterr().out
    assert model.inputs == []


def test_an_unknown_command_is_explained_in_chinese(capsys: pytest.CaptureFixture[str]) -> None:
    talk(ScriptedModel(), "/xyzzy", language=CHINESE)
    assert "没有命令 /xyzzy。/help" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["Clear", "CLEAR", "清空", "清除", "/image", "/clear"])
def test_words_that_start_over(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = ScriptedModel(done("one"), done("two"))
    talk(model, "1", word, "", "2")
    assert model.inputs[-1] == ([], "2")
    assert "Path or URL" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["Stop", "STOP", "停止", "/quit", "/exit"])
def test_words_that_end(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    talk(ScriptedModel(), word, "never read")
    assert capsys.readouterr().out.endswith("Goodbye.\n")


@pytest.mark.parametrize("word", ["exit", "Quit", "退出"])
def test_exit_and_quit_ask(word: str) -> None:
    model = ScriptedModel(done("one"))
    talk(model, word, "n", "1", word, "y", "never read")
    assert questions(model) == ["1"]


def test_words_and_commands_of_piped_input_are_questions() -> None:
    model = ScriptedModel(done("a"), done("b"), done("c"))
    TerminalChat(model, DEMO, ENGLISH, "", scripted_reader("exit", "/help", SCENE)).run("")
    assert questions(model) == ["exit", "/help", SCENE]


@pytest.mark.parametrize("start", ["", "/image "])
@pytest.mark.parametrize("form", ["{}", "'{}'", "{url}", "  {} "])
def test_a_path_alone_loads_the_image(start: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "a scene é.png"
    path.write_bytes(Path(SCENE).read_bytes())
    model = ScriptedModel(done("one"), done("a scene"))
    terminal = talk(model, "1", start + form.format(path, url=path.as_uri()))
    assert questions(model) == ["1", "Describe it."]
    assert terminal.session.image and terminal.session.image.size == (448, 448)


def test_a_path_with_escaped_spaces_loads_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a scene.png"
    path.write_bytes(Path(SCENE).read_bytes())
    model = ScriptedModel(done("a scene"))
    talk(model, str(path).replace(" ", "\\ "))
    assert questions(model) == ["Describe it."]


def test_a_question_about_a_file_is_a_question() -> None:
    model = ScriptedModel(done("a"), done("b"))
    talk(model, f"Is {SCENE} large?", "/usr/share/no.png?")
    assert len(model.inputs) == 2


@pytest.mark.parametrize("path", ["./nowhere.png", "/nowhere/a.JPG", "'../no where.webp'", "~/nowhere/a.gif"])
def test_a_path_of_no_file_is_not_a_question(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = ScriptedModel()
    talk(model, path)
    assert model.inputs == []
    assert "was not found" in capsys.readouterr().out


def test_a_bad_image_keeps_the_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = talk(ScriptedModel(done("one")), "1", "/image nowhere.png", language=CHINESE)
    assert terminal.conversation.turns == [Turn("1", "one")]
    assert "图片 'nowhere.png' 找不到" in capsys.readouterr().out


def test_new_keeps_the_image_and_undo_returns_to_the_turns() -> None:
    model = ScriptedModel(done("a scene"), done("one"), done("two"))
    terminal = talk(model, "/new", "1", "/undo", "/undo", "2", image=SCENE)
    assert model.inputs[1:] == [([], "1"), ([Turn("Describe it.", "a scene")], "2")]
    assert terminal.conversation.image is not None


def test_undo_drops_turns_until_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = talk(ScriptedModel(done("one"), done("two")), "1", "2", "/undo", "/undo", "/undo")
    assert terminal.conversation.turns == []
    assert "nothing to undo" in capsys.readouterr().out


def test_undo_after_clear_returns_to_the_conversation() -> None:
    model = ScriptedModel(done("one"), done("two"))
    talk(model, "1", "clear", "/undo", "2")
    assert model.inputs[-1] == ([Turn("1", "one")], "2")


def test_retry_replaces_the_last_answer() -> None:
    model = ScriptedModel(done("one"), done("two"), done("other"))
    terminal = talk(model, "1", "2", "/retry")
    assert model.inputs[-1] == ([Turn("1", "one")], "2")
    assert terminal.conversation.turns == [Turn("1", "one"), Turn("2", "other")]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), PromptTooLongError(9, 8), KeyError("x")], ids=type)
def test_a_retry_that_fails_keeps_the_old_answer(failure: BaseException) -> None:
    terminal = talk(ScriptedModel(done("one"), [failure]), "1", "/retry")
    assert terminal.conversation.turns == [Turn("1", "one")]


def test_a_failed_question_can_be_retried() -> None:
    model = ScriptedModel([PromptTooLongError(9, 8)], done("one"))
    assert talk(model, "1", "/retry").conversation.turns == [Turn("1", "one")]


def test_a_bug_ends_the_answer_and_not_the_talk(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = talk(ScriptedModel([KeyError("x")], [KeyError("y")], done("two")), "1", "/set verbose on", "1", "2")
    output = capsys.readouterr().out
    assert terminal.conversation.turns == [Turn("2", "two")]
    assert "KeyError: 'x'" in output
    assert output.count("Traceback") == 1


def test_a_bug_ends_a_chat_with_piped_input() -> None:
    with pytest.raises(KeyError):
        TerminalChat(ScriptedModel([KeyError("x")]), DEMO, ENGLISH, "", scripted_reader("1")).run("")


def test_settings_are_changed_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["/set temperature 0.2", "/set top-k=7", "/set seed 7", "/set seed none", "/set max_new_tokens 5"]
    bad = ["/set top_p 3", "/set top_k 2.5", "/set temperature hot", "/set verbose maybe", "/set temprature 1"]
    terminal = talk(ScriptedModel(), *lines, *bad)
    expected = {"temperature": 0.2, "top_k": 7, "max_new_tokens": 5}
    assert terminal.session.config == DEMO.replace(**expected)
    output = capsys.readouterr().out
    for part in ("between 0 and 1", "an integer of at least 0", "between 0 and 100", "on or off"):
        assert part in output
    assert "Did you mean temperature?" in output


def test_a_setting_out_of_range_is_explained_in_chinese(capsys: pytest.CaptureFixture[str]) -> None:
    talk(ScriptedModel(), "/set top_p 3", language=CHINESE)
    assert "top_p 是 3；应为 0 到 1" in capsys.readouterr().out


def test_verbose_shows_the_speed(capsys: pytest.CaptureFixture[str]) -> None:
    talk(ScriptedModel(done("one"), done("two")), "1", "/set verbose on", "2")
    assert capsys.readouterr().out.count("5 tokens, 0.2 s, 25.0 tokens/s") == 1


def test_show_lists_settings_model_and_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    model = ScriptedModel(done("one"))
    facts = SimpleNamespace(device="cpu", dtype="float32", quantized_bits=8, parameters=1_234_567)
    model.facts = facts  # type: ignore[attr-defined]
    talk(model, "1", "/show")
    output = capsys.readouterr().out.rpartition("Settings")[2]
    for part in ("temperature = 0.8", "seed = random", "scripted", "cpu", "float32", "8 bits", "1,234,567", "one"):
        assert part in output


@pytest.mark.parametrize("image", [SCENE, ""])
def test_a_saved_conversation_is_loaded_again(image: str, tmp_path: Path) -> None:
    file = tmp_path / "talk"
    first = talk(ScriptedModel(done("one"), done("two")), "问题", f"/save {file}", image=image)
    saved = json.loads(file.with_suffix(".json").read_text("utf-8"))
    assert (saved["format"], saved["version"]) == ("visualglm-conversation", 1)
    assert (saved["image"] is None) is (not image)
    model = ScriptedModel(done("three"))
    second = talk(model, f"/load '{file}.json'", "And?", image=None)
    assert model.inputs == [(first.conversation.turns, "And?")]
    if image:
        assert second.session.image and first.session.image
        assert second.session.image.resized.tobytes() == first.session.image.resized.tobytes()


@pytest.mark.parametrize("name", ["talk.md", "talk.txt"])
def test_a_conversation_is_saved_as_text(name: str, tmp_path: Path) -> None:
    talk(ScriptedModel(done("one")), "What?", f"/save {tmp_path / name}")
    text = (tmp_path / name).read_text("utf-8")
    assert "What?" in text
    assert "one" in text
    assert (name == "talk.md") == ("**" in text)


def test_saving_asks_before_it_replaces_a_file(tmp_path: Path) -> None:
    file = tmp_path / "talk.txt"
    file.write_text("mine", "utf-8")
    talk(ScriptedModel(done("one")), "1", f"/save {file}", "n")
    assert file.read_text("utf-8") == "mine"
    talk(ScriptedModel(done("one")), "1", f"/save {file}", "y")
    assert "one" in file.read_text("utf-8")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("/save {}/no/where.json", "could not be saved"),
        ("/load {}/nowhere.json", "could not be read"),
        ("/load {}", "could not be read"),
        ("/load {}/bad.json", "is not JSON"),
        ("/load", "/load needs FILE"),
    ],
)
def test_files_that_cannot_be_used_are_explained(
    line: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text("{", "utf-8")
    terminal = talk(ScriptedModel(done("one")), "1", line.format(tmp_path))
    assert part in capsys.readouterr().out
    assert terminal.conversation.turns == [Turn("1", "one")]


def test_the_history_is_private_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visualglm.terminal.input import MAX_HISTORY, history_file, make_history

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    make_history().store_string("first\nsecond")
    file = history_file()
    assert file is not None
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert list(make_history().load_history_strings()) == ["first\nsecond"]
    for _ in range(MAX_HISTORY // 1000 + 20):
        with file.open("a", encoding="utf-8") as opened:
            opened.write("\n# 2026\n+" + "x" * 1000 + "\n")
    kept = list(make_history().load_history_strings())
    assert set(kept) == {"x" * 1000}
    assert file.stat().st_size < MAX_HISTORY


def test_a_history_that_cannot_be_kept_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visualglm.terminal.input import make_history

    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    history = make_history()
    history.append_string("one")
    assert history.get_strings() == ["one"]
