"""A block of features plus: what is estimated from the training rows outside one fold, or from all (see columns.py)."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from mma4ctr.features.behavioral.content_factors import ContentFactors
from mma4ctr.features.behavioral.effects import Effects, Side, fit_effects
from mma4ctr.features.behavioral.residual_svd import exposure_factors, label_factors
from mma4ctr.features.behavioral.signals import Signals, TrainingRows, signals_of
from mma4ctr.features.behavioral.tables import Vectors
from mma4ctr.runtime.parallel import Threads
from mma4ctr.runtime.system import cores

# With more items than this the vectors of a block are made one after the other.
MOST_ITEMS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class BlockInputs:
    """What all blocks are made from.

    Attributes:
        rows: The training rows with their folds.
        labels: By target, uint8 (n,) of 0 and 1.
        context: By name, uint16 or int32 (n,) codes of context columns.
        sides: The users and the items.
        content: float32 (items, k).
    """

    rows: TrainingRows
    labels: Mapping[str, np.ndarray]
    context: Mapping[str, np.ndarray]
    sides: tuple[Side, Side]
    content: np.ndarray


@dataclass(frozen=True)
class Block:
    """What one block was estimated to be.

    Attributes:
        effects: The additive model of each target.
        vectors: By kind of pair table, the vectors of users and items.
        of_content: See `PairTable.of_content`; None without labels.
    """

    effects: list[Effects]
    vectors: dict[str, Vectors]
    of_content: np.ndarray | None


# With the many small matrices here, two BLAS threads took over three times the processor time of one, and longer.
@threadpool_limits.wrap(1, user_api="blas")
def make_block(given: BlockInputs, block: int) -> Block:
    """Make one block: without the rows of the fold of that number, or from all rows if there is no such fold."""
    rows, labels = given.rows, list(given.labels.values())
    index, included = (rows.user, rows.item), rows.included(block)

    def fit(label: np.ndarray) -> Effects:
        return fit_effects(index, given.context, label, included, given.sides, rows.arrays)

    effects = [done.result() for _, done in Threads().in_order(fit, labels)]
    signals = signals_of(rows, block, given.context, list(zip(labels, effects, strict=True)))
    # Each has several arrays of all items in memory while it is made, so with very many items they take turns.
    with ThreadPoolExecutor(1 if rows.items > MOST_ITEMS_AT_ONCE else cores()) as pool:
        fitted = pool.submit(_content_factors, signals, given.content) if labels else None
        found = {"label_svd": pool.submit(label_factors, signals)} if labels else {}
        found["exposure_svd"] = pool.submit(exposure_factors, signals)
    vectors = {kind: made.result() for kind, made in found.items()}
    if fitted is None:
        return Block(effects, vectors, None)
    vectors["content_factors"], of_content = fitted.result()
    return Block(effects, vectors, of_content)


def _content_factors(signals: Signals, content: np.ndarray) -> tuple[Vectors, np.ndarray]:
    """The content factors of a block, and how content determines those of new items."""
    fitted = ContentFactors(signals, content)
    return (fitted.user[:, None], fitted.item), fitted.directions.of_content
