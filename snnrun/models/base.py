"""The contract of a topology: a spec that builds a network from a kit."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from snnrun.kits.plain import Kit
from snnrun.models.network import Network

Shape = tuple[int, int, int]


@dataclass(kw_only=True)
class Model(ABC):
    """A topology and its sizes, written once against a kit.

    ``norm`` is ``auto`` (what the training method's paper uses) or one of ``none bn tdbn sws``.
    """

    name: str
    norm: str

    @property
    @abstractmethod
    def features(self) -> frozenset[str]:
        """What a method may need or refuse: ``chain residual feedback max_pool dropout``."""

    @abstractmethod
    def build(self, kit: Kit, shape: Shape, classes: int) -> Network:
        """Build the network for inputs of ``shape`` (channels, height, width).

        Raises:
            ConfigError: when the input is too small for the topology.
        """
