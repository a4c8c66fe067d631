"""The list of rows, and how a result is held to its reference."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from typing import Callable

import numpy as np

# Kernels without tensor cores run on one card; those with them on one of each kind of product.
ONE = ("h200",)
TENSOR = ("a100", "h200", "rtx5090")


class Wrong(Exception):
    pass


@dataclass
class Row:
    package: str
    kernel: str
    card: str
    run: Callable
    version: str


ROWS: list[Row] = []


def row(package: str, kernel: str, run: Callable, cards=ONE, version: str | None = None) -> None:
    ROWS.extend(Row(package, kernel, card, run, version or importlib.metadata.version(package)) for card in cards)


def near(what: str, got, want, relative: float = 1e-5, absolute: float = 1e-5) -> None:
    """Fails unless `got` is `want`: same shape, NaN and infinities at the same places, the rest within the tolerances."""
    got = np.asarray(got.get() if hasattr(got, "get") else got)
    want = np.asarray(want)
    if got.shape != want.shape:
        raise Wrong(f"{what}: shape {got.shape}, wanted {want.shape}")
    got, want = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore"):
        good = (got == want) | (np.isnan(got) & np.isnan(want)) | (np.abs(got - want) <= absolute + relative * np.abs(want))
    if not good.all():
        at = tuple(int(i) for i in np.argwhere(~good)[0])
        raise Wrong(f"{what}: {int((~good).sum())} of {good.size} differ, first at {at}: {got[at]}, wanted {want[at]}")


def same(what: str, got, want) -> None:
    near(what, got, want, 0.0, 0.0)
