"""A user's mistake is one line, exit code 1, and leaves nothing behind."""

import gzip

import pytest

MISTAKES = {
    "wrong key": (["method.lrr=1"], "method.lrr: no such key; did you mean method.optim.lr?"),
    "wrong top-level key": (["epoch=1"], "epoch: no such key; did you mean epochs?"),
    "added key": (["+foo=1"], "foo: no such key"),
    "wrong type": (["method.timesteps=many"], "method.timesteps: Value 'many'"),
    "wrong option": (["method=bpt"], "method=bpt: no such option; did you mean bptt?"),
    "no option": (["method=null"], "method=null: no such option (options: ann, bptt"),
    "long seed": (["seed=18446744073709551616"], "seed: 18446744073709551616 has more than 64"),
    "wrong group": (["methd=bptt"], "methd: no such key; did you mean method?"),
    "syntax": (["seed=[1"], "seed=[1: "),
    "no such folder": (["--config-dir", "mine/conf"], "mine/conf"),
    "no such class": (["method._target_=mine.Rule"], "method._target_: cannot import 'mine.Rule'"),
    "missing data": (["dataset=mnist", "dataset.root=nowhere"], "mnist not found"),
    "output": (["output_dir=/dev/null/out"], "output_dir: cannot write"),
    "store": (["tracking.uri=sqlite:////dev/null/x.db"], "tracking: cannot write"),
    "server": (["tracking.uri=http://127.0.0.1:9"], "Connection refused"),
}


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]], ids=["run", "sweep"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_and_leaves_nothing(snnrun, mistake, sweep):
    arguments, message = MISTAKES[mistake]
    done = snnrun("train", *sweep, *arguments, code=1)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert done.stdout == ""
    assert not list(snnrun.folder.iterdir())


def test_truncated_data_is_named_and_nothing_is_made(snnrun):
    files = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name in files:
        (snnrun.folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(bytes(3000))[:-9])
    before = sorted(snnrun.folder.iterdir())
    error = snnrun("train", "dataset=mnist", f"dataset.root={snnrun.folder}", code=1).stderr
    assert (
        error.startswith("error: 2 problems") and "train-images-idx3-ubyte.gz: truncated" in error
    )
    assert sorted(snnrun.folder.iterdir()) == before
