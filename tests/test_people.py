"""The metamer test for people: in a browser with planted answers, read, and taken by networks."""

import errno
import os

import pandas as pd
import pytest
import torch
import yaml

from metalib import ImageSet, Metamers, load_images, load_model
from metalib.people import Design, Exclusions, experiment, export, read, take
from metalib.people.export import hashed
from metalib.runs import command

AT_ONCE = {"fastest": None, "off_by": None}  # exclusions that a program does not pass
QUICK = {"blank": 0, "fixation": 20, "image": 40, "mask": 20, "practice": 2, "screening": 2,
         "catch": 2, "breaks": 1, "fullscreen": False}


@pytest.fixture(scope="module")
def references(samples):
    return samples[:13]


@pytest.fixture(scope="module")
def conditions(references):
    """Two conditions: references with some noise, and with more."""
    noise = torch.randn(references.images.shape, generator=torch.Generator().manual_seed(0))
    return {name: Metamers(
        (references.images + strength * noise).clamp(0, 1), references.images,
        recipe={"models": [f"zoo/{name}"], "stages": ["group1"], "seed": 3})
        for name, strength in (("little", 0.1), ("much", 0.3))}


@pytest.fixture(scope="module")
def site(conditions, references, tmp_path_factory):
    folder = tmp_path_factory.mktemp("people") / "site"
    experiment(conditions, references, folder, design=QUICK, consent="# Taking *part*")
    return folder


class Sitting:
    """A participant in a browser, who answers as planned."""

    def __init__(self, chromium, site, query="?participant=5", **options):
        self.context = chromium.new_context(accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text)
                     if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", lambda dialog: dialog.accept())
        self.page.goto(f"{(site / 'index.html').as_uri()}{query}")

    def trials(self, participant):
        return self.page.evaluate("""(participant) => trialsOf(EXPERIMENT, participant).map(
            (trial) => ({...trial, right: rightAnswer(EXPERIMENT, trial)}))""", participant)

    def press(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()

    def next(self):
        """Wait for what is to be pressed: "answers", "page" or "end"."""
        self.page.wait_for_selector(".answers button, .jspsych-btn, #save", timeout=20_000)
        if self.page.query_selector(".answers"):
            return "answers"
        return "end" if self.page.query_selector("#save") else "page"

    def go(self, plan, by="mouse", until=None):
        """Take the test up to its end, or up to a trial, with planned answers by trial."""
        keys = self.page.evaluate(
            "Object.fromEntries(EXPERIMENT.classes.map((each) => [each.name, each.key]))")
        while (shown := self.next()) != "end":
            if shown == "page":
                button = self.page.query_selector(".jspsych-btn")
                if by == "mouse":
                    button.click()
                else:
                    button.focus()
                    self.page.keyboard.press("Enter")
                self.page.wait_for_function("(b) => !b.isConnected", arg=button)
                continue
            number = int(self.page.inner_text(".progress").split()[0])
            if number == until:
                return
            if by == "mouse":
                self.page.get_by_role("button", name=plan[number]).click()
            else:
                self.page.keyboard.press(keys[plan[number]])
            self.page.wait_for_function(
                "(n) => !document.querySelector('.answers') || "
                "!document.querySelector('.progress').textContent.startsWith(n + ' of')",
                arg=str(number))

    def save(self, folder):
        with self.page.expect_download() as download:
            self.press("Save the answers")
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        self.context.close()
        return path


def planned(trials):
    """Right answers everywhere, but wrong ones in the condition "much" for every second image."""
    wrong = {True: "cat", False: "dog"}
    return {trial["trial"]: wrong[trial["right"] == "dog"]
            if trial["condition"] == "much" and int(trial["imagename"][-1]) % 2 else trial["right"]
            for trial in trials}


def accuracy(table):
    return table.groupby("condition")["recognised"].mean().to_dict()


# --- A whole test in a browser --------------------------------------------------------------------

@pytest.mark.parametrize("by, options", [
    ("mouse", {}), ("keyboard", {}),
    ("mouse", {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True})])
def test_what_was_planned_is_what_is_read(chromium, site, tmp_path, by, options):
    sitting = Sitting(chromium, site, **options)
    trials = sitting.trials(5)
    plan = planned(trials)
    sitting.go(plan, by)
    table = read(sitting.save(tmp_path), AT_ONCE)
    shown = [trial for trial in trials if trial["kind"] == "test"]
    assert len(table) == len(shown) == 9
    for row, trial in zip(table.itertuples(), shown):
        assert row.answer == plan[trial["trial"]] and row.category == trial["right"]
        assert (row.condition, row.generator) == (trial["condition"], trial["generator"])
        assert row.recognised == (plan[trial["trial"]] == trial["right"])
    much = [trial for trial in shown if trial["condition"] == "much"]
    right = sum(int(trial["imagename"][-1]) % 2 == 0 for trial in much)
    assert accuracy(table) == {"little": 1, "natural": 1, "much": right / len(much)}
    assert not sitting.said and all(url.startswith("file:") for url in sitting.asked)
    saved = pd.read_csv(next(tmp_path.glob("*.csv")))
    assert set(saved["by"]) == {"key" if by == "keyboard" else "pointer"}
    assert list(saved.columns[:8]) == ["subj", "session", "trial", "rt", "object_response",
                                       "category", "condition", "imagename"]
    for step in ("fixation", "image", "mask"):  # within one frame, but for what the machine delays
        off = (saved[f"{step}_ms"] - saved[f"asked_{step}_ms"]).abs()
        assert (off <= saved["longest_frame_ms"]).all() and (saved["frame_ms"] > 0).all()
        assert off.median() <= saved["frame_ms"].median()


def test_a_reload_in_the_middle_loses_nothing(chromium, site, tmp_path):
    sitting = Sitting(chromium, site)
    plan = planned(sitting.trials(5))
    sitting.go(plan, until=9)
    sitting.page.reload()
    sitting.page.get_by_text("8 of 15 answers are kept").wait_for()
    sitting.press("Go on")
    sitting.go(plan)
    path = sitting.save(tmp_path)
    saved = pd.read_csv(path)
    assert list(saved["trial"]) == list(range(1, 16)) and set(saved["reloads"]) == {1}
    assert len(read(path, AT_ONCE)) == 9


def test_after_a_reload_one_may_start_again(chromium, site, tmp_path):
    sitting = Sitting(chromium, site)
    plan = planned(sitting.trials(5))
    sitting.go(plan, until=5)
    sitting.page.reload()
    sitting.press("Start again")
    sitting.press("I agree")
    sitting.go(plan)
    assert set(pd.read_csv(sitting.save(tmp_path))["reloads"]) == {0}


def test_lost_focus_is_recorded_and_left_out(chromium, site, tmp_path):
    sitting = Sitting(chromium, site)
    plan = planned(sitting.trials(5))
    sitting.go(plan, until=8)
    sitting.page.evaluate("dispatchEvent(new Event('blur'))")
    sitting.go(plan)
    path = sitting.save(tmp_path)
    saved = pd.read_csv(path)
    assert list(saved.loc[saved["lost_focus"], "trial"]) == [8]
    table, whole = read(path, AT_ONCE), read(path, AT_ONCE | {"lost_focus": False})
    was_test = saved.loc[7, "kind"] == "test"
    assert len(whole) - len(table) == was_test


def test_a_failed_screening_ends_the_test(chromium, site, tmp_path):
    sitting = Sitting(chromium, site)
    trials = sitting.trials(5)
    wrong = {trial["trial"]: "cat" if trial["right"] == "dog" else "dog" for trial in trials}
    sitting.go(wrong)
    path = sitting.save(tmp_path)
    assert list(pd.read_csv(path)["kind"]) == ["practice"] * 2 + ["screening"] * 2
    table = read(path)
    assert len(table) == 0 and table.attrs["participants"]["screening"].tolist() == ["failed"]


def test_who_does_not_agree_leaves_no_data(chromium, site):
    sitting = Sitting(chromium, site)
    sitting.press("I do not agree")
    sitting.page.get_by_text("nothing was recorded").wait_for()
    assert sitting.page.evaluate("sessionStorage.length") == 0
    assert not sitting.page.query_selector("#save")
    sitting.context.close()


def test_every_control_has_a_name_and_no_right_answer_is_readable(chromium, site):
    sitting = Sitting(chromium, site)
    sitting.press("I agree")
    sitting.go({}, until=1)
    names = sitting.page.evaluate(
        "[...document.querySelectorAll('button')].map((b) => b.innerText.trim())")
    assert len(names) == 7 and all(names) and len(set(names)) == 7
    assert sitting.page.query_selector("h1").inner_text() == "What was it?"
    source = (site / "trials.js").read_text()
    assert source.count('"cat"') == 1  # the answer's own name
    sitting.context.close()


@pytest.mark.parametrize("mode", ["data-only", "visual"])
def test_simulated_participants_are_read(chromium, site, tmp_path, mode):
    sitting = Sitting(chromium, site, f"?participant=3&simulate={mode}&right=1")
    sitting.page.wait_for_selector("#save", timeout=60_000)
    table = read(sitting.save(tmp_path), AT_ONCE)
    assert len(table) == 9 and table["recognised"].all()


def test_conditions_make_a_latin_square(chromium, site):
    sitting = Sitting(chromium, site)
    seen = pd.DataFrame([
        {"participant": k, **trial} for k in range(6) for trial in sitting.trials(k)
        if trial["kind"] == "test"])
    sitting.context.close()
    assert len(seen) == 6 * 9
    assert not seen.duplicated(["participant", "imagename"]).any()
    counts = seen.groupby(["imagename", "condition"]).size()
    assert len(counts) == 9 * 3 and (counts == 2).all()
    per_person = seen.groupby(["participant", "condition"]).size()
    assert per_person.eq(3).all()
    orders = seen.groupby("participant")["imagename"].agg(tuple)
    assert orders.nunique() == 6


# --- The folder -----------------------------------------------------------------------------------

def test_the_folder_is_small_and_says_its_licences(site):
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()
               and path.parent.name != "images")
    assert size < 2_000_000
    assert "MIT" in (site / "LICENCES.txt").read_text()
    assert "CC BY 4.0" in (site / "LICENCES.txt").read_text()
    assert "<em>part</em>" in (site / "trials.js").read_text()
    assert "http" not in (site / "index.html").read_text()


def test_metamers_that_are_none_are_replaced(conditions, references, site, tmp_path):
    fine = [False] + [True] * 12
    index = experiment(conditions, references, tmp_path / "site", design=QUICK | {
        "practice": 0, "screening": 0}, passed={"much": fine}, consent="")
    source = (index.parent / "trials.js").read_text()
    assert source.count("true") >= 1
    table = take("zoo/vgg-robust-0", conditions, references, passed={"much": fine})
    assert table.loc[table["replaced"], "image"].tolist() == [0]
    assert table.loc[table["replaced"], "agrees"].all()


@pytest.mark.parametrize("changes, message", [
    ({"design": {}}, "practice and screening take 28 of the 13 references"),
    ({"design": QUICK | {"trials": 10}}, "to see 10 references, but there are 9"),
    ({"design": QUICK | {"durations": 3}}, "unknown settings of the design: durations"),
    ({"design": QUICK | {"image": 0}}, "image"),
    ({"design": QUICK | {"upscaling": "no"}}, "choose"),
    ({"classes": ["cat"]}, "there are 1 answers"),
    ({"classes": ["cat", "dog"]}, "the class frog is no answer|is no answer"),
    ({"classes": {"animal": ["cat", "dog"], "pet": ["cat"]}}, "is no answer|several answers"),
    ({"passed": {"litle": [True] * 13}}, "the conditions are little, much"),
    ({"passed": {"little": [True]}}, "1 values for 13 images"),
    ({"icons": {"cat": "nowhere.svg"}}, "there is no icon nowhere.svg")])
def test_what_cannot_be_an_experiment_is_refused(
        conditions, references, tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        experiment(conditions, references, tmp_path / "new",
                   **{"design": QUICK, "consent": ""} | changes)
    assert list(tmp_path.iterdir()) == []


def test_metamers_of_other_references_are_refused(conditions, references, tmp_path):
    other = references[torch.arange(12, -1, -1)]
    with pytest.raises(ValueError, match="'little' are of other references"):
        experiment(conditions, other, tmp_path / "new", design=QUICK, consent="")
    with pytest.raises(ValueError, match="two conditions are called 'zoo/little, group1'"):
        experiment([conditions["little"]] * 2, references, tmp_path / "new", design=QUICK)


def test_a_folder_with_other_things_is_left_alone(conditions, references, tmp_path, monkeypatch):
    make = lambda **more: experiment(  # noqa: E731
        conditions, references, tmp_path / "site", design=QUICK, consent="", **more)
    make()
    before = (tmp_path / "site" / "trials.js").read_text()
    with pytest.raises(ValueError, match="overwrite=True"):
        make()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(export, "_write_trials", full)
        with pytest.raises(OSError, match="No space left"):
            make(overwrite=True)
    assert (tmp_path / "site" / "trials.js").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    make(overwrite=True)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no experiment"):
        experiment(conditions, references, tmp_path / "else", design=QUICK, overwrite=True)


def test_without_jspsych_it_says_how_to_install_it(conditions, references, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LIBRARIES", {"nothing.js": "nothing.js"})
    with pytest.raises(FileNotFoundError, match="npm ci --prefix"):
        experiment(conditions, references, tmp_path / "new", design=QUICK, consent="")


def test_a_template_of_consent_is_warned_of(conditions, references, tmp_path):
    with pytest.warns(UserWarning, match="ethics committee"):
        experiment(conditions, references, tmp_path / "new", design=QUICK)


def test_the_hash_is_that_of_the_page(chromium, site):
    sitting = Sitting(chromium, site)
    for text in ("", "a", "reference 0001:cat", "straße 猫"):
        assert sitting.page.evaluate("(text) => hashed(text)", text) == hashed(text)
    sitting.context.close()


# --- Reading --------------------------------------------------------------------------------------

def rows(participant=1, session="s", trials=6, **changes):
    """Data of a made-up participant: tests with two conditions, and a catch trial at the end."""
    base = {"subj": f"participant-{participant}", "session": f"{session}{participant}", "rt": 0.5,
            "generator": "zoo/a", "stage": "group1", "seed": 0, "replaced": "false",
            "lost_focus": "false", "experiment": "e", "screening": "passed", "trials": trials,
            "blank_ms": 500.0, "fixation_ms": 300.0, "image_ms": 300.0, "mask_ms": 300.0,
            "asked_blank_ms": 500, "asked_fixation_ms": 300, "asked_image_ms": 300,
            "asked_mask_ms": 300, "category": "cat", "object_response": "cat"}
    return pd.DataFrame([base | {
        "trial": k + 1, "kind": "catch" if k == trials - 1 else "test",
        "condition": "natural" if k % 2 else "near", "imagename": f"reference {k:04}"} | changes
        for k in range(trials)])


def saved(folder, *tables):
    for number, table in enumerate(tables):
        table.to_csv(folder / f"{number}.csv", index=False)
    return folder


def test_tables_of_people_have_the_columns_of_networks(tmp_path, conditions, references):
    table = read(saved(tmp_path, rows(1), rows(2)))
    assert list(table.columns) == list(take("zoo/vgg-robust-0", conditions, references).columns)
    assert len(table) == 10 and table["observer"].nunique() == 2
    assert set(table.loc[table["condition"] == "natural", "agrees"]) == {True}
    assert table.loc[table["condition"] == "near", "agrees"].isna().all()


@pytest.mark.parametrize("changes, exclusions, reason", [
    ({"screening": "failed"}, None, "screening failed"), ({"trials": 7}, None, "not complete"),
    ({"object_response": "dog"}, None, "catch trials"), ({"rt": 0.1}, None, "too fast"),
    ({"rt": 30.0}, {"slowest": 20}, "too slow"), ({"lost_focus": "true"}, None, "lost focus"),
    ({"image_ms": 380.0}, None, "duration")])
def test_exclusions_are_applied_and_reported(tmp_path, changes, exclusions, reason):
    of_trial = reason in ("too fast", "too slow", "lost focus", "duration")
    bad = rows(2)
    for name, value in changes.items():
        bad[name] = bad[name].astype(object)
        bad.loc[bad.index[:2] if of_trial else bad.index, name] = value
    table = read(saved(tmp_path, rows(1), bad), exclusions)
    report = table.attrs["exclusions"]
    assert report["reason"].tolist() == [reason] and report["participants"].tolist() == [1]
    assert report["trials"].tolist() == [2 if of_trial else 5] == [10 - len(table)]
    off = {"screening": False, "complete": False, "catch": None, "fastest": None, "slowest": None,
           "lost_focus": False, "off_by": None}
    assert len(read(tmp_path, off)) == 10
    (tmp_path / "exclusions.yml").write_text(yaml.safe_dump(off))
    assert len(read(tmp_path, tmp_path / "exclusions.yml")) == 10


@pytest.mark.parametrize("content, message", [
    (b"a,b\n1,2\n", "no data of a metamer test: it has no column subj"), (b"", "cannot be read"),
    (b"\x89PNG\r\n\x1a\n\x00\x00", "cannot be read|no data"),
    (rows(1).assign(kind="other").to_csv(index=False).encode(), "unknown kind"),
    (rows(1)[:0].to_csv(index=False).encode(), "no rows"),
    (rows(1).assign(trial=1).to_csv(index=False).encode(), "a trial twice")])
def test_foreign_files_are_refused_by_name(tmp_path, content, message):
    (tmp_path / "data.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        read(tmp_path)
    assert "data.csv" in str(raised.value)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no CSV files"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="2 experiments"):
        read(saved(tmp_path, rows(1), rows(2, experiment="f")))
    with pytest.raises(ValueError, match="session s1 is in several files"):
        read(saved(tmp_path, rows(1), rows(1)))
    with pytest.raises(ValueError, match="unknown exclusions catches"):
        read(tmp_path, {"catches": 1})
    with pytest.raises(ValueError, match="share of the catch trials"):
        Exclusions(catch=2)


# --- Networks -------------------------------------------------------------------------------------

def test_a_network_answers_as_it_does_elsewhere(conditions, references):
    model = load_model("zoo/resnet-robust-0")
    table = take(model, conditions, references, classes=references.class_names)
    for name, images in (("natural", references.images), ("much", conditions["much"].images)):
        own = [references.class_names[k] for k in model.answer(images)]
        assert table.loc[table["condition"] == name, "answer"].tolist() == own
    assert table.loc[table["condition"] == "natural", "agrees"].all()
    some = take(model, conditions, references)  # among the classes that there are
    assert set(some["answer"]) <= {references.class_names[k] for k in references.labels}


def test_answers_may_stand_for_several_classes(conditions, references):
    two = {"animal": ["bird", "cat", "deer", "dog", "frog", "horse"],
           "vehicle": ["airplane", "automobile", "ship", "truck"]}
    table = take("zoo/vgg-robust-0", conditions, references, classes=two)
    assert set(table["category"]) == {"animal", "vehicle"}
    natural = table[table["condition"] == "natural"]
    assert natural["recognised"].mean() > 0.8
    with pytest.raises(ValueError, match="has no class"):
        take("zoo/vgg-robust-0", conditions, ImageSet(
            references.images, references.labels, tuple(f"kind {k}" for k in range(10)), "renamed"))


def test_the_design_names_what_is_wrong():
    with pytest.raises(ValueError, match="pass_mark is 7, more than the 3 images"):
        Design(screening=3)


# --- The command ----------------------------------------------------------------------------------

def test_the_command_writes_the_folder(conditions, tmp_path, capsys):
    for name, made in conditions.items():
        made.save(tmp_path / name)
    (tmp_path / "design.yml").write_text(yaml.safe_dump(QUICK))
    (tmp_path / "consent.md").write_text("# Agreed?")
    given = ["experiment", "cifar10-samples", str(tmp_path / "site"), str(tmp_path / "little"),
             str(tmp_path / "much"), "--design", str(tmp_path / "design.yml"), "--consent",
             str(tmp_path / "consent.md")]
    assert command.main(given) == 1  # of 13 of the 20 images
    assert "'little' are of other references" in capsys.readouterr().err
    every = load_images("cifar10-samples")
    for name in conditions:
        Metamers(every.images, every.images).save(tmp_path / name)
    assert command.main(given) == 0
    source = (tmp_path / "site" / "trials.js").read_text()
    assert "<h1>Agreed?</h1>" in source and '"condition": "much"' in source
    assert command.main(given) == 1
    assert "overwrite=True" in capsys.readouterr().err
