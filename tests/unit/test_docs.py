"""Docs keep step with the code: a section per reason, and no link into nothing."""

import re
from pathlib import Path

import pytest

from penstock.api.reasons import Reason

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("helm/**/*.md"), *ROOT.glob("hack/**/*.md")])


@pytest.mark.parametrize("reason", list(Reason))
def test_the_runbook_has_every_reason(reason):
    headings = [line for line in (ROOT / "docs/runbook.md").read_text().splitlines() if line.startswith("### ")]
    assert sum(f"`{reason.value}`" in heading for heading in headings) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them: the second one of a name gets a number, which no link here needs."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_headings_that_are_there(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        found = page.parent / target if target else page
        assert anchor in anchors(found), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_in_docs_exist(page):
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in re.findall(r"`make ([a-z0-9-]+)`|^\$ make ([a-z0-9-]+)", page.read_text(), re.MULTILINE):
        assert (name[0] or name[1]) in targets
