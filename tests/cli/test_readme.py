import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(?:python|yaml)\n# (mine/\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def section(title):
    return README.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_own_method_and_dataset_of_the_readme_train_from_another_folder(snnrun, with_store):
    text = section("Add your own method")
    files = dict(BLOCK.findall(text))
    assert len(files) == 4
    for name, content in files.items():
        (snnrun.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (snnrun.folder / name).write_text(content)
    (command,) = re.findall(r"^snnrun (train --config-dir .*)$", text, re.MULTILINE)

    snnrun(*command.split())

    ((run_id, name, status),) = snnrun.runs()
    assert (name, status) == ("my_rule-mlp-T4-s0", "FINISHED")
    metrics = snnrun.metrics(run_id)
    assert metrics["test/accuracy", 3] > 0.9

    (folder,) = snnrun.folder.glob("outputs/*")
    assert "test/accuracy" in snnrun("eval", str(folder)).stderr
    snnrun(*command.split(), "-m", "seed=0,1", "epochs=1")
    assert len(snnrun.runs()) == 1 + 2 + 1  # the first, the sweep's two and their parent
