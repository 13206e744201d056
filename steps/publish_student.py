"""Step `publish_student`: the champion as a folder for transformers, and on the hub when asked."""

from __future__ import annotations

from typing import Annotated

from zenml import step

from distillation.config import PromotionSettings
from tracking.gate import Promotion
from tracking.publishing import Publication, publish
from tracking.runs import Recorder
from tracking.server import resolve_tracking_uri


@step(enable_cache=False)
def publish_student(
    promotion: Promotion, settings: PromotionSettings
) -> Annotated[Publication, "publication"]:
    """Write and push whoever is champion now.

    Raises:
        PublishError: the folder or the hub refuses; the promotion stands.
    """
    return publish(Recorder(resolve_tracking_uri(settings.uri), settings.experiment), settings)
