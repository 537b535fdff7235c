"""The equations of small layers as formulas.

| module | concept |
| --- | --- |
| `polynomials` | ranks, determinants and dependencies of matrices of polynomials |
| `formulas` | systems of equations with symbols |
"""

from __future__ import annotations

from constraint_algebra.symbolic.formulas import KINDS, LARGEST, SymbolicSystem, equations, from_system

__all__ = ["KINDS", "LARGEST", "SymbolicSystem", "equations", "from_system"]
