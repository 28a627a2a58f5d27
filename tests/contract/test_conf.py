"""Every yaml file: composes, is accepted, explains its keys."""

import re

from hydra import compose, initialize_config_dir

from snnrun.config import CONF, build
from snnrun.published import headline

KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w.]+):(?P<value>[^#]*)(?P<comment>#.*)?$")
NEED_NO_COMMENT = ("_target_", "name")
# Hydra's own keys, explained in its documentation; and lists of groups.
BLOCKS = ("hydra", "defaults")


def undocumented(text: str) -> list[str]:
    """Keys with a value that have a comment neither behind nor above them."""
    found, above, block = [], False, ""
    for line in text.splitlines():
        match = KEY.match(line)
        if match and not match["indent"]:
            block = match["key"]
        has_value = match is not None and match["value"].strip() != ""
        if has_value and block not in BLOCKS and match["key"] not in NEED_NO_COMMENT:
            found += [] if match["comment"] or above else [match["key"]]
        above = line.lstrip().startswith("#")
    return found


def test_keys_without_comment_are_found():
    text = "name: x\na: 1  # why\nb: 2\nsub:\n  # why\n  c: 3\n  d: [4]\ndefaults:\n  - e: f\n"
    assert undocumented(text) == ["b", "d"]


def test_first_line_says_what_the_file_is(file):
    assert headline(file)


def test_every_key_has_a_comment(file):
    if file.is_relative_to(CONF / "experiment"):
        return  # its keys are explained where they are defined
    assert undocumented(file.read_text()) == []


def test_name_is_that_of_the_file(file):
    names = re.findall(r"^name: (\S+)", file.read_text(), re.MULTILINE)
    assert names in ([], [file.stem])


def test_default_run_is_accepted():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        assert build(compose("config")).name == "saf-mlp-T6-s0"


def test_method_is_accepted_with_its_own_choices(method, fitting):
    spec = fitting([(f"method={method}",)], [(), ("model.feedback=true",)])
    assert spec.method.name == method


def test_neuron_is_accepted_by_some_method(neuron, fitting, every_method):
    spec = fitting([(f"neuron={neuron}",)], [(), *every_method])
    assert spec.tree["neuron"]["name"] == neuron


def test_model_is_accepted_by_some_method(model, fitting, every_method):
    assert fitting([(f"model={model}",)], [(), *every_method]).model.name == model


def test_dataset_is_accepted_with_its_own_choices(dataset, specified):
    spec = specified(f"dataset={dataset}")
    assert spec.dataset.name == dataset
    assert spec.epochs == spec.dataset.epochs


def test_hardware_is_accepted(hardware, specified):
    assert specified(f"hardware={hardware}").hardware.name == hardware


def test_experiment_is_accepted(experiment, specified):
    specified(f"experiment={experiment}")


def test_command_line_wins_over_what_a_dataset_chooses(specified):
    assert specified("dataset=fashion_mnist").model.name == "convnet"
    assert specified("model=mlp", "dataset=fashion_mnist").model.name == "mlp"
