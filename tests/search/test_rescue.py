"""What cannot be written where it should be is kept beside it, or in a temporary folder, which the message names."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from search.analysis.folder import write_folder
from search.cli.terminal import open_output, write_text
from search.errors import StudyError
from search.rescue import kept_elsewhere


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def write(folder: Path) -> Path:
    (folder / "page.html").write_text("a page")
    return folder / "page.html"


def test_it_is_kept_beside_its_place_and_the_sentence_says_where(tmp_path: Path) -> None:
    sentence = kept_elsewhere("The page", tmp_path / "new" / "page.html", write)

    (kept,) = tmp_path.glob("page.html.kept-*/page.html")
    assert sentence == f"\nThe page is kept in {kept}, to be moved from there."
    assert kept.read_text() == "a page"


def test_it_is_kept_in_a_temporary_folder_if_it_cannot_be_beside_its_place(tmp_path: Path, temporary: Path) -> None:
    def write_on_another_disk(folder: Path) -> Path:
        if folder.parent == tmp_path:
            (folder / "page.html").write_text("a p")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(folder)

    sentence = kept_elsewhere("The page", tmp_path / "page.html", write_on_another_disk)

    (kept,) = temporary.glob("*/page.html")
    assert str(kept) in sentence
    assert list(tmp_path.iterdir()) == [temporary]


def test_if_every_disk_is_full_there_is_no_sentence_and_no_file(tmp_path: Path, temporary: Path) -> None:
    def fail(folder: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert kept_elsewhere("The page", tmp_path / "page.html", fail) == ""
    assert [list(tmp_path.iterdir()), list(temporary.iterdir())] == [[temporary], []]


def test_an_analysis_and_a_page_whose_folder_is_a_file_are_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("somebody's")

    with pytest.raises(StudyError, match=r"(?s)cannot be written: .*The analysis is kept in \S+"):
        write_folder(tmp_path / "file" / "analysis", {"index.html": "a page", "separability.csv": "a table"})
    with pytest.raises(StudyError, match=r"(?s)cannot be written: .*It is kept in \S+/report\.html"):
        write_text(tmp_path / "file" / "report.html", "a report")

    kept = sorted(path.name for path in tmp_path.glob("*.kept-*/*"))
    assert kept == ["index.html", "report.html", "separability.csv"]
    assert (tmp_path / "file").read_text() == "somebody's"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_rows_before_an_error_or_ctrl_c_are_kept_beside_the_table(
    error: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("an older table")

    def write_rows() -> None:
        with open_output(table) as file:
            file.write("a row\n")
            raise error

    with pytest.raises((StudyError, KeyboardInterrupt)):
        write_rows()

    assert table.read_text() == "an older table"
    assert (tmp_path / "scores.csv.partial").read_text() == "a row\n"
    assert f"kept in {tmp_path}/scores.csv.partial" in capsys.readouterr().err.replace("\n", "")
    assert len(list(tmp_path.iterdir())) == 2
