"""A user's mistake is one line, exit code 1, and leaves nothing behind."""

import gzip

import pytest

from snnrun.errors import ConfigError, UserError
from snnrun.evaluate import variants
from snnrun.tracking import Tracking, prepare
from snnrun.tracking_read import finished

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
def test_mistake_is_one_line_and_leaves_nothing(here, mistake, sweep):
    arguments, message = MISTAKES[mistake]
    assert_refused(here, "train", *sweep, *arguments, message=message)


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]], ids=["run", "sweep"])
def test_mistake_ends_a_process_of_its_own_alike(snnrun, sweep):
    arguments, message = MISTAKES["wrong key"]
    assert_refused(snnrun, "train", *sweep, *arguments, message=message)


def assert_refused(place, *command, message):
    before = sorted(place.folder.iterdir())
    done = place(*command, code=1)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert done.stdout == ""
    assert sorted(place.folder.iterdir()) == before


def test_truncated_data_is_named_and_nothing_is_made(here):
    files = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    for name in files:
        (here.folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(bytes(3000))[:-9])
    before = sorted(here.folder.iterdir())
    error = here("train", "dataset=mnist", f"dataset.root={here.folder}", code=1).stderr
    assert (
        error.startswith("error: 2 problems") and "train-images-idx3-ubyte.gz: truncated" in error
    )
    assert sorted(here.folder.iterdir()) == before


ODD = {
    "check": {
        "method.timesteps=1000000000000 hardware=cpu": "TiB asked for",
        "epochs=99999999999999999999": "epochs: 99999999999999999999 has more than 64 bits",
        "hardware.threads=100000": "threads: 100000 is not null or a number from 1 to 1024",
        "tracking.uri=runs": "tracking.uri: 'runs' is neither sqlite:///<file> nor a server",
        'tracking.experiment=" "': "tracking.experiment: the name is empty",
        "output_dir=Läufe": """the value needs quotes: 'output_dir="Läufe"'""",
        "seed=-1": "seed: -1 is not a whole number",
    },
    "compare": {
        "--store=sqlite:///nowhere.db": "no runs at ",
        "--store=sqlite:///.": "no runs at ",
        "--store=http://127.0.0.1:9": "refuses or is not there ([Errno 111] Connection refused)",
        "--store=runs.db": "tracking.uri: 'runs.db' is neither",
    },
    "reproduce": {
        "nothing": "nothing: no such experiment",
        "../config": "../config: no such experiment",
        "tet_cifar10_resnet19 method=null": "method=null: no such option (options: ann",
        "tet_cifar10_resnet19 seeds=0": "seeds: '0' is not a positive whole number",
    },
    "verify": {"method=null": "method=null: no such option", "seed=x": "seed: 'x' is not"},
    "eval": {"nowhere": "nowhere is not a run's folder", ". epochs=0": "not a run's folder"},
    "export": {"nowhere --to state_dict": "nowhere is not a run's folder"},
    "ui": {"--store=sqlite:///nowhere.db": "no runs at ", "--store=runs": "tracking.uri: 'runs'"},
}


@pytest.mark.parametrize(
    ("command", "arguments"), [(name, text) for name, texts in ODD.items() for text in texts]
)
def test_odd_argument_is_one_line_and_makes_nothing(here, command, arguments):
    quoted = [arguments] if '"' in arguments else arguments.split(" ")
    assert_refused(here, command, *quoted, message=ODD[command][arguments])


def test_several_values_for_eval_have_to_be_listed():
    for text in ("glob(*)", "interval(1,2)"):
        with pytest.raises(ConfigError, match=r"list the values, e.g. method.timesteps=1,2,4"):
            variants([f"method.timesteps={text}"])


def spoil_head(content):
    return b"x" * 4096 + content[4096:]


def spoil_middle(content):
    return content[:8192] + b"\xff" * 200_000 + content[208_192:]


def cut(content):
    return content[: len(content) // 2]


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    folder = tmp_path_factory.mktemp("database")
    prepare(Tracking(uri=f"sqlite:///{folder}/mlflow.db", experiment="digits"), folder)
    return (folder / "mlflow.db").read_bytes()


@pytest.mark.parametrize("damage", [spoil_head, spoil_middle, cut])
def test_damaged_database_is_one_line(database, tmp_path, damage):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "mlflow.db").write_bytes(damage(database))
    reason = "malformed|not a database"
    with pytest.raises(UserError, match=rf"mlflow\.db cannot be read .*({reason})") as read:
        finished(uri)
    with pytest.raises(UserError, match=rf"tracking: .*mlflow\.db .*({reason})") as written:
        prepare(Tracking(uri=uri, experiment="digits"), tmp_path)
    assert "\n" not in f"{read.value}{written.value}"
