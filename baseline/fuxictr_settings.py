"""The settings of FuxiCTR's models, and the data sets that they take: those of BARS that are in fuxictr.toml."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from mma4ctr.datasets.toml_spec import READY, Description, read_descriptions
from mma4ctr.evaluation.baselines import Baseline
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import Paths


@cache
def all_settings() -> dict[str, dict[str, Any]]:
    """The settings of every data set and model."""
    return tomllib.loads((Path(__file__).parent / "fuxictr.toml").read_text())


def described(paths: Paths, dataset: str) -> tuple[str, Description]:
    """The description of a data set of BARS.

    Args:
        paths: Where its artifacts lie.
        dataset: Its name in path.json.

    Returns:
        The name of the ready description, and the description.

    Raises:
        UserError: The data set has no settings of FuxiCTR's models.
    """
    found = read_descriptions(paths).get(dataset)
    ready = Path(found.where) if found else None
    if found is None or ready is None or ready.parent != READY or ready.stem not in all_settings():
        raise UserError(
            f"{paths.file}: FuxiCTR's models have no settings for {dataset}; they take data sets with the description "
            f"{' or '.join(all_settings())}"
        )
    return ready.stem, found


def settings_of(paths: Paths, dataset: str, model: Baseline) -> dict[str, Any]:
    """The settings of a model on a data set.

    Args:
        paths: Where its artifacts lie.
        dataset: Name of the data set in path.json.
        model: One of FuxiCTR's.

    Returns:
        Arguments of the model, its `batch_size`, and those of the data set: `history`, `item_embedding` and `min_rows`.

    Raises:
        UserError: As `described` does.
    """
    of_data = all_settings()[described(paths, dataset)[0]]
    shared = {name: value for name, value in of_data.items() if not isinstance(value, dict)}
    return shared | of_data[model.name_in_framework]
