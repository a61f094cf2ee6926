"""The dashboard as people meet it: a headless Chromium over a finished study.

OFFKEY_SCREENSHOTS=FOLDER saves what is seen; CONTRIBUTING.md tells how the README's pictures are made.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from features.cache import cache_folder
from search.preparation.prepared import prepare
from search.storage.stored_study import create_or_join
from search.storage.study_storage import StudyStorage
from search.study.study_file import study_of_tree
from search.workers.worker import join
from tests.support.served import Site, basic, served

#: Where pictures of the pages go: absolute, since tests have working directories of their own.
SCREENSHOTS = Path(os.environ["OFFKEY_SCREENSHOTS"]).absolute() if "OFFKEY_SCREENSHOTS" in os.environ else None

#: Waited for at most (seconds): a page of 6 MB of scripts on a busy machine.
SLOW = 60.0

#: A browser writes an answer of 401 or 403 to its console, whoever asked for it.
JUSTIFIED = re.compile(r"the server responded with a status of 40[13]|FetchAPIClientError: This dashboard is read-only")

TREE = {
    "study": "tiny",
    "features": {"n_mels": 32},
    "model": {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 4},
    "training": {"learning_rate": 0.01, "batch_size": 16, "epochs": 2, "threads": 1},
    "baseline": {"h_dim": 16},
    "search": {"trials": 4, "pruner": "none"},
}


def finished_study(folder: Path, corpus_root: Path) -> str:
    """The URL of a storage with a study that was really trained."""
    url = f"sqlite:///{folder / 'offkey.db'}"
    prepared = prepare(study_of_tree({**TREE, "corpus": {"root": str(corpus_root)}}, origin="tiny"), default_root=None)
    storage, truth = StudyStorage(url, create=True), prepared.validation_data.truth
    stored = create_or_join(storage, prepared.study, prepared.corpus, truth, artifacts=str(folder / "artifacts"))
    join(url, stored.name).run()
    return url


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, corpus_root: Path) -> Iterator[Site]:
    """A dashboard that asks for a password and changes nothing; for pictures, of the study in $OFFKEY_STORAGE."""
    folder = tmp_path_factory.mktemp("dashboard")
    with pytest.MonkeyPatch.context() as patched:
        if SCREENSHOTS is None:
            patched.setenv("OFFKEY_CACHE", str(folder / "cache"))
            url = finished_study(folder, corpus_root)
        else:
            patched.setenv("OFFKEY_CACHE", str(cache_folder()))
            url = os.environ["OFFKEY_STORAGE"]
        patched.chdir(folder)
        with served(url, "--read-only", OFFKEY_DASHBOARD_PASSWORD="secret") as dashboard:
            yield dashboard


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or another one that is there."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    assert found, "these tests need Chromium: apt-get install chromium"
    # Root has no sandbox. Containers often have little shared memory.
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=found[0], args=["--no-sandbox", "--disable-dev-shm-usage"], timeout=1000 * SLOW
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(site: Site, browser: Browser) -> Iterator[Page]:
    """A page with the password; unexpected lines in its console are an error at the end."""
    context = browser.new_context(
        base_url=site.address,
        http_credentials={"username": "ann", "password": "secret"},
        viewport={"width": 1280, "height": 900},
    )
    context.set_default_timeout(1000 * SLOW)
    expect.set_options(timeout=1000 * SLOW)
    opened, console = context.new_page(), []
    opened.on("console", lambda message: console.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: console.append(str(error)))
    yield opened
    context.close()
    assert [line for line in console if not JUSTIFIED.search(line)] == []


def picture(page: Page, name: str) -> None:
    if SCREENSHOTS is not None:
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(1000)  # for what moves to have come to rest
        page.screenshot(path=SCREENSHOTS / f"dashboard-{name}.png")


def study_path(page: Page) -> str:
    """The page of the first study in the list."""
    page.goto("/")
    card = page.get_by_role("link", name=re.compile(r"^\d+\. "))
    return str(card.first.get_attribute("href"))


def best_trial(page: Page) -> int:
    """The number of the trial that leads."""
    page.goto(f"{study_path(page)}/trials")
    leading = page.get_by_role("button").filter(has_text="Best Trial")
    found = re.search(r"Trial (\d+)", leading.first.inner_text())
    assert found
    return int(found[1])


def test_the_history_is_drawn(page: Page) -> None:
    page.goto(study_path(page))

    drawn = page.locator("#graph-history .point, .js-plotly-plot .point")
    expect(drawn.first).to_be_attached()
    expect(page.get_by_text("validation AUC").first).to_be_visible()
    picture(page, "history")
    assert drawn.count() >= 4  # trials


def test_the_leading_trial_has_pictures_and_sounds(page: Page) -> None:
    page.goto(f"{study_path(page)}/trials?numbers={best_trial(page)}")

    pictures, sounds = page.locator("img[src*='/artifacts/']"), page.locator("audio")
    expect(pictures).to_have_count(4)
    expect(sounds).to_have_count(2)
    sounds.first.scroll_into_view_if_needed()
    for number in range(4):
        pictures.nth(number).evaluate("picture => picture.decode()")
        assert pictures.nth(number).evaluate("picture => picture.naturalWidth") >= 600
    for number in range(2):
        duration, decoded, is_silent = sounds.nth(number).evaluate(
            """async sound => {
                if (sound.readyState < 1) await new Promise(done => sound.addEventListener("loadedmetadata", done));
                const bytes = await (await fetch(sound.currentSrc)).arrayBuffer();
                const decoded = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes);
                return [sound.duration, decoded.duration, decoded.getChannelData(0).every(sample => sample === 0)];
            }"""
        )
        assert duration == pytest.approx(decoded, abs=0.01)
        assert duration >= 1.0  # as long as the clip
        assert not is_silent
    picture(page, "trial")


def test_its_attributes_are_listed(page: Page) -> None:
    page.goto(f"{study_path(page)}/trials?numbers={best_trial(page)}")

    for name in ("AUC compressor/00", "AUC compressor/02", "AUC compressor/04", "seconds", "memory, MB", "device"):
        expect(page.get_by_text(re.compile(rf"^{name} \S+"))).to_be_visible()


def test_the_note_is_shown_as_text_with_a_table(page: Page) -> None:
    page.goto(f"{study_path(page)}/note")

    expect(page.get_by_text("no trial uses them, only the final detector is measured on them.")).to_be_visible()
    expect(page.get_by_role("cell", name="h_dim")).to_be_visible()
    expect(
        page.get_by_text(re.compile(r"trial \d+ leads with a validation AUC of 0\.\d+|AUC of 1\.000"))
    ).to_be_visible()
    expect(page.get_by_text("Offkey writes what is above this line; below it is yours.")).to_be_visible()
    picture(page, "note")


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password_opens_nothing(site: Site, browser: Browser, password: str) -> None:
    context = browser.new_context(http_credentials={"username": "ann", "password": password})
    answer = context.new_page().goto(f"{site.address}/dashboard", timeout=1000 * SLOW)

    assert answer is not None
    assert answer.status == 401
    context.close()


def test_a_study_cannot_be_deleted_where_nothing_may_be_changed(page: Page, site: Site) -> None:
    path = study_path(page)
    page.get_by_role("button", name="delete study").first.click()
    page.get_by_role("button", name="Yes").click()

    expect(page.get_by_text(re.compile(r"Failed to delete study"))).to_be_visible()
    assert site.get(f"/api{path.removeprefix('/dashboard')}", Authorization=basic("ann:secret")).status == 200
    page.goto(path)
    expect(page.get_by_text("validation AUC").first).to_be_visible()
