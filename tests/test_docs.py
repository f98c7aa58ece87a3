"""What README and docs/ name is there: functions, tests, commands and their pictures, notebooks, files, headings."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from transformer.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
# The pages whose blocks are run, by `.ci/readme` or `test_readme.py`.
RUN = ["README", "getting-started", "your-data", "translate-and-evaluate", "look-inside"]
ROWS = [line for line in (ROOT / "docs/paper.md").read_text("utf-8").splitlines() if line.startswith("| ")]
PICTURES = (ROOT / "transformer/cli/figures.py").read_text(encoding="utf-8")


def is_in_the_package(name: str) -> bool:
    """Whether a name is that of a module, or of something in one."""
    module, _, last = f"transformer.{name}".rpartition(".")
    return hasattr(importlib.import_module(module), last) or bool(importlib.util.find_spec(f"{module}.{last}"))


def test_what_the_tables_name_is_there() -> None:
    count, room = 0, ""
    for name in (name for row in ROWS for name in re.findall(r"`([^`]+)`", row)):
        count += 1
        if name.endswith(".py"):
            assert (ROOT / "tests" / name).is_file(), name
        elif name.startswith("transformer "):
            assert name.split()[1] in COMMANDS, name
        elif re.match(r"\d\d_", name):
            assert (ROOT / "notebooks" / f"{name}.py").is_file(), name
        elif not name.startswith("--") and f'"{name}"' not in PICTURES:
            whole = name if "." in name else f"{room}.{name}"  # in the module of the name before it
            room = whole.rpartition(".")[0]
            assert is_in_the_package(whole), name
    assert count > 80


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_row_of_a_table_is_a_line(page: Path) -> None:
    """Rows that are joined into a paragraph are valid Markdown, of which Sphinx does not warn."""
    lines = _without_code(page.read_text("utf-8")).splitlines()
    assert [
        line for line in lines if re.search(r"\| :?---", line) and re.fullmatch(r"(\| :?-+:? )+\|", line) is None
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Files and headings. On the site, links out of docs/ are text, so Sphinx does not check them."""
    for link in re.findall(r"(?:\]\(|src=\")([^)\s\"]+)", _without_code(page.read_text("utf-8"))):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)", _without_code(file.read_text("utf-8")), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in RUN], ids=lambda page: page.stem)
def test_blocks_of_code_are_run(page: Path) -> None:
    """A block in another language would be run by nobody; `text` is what a command prints."""
    languages = re.findall(r"^```(.*)\n(?:.*\n)*?```$", page.read_text("utf-8"), re.MULTILINE)
    assert {*languages} <= {"sh", "python", "text"}
    for runner in (".ci/readme", "tests/test_readme.py"):
        if f"{page.stem}.md" in (ROOT / runner).read_text("utf-8"):
            return
    raise AssertionError(f"no test runs {page.name}")


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`(?!\])", "", text, flags=re.DOTALL | re.MULTILINE)
