"""How does a result become a line of JSON?"""

import json
from collections.abc import Mapping
from typing import Any


def written(values: Mapping[str, Any], path: str) -> str:
    """One line of JSON, readable; everything is escaped if the `path` among the values is not UTF-8."""
    is_text = not any("\udc80" <= character <= "\udcff" for character in path)
    return json.dumps(values, ensure_ascii=not is_text)
