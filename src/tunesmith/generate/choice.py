"""What `choose` answers with. Apart from it, because it can be read again without a model and without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Choice:
    """How likely each label is.

    labels: as given. log_likelihoods: of each label's text and stop token, in nats, not positive.
    """

    labels: tuple[str, ...]
    log_likelihoods: tuple[float, ...]

    @cached_property
    def probabilities(self) -> tuple[float, ...]:
        """Softmax of the log-likelihoods: the probability of each label, given that it is one of them."""
        highest = max(self.log_likelihoods)
        weights = [math.exp(score - highest) for score in self.log_likelihoods]
        total = math.fsum(weights)
        return tuple(weight / total for weight in weights)

    @cached_property
    def log_probabilities(self) -> tuple[float, ...]:
        """Their logarithms, of those too that are too small for a float; never above 0."""
        highest = max(self.log_likelihoods)
        total = math.fsum(math.exp(score - highest) for score in self.log_likelihoods)
        return tuple(score - highest - math.log(total) for score in self.log_likelihoods)

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """(label, probability), the likeliest first; of equal ones the one that was given first."""
        return sorted(zip(self.labels, self.probabilities, strict=True), key=lambda item: -item[1])

    @property
    def label(self) -> str:
        """The likeliest label."""
        return self.ranked[0][0]

    @property
    def probability(self) -> float:
        """Of the likeliest label."""
        return self.ranked[0][1]
