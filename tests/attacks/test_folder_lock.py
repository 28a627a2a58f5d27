"""One owner of a run's folder at any time, however the one before it ended."""

import threading
import time

import pytest

from snnrun.folders import owned


class Owner(threading.Thread):
    """Claims the folder, leaves a file there if asked, and fails when told to go."""

    def __init__(self, folder, owners, *, file):
        super().__init__(daemon=True)
        self.folder, self.owners, self.file = folder, owners, file
        self.inside, self.go = threading.Event(), threading.Event()
        self.error = None
        self.start()

    def run(self):
        try:
            with owned(self.folder, say=print):
                self.owners.append(self)
                if self.file:
                    (self.folder / "last.pt").touch()
                self.inside.set()
                self.go.wait(20)
                self.owners.remove(self)
                raise RuntimeError("failed")
        except Exception as error:
            self.error = error


@pytest.mark.parametrize("file", [True, False], ids=["something made", "nothing made"])
def test_failed_owner_hands_the_folder_to_one_who_waits_and_not_to_two(tmp_path, file):
    owners: list[Owner] = []
    first = Owner(tmp_path / "run", owners, file=file)
    assert first.inside.wait(20)
    waiting = [Owner(tmp_path / "run", owners, file=file) for _ in range(2)]
    assert not any(other.inside.wait(0.2) for other in waiting)

    first.go.set()
    first.join(20)
    waiting.append(Owner(tmp_path / "run", owners, file=file))  # comes late

    for _ in range(3):
        deadline = time.monotonic() + 20
        while not owners:
            assert time.monotonic() < deadline, [other.error for other in waiting]
            time.sleep(0.01)
        time.sleep(0.2)  # for a second owner to appear
        (owner,) = owners
        owner.go.set()
        owner.join(20)
    assert {str(other.error) for other in waiting} == {"failed"}
    files = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert files == ({"last.pt", "lock"} if file else set())
