"""Every command and every line of Python in the README and the guide is run, in one folder, in order."""

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import run
from PIL import Image
from sklearn.datasets import load_digits

pytestmark = [pytest.mark.long, pytest.mark.report]
ROOT = Path(__file__).parent.parent
PAGES = {page: (ROOT / page).read_text() for page in ("README.md", "docs/guide.md")}


def blocks(language):
    return [code for text in PAGES.values() for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A place with the user's files that the pages mention."""
    path = tmp_path_factory.mktemp("readme")
    digits = load_digits()
    np.savetxt(path / "mydata.csv", np.column_stack([digits.data, digits.target]), fmt="%d", delimiter=",")
    Image.fromarray((digits.images[3] * 15).astype(np.uint8)).save(path / "picture.png")
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cat", "dog")):
        (path / "photos" / name).mkdir(parents=True)
        for i in range(30):
            noise = rng.integers(0, 120, (40, 50, 3)).astype(np.uint8)
            noise[:, :, k] += 120
            Image.fromarray(noise).save(path / "photos" / name / f"{i}.png")
    return path


def shell_lines():
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("clearsight ")])
def test_command_works(line, folder, call, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert call(*shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out.strip()


def test_every_shell_line_is_a_command_or_a_make_target():
    makefile = (ROOT / "Makefile").read_text()
    for line in shell_lines():
        word, target = line.split()[:2]
        assert word == "clearsight" or (word == "make" and f"\n{target}:" in makefile), line


def test_python_works(folder, monkeypatch, capsys):
    first, second = blocks("python")
    monkeypatch.chdir(folder)
    for code in (first, second):
        (folder / "shown.py").write_text(code)
        runpy.run_path("shown.py", run_name="__main__")
    numbers = capsys.readouterr().out.split()
    accuracy = [float(x) for x in numbers[:3]]
    assert accuracy[1] < accuracy[0] < accuracy[2]
    assert 0.8 < float(numbers[-1]) <= 1


def test_links_lead_somewhere():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert ((ROOT / page).parent / target).exists(), target


def test_the_small_format_that_is_shown_is_read(folder):
    text = re.search(r'`(\{"layers".*?\})`', PAGES["docs/guide.md"], re.DOTALL)[1]
    (folder / "small.json").write_text(text)
    assert 'reduction = "sum"' in run("config", "show", "--config", "small.json", cwd=folder).stdout


def test_make_demo_runs_a_command_that_works(tmp_path):
    (command,) = re.findall(r"^\t\$\(BIN\)/(clearsight train .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    done = run(*shlex.split(command)[1:], cwd=tmp_path)
    assert "test accuracy" in done.stdout
    (report,) = re.findall(r"^report +(\S+)$", done.stdout, re.MULTILINE)
    assert (tmp_path / report).is_file()
