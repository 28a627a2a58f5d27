"""Fashion-MNIST: clothing in MNIST's layout (Xiao, Rasul and Vollgraf, 2017)."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from snnrun.data.mnist import MNIST
from snnrun.errors import DataError

log = logging.getLogger(__name__)

# Of the decompressed files: the .gz of different distributors differ in their headers.
MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


@dataclass(kw_only=True)
class FashionMNIST(MNIST):
    """60000 training and 10000 test images; `verify` refuses any other content."""

    verify: bool

    archive: ClassVar[str] = "FashionMNIST"
    system_folders: ClassVar[tuple[str, ...]] = ("/usr/share/datasets/fashion-mnist",)
    remedy: ClassVar[str] = "apt-get install dataset-fashion-mnist, or "

    def check_content(self, path: Path, digest: str, where: str) -> None:
        """Compare the md5 of a decompressed file with that of the published one.

        Raises:
            DataError: if they differ and `verify` is on; otherwise a difference is logged.
        """
        expected = MD5[path.name.removesuffix(".gz")]
        if digest == expected:
            return
        what = f"{where}: {path} is not the published file: md5 {digest}, expected {expected}"
        if self.verify:
            raise DataError(f"{what}; fix: fetch it again, or dataset.verify=false")
        log.warning("%s; used because dataset.verify=false", what)
