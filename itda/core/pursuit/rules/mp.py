"""Matching pursuit (Mallat & Zhang 1993; Algorithm 2 of the ITDA paper).

Pick the atom with the largest |<r, d>|; a = <r, d>; r <- r - a d. An atom may be picked again: its coefficients add up.
"""

from itda.core.pursuit.rules.base import PursuitRules, magnitude
from itda.core.pursuit.subtraction import Projection

MP = PursuitRules(score=magnitude, subtract=Projection)
