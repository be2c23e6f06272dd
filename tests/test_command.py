"""The command `metalib`, called in the process; what it says, and how it ends."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import torch
from torchvision.transforms.functional import to_pil_image

import metalib
from metalib.runs import command
from metalib.store import fingerprint

ROOT = Path(__file__).parents[1]
COMMANDS = ("models", "check", "generate", "judge", "run", "sweep")
MODEL = "zoo/vgg-robust-0"


@pytest.fixture
def photographs(tmp_path, samples):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, image in enumerate(samples.images[:2]):
        to_pil_image(image).save(folder / f"{number}.png")
    return folder


def test_models_lists_the_bundled_ones_and_what_a_pattern_matches(capsys):
    assert command.main(["models"]) == 0
    assert capsys.readouterr().out.split() == metalib.list_models("zoo/*")
    assert command.main(["models", "*/vgg-robust-*", "--offline"]) == 0
    assert MODEL in capsys.readouterr().out.split()
    assert command.main(["models", "zoo/nothing"]) == 1
    assert one_line(capsys).startswith("metalib: no model matches 'zoo/nothing'")


def test_check_shows_the_stages(capsys):
    assert command.main(["check", MODEL]) == 0
    shown = capsys.readouterr().out
    assert all(stage in shown for stage in metalib.load_model(MODEL).stages)
    assert "32 x 32 pixels" in shown and "there" in shown


def test_from_a_folder_of_pictures_to_a_table(capsys, photographs, tmp_path):
    run = tmp_path / "run"
    made = ["generate", MODEL, "group1", str(photographs), str(run), "--steps", "12"]
    assert command.main([*made, "--optimizer", "[adam, {learning_rate: 0.02}]"]) == 0
    assert "2 metamers" in capsys.readouterr().out
    metamers = metalib.metamers.load(run)
    assert metamers.recipe["optimizer"] == "adam" and len(metamers.loss) == 12
    assert metamers.recipe["optimizer_options"]["learning_rate"] == 0.02
    assert (run / "images" / "0001.png").is_file()

    table = tmp_path / "table.csv"
    assert command.main(["judge", str(run), "--output", str(table)]) == 0
    shown = capsys.readouterr().out
    assert re.match(rf"{MODEL}, group1: \d of 2 passed", shown)
    assert "passed" in shown and max(map(len, shown.splitlines())) <= 80
    written, model = pd.read_csv(table), metalib.load_model(MODEL)
    judged = metalib.judge(model, "group1", metamers, metalib.load_null(model, "group1"))
    assert list(written["passed"]) == list(judged["passed"])
    assert set(judged) <= set(written)

    assert command.main(["judge", str(run), "--model", "zoo/cct-robust-0"]) == 1
    assert "pass both --model and --stage" in one_line(capsys)
    assert command.main(["judge", str(run), "--stage", "group2"]) == 0
    assert f"{MODEL}, group2" in capsys.readouterr().out


def test_judging_says_where_a_network_has_changed_under_its_name(capsys, samples, tmp_path):
    pixels = samples.images[:2]
    for changed in (True, False):
        made = {"models": [MODEL], "stages": ["group1"], "fingerprints": [
            "other" if changed else fingerprint(metalib.load_model(MODEL))]}
        metalib.metamers.save(metalib.Metamers(pixels, pixels.clone(), recipe=made), tmp_path)
        assert command.main(["judge", str(tmp_path)]) == 0
        said = capsys.readouterr()
        assert "2 of 2 passed" in said.out
        assert ("is not what it was" in said.err) == changed


def test_several_networks_judge_in_turn(capsys, samples, tmp_path):
    made = {"models": [MODEL, "zoo/vgg-robust-1", MODEL], "stages": ["group1", "group2", "group3"]}
    pixels = samples.images[:2]
    metalib.metamers.save(metalib.Metamers(pixels, pixels.clone(), recipe=made), tmp_path)
    assert command.main(["judge", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("2 of 2 passed") == 3 and shown.count("zoo/vgg-robust-1") == 3
    assert command.main(["judge", str(tmp_path), "--model", MODEL]) == 0
    assert capsys.readouterr().out.count("2 of 2 passed") == 2


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    """What is kept, and that a run goes on, is for the tests of recipes."""
    made = ["generate", MODEL, "group1", "cifar10-samples", str(tmp_path / "run")]
    unfinished = metalib.Metamers(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2),
                                  status=("interrupted",))
    monkeypatch.setattr(command.recipe, "run", lambda *_, **__: unfinished)
    assert command.main(made) == 130
    assert f"goes on from what is kept in {tmp_path / 'run'}" in one_line(capsys)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.recipe, "run", interrupt)
    assert command.main(made) == 130
    assert f"goes on from what is kept in {tmp_path / 'run'}" in one_line(capsys)
    monkeypatch.setattr(command, "load_model", interrupt)
    assert command.main(["check", MODEL]) == 130
    assert one_line(capsys) == "metalib: interrupted"


def test_what_is_done_is_not_done_again(capsys, photographs, tmp_path):
    made = ["generate", MODEL, "group1", str(photographs), str(tmp_path / "run"), "--steps", "3"]
    assert command.main(made) == command.main(made) == 0
    capsys.readouterr()
    assert command.main([*made, "--seed", "1"]) == 1
    assert "seed" in one_line(capsys)


@pytest.mark.parametrize("arguments, message", [
    ("generate zoo/vgg-rubost-0 group1 cifar10-samples run", "zoo/vgg-robust-0"),
    ("generate zoo/vgg-robust-0 group9 cifar10-samples run", "its stages are"),
    ("generate zoo/vgg-robust-0 group1 no-such-folder run", "no-such-folder"),
    ("generate zoo/vgg-robust-0 group1 cifar10-samples run --optimizer adma", "adam"),
    ("generate zoo/vgg-robust-0 group1 cifar10-samples run --n 99", "99"),
    ("check zoo/nothing", "did you mean"),
    ("judge no-such-folder", "no-such-folder")])
def test_what_fails_says_so_in_a_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments.split()) == 1
    assert message in one_line(capsys)


@pytest.mark.parametrize("arguments", [
    "", "metamers", "generate", "generate a b c d --steps 0", "generate a b c d --steps many",
    "generate a b c d --optimizer {", "generate a b c d --stop never", "judge run --output"])
def test_a_command_that_is_not_understood_is_an_error_of_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments.split())
    assert ended.value.code == 2
    assert "metalib" in capsys.readouterr().err.splitlines()[-1]


def test_where_no_null_ships_it_says_what_to_pass(capsys, monkeypatch, photographs, tmp_path):
    monkeypatch.setattr(command, "shipped_stages", lambda name: set())
    made = ["generate", MODEL, "group1", str(photographs), str(tmp_path / "run"), "--steps", "3"]
    assert command.main([*made, "--stop", "criterion"]) == 1
    assert "pass --null-images" in one_line(capsys)
    assert command.main(made) == 0
    capsys.readouterr()
    assert command.main(["judge", str(tmp_path / "run")]) == 1
    assert "pass --null-images" in one_line(capsys)
    assert command.main(
        ["judge", str(tmp_path / "run"), "--null-images", "cifar10-samples"]) == 0


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_teaches_by_examples(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        command.main([name, "--help"] if name else ["--help"])
    shown = capsys.readouterr().out
    assert not ended.value.code
    assert "metalib" in shown
    if name not in command.DELEGATED:
        assert "examples:" in shown and f"  metalib {name or 'models'}" in shown
        assert max(map(len, shown.splitlines())) < 80


def test_every_example_of_the_help_is_understood():
    for text in (command.EXAMPLES, command.MODELS, command.CHECK, command.GENERATE, command.JUDGE):
        for line in re.findall(r"^  metalib (.*)$", text.replace("\\\n", " "), flags=re.M):
            words = re.sub(r"\s#.*", "", line).replace("'", "\0").split("\0")
            words = [w for i, part in enumerate(words) for w in ([part] if i % 2 else part.split())]
            if words[0] not in command.DELEGATED:
                command._parser().parse_args(words)


def test_it_is_installed_and_runs_as_a_module():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"metalib": "metalib.runs.command:main"}
    done = subprocess.run([sys.executable, "-m", "metalib", "--version"], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.stdout.strip() == metalib.__version__, done.stderr


def one_line(capsys):
    """What was said on the error stream, a single line."""
    said = capsys.readouterr().err.strip()
    assert said and "\n" not in said, said
    return said
