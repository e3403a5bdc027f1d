"""The logistic function, for arrays."""

import numpy as np


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logit))."""
    made: np.ndarray = 1 / (1 + np.exp(-logit))
    return made
