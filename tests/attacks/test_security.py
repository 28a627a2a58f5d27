"""Nothing from outside decides what is executed or where files are written."""

import os
import sys
import tarfile

import pytest

from snnrun import cli
from snnrun.config import BASES, build
from snnrun.data.fetch import unpacked
from snnrun.errors import ConfigError, DataError

FOREIGN = ("os.system", "subprocess.Popen", "builtins.eval", "snnrun.errors.UserError")


@pytest.mark.parametrize("group", BASES)
@pytest.mark.parametrize("target", FOREIGN)
def test_class_of_another_kind_is_refused(composed, group, target):
    with pytest.raises(ConfigError, match=rf"{group}\._target_: '{target}' is not a subclass"):
        build(composed(f"{group}._target_={target}"))


@pytest.mark.parametrize("key", ["method.optim", "neuron.surrogate", "dataset.encoding"])
def test_class_inside_a_group_cannot_be_chosen(composed, key):
    with pytest.raises(ConfigError, match=rf"{key}\._target_: no such key"):
        build(composed(f"+{key}._target_=os.system"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("target", ["../../victim", "/etc/passwd"])
def test_links_and_devices_in_archives_lead_nowhere(tmp_path, kind, target):
    (tmp_path / "set").mkdir()
    (tmp_path / "victim").write_text("mine")
    path = tmp_path / "set" / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("inside")
        info.type, info.linkname = kind, target
        archive.addfile(info)
    with pytest.raises(DataError, match=r"a\.tar\.gz cannot be unpacked"):
        unpacked(path, "set")
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["a.tar.gz"]
    assert (tmp_path / "victim").read_text() == "mine"


def test_browser_view_listens_on_this_machine_only_unless_told(monkeypatch, tmp_path):
    started = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$(id).db").touch()
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(arguments))
    for more in ([], ["--host", "0.0.0.0"]):
        monkeypatch.setattr(sys, "argv", ["snnrun", "ui", "--store", "sqlite:///$(id).db", *more])
        cli.main()
    hosts = [arguments[arguments.index("--host") + 1] for arguments in started]
    assert hosts == ["127.0.0.1", "0.0.0.0"]
    assert all(any("$(id)" in word for word in arguments) for arguments in started)  # no shell
