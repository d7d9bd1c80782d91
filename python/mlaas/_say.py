"""Talk to the user about mlaas itself: on stderr, once per subject."""
from __future__ import annotations

import sys
from typing import Set

_said: Set[str] = set()


def once(subject: str, sentence: str) -> None:
    """Write sentence, unless something was said on the subject. Never raises:
    a warning filter or a closed stderr is no reason to end a training."""
    if subject in _said:
        return
    _said.add(subject)
    try:
        sys.stderr.write("mlaas: %s\n" % sentence)
    except Exception:
        pass
