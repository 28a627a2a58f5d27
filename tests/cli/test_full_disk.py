"""A disk that is full while a command writes: one line, and the same command continues."""

import shutil
import subprocess

import pytest

RUN = (
    *("train", "method=bptt", "model.hidden=[16]", "dataset.limit=300", "epochs=2"),
    *("hardware=cpu", "hardware.threads=1"),
)
KIB = 1024


class Disk:
    """A file system of 4 MiB on which a file takes the space away."""

    def __init__(self, folder):
        self.folder, self.ballast = folder, folder / "ballast"

    def fill(self, *, left):
        free = shutil.disk_usage(self.folder).free
        self.ballast.write_bytes(bytes(max(0, free - left * KIB)))


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")
    yield Disk(folder)
    # Lazily: MLflow keeps the databases of this process open.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def store(terminal_in, furnished, tmp_path_factory):
    """A folder with a database in which one run has finished."""
    folder = furnished(tmp_path_factory.mktemp("store"))
    terminal_in(folder)(*RUN)
    return folder


def fails_in_one_line(terminal, *arguments):
    error = terminal(*arguments, code=1).stderr
    assert "Traceback" not in error
    assert error.count("error: ") == 1
    return error.splitlines()[-1]


def figures(terminal, run_id):
    """What was logged at which step, but times: the first batches of a start have none."""
    return {(k, s) for k, s in terminal.metrics(run_id) if not k.startswith(("latency", "data"))}


@pytest.mark.slow
# Of about 200 KiB that a run writes: it fails at its first record, its description, the metrics
# of an epoch, a checkpoint, or the artifacts at the end.
@pytest.mark.parametrize("left", [0, 24, 60, 96, 150])
def test_run_continues_when_there_is_room_again(terminal_in, here_in, disk, store, left):
    shutil.copytree(store, disk.folder, dirs_exist_ok=True)
    disk.fill(left=left)

    line = fails_in_one_line(terminal_in(disk.folder), *RUN, "seed=1")
    assert str(disk.folder) in line
    assert "disk is full" in line or "No space left" in line

    disk.ballast.unlink()
    terminal = here_in(disk.folder)
    terminal(*RUN, "seed=1")
    assert [(name, status) for _, name, status in terminal.runs()] == [
        (f"bptt-mlp-T4-s{seed}", "FINISHED") for seed in (0, 1)
    ]
    first, second = (figures(terminal, run_id) for run_id, _, _ in terminal.runs())
    assert first == second
    names = {path.name for path in disk.folder.rglob("*") if path.is_file()}
    assert names == {path.name for path in store.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 400])
def test_store_that_has_no_room_is_not_left_half_made(terminal_in, here_in, disk, left):
    disk.fill(left=left)

    assert "tracking: " in fails_in_one_line(terminal_in(disk.folder), *RUN)

    disk.ballast.unlink()
    terminal = here_in(disk.folder)
    terminal(*RUN)
    assert [status for _, _, status in terminal.runs()] == ["FINISHED"]


@pytest.mark.slow
def test_checkpoint_without_room_is_one_line_and_the_store_says_failed(snnrun, with_store, disk):
    disk.fill(left=8)

    assert "last.pt cannot be written" in fails_in_one_line(
        snnrun, *RUN, f"output_dir={disk.folder}"
    )

    assert [status for _, _, status in snnrun.runs()] == ["FAILED"]
    disk.ballast.unlink()
    snnrun(*RUN, f"output_dir={disk.folder}")
    assert [status for _, _, status in snnrun.runs()] == ["FINISHED"]


@pytest.mark.slow
def test_cache_without_room_costs_a_warning(here, with_store, disk):
    disk.fill(left=8)
    data = ("dataset=digits_saccade", f"dataset.cache_dir={disk.folder}")

    error = here(*RUN, *data, "dataset.limit=50", "epochs=1").stderr

    assert "not written (No space left on device); going on without it" in error
    assert [path.name for path in disk.folder.iterdir()] == ["ballast"]


@pytest.mark.slow
def test_sweep_without_room_is_completed_later(terminal_in, disk, store):
    shutil.copytree(store, disk.folder, dirs_exist_ok=True)
    terminal = terminal_in(disk.folder)
    sweep = ("train", "-m", *RUN[1:], "seed=1,2")
    disk.fill(left=72)

    assert "Traceback" not in terminal(*sweep, code=1).stderr

    disk.ballast.unlink()
    terminal(*sweep)
    assert sorted((name.split()[0], status) for _, name, status in terminal.runs()) == [
        *((f"bptt-mlp-T4-s{seed}", "FINISHED") for seed in (0, 1, 2)),
        ("sweep", "FINISHED"),
    ]
