"""The claims of lesson 17, by theme."""

from ddetr_edu.course import (
    claims_counts,
    claims_geometry,
    claims_model,
    claims_operation,
    claims_reported,
    claims_training,
)
from ddetr_edu.course.claim import Claim

THEMES: dict[str, tuple[Claim, ...]] = {
    "geometry": claims_geometry.CLAIMS,
    "operation": claims_operation.CLAIMS,
    "sizes and counts": claims_counts.CLAIMS,
    "model": claims_model.CLAIMS,
    "boxes and training": claims_training.CLAIMS,
    "reported figures": claims_reported.CLAIMS,
}
