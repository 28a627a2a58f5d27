from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from omegaconf import OmegaConf

from snnrun.data.base import Dataset

CONF = Path(__file__).parents[2] / "conf" / "dataset"


def build(name: str, **overrides: Any) -> Dataset:
    node = OmegaConf.load(CONF / f"{name}.yaml")
    node.pop("defaults", None)
    cls = resolve_name(node.pop("_target_"))
    merged = OmegaConf.merge(OmegaConf.structured(cls), node, OmegaConf.create(overrides))
    return OmegaConf.to_object(merged)


@pytest.fixture
def dataset() -> Callable[..., Dataset]:
    return build
