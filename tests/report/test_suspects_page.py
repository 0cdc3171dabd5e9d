"""The page of suspects: its numbers add up, and its buttons write the very CSV that --relabel reads. In a real Chromium."""

import csv
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import clearsight
from clearsight.actions.label_errors import LabelErrors, find_label_errors, write_suspects
from clearsight.data.read.load import load_data
from clearsight.data.relabel import relabel
from clearsight.errors import DataError, UsageError

CLASSES = ('<script>alert("x")</script>', "=SUM(A1)", 'wild, red & "old"')
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def found(tmp_path):
    """Sixty suspects among 90 pictures, with names and classes that would break a page or a table that does not quote them."""
    rng = np.random.default_rng(0)
    arrays = load_data(rng.integers(0, 256, (90, 20, 30, 3), np.uint8), np.arange(90) % 3)
    odd = "</fieldset></script>'\" ,;\u00e9\n"
    files = tuple(f"{k:02}{odd if k % 7 == 0 else ''}.png" for k in range(90))
    dataset = replace(arrays, name="data", class_names=CLASSES, files=files)
    rows = rng.permutation(90)[:60]
    suggested = (dataset.labels[rows] + 1 + (np.arange(60) % 5 == 0)) % 3
    confidence = np.stack([np.linspace(0.01, 0.3, 60), np.linspace(0.95, 0.6, 60)], axis=1)
    return LabelErrors(tmp_path, dataset, rows, suggested, confidence, None, SimpleNamespace(rows=np.arange(90)), 0.8)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as tool:
        started = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=600_000)
        try:
            yield started
        finally:
            started.close()


@pytest.fixture
def window(found, browser):
    """The page, opened from its file in a profile of its own, as a person does."""
    write_suspects(found)
    with browser.new_context(viewport={"width": 1200, "height": 900}) as profile:
        opened = profile.new_page()
        opened.set_default_timeout(600_000)  # a busy machine is no failure
        problems = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
        opened.goto((found.path / "suspects.html").as_uri())
        yield opened
        assert problems == []


def save(window, path):
    with window.expect_download(timeout=600_000) as download:
        window.click("#save")
    assert download.value.suggested_filename == "suspects.csv"
    download.value.save_as(path)
    return path


@pytest.mark.long
@pytest.mark.browser
def test_a_page_without_a_choice_saves_the_table_as_it_was_written(window, found, tmp_path):
    saved = save(window, tmp_path / "saved.csv")
    assert saved.read_bytes() == (found.path / "suspects.csv").read_bytes()
    assert relabel(found.dataset, saved).labels.tolist() == found.dataset.labels.tolist()


@pytest.mark.long
@pytest.mark.browser
def test_every_choice_on_the_page_comes_back_through_relabel(window, found, tmp_path):
    """A third keeps its label, the others take the suggested class, the third one, or are left out."""
    cards, wanted, out = window.locator("fieldset"), found.dataset.labels.copy(), []
    for place, row in enumerate(found.rows):
        card, other = cards.nth(place), found.suggested[place]
        if place % 4 == 0:
            card.get_by_text("keep", exact=False).click()
        elif place % 4 == 1:
            card.locator("label:nth-of-type(2)").click()
            wanted[row] = other
        elif place % 4 == 2:
            third = ({0, 1, 2} - {int(wanted[row]), int(other)}).pop()
            card.locator("select").select_option(str(third))
            wanted[row] = third
        else:
            card.get_by_text("leave out").click()
            out.append(row)
    assert window.inner_text("#state") == "60 of 60 decided: 15 kept, 30 relabelled, 15 left out"
    corrected = relabel(found.dataset, save(window, tmp_path / "saved.csv"))
    kept = np.setdiff1d(np.arange(90), out)
    assert corrected.files == tuple(found.dataset.files[row] for row in kept)
    assert corrected.labels.tolist() == wanted[kept].tolist()


@pytest.mark.long
@pytest.mark.browser
def test_the_page_can_be_used_with_the_keyboard_alone(window, found, tmp_path):
    window.locator("fieldset input").first.focus()
    for key in ("1", "2", "3"):
        window.keyboard.press(key)
    assert window.inner_text("#state") == "3 of 60 decided: 1 kept, 1 relabelled, 1 left out"
    window.keyboard.press("Space")  # a radio button as any other
    assert window.locator("fieldset:nth-of-type(4) input").first.is_checked()
    text = save(window, tmp_path / "saved.csv").read_bytes().decode()
    assert len(re.findall(",yes,\r\n", text)) == 1


@pytest.mark.long
@pytest.mark.browser
def test_a_choice_can_be_changed(window, found, tmp_path):
    card = window.locator("fieldset").first
    card.locator("select").select_option(index=1)
    card.get_by_text("leave out").click()
    assert card.locator("select").input_value() == ""
    card.locator("label").first.click()
    assert window.inner_text("#state") == "1 of 60 decided: 1 kept, 0 relabelled, 0 left out"
    corrected = relabel(found.dataset, save(window, tmp_path / "saved.csv"))
    assert corrected.labels.tolist() == found.dataset.labels.tolist()


def test_page_table_and_sentences_count_the_same_suspects(found, capsys):
    from clearsight.report.label_errors import describe_suspects

    write_suspects(found)
    page, table = (found.path / "suspects.html").read_text(), (found.path / "suspects.csv").read_text()
    head, *parts = describe_suspects(found.dataset, found.rows, found.suggested, judged=90)
    assert head == "60 of 90 labels of data may be wrong"
    assert (
        sum(int(part.split()[0]) for part in parts)
        == 60
        == len(list(csv.reader(io.StringIO(table, newline="")))) - 1
        == page.count("<fieldset")
    )
    own, names = found.dataset.labels[found.rows], found.dataset.class_names
    wanted = int(((own == 1) & (found.suggested == 2)).sum())
    assert f"{wanted} labelled {names[1]}, suggested {names[2]}" in parts
    assert CLASSES[0] not in page


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("no,", r"leave_out must be yes alone or empty, got 'no' in line 2 of .*\. Correct it\."),
        ("yes,1", r"leave_out must be yes alone or empty, got new_label '1' beside it in line 2"),
    ],
)
def test_leaving_out_must_be_said_plainly(tmp_path, cells, message):
    data, table = clearsight.load_data("digits"), tmp_path / "t.csv"
    table.write_text(f"row,name,label,leave_out,new_label\n0,{data.row_name(0)},0,{cells}\n")
    with pytest.raises(DataError, match=message):
        relabel(data, Path(table))


def test_pictures_that_are_left_out_are_told(tmp_path):
    data, table = clearsight.load_data("digits"), tmp_path / "t.csv"
    table.write_text(f"row,name,label,leave_out,new_label\n0,{data.row_name(0)},0,yes,\n1,{data.row_name(1)},1,,7\n")
    found = relabel(data, table)
    assert len(found) == len(data) - 1
    assert found.labels[0] == 7
    assert found.notes[-1] == f"1 labels are changed and 1 pictures left out as {table} says"


def test_label_errors_are_not_sought_where_corrections_leave_pictures_out(tmp_path):
    data, table = clearsight.load_data("digits"), tmp_path / "t.csv"
    table.write_text(f"row,name,label,leave_out,new_label\n3,{data.row_name(3)},3,yes,\n")
    assert relabel(data, table).row_name(10) == data.row_name(10)  # which is another picture: its rows are counted anew
    match = r"label errors must be sought among all pictures, got 1 that .*t\.csv leaves out, .* its column leave_out empty\."
    with pytest.raises(UsageError, match=match):
        find_label_errors("digits", relabel=str(table), epochs=1, root=tmp_path)
