"""Variants: the item features that a matrix contains.

The variants of a data set follow from its modalities: each alone, and all pairs, all triples and all modalities
together, concatenated or crossed. Only this module makes their names: first letters of the modalities if these are
distinct (`vat_concat`, `va_cross`), else the names joined by + (`title+tags_cross`). All of more than three modalities
are `all_concat` and `all_cross`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from mma4ctr.datasets import BUILT_IN, chosen_datasets, split_task
from mma4ctr.runtime.console import note, unknown_name
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import Paths

CORE_MODALITIES = ("visual", "acoustic", "textual")
# Option value for the widest concatenation, which is vat_concat for the study's data sets.
DEFAULT_VARIANT = "default"
MIXED = ("concat", "cross")


@dataclass(frozen=True)
class Variants:
    """The variants of one data set.

    Attributes:
        single: Modalities of each single variant, by name.
        concat: Modalities of each concatenation, by name.
        cross: Modalities of each cross, by name.
        optional: Modalities that no concatenation or cross uses.
    """

    single: dict[str, tuple[str, ...]]
    concat: dict[str, tuple[str, ...]]
    cross: dict[str, tuple[str, ...]]
    optional: tuple[str, ...] = ()

    @property
    def mixed(self) -> dict[str, tuple[str, ...]]:
        """Concatenations and crosses."""
        return self.concat | self.cross

    @property
    def all(self) -> dict[str, tuple[str, ...]]:
        """All variants."""
        return self.single | self.mixed

    def widest(self, modalities: Iterable[str]) -> str | None:
        """Find the widest concatenation that the given modalities allow.

        Args:
            modalities: The modalities that have features.

        Returns:
            The first of the widest; the single variant if the data set has only one modality; None if none is possible.
        """
        available = set(modalities)
        possible = [name for name in (self.concat or self.single) if set(self.all[name]) <= available]
        return max(possible, key=lambda name: len(self.all[name])) if possible else None

    @property
    def default(self) -> str:
        """The variant that is used if none is named."""
        return str(self.widest(name for names in self.all.values() for name in names))


def variants_of(modalities: Sequence[str], optional: Sequence[str] = ()) -> Variants:
    """Return the variants of a data set with these modalities; `optional` ones are single variants only."""
    letters = {name[0].lower() for name in modalities}

    def name_of(names: tuple[str, ...]) -> str:
        if len(names) > 3:
            return "all"
        return "".join(name[0] for name in names) if len(letters) == len(modalities) else "+".join(names)

    sizes = [size for size in (2, 3, len(modalities)) if 2 <= size <= len(modalities)]
    mixes = [names for size in dict.fromkeys(sizes) for names in combinations(modalities, size)]
    concat, cross = ({f"{name_of(names)}_{kind}": names for names in mixes} for kind in MIXED)
    return Variants({name: (name,) for name in (*modalities, *optional)}, concat, cross, tuple(optional))


STUDY = variants_of(CORE_MODALITIES, ("fused", "face"))
SINGLE, CONCAT, CROSS = STUDY.single, STUDY.concat, STUDY.cross


def variants_for(paths: Paths, task: str) -> Variants:
    """Return the variants of a task's data set; raises `UserError` if path.json does not name the data set."""
    dataset, _ = split_task(task)
    if dataset in BUILT_IN:
        return STUDY
    (kind,) = chosen_datasets(paths, [dataset]).values()
    return variants_of([modality.name for modality in kind.modalities])


def chosen_variants(
    asked: list[str], known: Variants, variants: dict[str, tuple[str, ...]], modalities: list[str], task: str
) -> list[str]:
    """Choose the variants that a step makes.

    A variant with a missing modality is skipped with a note. If the default variant is skipped, the widest possible
    concatenation replaces it.

    Args:
        asked: The names that the user gave, `all` or `default` included.
        known: All variants of the data set.
        variants: The variants that the step can make.
        modalities: The modalities that have features.
        task: The task, for messages.

    Returns:
        Names of variants.

    Raises:
        UserError: A name is unknown, or no variant is left.
    """
    if not variants:
        note(f"{task}: has only one modality, so there is nothing to concatenate or cross; gen_matrix.py writes it")
        return []
    if DEFAULT_VARIANT in asked:
        asked = [known.default if name == DEFAULT_VARIANT else name for name in asked]
    for name in asked:
        if name not in (*variants, "all"):
            raise unknown_name("variant", name, ("all", DEFAULT_VARIANT, *variants))
    found = []
    for name in variants if "all" in asked else asked:
        missing = [modality for modality in variants[name] if modality not in modalities]
        if not missing:
            found.append(name)
        elif "all" not in asked or not set(missing) & set(known.optional):
            note(f"{task}: {name} is skipped, because there is no {' and no '.join(missing)} modality")
    if not found and asked == [known.default] and (other := known.widest(modalities)):
        found = [other]
        note(f"{task}: using {other} instead")
    if not found:
        raise UserError(
            f"{task}: cannot make {', '.join(asked)} from {', '.join(modalities)}; choose another --variant"
        )
    return found


def content_modalities(known: Variants, variant: str, available: Sequence[str]) -> tuple[str, ...]:
    """Return the modalities of the items' content for features plus.

    Args:
        known: All variants of the data set.
        variant: The variant.
        available: The modalities that have features.

    Returns:
        The modalities of the variant; for the widest variant the optional modalities too.
    """
    modalities = known.all[variant]
    if variant == known.widest(available):
        modalities += tuple(other for other in known.optional if other in available)
    return modalities


FEATURES = ("paper", "plus")
# Groups of columns of features plus, which the study `plus` removes one at a time. `other-targets` are those of every
# target but the task's own.
GROUPS = (
    "user-bias",
    "item-bias",
    "content-bias",
    "content-factors",
    "label-svd",
    "exposure-svd",
    "counts",
    "user-columns",
    "item-columns",
    "context",
    "rates",
    "pair-rates",
    "recency",
    "other-targets",
)
# Of logs whose description names a column of histories.
HISTORY = "history"
SCRIPTS = {"single": "gen_matrix.py", "concat": "cross_matrix.py", "cross": "cross_matrix.py"}


def split_variant(variant: str) -> tuple[str, str, str]:
    """Split the name of a matrix into variant, features, and the group that is left out.

    `vat_concat.plus-counts` gives (`vat_concat`, `plus`, `counts`), and `vat_concat` gives (`vat_concat`, `paper`, ``).
    """
    modalities, dot, features = variant.rpartition(".")
    name, _, without = features.partition("-")
    return (modalities, name, without) if dot and name == "plus" else (variant, "paper", "")


def with_features(variant: str, features: str) -> str:
    """Return the name of the matrix of a variant with features `paper`, `plus` or `plus-<group>`."""
    return variant if features == "paper" else f"{variant}.{features}"


def variant_kind(variant: str) -> str:
    """Return `single`, `concat` or `cross`."""
    kind = split_variant(variant)[0].rpartition("_")[2]
    return kind if kind in SCRIPTS else "single"


def matrix_command(variant: str) -> str:
    """Return the command that makes the matrix of a variant, for messages: `cross_matrix.py --features plus`."""
    _, features, without = split_variant(variant)
    if without:
        return "adjust_hyperparameter.py --study plus"
    script = SCRIPTS[variant_kind(variant)]
    return script if features == "paper" else f"{script} --features {features}"
