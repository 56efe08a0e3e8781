"""k-sparse probing: how well a few latents of a readout tell the members of a class from the rest.

Latents are chosen, and a logistic regression on them is fitted, on some documents; it is judged on the others. The
readout may be neurons, codes or similarities: rows of a dense array or of a scipy CSR matrix, one per token or text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from itda.core.bootstrap import Interval, by_document, interval
from itda.core.code import SparseCode
from itda.core.selection import Selection, chosen, dense_columns
from itda.errors import ItdaError, SettingError
