"""The audit of two tokenizers: what an alignment of theirs carries, counted, told and drawn.

The package can be called as `distillation.audit.pair.audit`. Python makes a package an attribute of its
parent, so this one hides a function of the same name as soon as any of its modules is imported:
`from distillation import audit` works before and after.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from distillation.audit.pair import audit

        return audit(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
