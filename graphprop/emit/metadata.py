"""The ``metadata_props`` of an ONNX model, which describe it where the file is read alone.

============================ ================================================================
``graphprop.version``         the version of graphprop that wrote it
``graphprop.method``          the method's name
``graphprop.parameters``      its parameters, as JSON
``graphprop.rules``           the user's own rules by pattern, as JSON; only where there are any
``graphprop.roles``           the user's own roles by pattern, as JSON; only where there are any
``graphprop.classes``         how many logits there are
``graphprop.class_names``     their names, as a JSON list; only where they were given
``graphprop.preprocessing``   how a picture becomes an input (``size``, ``mean`` and ``std``), as
                              JSON; only where it is known
``graphprop.weights_sha256``  the hash of the ``weights.safetensors`` written together with it
============================ ================================================================

The same explainer gives the same text: JSON has sorted keys and ASCII letters alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from graphprop.version import __version__

PREFIX = "graphprop."


def metadata_of(
    *,
    method: str,
    parameters: Mapping[str, Any],
    classes: int,
    rules: Mapping[str, Any] | None = None,
    roles: Mapping[str, str] | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    weights_sha256: str | None = None,
) -> dict[str, str]:
    """Collect the metadata of a model; everything given must be something that JSON can hold."""
    entries = {
        "version": __version__,
        "method": method.encode("utf-8", "backslashreplace").decode(),
        "parameters": as_json(parameters),
        "rules": as_json(rules) if rules else None,
        "roles": as_json(roles) if roles else None,
        "classes": str(classes),
        "class_names": as_json(class_names) if class_names else None,
        "preprocessing": as_json(preprocessing) if preprocessing else None,
        "weights_sha256": weights_sha256,
    }
    return {PREFIX + name: text for name, text in entries.items() if text is not None}


def as_json(value: object) -> str:
    """A value on one line, in one spelling."""
    return json.dumps(value, sort_keys=True, allow_nan=False)
