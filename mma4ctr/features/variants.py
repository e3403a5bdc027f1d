"""Variants: which item features a matrix holds.

A data set's variants follow from its modalities: each alone, and all pairs, all triples and all of them together,
concatenated or crossed. This is the one place that makes their names: the modalities' first letters where no two are
the same (`vat_concat`, `va_cross`), else their names with + between them (`title+tags_cross`); all of more than three
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
# What stands for the widest concatenation: of the study's data sets it is vat_concat.
DEFAULT_VARIANT = "default"
MIXED = ("concat", "cross")


@dataclass(frozen=True)
class Variants:
    """The variants of one data set by name, each with its modalities."""

    single: dict[str, tuple[str, ...]]
    concat: dict[str, tuple[str, ...]]
    cross: dict[str, tuple[str, ...]]
    optional: tuple[str, ...] = ()

    @property
    def mixed(self) -> dict[str, tuple[str, ...]]:
        return self.concat | self.cross

    @property
    def all(self) -> dict[str, tuple[str, ...]]:
        return self.single | self.mixed

    def widest(self, modalities: Iterable[str]) -> str | None:
        """The concatenation of most of these modalities, the first of equals; where the data set has one modality
        only, that one; None where nothing can be made.
        """
        there = set(modalities)
        made = [name for name in (self.concat or self.single) if set(self.all[name]) <= there]
        return max(made, key=lambda name: len(self.all[name])) if made else None

    @property
    def default(self) -> str:
        """The variant that is taken where none is named."""
        return str(self.widest(name for names in self.all.values() for name in names))


def variants_of(modalities: Sequence[str], optional: Sequence[str] = ()) -> Variants:
    """The variants of a data set with these modalities; `optional` ones are used alone."""
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
    """The variants of a task's data set; raises `UserError` where path.json does not know it."""
    dataset, _ = split_task(task)
    if dataset in BUILT_IN:
        return STUDY
    (kind,) = chosen_datasets(paths, [dataset]).values()
    return variants_of([modality.name for modality in kind.modalities])


def chosen_variants(
    asked: list[str], known: Variants, variants: dict[str, tuple[str, ...]], modalities: list[str], task: str
) -> list[str]:
    """The variants of a step that are asked for and whose modalities are there.

    Variants that lack one are skipped by name; where the default one lacks one, the widest concatenation that can
    be made takes its place. Raises `UserError` for an unknown name, and where nothing is left.

    Args:
        known: all variants of the data set. variants: those of the step.
    """
    if not variants:
        note(f"{task}: has one modality, so there is nothing to mix")
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
            note(f"{task}: {name} is skipped, there is no {' and no '.join(missing)} modality")
    if not found and asked == [known.default] and (other := known.widest(modalities)):
        found = [other]
        note(f"{task}: {other} takes its place")
    if not found:
        raise UserError(
            f"{task}: {', '.join(asked)}: not to be made from {', '.join(modalities)}; take another --variant"
        )
    return found


def content_modalities(known: Variants, variant: str, there: Sequence[str]) -> tuple[str, ...]:
    """The modalities that features plus see of a variant: its own; of the widest, the optional ones that are there too,
    which no concatenation holds.
    """
    modalities = known.all[variant]
    if variant == known.widest(there):
        modalities += tuple(other for other in known.optional if other in there)
    return modalities


FEATURES = ("paper", "plus")


MADE_BY = {"single": "gen_matrix.py", "concat": "cross_matrix.py", "cross": "cross_matrix.py"}


def split_variant(variant: str) -> tuple[str, str, str]:
    """`vat_concat.plus-counts` -> (`vat_concat`, `plus`, `counts`); `vat_concat` -> (`vat_concat`, `paper`, ``)."""
    modalities, dot, features = variant.rpartition(".")
    name, _, without = features.partition("-")
    return (modalities, name, without) if dot and name == "plus" else (variant, "paper", "")


def with_features(variant: str, features: str) -> str:
    """The matrix of a variant with features `paper`, `plus`, or `plus-<group>`: its name."""
    return variant if features == "paper" else f"{variant}.{features}"


def variant_kind(variant: str) -> str:
    """`single`, `concat` or `cross`."""
    kind = split_variant(variant)[0].rpartition("_")[2]
    return kind if kind in MADE_BY else "single"
