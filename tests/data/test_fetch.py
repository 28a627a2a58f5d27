import hashlib
import io
import tarfile
import urllib.error
from pathlib import Path

import pytest

from snnrun.data.fetch import Archive, fetch, unpacked
from snnrun.errors import DataError

CONTENT = b"recordings" * 1000
GOOD = Archive("set.zip", hashlib.md5(CONTENT).hexdigest(), "https://host/set.zip", "https://page")


class Answer(io.BytesIO):
    headers = {"Content-Length": str(len(CONTENT))}  # noqa: RUF012


@pytest.fixture
def host(monkeypatch):
    def answers(with_: bytes | Exception) -> None:
        def open_(url: str, timeout: float) -> Answer:
            if isinstance(with_, Exception):
                raise with_
            return Answer(with_)

        monkeypatch.setattr("urllib.request.urlopen", open_)

    return answers


def failure(archive: Archive, folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        fetch(archive, folder, "set")
    return str(caught.value)


def test_a_verified_file_appears_under_its_name_alone(host, tmp_path):
    host(CONTENT)
    assert fetch(GOOD, tmp_path / "new", "set").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["set.zip"]


def test_a_file_that_is_there_is_not_fetched_again(host, tmp_path):
    (tmp_path / "set.zip").write_bytes(b"mine")
    host(OSError("asked for"))
    assert fetch(GOOD, tmp_path, "set").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (urllib.error.URLError("Name or service not known"), "Name or service not known"),
        (b"", f"0 bytes with md5 {hashlib.md5(b'').hexdigest()}, expected {GOOD.md5}"),
        (CONTENT[:-1], "9999 bytes with md5"),
    ],
)
def test_a_failure_says_why_and_how_by_hand_and_leaves_nothing(host, tmp_path, answer, reason):
    host(answer)
    message = failure(GOOD, tmp_path)
    assert message.startswith("set: download failed: ")
    assert reason in message
    assert (
        f"get set.zip (md5 {GOOD.md5}) from https://host/set.zip, put it in {tmp_path}" in message
    )
    assert list(tmp_path.iterdir()) == []


def test_a_host_for_people_only_is_explained(tmp_path):
    message = failure(Archive("set.zip", None, None, "https://page"), tmp_path)
    assert "its host admits only browsers; fix: get set.zip from https://page" in message


def tar(path: Path, name: str) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(CONTENT)
        archive.addfile(info, io.BytesIO(CONTENT))
    return path


def test_tar_archives_are_unpacked_beside_themselves(tmp_path):
    unpacked(tar(tmp_path / "a.tar.gz", "folder/file"), "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "folder"]


@pytest.mark.parametrize("damage", ["cut", "outside"])
def test_bad_tar_archives_are_refused_and_leave_nothing(tmp_path, damage):
    path = tar(tmp_path / "a.tar.gz", "../evil" if damage == "outside" else "file")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"set: .*a.tar.gz cannot be unpacked"):
        unpacked(path, "set")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]
    assert not (tmp_path.parent / "evil").exists()
