"""What lmms-eval's entry point `lmms_eval.models` loads: a name and where its class is. Imports nothing heavy.

lmms-eval stops loading plug-ins at the first that raises, so this one must not.
"""

from __future__ import annotations

from typing import Any


def manifests() -> list[Any]:
    """The models that this package registers: `visionthink`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest("visionthink", chat_class_path="visionthink.evals.integrations.lmms_model.VisionThink")]
