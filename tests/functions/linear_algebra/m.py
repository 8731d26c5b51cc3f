"""Solves a system of equations and says what its matrix is like."""

import numpy as np


def f(event, context):
    matrix = np.array(event["matrix"], dtype=float)
    return {
        "solution": np.linalg.solve(matrix, np.array(event["right"], dtype=float)).round(9).tolist(),
        "determinant": float(np.linalg.det(matrix).round(9)),
        "eigenvalues": sorted(np.linalg.eigvals(matrix).real.round(9).tolist()),
    }
